"""The first calls of f, and whatever is wrong with it that is not an error in a formula: it is random or has a memory,
changes its argument, returns the same buffer each time or a gradient that cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .problem import BadGradient, Finding, Problem, Vector


@dataclass
class Stop:
    """A verdict that no look at the numbers would change, on ``blocks`` (all if None)."""

    verdict: str
    reason: str
    blocks: list[str] | None = None
    advice: str = ""


@dataclass
class FirstLook:
    """What the first calls showed."""

    gradient: Vector = field(default_factory=lambda: np.zeros(0))
    loss_elsewhere: float = math.nan
    jitter: float = 0.0  # how much the loss at w0 differs from call to call
    findings: list[Finding] = field(default_factory=list)


def first_look(problem: Problem, rng: np.random.Generator) -> tuple[FirstLook, Stop | None]:
    """Call f at w0, again, elsewhere, and at w0 once more."""
    look, w0 = FirstLook(), problem.w0
    add = look.findings.append
    try:
        problem.loss0, look.gradient = problem.loss_and_gradient(w0)
        first_raw, packed = problem.last_raw_grad, problem.last_packed
    except BadGradient as error:
        add(Finding(error.code, error.text))
        return look, Stop("wrong", error.text, error.blocks)
    look.findings += problem.gradient_findings
    after = problem.parameters.unpack(packed)
    if not np.array_equal(after, problem.parameters.quantise(w0), equal_nan=True):
        add(Finding("changes its input", "f changes the array that it is given; every call got a copy of its own"))
    if not math.isfinite(problem.loss0):
        add(Finding("not finite", f"the loss at w0 is {problem.loss0}: there is no derivative there"))
        return look, Stop("undecided", f"the loss at w0 is {problem.loss0}",
                          advice="To decide: choose a w0 at which the loss is finite.")
    again, gradient_again = problem.loss_and_gradient(w0)
    if not problem.fixed_gradient and share_memory(first_raw, problem.last_raw_grad):
        add(Finding("same buffer", "f returns the same array each time, so an earlier gradient changes under the "
                                   "caller's hands; here every gradient was copied"))
    elsewhere = w0 + 1e-3 * plain_scale(problem, look.gradient) * rng.uniform(-1, 1, w0.size)
    look.loss_elsewhere, _ = problem.loss_and_gradient(problem.parameters.quantise(elsewhere))
    third, gradient_third = problem.loss_and_gradient(w0)
    losses = [problem.loss0, again, third]
    limit = 1e3 * problem.loss_unit * max(abs(v) for v in losses)
    look.jitter = max(losses) - min(losses) if np.all(np.isfinite(losses)) else math.inf
    if look.jitter > limit:
        if abs(again - problem.loss0) > limit:
            add(Finding("not deterministic", f"f(w0) gave {losses[0]:.10g} and then {losses[1]:.10g}: f is random "
                                             "(dropout, shuffled batches?); fix its seed inside f"))
        else:
            add(Finding("state", f"f(w0) gave {losses[0]:.10g}, and after a call elsewhere {losses[2]:.10g}: f "
                                 "remembers its earlier calls"))
        return look, Stop("undecided", "the loss at w0 is not one number",
                          advice="To decide: make f return the same loss each time it is given the same w.")
    changed = []
    for block in problem.blocks:
        parts = [g[block.slice] for g in (look.gradient, gradient_again, gradient_third)]
        size = np.max(np.abs(parts))
        spread = np.max(np.abs(np.stack(parts) - parts[0])) if np.all(np.isfinite(parts)) else 0.0
        if spread > 1e4 * problem.gradient_unit * size:
            changed.append(block.name)
    if changed:
        doubled = np.allclose(gradient_again, 2 * look.gradient, rtol=1e-6) and np.any(look.gradient)
        why = "; the second is twice the first: it is being added up from call to call" if doubled else ""
        add(Finding("gradient changes", f"the loss at w0 is the same in every call, its gradient is not{why}"))
        return look, Stop("wrong", "the gradient at w0 changes from call to call", changed)
    return look, None


def share_memory(one: Any, other: Any) -> bool:
    """Do two returned gradients (arrays, or dicts or lists of them) use the same memory anywhere?"""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return any(share_memory(one[key], other[key]) for key in one if key in other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return any(share_memory(a, b) for a, b in zip(one, other, strict=False))
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.shares_memory(one, other)


def plain_scale(problem: Problem, gradient: Vector) -> Vector:
    """How far a parameter may sensibly be moved: max(|w|, rms of its block).

    A block of zeros has no scale of its own.  It is moved by 1, or, if that hardly changes the loss, by as much as
    the others are.
    """
    w0, loss = problem.w0, abs(problem.loss0)
    scale = np.empty_like(w0)
    zeros = []
    for block in problem.blocks:
        w = w0[block.slice]
        largest = float(np.abs(w).max())
        if largest > 0:
            scale[block.slice] = np.maximum(np.abs(w), largest * math.sqrt(float(np.mean((w / largest) ** 2))))
        else:
            zeros.append(block)
            scale[block.slice] = 1.0
    typical = float(np.median(scale[w0 != 0])) if w0.any() else 1.0
    for block in zeros:
        steep = float(np.nan_to_num(np.abs(gradient[block.slice])).max())
        scale[block.slice] = max(1.0, min(typical, loss / steep if steep > 0 else math.inf))
    return scale
