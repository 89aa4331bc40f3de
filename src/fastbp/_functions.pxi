"""One layer, orders of rows, products and functions by themselves: a part of _kernels.pyx.

The arrays are the caller's to check (fastbp/ops.py): all of the dtype, C order, of fitting shapes.
"""
cimport numpy as np
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

import time

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._math cimport *
from fastbp._activations cimport *
from fastbp._layers cimport *
from fastbp._table cimport *
from fastbp._plan cimport padded_width
from fastbp._pace cimport Pace, choose_threads, keep_pace
from fastbp._watch cimport omp_get_wtime
from fastbp._shuffle cimport *
from fastbp._workspace cimport on_a_line


# ---- one layer -------------------------------------------------------------------------------------------------------

def dense_forward(np.ndarray X, np.ndarray W, np.ndarray b, int activation, np.ndarray a, np.ndarray z):
    """z = X W + b, a = act(z)."""
    cdef Py_ssize_t rows = X.shape[0], fan_in = W.shape[0], fan_out = W.shape[1], ld = padded_width(fan_out)
    cdef Py_ssize_t row = 0, here, i, most = 96
    cdef Py_ssize_t size = packed_size(fan_in + 1, fan_out)
    cdef const real *x = <const real *> np.PyArray_DATA(X)
    cdef real *out_a = <real *> np.PyArray_DATA(a)
    cdef real *out_z = <real *> np.PyArray_DATA(z)
    cdef real *block
    cdef Weights w
    cdef void *raw = PyMem_RawMalloc((size + min(most, rows) * ld) * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        block = packed + size
        pack_weights(<const real *> np.PyArray_DATA(W), <const real *> np.PyArray_DATA(b), fan_in, fan_out, 0, fan_in,
                     packed)
        w.packed = packed
        w.fan_in = fan_in
        w.fan_out = fan_out
        while row < rows:
            here = min(most, rows - row)
            layer_forward(here, &w, IDENTITY, False, x + row * fan_in, fan_in, block, NULL, ld)
            for i in range(here):
                memcpy(out_z + (row + i) * fan_out, block + i * ld, fan_out * sizeof(real))
            if activation == SOFTMAX:
                return_softmax(here, fan_out, block, ld, out_a + row * fan_out)
            else:
                activate(activation, False, here, fan_out, block, NULL, ld)
                for i in range(here):
                    memcpy(out_a + (row + i) * fan_out, block + i * ld, fan_out * sizeof(real))
            row += here
    PyMem_RawFree(raw)


cdef void return_softmax(Py_ssize_t rows, Py_ssize_t n, const real *z, Py_ssize_t ld, real *y) noexcept nogil:
    """Rows one by one, for the single layer's sake: no scratch of the size of a block."""
    cdef Py_ssize_t i, k
    cdef real top, total
    cdef real lanes[16]
    for i in range(rows):
        top = z[i * ld]
        for k in range(n):
            top = z[i * ld + k] if not z[i * ld + k] <= top else top
        total = 0
        for k in range(n):
            vstore(lanes, vexp_nonpositive(vset(z[i * ld + k] - top)))
            y[i * n + k] = lanes[0]
            total += lanes[0]
        for k in range(n):
            y[i * n + k] /= total


def dense_backward(np.ndarray dA, np.ndarray X, np.ndarray W, np.ndarray z, int activation, np.ndarray dX,
                   np.ndarray dW, np.ndarray db):
    """dz = dA * act'(z); dX = dz W^T, dW = X^T dz, db = column sums of dz."""
    cdef Py_ssize_t rows = X.shape[0], fan_in = W.shape[0], fan_out = W.shape[1], ld = padded_width(fan_out)
    cdef Py_ssize_t row = 0, here, i, column, most = 96
    cdef Py_ssize_t size = packed_size(fan_out, fan_in)
    cdef const real *x = <const real *> np.PyArray_DATA(X)
    cdef const real *da = <const real *> np.PyArray_DATA(dA)
    cdef const real *logits = <const real *> np.PyArray_DATA(z)
    cdef real *dx = <real *> np.PyArray_DATA(dX)
    cdef real *dw = <real *> np.PyArray_DATA(dW)
    cdef real *a
    cdef real *g
    cdef Weights w
    cdef void *raw = PyMem_RawMalloc((size + 3 * min(most, rows) * ld) * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        a = packed + size
        pack_weights_transposed(<const real *> np.PyArray_DATA(W), fan_in, fan_out, 0, vectors(fan_in), packed)
        w.transposed = packed
        w.fan_in = fan_in
        w.fan_out = fan_out
        while row < rows:
            here = min(most, rows - row)
            g = a + here * ld
            for i in range(here):
                column = 0
                while column < fan_out:
                    vstore(a + i * ld + column, load_edge(logits + (row + i) * fan_out + column, fan_out - column))
                    column += VL
            activate(activation, True, here, fan_out, a, g, ld)
            column = 0
            while column < fan_out:
                for i in range(here):
                    vstore(g + here * ld + i * VL, load_edge(da + (row + i) * fan_out + column, fan_out - column))
                through_activation(activation, here, 1, g + here * ld, a + column, g + column, ld)
                column += VL
            input_gradient(here, &w, g, ld, dx + row * fan_in)
            weight_gradient(here, 0, fan_in, fan_out, x + row * fan_in, fan_in, g, ld, NULL, 0, dw, row > 0, NULL)
            bias_gradient(here, fan_out, g, ld, <real *> np.PyArray_DATA(db), row > 0)
            row += here
    PyMem_RawFree(raw)


def safe_log(np.ndarray y, double clip, np.ndarray out, object derivative):
    """out = log(max(y, clip)), and its derivative if an array for it is given: 1 / y where y > clip, else 0."""
    cdef Py_ssize_t n = np.PyArray_SIZE(y), i = 0
    cdef const real *p = <const real *> np.PyArray_DATA(y)
    cdef real *q = <real *> np.PyArray_DATA(out)
    cdef real *d = NULL if derivative is None else <real *> np.PyArray_DATA(derivative)
    cdef vreal x, c = vset(<real> clip)
    cdef vint clipped
    with nogil:
        while i < n:
            x = load_edge(p + i, n - i)
            clipped = vless_equal(x, c)
            store_edge(q + i, vlog(vselect(clipped, c, x)), n - i)
            if d != NULL:
                store_edge(d + i, vkeep(~clipped, vset(1) / x), n - i)
            i += VL


# ---- orders of rows --------------------------------------------------------------------------------------------------

cdef enum:
    PACE_ROWS = 1 << 24     # whose time is kept: a pass shuffles once, so a pause must be long to spare it anything

cdef Pace shuffling         # shared by all, and no harm is done if two write to it at once


def shuffle(object rows, np.ndarray words, np.ndarray out):
    """out = the rows (None: 0, 1, ...) in the order that three words (uint64) stand for; rows and out uint32."""
    cdef const uint32_t *source = NULL
    cdef const uint64_t *seed = <const uint64_t *> np.PyArray_DATA(words)
    cdef uint32_t *order = <uint32_t *> np.PyArray_DATA(out)
    cdef Py_ssize_t n = np.PyArray_SIZE(out)
    cdef int threads, part, parts = 1 if n < 1 << 26 else 8     # fractions of a second, between which Ctrl-C is seen
    cdef Deal deal
    cdef double begin
    if rows is not None:
        source = <const uint32_t *> np.PyArray_DATA(rows)
    if n <= MOST_AT_ONCE:
        with nogil:
            shuffle_few(source, n, seed, order)
        return
    begin = omp_get_wtime()
    threads = choose_threads(&shuffling, allowed_threads(), begin)
    for part in range(parts):
        PyErr_CheckSignals()
        with nogil:
            count_shares(&deal, n, seed, SHARES // parts * part, SHARES // parts * (part + 1), threads)
    make_room(&deal)
    for part in range(parts):
        PyErr_CheckSignals()
        with nogil:
            deal_shares(&deal, source, n, seed, order, SHARES // parts * part, SHARES // parts * (part + 1), threads)
    for part in range(parts):
        PyErr_CheckSignals()
        with nogil:
            shuffle_piles(&deal, seed, order, PILES // parts * part, PILES // parts * (part + 1), threads)
    keep_pace(&shuffling, threads, begin, begin + (omp_get_wtime() - begin) / n * PACE_ROWS)


# ---- for tests and benchmarks ----------------------------------------------------------------------------------------

def matmul(np.ndarray A, np.ndarray B, np.ndarray out, bint transposed=False):
    """out = A B, or A^T B: the register tiles that a step is made of, on one thread, for tests and benchmarks."""
    cdef Py_ssize_t rows = out.shape[0], columns = out.shape[1], depth = B.shape[0], column = 0
    cdef const real *a = <const real *> np.PyArray_DATA(A)
    cdef const real *b = <const real *> np.PyArray_DATA(B)
    cdef real *c = <real *> np.PyArray_DATA(out)
    cdef Py_ssize_t lda = A.shape[1]
    cdef int V, last
    cdef void *raw = PyMem_RawMalloc(depth * TILE_VECTORS * VL * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        while column < columns:
            V = next_panel(vectors(columns - column))
            last = <int> min(VL, columns - column - (V - 1) * VL)
            pack_panel(b + column, columns, depth, columns - column, V, packed)
            multiply_deep(V, transposed, rows, depth, a, lda, packed, V * VL, c + column, columns, NULL, 0, last)
            column += V * VL
    PyMem_RawFree(raw)


cdef inline vreal elementary(int which, vreal x) noexcept nogil:
    if which == 0:
        return vexp(x)
    if which == 1:
        return vlog(x)
    if which == 2:
        return vlog1p(x)
    if which == 3:
        return vexpm1(x)
    if which == 4:
        return vtanh(x)
    return vsigmoid(x)


ELEMENTARY = ("exp", "log", "log1p", "expm1", "tanh", "sigmoid")


def vmath(str name, np.ndarray x, np.ndarray out):
    """An elementary function, an activation ("gelu") or its derivative ("gelu'") of each number, for tests."""
    cdef Py_ssize_t n = np.PyArray_SIZE(x), i = 0
    cdef const real *p = <const real *> np.PyArray_DATA(x)
    cdef real *q = <real *> np.PyArray_DATA(out)
    cdef bint slope = name.endswith("'")
    cdef int which
    cdef Job job
    if name in ELEMENTARY:
        which = ELEMENTARY.index(name)
        while i < n:
            store_edge(q + i, elementary(which, load_edge(p + i, n - i)), n - i)
            i += VL
        return
    job.task = ELEMENTS
    job.with_slope = slope
    job.n = n
    job.x = p
    job.out = q
    for_activation(ACTIVATION_NAMES.index(name.rstrip("'")), &job)


cdef double peak_sum = 0    # not a local variable: what has a result that others may see is not dropped or moved

cdef separate_void multiply_adds(Py_ssize_t turns) noexcept nogil:
    """Run independent multiply-adds in registers, from another start each time."""
    global peak_sum
    cdef vreal acc[12]
    cdef vreal x = vset(<real> 0.75), y = vset(<real> 0.5)
    cdef real lanes[16]
    cdef Py_ssize_t _turn
    cdef int i
    for i in range(12):
        acc[i] = vset(<real> (peak_sum + i + 3))   # none is a fixed point, which the compiler would see and drop
    for _turn in range(turns):
        for i in range(12):
            acc[i] = acc[i] * x + y
    for i in range(1, 12):
        acc[0] = acc[0] + acc[i]
    vstore(lanes, acc[0])
    peak_sum = lanes[0]


def peak(double seconds=0.2):
    """GFLOP/s of multiply-adds in registers on one core: the best of several runs, within about so many seconds."""
    cdef Py_ssize_t turns = 100000
    cdef double best = 0, end = time.perf_counter() + seconds, begin, taken
    while True:
        begin = time.perf_counter()
        with nogil:
            multiply_adds(turns)
        taken = time.perf_counter() - begin
        best = max(best, 2. * 12 * VL * turns / taken / 1e9)
        if time.perf_counter() > end:
            return best
