"""Orders of rows: uniform, the same everywhere, and those that `fit` takes."""

import math

import numpy as np
import pytest
import reference

import fastbp
from fastbp import _dispatch
from fastbp.order import shuffled

PILES, SHARES, MOST_AT_ONCE = 256, 16, 2**17


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 1001])
def test_an_order_is_that_of_the_plain_shuffle(isa, n):
    words = np.random.default_rng(3).bit_generator.random_raw(3)
    np.testing.assert_array_equal(fastbp.permutation(n, rng=3), reference.shuffled(np.arange(n), words))
    rows = np.arange(n, dtype=np.uint32) ** 2 + 7
    kept = rows.copy()
    out = np.empty(n, np.uint32)
    for dtype in (np.float32, np.float64):
        _dispatch.kernels(np.dtype(dtype)).shuffle(rows, words, out)
        np.testing.assert_array_equal(out, reference.shuffled(rows, words))
    np.testing.assert_array_equal(rows, kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_rows_are_dealt_out_to_piles_first(threads):
    n = MOST_AT_ONCE + 1003
    words = np.random.default_rng(3).bit_generator.random_raw(3)
    rows = np.arange(n, dtype=np.uint32) * 3
    expected = reference.dealt_and_shuffled(rows, words, PILES, SHARES)
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        for _ in range(3):  # one of the first is done by one thread, for comparison
            np.testing.assert_array_equal(shuffled(rows, np.random.default_rng(3), np.empty(n, np.uint32)), expected)
            np.testing.assert_array_equal(fastbp.permutation(n, np.random.default_rng(3)) * 3, expected)
    finally:
        fastbp.set_num_threads(before)


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.PCG64DXSM, np.random.SFC64])
def test_any_generator_gives_an_order(bits):
    orders = [fastbp.permutation(1000, np.random.Generator(bits(seed))).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(1000))



def chi_square(counts):
    """How far counts are from all being the same, in standard deviations of that sum."""
    mean, freedom = counts.mean(), counts.size - 1
    return (((counts - mean) ** 2 / mean).sum() - freedom) / math.sqrt(2 * freedom)


def test_every_order_is_as_probable_as_any_other():
    rng = np.random.default_rng(0)
    seen = np.array([fastbp.permutation(5, rng) for _ in range(24_000)])
    _, counts = np.unique(seen @ 5 ** np.arange(5), return_counts=True)
    assert len(counts) == 120
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("n", [100_000, MOST_AT_ONCE + 100_000])
def test_rows_come_anywhere_and_beside_any_other(n):
    order = np.concatenate([fastbp.permutation(n, rng=seed)[: n // 64 * 64] for seed in range(3)])
    here, after = order[:-1] * 64 // n, order[1:] * 64 // n
    assert abs(chi_square(np.bincount(here * 64 + after, minlength=4096))) < 4
    places = np.arange(len(order)) % (n // 64 * 64) * 64 // n
    assert abs(chi_square(np.bincount(places * 64 + order * 64 // n, minlength=4096))) < 4


def test_a_generator_goes_on_and_a_seed_begins():
    rng = np.random.default_rng(5)
    first, second = fastbp.permutation(50, rng), fastbp.permutation(50, rng)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, fastbp.permutation(50, rng=5))
    assert not np.array_equal(fastbp.permutation(50), fastbp.permutation(50))


def test_fit_takes_these_orders(monkeypatch):
    net, seen = fastbp.MLP([1, 1], rng=0), []
    run = net._run_batches

    def watch(*arguments, **options):
        seen.append(arguments[4].tolist())
        return run(*arguments, **options)

    monkeypatch.setattr(net, "_run_batches", watch)
    rng = np.random.default_rng(4)
    net.fit(np.zeros((40, 1)), np.zeros(40), epochs=3, rng=4)
    assert seen == [fastbp.permutation(40, rng).tolist() for _ in range(3)]


@pytest.mark.parametrize(
    ("n", "rng"), [(-1, 0), (2**32, 0), (2.5, 0), ("3", 0), (True, 0), (3, -1), (3, "seed"), (3, True)]
)
def test_bad_arguments(n, rng):
    with pytest.raises((TypeError, ValueError), match=r"^(n|rng) must be"):
        fastbp.permutation(n, rng)
