"""Random networks with random mistakes, and right ones with kinks at w0; bench/gradcheck_draws.py makes 10,000."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastbp.checking import gradcheck

from .draws import draw, draw_in_reach, draw_mean_of_sides, draw_on_kink, draw_right_on_kink


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([draw, draw_on_kink]), st.integers(0, 10_000_000))
def test_no_miss_and_no_false_alarm(kind, seed):
    case = kind(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"


@pytest.mark.parametrize("seed", [500, 40091])  # errors of 2e-4 and 4e-4 of the largest entry
def test_small_errors_within_a_kinks_reach_are_not_passed(seed):
    case = draw_in_reach(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) <= set(case.wrong), f"{case.text}\n{report}"
    assert set(case.wrong) <= {*report.failed_blocks, *report.undecided_blocks}, f"{case.text}\n{report}"


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000_000))
@example(31009)  # 5e-4 of the largest entry at w0, 5e-6 of that across the kink: not found with every BLAS
def test_what_passes_within_a_kinks_reach_is_smaller_than_the_report_states(seed):
    case = draw_in_reach(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) <= set(case.wrong), f"{case.text}\n{report}"
    given = case.f.gradient(case.w0)
    case.f.mistakes = {}
    right, start = case.f.gradient(case.w0), 0
    assert not np.array_equal(given, right)
    for block, (name, shape) in zip(report.blocks, case.layout, strict=True):
        part = slice(start, start := start + int(np.prod(shape)))
        if name in case.wrong and block.verdict == "correct":
            error = np.abs(given - right)[part].max() / np.abs(given[part]).max()
            assert error < block.visible, f"{case.text}\n{report}"


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000_000))
def test_every_usual_choice_at_a_tie_is_right(seed):
    case = draw_right_on_kink(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.ok, f"{case.text}\n{report}"


@pytest.mark.parametrize("seed", [6, 44, 64, 152, 541])  # 152, 541: planes of very different strength
def test_a_mean_of_sides_where_many_kinks_meet_is_right(seed):
    case = draw_mean_of_sides(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.ok, f"{case.text}\n{report}"


def test_a_small_error_where_many_kinks_meet_is_no_mean_of_sides():
    case = draw_in_reach(500)
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.verdict == "wrong", f"{case.text}\n{report}"
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"
