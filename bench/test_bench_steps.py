"""Time of loss + gradient and of a training step for every case of bench/cases.py (`make bench`)."""

from __future__ import annotations

import pytest
from cases import EXTRA, TABLE, Case
from peers import Fastbp


@pytest.fixture(params=TABLE + EXTRA, ids=lambda case: case.name)
def net(request: pytest.FixtureRequest) -> Fastbp:
    """Return a network with its data."""
    case: Case = request.param
    return Fastbp(case, threads=2)


@pytest.mark.benchmark(group="loss + gradient")
def test_gradient(benchmark, net):
    benchmark(net.gradient)


@pytest.mark.benchmark(group="training step with Adam")
def test_step(benchmark, net):
    benchmark(net.step)


@pytest.mark.benchmark(group="outputs alone")
def test_outputs(benchmark, net):
    benchmark(net.forward)
