"""A random order of rows: integers alone, the same for every instruction set and dtype.

(a) Fisher and Yates' shuffle: every order has the same probability.  An index below n comes from 32 random bits by a
    multiplication, and those few that would favour some indices are drawn again (Lemire, Fast random integer generation
    in an interval, 2019): there is hardly ever a division.
(b) The bits are those of Doty-Humphrey's sfc64, as in NumPy's SFC64, begun from three words of the caller's generator.
(c) An order that does not fit in cache would be a miss for every row.  It is first dealt out: each row goes to one of
    PILES at random, and then each pile is shuffled by itself.  Every order has the same probability again (Rao 1961,
    Sandelius 1962).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

cdef enum:
    PILES = 256             # a byte's worth
    MOST_AT_ONCE = 1 << 20  # rows
    WARM_UP = 12            # numbers after which nothing is left of what is plain in a seed

cdef struct Numbers:
    uint64_t a, b, c, count


cdef inline uint64_t next_number(Numbers *numbers) noexcept nogil:
    cdef uint64_t x = numbers.a + numbers.b + numbers.count
    numbers.count += 1
    numbers.a = numbers.b ^ (numbers.b >> 11)
    numbers.b = numbers.c + (numbers.c << 3)
    numbers.c = ((numbers.c << 24) | (numbers.c >> 40)) + x
    return x


cdef inline Numbers numbers_from(const uint64_t *words) noexcept nogil:
    """The numbers that three words stand for."""
    cdef Numbers numbers
    cdef int _round
    numbers.a = words[0]
    numbers.b = words[1]
    numbers.c = words[2]
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


cdef inline void swap(int64_t *p, uint32_t i, uint32_t k) noexcept nogil:
    cdef int64_t x = p[i]
    p[i] = p[k]
    p[k] = x


cdef inline void shuffle_pile(int64_t *p, uint32_t n, Numbers *numbers) noexcept nogil:
    """Shuffle n entries where they are, two with each number."""
    cdef uint64_t x
    cdef uint32_t i = n
    while i > 1:
        x = next_number(numbers)
        swap(p, i - 1, index_below(i, <uint32_t> x, numbers))
        i -= 1
        swap(p, i - 1, index_below(i, <uint32_t> (x >> 32), numbers))
        i -= 1


cdef inline void deal(
    const int64_t *rows, Py_ssize_t n, int64_t *out, Py_ssize_t *piles, Numbers *numbers,
) noexcept nogil:
    """Deal rows [n] out: pile k is out[piles[k]:piles[k + 1]], piles being [PILES + 1]."""
    cdef Numbers again = numbers[0]
    cdef Py_ssize_t ends[PILES]
    cdef Py_ssize_t i, total = 0
    cdef uint64_t x = 0
    cdef int pile
    memset(ends, 0, sizeof(ends))
    for i in range(n):
        x = next_number(&again) if i % 8 == 0 else x >> 8
        ends[x % PILES] += 1
    for pile in range(PILES):
        piles[pile] = total
        total += ends[pile]
        ends[pile] = piles[pile]
    piles[PILES] = total
    for i in range(n):
        x = next_number(numbers) if i % 8 == 0 else x >> 8
        pile = x % PILES
        out[ends[pile]] = i if rows == NULL else rows[i]
        ends[pile] += 1


cdef inline void shuffle_rows(const int64_t *rows, Py_ssize_t n, const uint64_t *words, int64_t *out) noexcept nogil:
    """Write rows [n] (NULL: 0, 1, ...) to out [n] in the order that three words stand for."""
    cdef Numbers numbers = numbers_from(words)
    cdef Py_ssize_t piles[PILES + 1]
    cdef Py_ssize_t i
    cdef int pile
    if n > MOST_AT_ONCE:
        deal(rows, n, out, piles, &numbers)
        for pile in range(PILES):
            shuffle_pile(out + piles[pile], <uint32_t> (piles[pile + 1] - piles[pile]), &numbers)
        return
    for i in range(n):
        out[i] = i if rows == NULL else rows[i]
    shuffle_pile(out, <uint32_t> n, &numbers)
