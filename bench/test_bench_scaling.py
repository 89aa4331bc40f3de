"""Time against rows and against threads (`make bench`): per row it should stay flat, per thread it should halve."""

from __future__ import annotations

import numpy as np
import pytest
from cases import TABLE, Case
from peers import Fastbp

import fastbp

NARROW = [Case(rows, (4, 32, 16, 4), "tanh", "identity", "f32") for rows in (256, 4096, 65_536, 1_000_000)]


@pytest.mark.parametrize("case", NARROW, ids=lambda case: f"{case.batch} rows")
@pytest.mark.benchmark(group="loss + gradient of 4-32-16-4 tanh f32, by rows")
def test_rows(benchmark, case):
    net = Fastbp(case, threads=2)
    benchmark(net.gradient)
    if benchmark.stats:  # not where timing is switched off
        benchmark.extra_info["ns per row"] = round(benchmark.stats.stats.min / case.batch * 1e9, 2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
@pytest.mark.benchmark(group="loss + gradient, by threads")
def test_threads(benchmark, case, threads):
    if threads > fastbp.get_num_threads():
        pytest.skip("this machine has one core")
    net = Fastbp(case, threads)
    try:
        benchmark(net.gradient)
    finally:
        fastbp.set_num_threads(None)
    if benchmark.stats:  # not where timing is switched off
        benchmark.extra_info["GFLOP/s"] = round(case.flops() / benchmark.stats.stats.min / 1e9, 1)
    assert np.isfinite(net.out).all()
