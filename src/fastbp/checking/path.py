"""The change of the loss along a line beside the user's own gradient all along it, rather than at w0 alone.

A kink close to w0 spoils difference quotients at all steps that reach it, and in single precision, or in a network of
thousands of units, none is both short enough to stay clear of kinks and long enough to rise above noise.  But a
gradient that is right around w0, on both sides of such kinks, adds up to the change of the loss, however many there
are.  If it does not differ between w0 and points right next to it, it is right at w0, too.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np

from .differences import SAFETY, Estimate, Line
from .problem import BadGradient, Problem
from .setting import Setting

NEXT = 3e-5  # of the scale away from w0: far enough for values that count as tied within 1e-5
PAIRS = 16  # of opposite points next to w0, at most
CLEAR = 4.0  # an error counts beyond so many error bars: rounding in single precision is not as random as noise
AGREEING = 2  # of these on which the gradient has to be that at w0
PARTS = 16  # of a line, to begin with
MOST_PARTS = 200
HOPE = 30.0
WIDEST = 0.1  # of the parameters' scale, that still counts as around w0
SINGLE = 1e-10  # a rounding unit above this is not that of double precision


def is_single(problem: Problem) -> bool:
    """Are the loss or its points in single precision (or coarser)?"""
    return not max(problem.loss_unit, problem.parameters.eps) < SINGLE


def is_continuous(setting: Setting, part: slice) -> bool:
    """Is the user's gradient, for the entries of ``part``, the same on both sides of w0?

    Only asked in single precision: in double, steps are short enough for all kinks but those at w0.
    """
    problem = setting.problem
    if problem.fixed_gradient or not is_single(problem):
        return False
    if setting.continuous is None:
        setting.continuous = _continuous_entries(setting)
    return bool(setting.continuous[part].all())


def _continuous_entries(setting: Setting) -> np.ndarray:
    """Entries whose gradient is that at w0 on several pairs of opposite points: no kink through w0 reaches them."""
    problem, limit = setting.problem, setting.tolerance.copy()
    for block in problem.blocks:
        limit[block.slice] += 10 * NEXT * float(np.max(np.abs(setting.gradient[block.slice])))
    count = np.zeros(setting.scale.size, dtype=int)
    for _ in range(PAIRS):
        offset = NEXT * setting.random_direction(slice(0, setting.scale.size))
        try:
            sides = [problem.loss_and_gradient(problem.parameters.quantise(problem.w0 + sign * offset))[1]
                     for sign in (1, -1)]
        except BadGradient:
            break
        count += np.all([np.abs(side - setting.gradient) <= limit for side in sides], axis=0)
        if count.min() >= AGREEING:
            break
    return np.asarray(count >= AGREEING)


def along_path(setting: Setting, line: Line, target: float) -> Estimate:
    """The mean slope of the loss on the way through w0, less that of the user's gradient.

    The way is so long that noise makes up a third of ``target``, and its mean is taken in so many parts that they make
    up another third.
    """
    h = min(max(3 * SAFETY * line.noise / target, 1e-7), WIDEST)
    sample = line.measure(h)
    if sample is None:
        return Estimate(math.nan, math.inf, h)
    problem, support = setting.problem, line.support
    direction = line.direction[support]

    def departure(t: float) -> float:
        point = line.centre.copy()
        point[support] += t * direction
        try:
            _, gradient = problem.loss_and_gradient(problem.parameters.quantise(point))
        except BadGradient:
            return math.nan
        return float(gradient[support] @ direction) - line.slope

    mean, error = mean_of_steps(departure, h, target / 3, PARTS if setting.has_done_enough() else MOST_PARTS)
    if not math.isfinite(error):
        return Estimate(math.nan, math.inf, h)
    rounding = problem.gradient_unit * float(np.linalg.norm(line.gradient[support] * direction))
    return Estimate(sample.conflict - mean, sample.noise + error + 4 * rounding, h)


def mean_of_steps(function: Callable[[float], float], h: float, target: float,
                  most_parts: int = MOST_PARTS) -> tuple[float, float]:
    """The mean of a function with steps between -h and h, and how uncertain it is: where it bends or jumps most, there
    are more points.

    What the parts are off by is as random as the places of the steps in them.  A part that looks straight may be so by
    chance, among many of its width that are not: it counts for no less than half of these do.

    >>> mean, error = mean_of_steps(lambda t: float(t > 0.3), 1.0, 1e-3)
    >>> abs(mean - 0.35) < error < 2e-3
    True
    """
    parts: list[tuple[int, float, float, float, float, float, float]] = []
    bends: dict[int, list[float]] = {}  # of all parts of one width, sorted

    def add(depth: int, a: float, b: float, left: float, middle: float, right: float) -> None:
        bend = abs(left - 2 * middle + right) / 3 * 0.5**depth / PARTS
        bisect.insort(bends.setdefault(depth, []), bend)
        parts.append((depth, a, b, left, middle, right, bend))

    nodes = np.linspace(-h, h, 2 * PARTS + 1).tolist()
    values = [function(t) for t in nodes]
    for k in range(0, 2 * PARTS, 2):
        add(0, nodes[k], nodes[k + 2], *values[k:k + 3])
    while True:
        errors = [max(bend, bends[depth][(len(bends[depth]) - 1) // 2]) for depth, *_, bend in parts]
        error = 2 * math.hypot(*errors)
        if len(parts) == PARTS and error * PARTS > HOPE * target * most_parts:  # it falls like one over their number
            break
        if error <= target or len(parts) >= most_parts:
            break
        depth, a, b, left, middle, right, _ = parts.pop(int(np.argmax(errors)))
        m = (a + b) / 2
        add(depth + 1, a, m, left, function((a + m) / 2), middle)
        add(depth + 1, m, b, middle, function((m + b) / 2), right)
    mean = sum((left + 4 * middle + right) / 6 * 0.5**depth / PARTS for depth, _, _, left, middle, right, _ in parts)
    return mean, error
