"""Every wrong gradient of the zoo is found, with exactly the wrong blocks; no right one is refused."""

import pytest

from fastbp.checking import diagnose, gradcheck

from .zoo import RIGHT, WRONG
from .zoo_models import as_model


def kinds(cases):
    return {(c.cause, c.name.rsplit(" ", 2)[0] if c.net else c.name) for c in cases}


def test_the_zoo_is_large_enough():
    assert len(kinds(WRONG)) >= 40
    assert len(kinds(RIGHT)) >= 40


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_gradient_is_found(case):
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.verdict == "wrong", str(report)
    assert set(report.failed_blocks) == set(case.wrong), str(report)
    assert not report.ok


@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_right_gradient_is_not_refused(case):
    report = gradcheck(case.f, case.w0, case.layout)
    assert report.ok, str(report)


@pytest.mark.parametrize("case", [c for c in RIGHT if c.kink and c.dtype == "f8"], ids=str)
def test_right_value_at_a_kink_needs_no_gradient_close_by(case):
    report = gradcheck(lambda w: case.f(w)[0], case.w0, case.layout, grad=case.f(case.w0)[1])
    assert report.ok, str(report)


@pytest.mark.parametrize("case", [c for c in WRONG if c.kink], ids=str)
def test_wrong_value_at_a_kink_needs_no_gradient_close_by(case):
    report = gradcheck(lambda w: case.f(w)[0], case.w0, case.layout, grad=case.f(case.w0)[1])
    assert set(report.failed_blocks) == set(case.wrong), str(report)


CODES = {
    "delta": "delta = y - t", "no derivative": "act' missing", "derivative at a": "act' at a", "1 - a": "1 - a",
    "1/N": "1/N", "bias mean": "bias mean for sum", "zero": "zero block", "sign": "sign", "factor": "factor",
    "transposed": "transposed", "fortran": "fortran", "order": "order: bias first", "clip ignored": "clip ignored",
    "clip wrong side": "clip on the wrong side", "softmax diagonal": "softmax diagonal only", "decay": "weight decay",
    "weights": "sample weights ignored", "smoothing": "label smoothing ignored", "last row": "last row dropped",
    "next activation": "next layer's activation", "updated weights": "updated weights used below",
    "W not transposed": "W not transposed",
}


@pytest.mark.parametrize("case", [c for c in WRONG if c.expect and c.name.split()[-1] == "f8"
                                  and c.net.sizes[0] == 3], ids=str)
def test_cause_is_named_where_the_network_is_known(case):
    net = case.net
    diagnosis = diagnose(case.f, case.w0, model=as_model(net), X=net.X, Y=net.T, sample_weight=net.sw)
    assert any(code.startswith(CODES[case.expect]) for code in diagnosis.codes), str(diagnosis)
    assert str(diagnosis).count("Evidence") == len(diagnosis.causes)
    assert len(diagnosis.causes) <= 3, str(diagnosis)
