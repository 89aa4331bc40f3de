"""Every kernel variant that this machine can run, both dtypes, and arrays of every awkward layout."""

import os
import signal

import numpy as np
import pytest

from fastbp import _dispatch

# A shell without job control starts what it puts into the background with Ctrl-C ignored, and tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ISAS = tuple(_dispatch.available())
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-5}
SANITIZED = "san" in os.environ.get("LD_PRELOAD", "")


@pytest.fixture(params=ISAS, scope="module")
def isa(request):
    """Every net and layer made during the test runs on this variant's kernels."""
    with _dispatch.using(request.param):
        yield request.param


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"], scope="module")
def dtype(request):
    return request.param


@pytest.fixture
def kernels(isa, dtype):
    """The compiled module of this variant and dtype."""
    return _dispatch.load(isa, dtype)


def aligned(a, offset):
    """A C-ordered copy whose first byte lies `offset` bytes beyond a multiple of 64."""
    a = np.ascontiguousarray(a)
    room = np.zeros(a.nbytes + 128, dtype=np.uint8)
    start = -room.ctypes.data % 64 + offset
    out = room[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def spread(a):
    """The same values at every third place along each axis of an array of nan (of ones, for integers)."""
    fill = np.nan if a.dtype.kind == "f" else 1
    big = np.full([3 * n + 2 for n in a.shape], fill, dtype=a.dtype)
    view = big[tuple(slice(1, 1 + 3 * n, 3) for n in a.shape)]
    view[...] = a
    return view


def backwards(a):
    return a[(slice(None, None, -1),) * a.ndim].copy()[(slice(None, None, -1),) * a.ndim]


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": spread,
    "reversed": backwards,
    "read-only": frozen,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": lambda a: aligned(a, 1),
    "off by one element": lambda a: aligned(a, a.itemsize),
    "list": lambda a: a.tolist(),
    "subclass": lambda a: a.view(Subclass),
}
KINDS = {"int64": np.int64, "int8": np.int8, "uint16": np.uint16, "bool": np.bool_, "float16": np.float16}
