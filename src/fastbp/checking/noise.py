"""How noisy is the loss?  The method of Moré and Wild (ECNoise), and what a plateau tells.

A computed loss carries rounding errors: move w by next to nothing and the loss jumps about by some amount, the
noise.  A finite difference with step h cannot be more accurate than noise / h, so everything else in the checker
depends on knowing it.

The method: take the loss at equally spaced points on a short line and form differences of differences.  A smooth
function disappears from high differences, noise does not; its size can be read off once the level stops changing
from one order of difference to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .problem import Problem, Vector

POINTS = 7


@dataclass(frozen=True)
class Noise:
    """The noise level of the loss near w0, and how it was found."""

    level: float
    relative: float
    spacing: float
    plateau: bool
    text: str


def level_from_differences(values: list[float]) -> float | None:
    """The noise level of equally spaced function values, or None if the spacing shows no noise.

    >>> level_from_differences([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) is None     # a straight line has no noise
    True
    """
    row = np.asarray(values, dtype=np.float64)
    size = 2.0 ** (math.frexp(float(np.abs(row).max()))[1] - 1)  # a power of two: it adds no noise
    row = row / size  # squares of the differences must not overflow
    levels, changes = [], []
    for k in range(1, len(values)):
        row = np.diff(row)
        gamma = math.exp(2 * math.lgamma(k + 1) - math.lgamma(2 * k + 1))
        levels.append(math.sqrt(gamma * float(np.mean(row**2))))
        changes.append(bool(row.size) and float(row.min()) * float(row.max()) < 0)
    for k in range(len(levels) - 2):
        window = levels[k : k + 3]
        if min(window) > 0 and max(window) <= 4 * min(window) and changes[k]:
            return window[0] * size
    return None


def estimate_noise(problem: Problem, loss: float, scale: Vector, rng: np.random.Generator) -> Noise:
    """The noise of the loss near w0 from lines of seven points, two or three for each of three spacings.

    The lines start away from w0, where round numbers (zeros, ones) would hide the rounding.  Noise can be coarse (the
    logarithm of a rounded 1 - y moves in steps), so the largest level counts; but a level must show on two lines of
    a spacing, as a kink crossed by one line looks like noise too.
    """
    unit = max(problem.loss_unit, float(np.finfo(np.float64).eps))
    coarse = problem.parameters.coarse or problem.parameters.input_float32 or unit > 1e-10
    level, best_spacing, plateau = 0.3 * unit * abs(loss), 0.0, False
    for spacing in (1e-6, 1e-5, 1e-4) if coarse else (1e-12, 1e-9, 1e-6):
        lines = [_level_on_line(problem, scale, spacing, rng) for _ in range(2)]
        if (lines[0][0] == 0) != (lines[1][0] == 0):
            lines.append(_level_on_line(problem, scale, spacing, rng))
        shown = sorted(lines)[-2]
        if shown[0] > level:
            level, best_spacing, plateau = shown[0], spacing, shown[1]
    level = max(level, 4e-324)
    relative = level / abs(loss) if loss else math.inf
    kind = "the loss moves in steps of about" if plateau else "the loss is uncertain by about"
    text = f"{kind} {level:.1e}" + (f" ({relative:.1e} of its value)" if loss else "")
    return Noise(level, relative, best_spacing, plateau, text)


def _level_on_line(problem: Problem, scale: Vector, spacing: float, rng: np.random.Generator) -> tuple[float, bool]:
    """The noise level on one line of points (0 if none shows), and whether it comes from plateaus."""
    direction = scale * rng.choice([-1.0, 1.0], scale.size) * rng.uniform(0.5, 1.0, scale.size)
    start = problem.w0 + 40 * spacing * rng.uniform(1.0, 2.0) * direction
    values = [problem.loss(problem.parameters.quantise(start + i * spacing * direction)) for i in range(POINTS)]
    if not np.all(np.isfinite(values)):
        return 0.0, False
    steps = np.abs(np.diff(values))
    if np.all(steps == 0):
        return 0.0, False
    if (steps == 0).sum() >= 2:
        # The loss moves in jumps.  Their common measure is a quantum of the output, unless it is a unit in the last
        # place, which is ordinary rounding.
        jumps = steps[steps > 0]
        quantum = float(jumps.min())
        counts = jumps / quantum
        if quantum > 8 * np.spacing(abs(values[0])) and np.allclose(counts, np.round(counts), atol=1e-2):
            return 0.3 * quantum, True  # the spread of a rounding error
    return level_from_differences(values) or 0.0, False
