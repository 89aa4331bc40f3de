"""The rows of a batch, brought together from where an order says that they are.

(a) Each row is a cache miss or two, its targets another, and the order alone knows where the next one is.  So rows are
    asked for before they are needed.  A narrow row's products take no longer than its way from memory: rows are asked
    for a whole block ahead, beyond the batch's end too, a few between two layers, since only a few dozen lines can be
    under way at once.  Of a wide row the hardware itself fetches what follows its beginning: it is asked for a row or
    two ahead, where it is copied.
(b) What is an index, rows and labels, is checked a batch at a time, not at the beginning of a pass, which takes many
    calls: each would begin with looking at all of it.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastbp._simd cimport *
from fastbp._losses cimport Targets

cdef enum:
    NARROW = 256            # bytes in a row, at most
    PIECE = 16              # bytes that are copied at once


cdef inline bint is_narrow(Py_ssize_t n) noexcept nogil:
    return n * <Py_ssize_t> sizeof(real) <= NARROW


cdef inline inlined_void ask_for(const real *p, Py_ssize_t n) noexcept nogil:
    """Have n numbers brought to the cache meanwhile.  (A function by itself would be dropped: it has no effect.)"""
    cdef Py_ssize_t i = 0
    while i < n:
        prefetch_line(p + i)
        i += LINE
    prefetch_line(p + n - 1)


cdef inline inlined_void ask_for_targets(const Targets *t, Py_ssize_t n, Py_ssize_t row) noexcept nogil:
    if t.labels != NULL:
        prefetch_line(<const real *> (t.labels + row))
    else:
        ask_for(t.dense + row * n, n if is_narrow(n) else 1)
    if t.weights != NULL:
        prefetch_line(<const real *> (t.weights + row))


cdef inline inlined_void ask_for_rows(
    const real *x, Py_ssize_t fan_in, const Targets *t, Py_ssize_t n, const int64_t *order, Py_ssize_t rows,
) noexcept nogil:
    """Ask for narrow rows of x [.., fan_in] and their targets [.., n]."""
    cdef Py_ssize_t i
    for i in range(rows):
        ask_for(x + order[i] * fan_in, fan_in)
        ask_for_targets(t, n, order[i])


cdef inline separate_void copy_rows(
    const real *x, Py_ssize_t fan_in, const Targets *t, Py_ssize_t n, const int64_t *order, Py_ssize_t first,
    Py_ssize_t rows, real *copy, Py_ssize_t ld,
) noexcept nogil:
    """copy [rows, ld] = those rows of x [.., fan_in] that order[first], ... says; NULL: x[first], ..."""
    cdef Py_ssize_t ahead = 2 if fan_in * <Py_ssize_t> sizeof(real) > 1024 else 4, i, k
    cdef const real *row
    for i in range(rows):
        row = x + (first + i if order == NULL else order[first + i]) * fan_in
        if order != NULL and i + ahead < rows and not is_narrow(fan_in):
            ask_for(x + order[first + i + ahead] * fan_in, fan_in)
            ask_for_targets(t, n, order[first + i + ahead])
        if fan_in > 16:
            memcpy(copy + i * ld, row, fan_in * sizeof(real))
            continue
        # Less than a call costs; and a whole vector would reach into the next line, which nobody has asked for.
        k = 0
        while k + PIECE // <Py_ssize_t> sizeof(real) <= fan_in:
            memcpy(copy + i * ld + k, row + k, PIECE)
            k += PIECE // <Py_ssize_t> sizeof(real)
        while k < fan_in:
            copy[i * ld + k] = row[k]
            k += 1


cdef inline bint rows_in_range(const int64_t *order, Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    """Whether n entries of an order are rows."""
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        bad = bad | (order[i] < 0) | (order[i] >= rows)
    return not bad


cdef inline bint labels_in_range(const int64_t *labels, Py_ssize_t n, Py_ssize_t classes) noexcept nogil:
    return rows_in_range(labels, n, classes)


cdef inline Targets gather_targets(
    const Targets *t, Py_ssize_t n, const int64_t *order, Py_ssize_t rows, Py_ssize_t most, real *gathered,
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
    if t.weights != NULL:
        for i in range(rows):
            weights[i] = t.weights[order[i]]
        result.weights = weights
    return result
