"""Dropout: inverted, so that nothing changes at prediction.  A unit's mask is a hash of where it stands.

The same for any dtype, instruction set, cut into blocks and number of threads: forward and back, a mask is made anew
where it is needed rather than kept.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastbp._simd cimport *

cdef struct Dropout:
    const double *rates     # one per hidden layer; NULL: no dropout
    uint64_t key            # of this step

cdef struct Mask:           # of one layer in one step
    uint32_t key, key_of_rows
    lane threshold          # of 2^24: hashes below it are dropped
    real scale              # of the others


cdef inline uint64_t mixed64(uint64_t x) noexcept nogil:
    """A bijection of 64-bit numbers in which every bit depends on all: splitmix64's."""
    x = x + <uint64_t> 0x9e3779b97f4a7c15u
    x = (x ^ (x >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9u
    x = (x ^ (x >> 27)) * <uint64_t> 0x94d049bb133111ebu
    return x ^ (x >> 31)


cdef inline uint32_t mixed32(uint32_t x) noexcept nogil:
    x = (x ^ (x >> 16)) * <uint32_t> 0x7feb352du
    x = (x ^ (x >> 15)) * <uint32_t> 0x846ca68bu
    return x ^ (x >> 16)


cdef inline vint vmixed32(vint x) noexcept nogil:
    """mixed32 of numbers in [0, 2^32), which is also what its products are reduced to."""
    cdef vint low = vseti(<lane> 0xffffffff)
    x = ((x ^ vshift_right(x, 16)) * vseti(<lane> 0x7feb352d)) & low
    x = ((x ^ vshift_right(x, 15)) * vseti(<lane> 0x846ca68b)) & low
    return x ^ vshift_right(x, 16)


cdef inline Mask mask_of(const Dropout *dropout, int layer) noexcept nogil:
    cdef Mask m
    cdef uint64_t key = mixed64(dropout.key + <uint64_t> layer)
    m.key = <uint32_t> key
    m.key_of_rows = <uint32_t> (key >> 32)
    m.threshold = <lane> (dropout.rates[layer] * 16777216. + 0.5)
    m.scale = <real> (1 / (1 - dropout.rates[layer]))
    return m


cdef inline separate_void apply_mask(
    const Mask *m, Py_ssize_t batch_row, Py_ssize_t rows, Py_ssize_t column, Py_ssize_t n, real *x, Py_ssize_t ld,
) noexcept nogil:
    """x[rows, n] times its mask; x stands for rows from batch_row on and units from column on of a layer's output."""
    cdef vint columns, bits, first = vseti(0), threshold = vseti(m.threshold)
    cdef vreal scale = vset(m.scale)
    cdef lane numbers[16]
    cdef Py_ssize_t i, k
    for k in range(VL):
        numbers[k] = <lane> k
    first = vreal_to_bits(vload(<real *> numbers))
    for i in range(rows):
        bits = vseti(<lane> mixed32(<uint32_t> (batch_row + i) + m.key_of_rows))
        k = 0
        while k < n:
            columns = first + vseti(<lane> <uint32_t> (column + k))
            columns = vmixed32(vmixed32((columns ^ vseti(<lane> m.key)) & vseti(<lane> 0xffffffff)) ^ bits)
            vstore(x + i * ld + k, vload(x + i * ld + k) * vkeep(~vlessi(vshift_right(columns, 8), threshold), scale))
            k += VL
