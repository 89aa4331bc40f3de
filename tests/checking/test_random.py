"""Random networks with random mistakes, and right ones with kinks at w0; bench/gradcheck_draws.py makes 10,000."""

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


def test_a_slope_between_two_stairs_of_a_saturated_loss_is_no_error():
    case = draw(8737)  # one step of 1 - y is wider than the parameter's whole scale
    report = gradcheck(case.f, case.w0, case.layout)
    assert not report.failed_blocks, f"{case.text}\n{report}"


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000_000))
@example(500)  # 2e-4 of the largest entry
@example(40091)  # 4e-4
@example(31009)  # 5e-4 of the largest entry at w0, 5e-6 of that across the kink
@example(92052)  # 5 %, which is 3e-5 of the largest entry across the kink
def test_no_error_within_a_kinks_reach_is_passed(seed):
    case = draw_in_reach(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) <= set(case.wrong), f"{case.text}\n{report}"
    assert set(case.wrong) <= {*report.failed_blocks, *report.undecided_blocks}, f"{case.text}\n{report}"


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


@pytest.mark.parametrize("rng", range(4))
def test_a_mean_of_sides_is_not_called_wrong_for_unlucky_points_around_it(rng):
    case = draw_mean_of_sides(98012)
    report = gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient, rng=rng)
    assert report.verdict != "wrong", f"{case.text}\n{report}"


def test_a_small_error_where_many_kinks_meet_is_no_mean_of_sides():
    case = draw_in_reach(500)
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.verdict == "wrong", f"{case.text}\n{report}"
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"
