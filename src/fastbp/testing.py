"""For test suites: fail with the checker's whole report when a gradient is not right."""

from __future__ import annotations

from typing import Any

from .checking import Report, gradcheck
from .checking.problem import Layout

__all__ = ["assert_gradient"]


def assert_gradient(f: Any, w0: Any = None, layout: Layout | None = None, **options: Any) -> Report:
    """Raise AssertionError, with the report as its message, unless the gradient is correct.

    Takes the arguments of `fastbp.gradcheck` and returns its report.  "Undecided" fails too: a test that could not
    tell has not passed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.testing import assert_gradient
    >>> _ = assert_gradient(lambda w: (np.sum(w**3), 3 * w**2), np.array([1.0, 2.0]))
    """
    __tracebackhide__ = True
    report = gradcheck(f, w0, layout, **options)
    if not report.ok:
        raise AssertionError(str(report))
    return report
