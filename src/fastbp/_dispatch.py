"""Chooses the compiled variant: the best one that this CPU can run, or what FASTBP_ISA asks for."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from . import _cpu

TEST_ONLY = ("wide", "scalar")  # built with FASTBP_VARIANTS=all, never chosen unasked
_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
_loaded: dict[str, ModuleType] = {}
_thread_limit = 0


def available() -> list[str]:
    """Variants that were built and that this CPU can run, best first."""
    return [isa for isa in _cpu.runnable() if importlib.util.find_spec(f"fastbp._kernels_{isa}_f64") is not None]


def _choose() -> str:
    wanted = os.environ.get("FASTBP_ISA", "").strip().lower()
    names = available()
    if wanted in names:
        return wanted
    ordinary = [name for name in names if name not in TEST_ONLY]
    if wanted:
        raise ImportError(
            f"FASTBP_ISA={wanted!r}: this CPU and this build of fastbp can run {', '.join(ordinary)}; "
            f"unset FASTBP_ISA to get the best of them, {ordinary[0]!r}."
        )
    return ordinary[0]


def load(isa: str, dtype: np.dtype) -> ModuleType:
    """The kernel module of a variant; `isa` must be one of `available()`."""
    name = f"_kernels_{isa}_{_SUFFIX[np.dtype(dtype)]}"
    if name not in _loaded:
        if isa not in available():
            raise ImportError(f"isa must be one of {', '.join(available())}, got {isa!r}")
        module = importlib.import_module(f"fastbp.{name}")
        module.limit_threads(_thread_limit, _cpu.cores())
        _loaded[name] = module
    return _loaded[name]


def kernels(dtype: np.dtype) -> ModuleType:
    """The kernel module in use for a dtype."""
    return load(isa, dtype)


@contextmanager
def using(name: str) -> Iterator[None]:
    """Networks made and functions called inside use another variant (for tests)."""
    global isa
    before, isa = isa, name
    try:
        yield
    finally:
        isa = before


def limit_threads(limit: int, most: int | None = None) -> None:
    """At most `limit` threads (0: as OpenMP says), never more than `most` (None: the cores)."""
    global _thread_limit
    _thread_limit = limit
    for module in _loaded.values():
        module.limit_threads(limit, _cpu.cores() if most is None else most)


def thread_limit() -> int:
    """What `limit_threads` was last given."""
    return _thread_limit


isa = _choose()

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork, and waiting for them would hang: the child runs on one.
    os.register_at_fork(after_in_child=lambda: limit_threads(1, 1))
