"""Random networks with random mistakes, and right ones with kinks at w0; bench/gradcheck_draws.py makes 10,000."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbp.checking import gradcheck

from .draws import draw


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000_000))
def test_no_miss_and_no_false_alarm(seed):
    case = draw(seed)
    report = gradcheck(case.f, case.w0, case.layout)
    assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"
