"""The rows of a batch, brought together from where an order says that they are.

(a) Each row is a cache miss or two, its targets another, and the order alone knows where the next one is.  So rows are
    asked for before they are needed.  A narrow row's products take no longer than its way from memory: rows are asked
    for a whole block ahead, beyond the batch's end too, a few between two layers, since only a few dozen lines can be
    under way at once.  Of a wide row the hardware itself fetches what follows its beginning: it is asked for a row or
    two ahead, where it is copied.
(b) What the rows take of memory decides how far they are: an order is of 32-bit numbers, labels may be bytes.
(c) What is an index, rows and labels, is checked by the block that uses it, not at the beginning of a pass, which takes
    many calls: each would begin with looking at all of it.
"""
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.string cimport memcpy

from fastbp._simd cimport *
from fastbp._losses cimport Targets

cdef enum:
    NARROW = 256            # bytes in a row, at most
    LINE_BYTES = 64
    PIECE = 4               # numbers that are copied at once


cdef inline bint is_narrow(Py_ssize_t n) noexcept nogil:
    return n * <Py_ssize_t> sizeof(real) <= NARROW


cdef inline inlined_void ask_for_item(const char *p, Py_ssize_t size) noexcept nogil:
    """Have some bytes brought to the cache meanwhile.  (A function by itself would be dropped: it has no effect.)"""
    cdef Py_ssize_t i = 0
    while i < size:
        prefetch_line(p + i)
        i += LINE_BYTES
    prefetch_line(p + size - 1)


cdef inline inlined_void ask_for_items(
    const void *base, Py_ssize_t size, const uint32_t *order, Py_ssize_t n,
) noexcept nogil:
    """Those of the items from base on, of so many bytes each, that the order says."""
    cdef const char *p = <const char *> base
    cdef Py_ssize_t i
    if base == NULL:
        return
    if size <= LINE_BYTES and (size | <uintptr_t> base) & (size - 1) == 0:  # a power of two, aligned: in one line
        for i in range(n):
            prefetch_line(p + order[i] * size)
        return
    for i in range(n):
        ask_for_item(p + order[i] * size, size)


cdef inline inlined_void ask_for_rows(
    const real *x, Py_ssize_t fan_in, const Targets *t, Py_ssize_t n, const uint32_t *order, Py_ssize_t rows,
) noexcept nogil:
    """Ask for rows of x [.., fan_in] and their targets [.., n]; of long ones, for the beginning."""
    ask_for_items(x, sizeof(real) * (fan_in if is_narrow(fan_in) else 1), order, rows)
    ask_for_items(t.dense, sizeof(real) * (n if is_narrow(n) else 1), order, rows)
    ask_for_items(t.labels, sizeof(int64_t), order, rows)
    ask_for_items(t.bytes, 1, order, rows)
    ask_for_items(t.weights, sizeof(double), order, rows)


cdef inline separate_void copy_rows(
    const real *x, Py_ssize_t fan_in, const Targets *t, Py_ssize_t n, const uint32_t *order, Py_ssize_t first,
    Py_ssize_t rows, real *copy, Py_ssize_t ld,
) noexcept nogil:
    """copy [rows, ld] = those rows of x [.., fan_in] that order[first], ... says; NULL: x[first], ..."""
    cdef Py_ssize_t ahead = 2 if fan_in * <Py_ssize_t> sizeof(real) > 1024 else 4, i, k
    if order == NULL or fan_in > 4 * PIECE:
        for i in range(rows):
            if order != NULL and i + ahead < rows and not is_narrow(fan_in):
                ask_for_rows(x, fan_in, t, n, order + first + i + ahead, 1)
                ask_for_item(<const char *> (x + order[first + i + ahead] * fan_in), fan_in * sizeof(real))
            memcpy(copy + i * ld, x + (first + i if order == NULL else order[first + i]) * fan_in,
                   fan_in * sizeof(real))
        return
    # Piece by piece of all rows: shorter loops than one row after the other.  A whole vector would reach into the next
    # line, which nobody has asked for.
    order += first
    k = 0
    while k + PIECE <= fan_in:
        for i in range(rows):
            memcpy(copy + i * ld + k, x + order[i] * fan_in + k, PIECE * sizeof(real))
        k += PIECE
    while k < fan_in:
        for i in range(rows):
            copy[i * ld + k] = x[order[i] * fan_in + k]
        k += 1


cdef inline bint rows_in_range(const uint32_t *order, Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    """Whether n entries of an order are rows."""
    cdef Py_ssize_t i
    cdef uint32_t last = 0
    for i in range(n):
        last = max(last, order[i])
    return n <= 0 or last < rows


cdef inline bint labels_in_range(const int64_t *labels, Py_ssize_t n, Py_ssize_t classes) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        bad = bad | (labels[i] < 0) | (labels[i] >= classes)
    return not bad


cdef inline Targets gather_targets(
    const Targets *t, Py_ssize_t n, const uint32_t *order, Py_ssize_t rows, Py_ssize_t most, real *gathered,
) noexcept nogil:
    """The targets [.., n] of the rows that order says, brought together at `gathered`: room for `most` rows."""
    cdef Targets result = t[0]
    cdef double *weights = <double *> gathered
    cdef int64_t *labels = <int64_t *> (weights + most)
    cdef real *dense = <real *> (labels + most)
    cdef Py_ssize_t i
    if t.dense != NULL:
        for i in range(rows):
            memcpy(dense + i * n, t.dense + order[i] * n, n * sizeof(real))
        result.dense = dense
    if t.labels != NULL:
        for i in range(rows):
            labels[i] = t.labels[order[i]]
        result.labels = labels
    if t.bytes != NULL:
        for i in range(rows):
            labels[i] = t.bytes[order[i]]
        result.labels = labels
    if t.weights != NULL:
        for i in range(rows):
            weights[i] = t.weights[order[i]]
        result.weights = weights
    return result
