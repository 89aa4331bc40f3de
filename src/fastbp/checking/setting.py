"""What all parts of one check share: the gradient to be judged, how far each parameter may be moved, what counts as
no difference, and how uncertain the loss is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .differences import Line
from .noise import Noise, estimate_noise
from .problem import Finding, Problem, Vector
from .sanity import FirstLook, plain_scale

MOST_WORK = 3e8  # evaluations times parameters: some seconds
LAST_BITS = 1e4  # a parameter is moved by so many units in its last place at least


@dataclass
class Setting:
    """What all parts of one check share."""

    problem: Problem
    gradient: Vector
    scale: Vector
    tolerance: Vector
    noise: float
    rng: np.random.Generator
    step: float
    jumps: float = 0.0  # the highest jump of the loss met on any line that had to be told from a conflict
    centre: Vector | None = None  # where lines start; w0 unless stated
    continuous: np.ndarray | None = None  # entries whose gradient does not jump at w0, once that has been asked

    def line(self, direction: Vector, support: slice | None = None, noise: float = 0.0) -> Line:
        return Line(self.problem, direction, self.gradient, max(noise, self.noise), self.centre, support)

    def has_done_enough(self) -> bool:
        """Has so much been evaluated that what is undecided is better left so?  Only networks of very many parameters
        come to this."""
        return self.problem.evaluations * self.scale.size > MOST_WORK

    def slack(self, direction: Vector, part: slice) -> float:
        """How far off the analytic slope along a direction may be for rounding alone."""
        return 16 * self.problem.gradient_unit * float(np.linalg.norm(self.gradient[part] * direction[part]))

    def random_direction(self, part: slice) -> Vector:
        """Every entry of ``part`` moves by 0.5 to 1 of its scale, up or down at random."""
        direction = np.zeros(self.scale.size)
        size = part.stop - part.start
        direction[part] = self.scale[part] * self.rng.choice([-1.0, 1.0], size) * self.rng.uniform(0.5, 1.0, size)
        return direction

    def coordinate(self, index: int) -> Vector:
        direction = np.zeros(self.scale.size)
        direction[index] = self.scale[index]
        return direction


def typical_move(direction: Vector, part: slice) -> float:
    """By how much ``direction`` moves the entries of ``part`` that it moves at all."""
    spread = np.abs(direction[part])
    return float(np.median(spread[spread > 0]))


def threshold(setting: Setting, direction: Vector, part: slice) -> float:
    """A conflict along ``direction`` below this cannot come from one entry beyond its tolerance."""
    moves = np.abs(direction[part])
    return 0.9 * float(np.min((setting.tolerance[part] * moves)[moves > 0]))


def prepare(problem: Problem, look: FirstLook, rtol: float, block_rtol: float,
            rng: np.random.Generator) -> tuple[Setting, Noise]:
    """Noise, scales, tolerances."""
    gradient = look.gradient
    scale = plain_scale(problem, gradient)
    if takes_float32(problem, scale, rng):
        look.findings.append(Finding("float32", "f rounds its float64 argument to float32"))
    size = np.where(np.isfinite(gradient), np.abs(gradient), 0.0)
    steep = float(np.max(size * scale, initial=0.0))
    shrink = np.ones_like(scale)
    loss = abs(problem.loss0)
    if loss > 0 and steep > loss:
        with np.errstate(divide="ignore", over="ignore"):
            shrink = np.minimum(1.0, loss / np.maximum(size * scale, 1e-300))
        if loss < 1e-9 * abs(look.loss_elsewhere):  # the loss is zero by accident, and says nothing about scales
            shrink = np.maximum(shrink, 1e-12)
    noise = estimate_noise(problem, problem.loss0, scale * shrink, rng)
    level = max(noise.level, look.jitter)
    cap = max(loss, 1e8 * level) if loss > 0 else math.inf
    with np.errstate(divide="ignore", over="ignore"):
        capped = np.minimum(scale, np.where(size > 0, cap / np.maximum(size, 1e-300), np.inf))
    scale = np.maximum(capped, LAST_BITS * problem.parameters.eps * scale)
    unit = problem.gradient_unit
    tolerance = np.empty_like(scale)
    for block in problem.blocks:
        part = size[block.slice]
        tolerance[block.slice] = max(rtol, 100 * unit) * part
        tolerance[block.slice] += max(block_rtol, 100 * unit) * float(part.max())
    step = min(max((level / max(loss, level)) ** 0.25, 1e-5), 0.03)
    finite = np.where(np.isfinite(gradient), gradient, 0.0)
    return Setting(problem, finite, scale, tolerance, level, rng, step), noise


def takes_float32(problem: Problem, scale: Vector, rng: np.random.Generator) -> bool:
    """See whether f rounds its float64 argument to float32 by itself (as JAX does by default).  If so, then from now
    on the points at which it is asked are rounded beforehand.
    """
    if problem.parameters.coarse:
        return False
    point = problem.w0 + 1e-4 * scale * rng.uniform(-1, 1, scale.size)
    with np.errstate(over="ignore"):
        rounded = point.astype(np.float32).astype(np.float64)
    if not np.all(np.isfinite(rounded)) or np.array_equal(point, rounded):
        return False
    (loss, gradient), (loss_rounded, gradient_rounded) = map(problem.loss_and_gradient, (point, rounded))
    if loss != loss_rounded or not np.array_equal(gradient, gradient_rounded) or not np.any(gradient):
        return False
    w0_rounded = problem.w0.astype(np.float32).astype(np.float64)
    if problem.loss(problem.w0 + 1e-2 * scale) == loss == problem.loss(w0_rounded):
        return False
    problem.parameters.input_float32 = True
    problem.w0 = problem.parameters.w0 = w0_rounded
    problem.gradient_unit = max(problem.gradient_unit, float(np.finfo(np.float32).eps))
    return True
