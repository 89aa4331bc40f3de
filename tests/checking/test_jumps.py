"""Losses that move in jumps: the stairs of a saturated logarithm, and what looks like one and is not."""

import numpy as np
import pytest

from fastbp.checking import gradcheck
from fastbp.checking.differences import Line
from fastbp.checking.jumps import jump_between
from fastbp.checking.problem import Problem

from .draws import draw


def line_of(f):
    problem = Problem(lambda w: (f(float(w[0])), np.zeros(1)), np.zeros(1))
    problem.loss0 = f(0.0)
    return Line(problem, np.ones(1), np.zeros(1), 1e-15)


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("sign", [1, -1])
def test_stairs_have_their_height(step, sign):
    line = line_of(lambda t: t + 3 * step * np.floor(t / step + 0.3))
    height, place = jump_between(line, 1.0, sign * step / 100, sign * 50 * step)
    assert height == pytest.approx(3 * step, rel=0.05)
    assert 0 < sign * place <= 50 * step


@pytest.mark.parametrize("f", [
    np.exp, lambda t: abs(t - 0.01), lambda t: np.sin(30 * t), lambda t: max(0.0, t - 0.3) ** 1.5,
    lambda t: 1e-3 * np.cos(7 * t) + t**3, lambda t: max(-0.2, -t),
])
def test_bends_and_kinks_are_no_jumps(f):
    line = line_of(f)
    slope = line.excess(1e-5) / 1e-5
    for far in (1e-3, 0.1, 0.5, 2.0):
        assert jump_between(line, slope, 1e-5, far)[0] == 0


def saturated(seed, factor=1.0):
    """Logistic regression as people write it, far in the tail: log(1 - y) with y rounded to the last bit."""
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(1, 12)), int(rng.integers(1, 6)), int(rng.integers(1, 4))
    X, w0 = rng.normal(size=(n, d)), rng.normal(size=(d, k)) * rng.uniform(1, 12)
    T = (rng.random((n, k)) < 0.5) * 1.0

    def f(w):
        y = 1 / (1 + np.exp(-(X @ w)))
        loss = -(T * np.log(np.maximum(y, 1e-16)) + (1 - T) * np.log(np.maximum(1 - y, 1e-16))).sum()
        return loss, factor * (X.T @ (y * (1 - T) * (1 - y > 1e-16) - T * (1 - y) * (y > 1e-16)))

    return f, w0


@pytest.mark.parametrize("seed", [1, 4, 7, 9, 15, 21, 30, 45, 72, 96, 109, 136])
def test_a_staircase_is_neither_an_error_nor_hides_one(seed):
    assert gradcheck(*saturated(seed)).verdict != "wrong"
    assert gradcheck(*saturated(seed, 1.02)).verdict != "correct"


@pytest.mark.parametrize("seed", range(8))
def test_moderate_saturation_is_decided(seed):
    f, w0 = saturated(3 * seed)
    w0 = w0 * min(1.0, 8 / np.abs(w0).max())
    assert gradcheck(f, w0).ok
    assert gradcheck(lambda w: (f(w)[0], 1.02 * f(w)[1]), w0).verdict == "wrong"


def test_a_jump_elsewhere_does_not_excuse_an_error():
    def f(w):
        return np.sum(w**2) + 5 * (w[0] > 1.4), 2.002 * w

    assert gradcheck(f, np.array([1.0, 2.0, 3.0])).verdict == "wrong"


@pytest.mark.parametrize("seed", [1232, 2055, 2794, 3736, 4326, 4576, 5652])
def test_draws_that_once_failed(seed):
    case = draw(seed)
    report = gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient)
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"
