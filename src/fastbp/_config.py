"""What runs and on how many threads."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import _cpu, _dispatch
from ._check import describe


def set_num_threads(n: int | None) -> None:
    """Limit the threads of fastbp's calls.

    Results are the same to the bit for any number of threads, and a step too small to gain from a second thread runs on
    one whatever is set here.

    Parameters
    ----------
    n : int or None
        At most so many threads; more than the cores of this process are never used.  None: as OpenMP says, which is
        OMP_NUM_THREADS, threadpoolctl's limit, or all cores.

    Raises
    ------
    TypeError, ValueError
        If n is not a positive integer or None.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.set_num_threads(1)
    >>> fastbp.get_num_threads()
    1
    >>> fastbp.set_num_threads(None)
    """
    if n is None:
        _dispatch.limit_threads(0)
        return
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be a positive integer or None, got {describe(n)}")
    if n < 1:
        raise ValueError(f"n must be a positive integer or None, got {n}")
    _dispatch.limit_threads(min(int(n), 2**30))


def get_num_threads() -> int:
    """The number of threads that a large enough step would use now.

    Returns
    -------
    int
        At least 1, at most the cores of this process.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.get_num_threads() >= 1
    True
    """
    limit = _dispatch.thread_limit()
    return min(limit, _cpu.cores()) if limit else _cpu.max_threads()


def get_config() -> dict[str, Any]:
    """What `show_config` prints, as a dict.

    Returns
    -------
    dict
        version, isa (the variant in use), isa_available, vector_bytes, openmp (yyyymm of its version, 0 if built
        without), threads, compiler, numpy, python.

    Examples
    --------
    >>> import fastbp
    >>> sorted(fastbp.get_config())[:2]
    ['compiler', 'isa']
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("fastbp")
    except PackageNotFoundError:  # a source tree that was built in place and not installed
        own = "unknown"
    return {
        "version": own,
        "isa": _dispatch.isa,
        "isa_available": _dispatch.available(),
        "vector_bytes": _dispatch.kernels(np.dtype(np.float64)).VECTOR_LANES * 8,
        "openmp": _cpu.openmp(),
        "threads": get_num_threads(),
        "compiler": _cpu.compiler(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def show_config() -> None:
    """Print which variant runs, on how many threads, and what it was built with.

    FASTBP_ISA in the environment chooses another variant at import.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.show_config()  # doctest: +ELLIPSIS
    version        ...
    """
    for name, value in get_config().items():
        print(f"{name:15}{', '.join(value) if isinstance(value, list) else value}")
