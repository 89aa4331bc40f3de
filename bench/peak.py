"""What the machine can do, measured there and then: multiply-adds, matrix products, memory."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import peers

import fastbp

DTYPES = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}
# Bytes in use by all threads together: in the second-level cache, in the third, and beyond any.
WORKING_SETS = (512 * 1024, 8 * 1024**2, 512 * 1024**2)


def _on_all(crew: ThreadPoolExecutor, threads: int, work: Any, *arguments: Any) -> float:
    """Return what all threads achieve together, the best of three attempts."""
    return max(sum(crew.map(lambda _: work(*arguments), range(threads))) for _ in range(3))


def _products(module: Any, dtype: str) -> dict[str, float]:
    """Time square matrix products on one core; GFLOP/s by size."""
    rates = {}
    for size in (48, 64, 96, 128, 192, 256, 384, 512, 1024):
        A, B, out = (np.full((size, size), 0.5, DTYPES[dtype]) for _ in range(3))
        call = functools.partial(module.matmul, A, B, out)
        call()
        rates[str(size)] = 2e-9 * size**3 / peers.best_time(call, 0.15)[0]
    return rates


def _stream(size: int, seconds: float) -> float:
    """Return GB/s of ``a += b`` over so many bytes: two are read for one that is written, where it was read."""
    a, b = np.zeros(size // 8, np.float32), np.zeros(size // 8, np.float32)
    calls, moved = max(1, 2**22 // size), 0.0
    start = now = time.perf_counter()
    while now < start + seconds:
        for _ in range(calls):
            np.add(a, b, out=a)
        moved += 1.5 * size * calls
        now = time.perf_counter()
    return 1e-9 * moved / (now - start)


def measure(threads: int, seconds: float = 0.3) -> dict[str, Any]:
    """Measure the machine's limits.

    Parameters
    ----------
    threads : int
        How many work at once where all do.
    seconds : float
        For each attempt.

    Returns
    -------
    dict
        For each dtype multiply-adds in GFLOP/s of ``one`` core and of ``all`` threads at once, operands in registers,
        and of square products, ``matmul``, by size; ``stream``: GB/s of all threads by the bytes that they use.
    """
    isa = fastbp.get_config()["isa"]
    found: dict[str, Any] = {"isa": isa}
    with ThreadPoolExecutor(threads) as crew:
        for dtype in DTYPES:
            module = fastbp._dispatch.load(isa, DTYPES[dtype])
            one = max(module.peak(seconds) for _ in range(3))
            together = _on_all(crew, threads, module.peak, seconds)
            found[dtype] = {"one": one, "all": max(together, one), "matmul": _products(module, dtype)}
        found["stream"] = {
            str(size): _on_all(crew, threads, _stream, size // threads, seconds) for size in WORKING_SETS
        }
    return found
