"""A random order of rows: integers alone, the same for every instruction set, dtype and number of threads.

(a) Fisher and Yates' shuffle: every order has the same probability.  An index below n comes from 32 random bits by a
    multiplication, and those few that would favour some indices are drawn again (Lemire, Fast random integer generation
    in an interval, 2019): there is hardly ever a division.
(b) The bits are those of Doty-Humphrey's sfc64, as in NumPy's SFC64, begun from three words of the caller's generator.
(c) An order that does not fit in cache would be a miss for every row.  It is first dealt out: each row goes to one of
    PILES at random, and then each pile is shuffled by itself.  Every order has the same probability again (Rao 1961,
    Sandelius 1962).  SHARES of the rows are dealt, and piles are shuffled, by any thread, each with numbers of its own.
"""
from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastbp._simd cimport prefetch_line

cdef enum:
    PILES = 256             # a byte's worth
    SHARES = 16
    MOST_AT_ONCE = 1 << 17  # rows
    WARM_UP = 12            # numbers after which nothing is left of what is plain in a seed

cdef struct Numbers:
    uint64_t a, b, c, count

cdef struct Deal:
    Py_ssize_t[SHARES][PILES] ends  # where the next row of a share goes in the order, once they are counted
    Py_ssize_t[PILES + 1] piles     # where they begin


cdef inline uint64_t next_number(Numbers *numbers) noexcept nogil:
    cdef uint64_t x = numbers.a + numbers.b + numbers.count
    numbers.count += 1
    numbers.a = numbers.b ^ (numbers.b >> 11)
    numbers.b = numbers.c + (numbers.c << 3)
    numbers.c = ((numbers.c << 24) | (numbers.c >> 40)) + x
    return x


cdef inline Numbers numbers_from(const uint64_t *words, uint64_t stream) noexcept nogil:
    """The numbers that three words stand for, or one of the other streams that begin with them."""
    cdef Numbers numbers
    cdef int _round
    numbers.a = words[0]
    numbers.b = words[1]
    numbers.c = words[2] + stream
    numbers.count = 1
    for _round in range(WARM_UP):
        next_number(&numbers)
    return numbers


cdef inline uint32_t index_below(uint32_t n, uint32_t bits, Numbers *numbers) noexcept nogil:
    """One of 0..n-1, all alike probable, from random bits; more are drawn if these would favour some."""
    cdef uint64_t product = <uint64_t> bits * n
    cdef uint32_t favoured
    if <uint32_t> product < n:
        favoured = (<uint32_t> 0 - n) % n
        while <uint32_t> product < favoured:
            product = (next_number(numbers) >> 32) * n
    return <uint32_t> (product >> 32)


cdef inline void swap(uint32_t *p, Py_ssize_t i, uint32_t k) noexcept nogil:
    cdef uint32_t x = p[i]
    p[i] = p[k]
    p[k] = x


cdef inline void shuffle_pile(uint32_t *p, Py_ssize_t n, Numbers numbers) noexcept nogil:
    """Shuffle n entries where they are, two with each number."""
    cdef uint64_t x
    cdef Py_ssize_t i = n
    while i > 1:
        prefetch_line(p + n + i)    # of the next pile
        x = next_number(&numbers)
        swap(p, i - 1, index_below(<uint32_t> i, <uint32_t> x, &numbers))
        i -= 1
        swap(p, i - 1, index_below(<uint32_t> i, <uint32_t> (x >> 32), &numbers))
        i -= 1


cdef inline Py_ssize_t share_begin(Py_ssize_t n, int share) noexcept nogil:
    return n // SHARES * share + min(share, n % SHARES)


cdef inline void count_share(Deal *deal, Py_ssize_t n, const uint64_t *words, int share) noexcept nogil:
    """How many rows of a share go to each pile."""
    cdef Numbers numbers = numbers_from(words, 1 + share)
    cdef Py_ssize_t begin = share_begin(n, share), end = share_begin(n, share + 1)
    cdef Py_ssize_t *counts = deal.ends[share]
    cdef uint64_t x
    cdef int i
    memset(counts, 0, PILES * sizeof(Py_ssize_t))
    while begin < end:
        x = next_number(&numbers)
        if begin + 8 <= end:    # of a length that the compiler knows: twice as fast
            for i in range(8):
                counts[x >> 8 * i & (PILES - 1)] += 1
        else:
            for i in range(<int> (end - begin)):
                counts[x >> 8 * i & (PILES - 1)] += 1
        begin += 8


cdef inline void make_room(Deal *deal) noexcept nogil:
    """From the counts, where each share's rows begin in each pile."""
    cdef Py_ssize_t total = 0, here
    cdef int pile, share
    for pile in range(PILES):
        deal.piles[pile] = total
        for share in range(SHARES):
            here = deal.ends[share][pile]
            deal.ends[share][pile] = total
            total += here
    deal.piles[PILES] = total


cdef inline void put(uint32_t row, uint32_t *out, Py_ssize_t *end) noexcept nogil:
    out[end[0]] = row
    end[0] += 1
    prefetch_line(out + end[0] + 16)


cdef inline void deal_share(
    Deal *deal, const uint32_t *rows, Py_ssize_t n, const uint64_t *words, uint32_t *out, int share,
) noexcept nogil:
    """Deal a share of rows [n] (NULL: 0, 1, ...) out."""
    cdef Numbers numbers = numbers_from(words, 1 + share)
    cdef Py_ssize_t begin = share_begin(n, share), end = share_begin(n, share + 1)
    cdef Py_ssize_t *ends = deal.ends[share]
    cdef uint64_t x
    cdef int i
    while begin < end:
        x = next_number(&numbers)
        if begin + 8 <= end and rows == NULL:
            for i in range(8):
                put(<uint32_t> (begin + i), out, &ends[x >> 8 * i & (PILES - 1)])
        else:
            for i in range(<int> min(8, end - begin)):
                put(rows[begin + i] if rows != NULL else <uint32_t> (begin + i), out, &ends[x >> 8 * i & (PILES - 1)])
        begin += 8


cdef inline void shuffle_few(
    const uint32_t *rows, Py_ssize_t n, const uint64_t *words, uint32_t *out,
) noexcept nogil:
    """Write rows [n] (NULL: 0, 1, ...) to out [n] in the order that three words stand for."""
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = <uint32_t> i if rows == NULL else rows[i]
    shuffle_pile(out, n, numbers_from(words, 0))


# The same with many rows: `count_shares` of all, `make_room`, `deal_shares` of all, `shuffle_piles` of all.

cdef inline void count_shares(
    Deal *deal, Py_ssize_t n, const uint64_t *words, int first, int last, int threads,
) noexcept nogil:
    cdef int share
    for share in prange(first, last, num_threads=threads, schedule="static"):
        count_share(deal, n, words, share)


cdef inline void deal_shares(
    Deal *deal, const uint32_t *rows, Py_ssize_t n, const uint64_t *words, uint32_t *out, int first, int last,
    int threads,
) noexcept nogil:
    cdef int share
    for share in prange(first, last, num_threads=threads, schedule="static"):
        deal_share(deal, rows, n, words, out, share)


cdef inline void shuffle_piles(
    const Deal *deal, const uint64_t *words, uint32_t *out, int first, int last, int threads,
) noexcept nogil:
    cdef int pile
    for pile in prange(first, last, num_threads=threads, schedule="static"):
        shuffle_pile(out + deal.piles[pile], deal.piles[pile + 1] - deal.piles[pile],
                     numbers_from(words, 1 + SHARES + pile))
