"""Arrays as they come in: looked at once, taken as they are or not at all.

An array is taken only as the kernels need it: C order, aligned, native, of the dtype, of the right shape, its values in
their range.
"""
cimport numpy as np
from libc.float cimport DBL_MIN
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.string cimport memset

from fastbp._simd cimport *
from fastbp._gemm cimport load_edge
from fastbp._activations cimport SOFTMAX
from fastbp._losses cimport BINARY_CROSS_ENTROPY, CROSS_ENTROPY, SQUARED_ERROR
from fastbp._plan cimport Net
from fastbp._gather cimport labels_in_range
from fastbp._blocks cimport Step

cdef extern from *:
    """
    #ifdef FASTBP_F32
    #define REAL NPY_FLOAT32
    #else
    #define REAL NPY_FLOAT64
    #endif
    """
    const int REAL


cdef inline void *plain(object array, int dtype, int dimensions, Py_ssize_t first, Py_ssize_t second, bint writable):
    """The data of an array that is just as asked for (first, second < 0: any length but 0), else NULL."""
    if not np.PyArray_CheckExact(array):
        return NULL
    if np.PyArray_TYPE(array) != dtype or np.PyArray_NDIM(array) != dimensions:
        return NULL
    if not (np.PyArray_ISCARRAY(array) if writable else np.PyArray_ISCARRAY_RO(array)):
        return NULL
    cdef np.npy_intp *shape = np.PyArray_DIMS(array)
    if shape[0] != first and (first >= 0 or shape[0] < 1):
        return NULL
    if dimensions == 2 and shape[1] != second:
        return NULL
    return np.PyArray_DATA(array)


cdef inline bint overlap(const void *p, Py_ssize_t p_bytes, const void *q, Py_ssize_t q_bytes) noexcept:
    return q != NULL and <uintptr_t> p < <uintptr_t> q + q_bytes and <uintptr_t> q < <uintptr_t> p + p_bytes


cdef inline bint targets_in_domain(const real *t, Py_ssize_t n, int loss) noexcept nogil:
    cdef vint bad = vseti(0)
    cdef vreal x
    cdef vreal most = vset(1) if loss == BINARY_CROSS_ENTROPY else vset(LARGEST)
    cdef real lanes[16]
    cdef Py_ssize_t i = 0
    cdef int v
    if loss == SQUARED_ERROR:
        return True
    while i < n:
        x = load_edge(t + i, n - i)
        bad = bad | ~vless_equal(vset(0), x) | ~vless_equal(x, most)
        i += VL
    vstore(lanes, vkeep(bad, vset(1)))
    for v in range(VL):
        if lanes[v] != 0:
            return False
    return True


cdef inline double total_weight(const double *weights, Py_ssize_t n) noexcept nogil:
    """The sum of weights, or 0 if they are not all finite, and 0 or at least DBL_MIN: of these 1 / weight is finite."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        if not (weights[i] >= DBL_MIN or weights[i] == 0):
            return 0
        total += weights[i]
    return total if isfinite(total) else 0


cdef inline bint point_at(Step *s, const Net *net, object X, object Y, object sample_weight) noexcept:
    """Point s at X, Y and sample_weight; False if one of them is no such array.  What is in them is not looked at.

    Labels may be bytes here, which only gathering can read.
    """
    cdef Py_ssize_t rows, fan_in = net.layers[0].fan_in, fan_out = net.layers[net.n_layers - 1].fan_out
    memset(s, 0, sizeof(Step))
    s.net = net
    s.x = <const real *> plain(X, REAL, 2, -1, fan_in, False)
    if s.x == NULL:
        return False
    s.rows = rows = np.PyArray_DIMS(X)[0]
    s.targets.dense = <const real *> plain(Y, REAL, 2, rows, fan_out, False)
    if s.targets.dense == NULL:
        if net.rule.activation != SOFTMAX or net.rule.loss != CROSS_ENTROPY:
            return False
        s.targets.labels = <const int64_t *> plain(Y, np.NPY_INT64, 1, rows, 0, False)
        if s.targets.labels == NULL:
            s.targets.bytes = <const uint8_t *> plain(Y, np.NPY_UINT8, 1, rows, 0, False)
            if s.targets.bytes == NULL:
                return False
    s.targets.scale = 1
    if sample_weight is not None:
        s.targets.weights = <const double *> plain(sample_weight, np.NPY_FLOAT64, 1, rows, 0, False)
        return s.targets.weights != NULL
    return True


cdef inline bint read_batch(Step *s, const Net *net, object X, object Y, object sample_weight, bint mean) noexcept:
    """Point s at X, Y and sample_weight; False if one of them is not as needed."""
    cdef Py_ssize_t fan_out = net.layers[net.n_layers - 1].fan_out
    cdef double total
    if not point_at(s, net, X, Y, sample_weight):
        return False
    if s.targets.dense != NULL:
        if not targets_in_domain(s.targets.dense, s.rows * fan_out, net.rule.loss):
            return False
    elif s.targets.labels == NULL or not labels_in_range(s.targets.labels, s.rows, fan_out):
        return False
    total = s.rows
    if s.targets.weights != NULL:
        total = total_weight(s.targets.weights, s.rows)
        if total <= 0:
            return False
    if mean:
        s.targets.scale = 1 / total
    return True


cdef inline bint clear_of_inputs(object out, np.ndarray parameters, object X, object Y, object sample_weight) noexcept:
    """Whether out shares no memory with what the step reads."""
    cdef char *p = <char *> np.PyArray_DATA(out)
    cdef Py_ssize_t size = np.PyArray_NBYTES(out)
    if overlap(p, size, np.PyArray_DATA(parameters), np.PyArray_NBYTES(parameters)):
        return False
    if overlap(p, size, np.PyArray_DATA(X), np.PyArray_NBYTES(X)):
        return False
    if Y is not None and overlap(p, size, np.PyArray_DATA(Y), np.PyArray_NBYTES(Y)):
        return False
    return sample_weight is None or not overlap(p, size, np.PyArray_DATA(sample_weight),
                                                np.PyArray_NBYTES(sample_weight))
