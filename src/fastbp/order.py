"""Random orders of rows: those in which `fit` goes over its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check, _dispatch

Array = np.ndarray[Any, Any]


def permutation(n: int, rng: int | np.random.Generator | None = None) -> Array:
    """The numbers 0 to n - 1 in a random order: the one in which an epoch of `MLP.fit` takes n rows.

    Every order has the same probability.  The same generator gives the same one on every machine, several times faster
    than NumPy's own ``permutation``, which gives another.

    Parameters
    ----------
    n : int
        Below 2**32.
    rng : int, numpy.random.Generator or None
        A generator is moved on by three raw numbers.

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.permutation(10, rng=0)
    array([3, 5, 1, 9, 7, 8, 4, 6, 2, 0])
    """
    n = _check.integer("n", n, 0, 2**32 - 1)
    return shuffled(None, _check.generator("rng", rng), np.empty(n, np.uint32)).astype(np.int64)


def shuffled(rows: Array | None, generator: np.random.Generator, out: Array) -> Array:
    """Write rows (uint32, C order; None: 0, 1, ...) to out, as long, in a random order; returns out."""
    words = generator.bit_generator.random_raw(3)  # after a pass, with cold caches, five times faster than `integers`
    _dispatch.kernels(np.dtype(np.float64)).shuffle(rows, words, out)
    return out
