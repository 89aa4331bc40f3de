"""The labels of the zoo are right: certified without the checker."""

from dataclasses import replace

import numpy as np
import pytest

from .certify import block_of_entry, chosen_entries, kink_label_holds, wrong_blocks
from .zoo import RIGHT, WRONG

pytestmark = pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs 80-bit floating point")


@pytest.mark.parametrize("case", [c for c in WRONG + RIGHT if not c.kink], ids=str)
def test_label_of_a_smooth_case(case):
    gradient = np.asarray(case.f(case.w0)[1]).ravel()
    entries = chosen_entries(case, np.random.default_rng(0))
    if case.wrong and entries.size < case.w0.size:  # make sure that a sample holds the entries in question
        right = replace(case.net, mistakes={}).gradient(case.w0)
        apart = np.abs(gradient - right) - 2e-5 * np.abs(right)
        parts = {p.start: p for p in (block_of_entry(case, k)[1] for k in range(case.w0.size))}.values()
        entries = np.union1d(entries, [p.start + int(np.argmax(apart[p])) for p in parts])
    found = wrong_blocks(case, entries, gradient)
    assert found == set(case.wrong), f"80-bit differences say {sorted(found)}"


@pytest.mark.parametrize("case", [c for c in WRONG + RIGHT if c.kink], ids=str)
def test_label_at_a_kink(case):
    gradient = np.asarray(case.f(case.w0)[1]).ravel()
    assert kink_label_holds(case, gradient, np.random.default_rng(1))
