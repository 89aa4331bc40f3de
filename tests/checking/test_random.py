"""Random networks with random mistakes, and right ones with kinks at w0; bench/gradcheck_draws.py makes 10,000."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbp.checking import gradcheck

from .draws import draw, draw_in_reach, draw_on_kink, draw_right_on_kink


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([draw, draw_on_kink, draw_in_reach]), st.integers(0, 10_000_000))
def test_no_miss_and_no_false_alarm(kind, seed):
    case = kind(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000_000))
def test_every_usual_choice_at_a_tie_is_right(seed):
    case = draw_right_on_kink(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.ok, f"{case.text}\n{report}"
