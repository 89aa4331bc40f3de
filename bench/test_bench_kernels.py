"""Time of the kernels by themselves: products and elementary functions, beside NumPy's (`make bench`)."""

from __future__ import annotations

import numpy as np
import pytest

import fastbp

DTYPES = (np.float32, np.float64)
# What NumPy has under the same name; the activations stand alone.
FUNCTIONS = ("exp", "log", "log1p", "expm1", "tanh", "sigmoid", *fastbp.ACTIVATIONS)
FUNCTIONS = tuple(dict.fromkeys(name for name in FUNCTIONS if name not in ("identity", "softmax")))


def kernels(dtype):
    """Return the kernel module in use for a dtype."""
    return fastbp._dispatch.load(fastbp.get_config()["isa"], np.dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 48, 64, 128, 256, 384, 1024])
@pytest.mark.parametrize("by", ["fastbp", "numpy"])
@pytest.mark.benchmark(group="matrix product on one core")
def test_matmul(benchmark, dtype, size, by):
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(size, size)).astype(dtype), rng.normal(size=(size, size)).astype(dtype)
    out = np.empty_like(A)
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1):
        benchmark(kernels(dtype).matmul if by == "fastbp" else np.matmul, A, B, out)
    if benchmark.stats:  # not where timing is switched off
        rate = 2 * size**3 / benchmark.stats.stats.min / 1e9
        benchmark.extra_info["GFLOP/s"] = round(rate, 1)
        benchmark.extra_info["share of peak"] = round(rate / kernels(dtype).peak(0.05), 3)
    expected = A.astype(float) @ B
    np.testing.assert_allclose(out, expected, atol=1e-4 * size**0.5 if dtype == np.float32 else 1e-12 * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.benchmark(group="elementwise, 4096 numbers")
def test_elementwise(benchmark, dtype, name):
    x = np.random.default_rng(0).normal(size=4096).astype(dtype)
    x = np.abs(x) if name.startswith("log") else x
    benchmark(kernels(dtype).vmath, name, x, np.empty_like(x))
    if benchmark.stats:  # not where timing is switched off
        benchmark.extra_info["ns per number"] = round(benchmark.stats.stats.min / x.size * 1e9, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "log", "log1p", "expm1", "tanh"])
@pytest.mark.benchmark(group="elementwise, 4096 numbers")
def test_elementwise_numpy(benchmark, dtype, name):
    x = np.random.default_rng(0).normal(size=4096).astype(dtype)
    x = np.abs(x) if name.startswith("log") else x
    benchmark(getattr(np, name), x, out=np.empty_like(x))
    if benchmark.stats:  # not where timing is switched off
        benchmark.extra_info["ns per number"] = round(benchmark.stats.stats.min / x.size * 1e9, 3)
