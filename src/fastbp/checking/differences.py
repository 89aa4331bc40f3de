"""Derivatives along a line from values of the loss alone, each with an error bar.

A ``Line`` is a point and a direction.  It collects the loss at ``centre + h * direction`` and ``centre - h *
direction`` for many steps h and compares the change of the loss with the change that the analytic gradient
predicts for exactly those two points (so that rounding the points, as in float32, costs nothing).  What is
extrapolated to h = 0 is the *conflict*: numerical minus analytic derivative along the direction.  For a right
gradient it is zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .problem import Problem, Vector

DISTINCT = 1.001  # steps whose ratio is less are one and the same
SAFETY = 2.0  # a difference quotient may be off by SAFETY * noise / h


@dataclass(frozen=True)
class Estimate:
    """A number with the error it may have."""

    value: float
    bar: float
    step: float


@dataclass(frozen=True)
class Sample:
    """What was seen at one step."""

    h: float
    plus: float  # loss ahead minus loss at the centre minus the predicted change
    minus: float  # loss at the centre minus loss behind minus the predicted change
    conflict: float  # (plus + minus) / (2 h)
    noise: float  # how uncertain the conflict is because the loss is noisy
    flat: bool  # the loss did not move at all

    @property
    def ahead(self) -> float:
        return self.plus / self.h

    @property
    def behind(self) -> float:
        return self.minus / self.h

    @property
    def gap(self) -> float:
        """Slope ahead minus slope behind: shrinks like h where the loss is smooth, stays where it has a kink."""
        return self.ahead - self.behind


class Line:
    """The loss along one direction through one point, compared with what the gradient predicts."""

    def __init__(
        self,
        problem: Problem,
        direction: Vector,
        gradient: Vector,
        noise: float,
        centre: Vector | None = None,
        support: slice | None = None,
    ) -> None:
        self.problem = problem
        self.centre = problem.w0 if centre is None else centre
        self.direction = direction
        self.gradient = gradient
        self.noise = noise
        self.support = support or slice(0, direction.size)
        self.slope = float(gradient[self.support] @ direction[self.support])
        self.value = math.nan if centre is not None else problem.loss0
        self.samples: dict[float, Sample] = {}
        self.failed_steps: set[float] = set()
        self.thick = False
        self.latest: tuple[int, Estimate] | None = None
        self.reach = 0.0  # the largest loss seen, in absolute value

    def measure(self, h: float) -> Sample | None:
        """Evaluate at one step; None where the loss is not finite or the step is lost in rounding."""
        if h in self.samples or h in self.failed_steps:
            return self.samples.get(h)
        problem, part = self.problem, self.support
        if math.isnan(self.value):
            self.value = problem.loss(self.centre)
        ahead, behind = self.centre.copy(), self.centre.copy()
        ahead[part] += h * self.direction[part]
        behind[part] -= h * self.direction[part]
        ahead, behind = problem.parameters.quantise(ahead), problem.parameters.quantise(behind)
        gradient, centre = self.gradient[part], self.centre[part]
        change_ahead = float(gradient @ (ahead[part] - centre))
        change_behind = float(gradient @ (centre - behind[part]))
        if not (np.any(ahead[part] != centre) and np.any(behind[part] != centre)):
            self.failed_steps.add(h)
            return None
        loss_ahead, loss_behind = problem.loss(ahead), problem.loss(behind)
        if not (math.isfinite(loss_ahead) and math.isfinite(loss_behind) and math.isfinite(self.value)):
            self.failed_steps.add(h)
            return None
        size = max(abs(loss_ahead), abs(loss_behind), abs(self.value))
        self.reach = max(self.reach, size)
        base = abs(problem.loss0)
        noise = self.noise * max(1.0, size / base) if base > 0 else self.noise
        noise = max(noise, 0.3 * problem.loss_unit * size)
        plus = (loss_ahead - self.value) - change_ahead
        minus = (self.value - loss_behind) - change_behind
        conflict = ((loss_ahead - loss_behind) - (change_ahead + change_behind)) / (2 * h)
        flat = loss_ahead == self.value == loss_behind
        sample = Sample(h, plus, minus, conflict, SAFETY * noise / min(h, 1.0), flat)
        self.samples[h] = sample
        return sample

    def excess(self, t: float) -> float | None:
        """The loss at ``centre + t * direction``, less the loss at the centre and the predicted change."""
        part, problem = self.support, self.problem
        point = self.centre.copy()
        point[part] += t * self.direction[part]
        point = problem.parameters.quantise(point)
        if math.isnan(self.value):
            self.value = problem.loss(self.centre)
        loss = problem.loss(point)
        return (loss - self.value) - float(self.gradient[part] @ (point[part] - self.centre[part])) \
            if math.isfinite(loss) else None

    def copy(self) -> Line:
        """The same line with what it has measured so far; what the copy measures is its own."""
        other = copy.copy(self)
        other.samples, other.failed_steps = dict(self.samples), set(self.failed_steps)
        return other

    def rounding(self) -> float:
        """By how much the slope changes when every parameter moves by its last few bits: no gradient is better."""
        if not self.samples:
            return 0.0
        widest = self.samples[max(self.samples)]
        size = float(np.linalg.norm(self.centre[self.support]) / np.linalg.norm(self.direction[self.support]))
        return 4 * self.problem.gradient_unit * max(1.0, size) * abs(widest.gap) / widest.h

    def raise_noise(self, noise: float) -> None:
        """Take the loss for noisier than thought; what was measured is seen in that light."""
        self.noise = max(self.noise, noise)
        for h, s in self.samples.items():
            self.samples[h] = replace(s, noise=max(s.noise, SAFETY * self.noise / min(h, 1.0)))
        self.latest = None

    def ladder(self) -> list[Sample]:
        """All samples, largest step first."""
        return [self.samples[h] for h in sorted(self.samples, reverse=True)]

    def estimate(self) -> Estimate:
        """The best value of the conflict from all steps tried: Romberg's table, the smallest error bar wins."""
        if self.latest is None or self.latest[0] != len(self.samples):
            points = [(s.h, s.conflict, s.noise) for s in self.ladder()]
            best = extrapolate(points)
            if self.thick:
                fitted = fit(points)
                best = fitted if fitted.bar < best.bar else best
            under = [(s.h, s.conflict, s.noise) for s in self.under_kinks()]
            if under:  # what steps beyond a kink say counts only as far as the smaller ones do not contradict it
                close = min([extrapolate(under), *self.sides()], key=lambda e: e.bar)
                apart = abs(close.value - best.value)
                best = close if close.bar < best.bar or apart > close.bar + best.bar else best
            self.latest = len(self.samples), best
        return self.latest[1]

    def sides(self) -> list[Estimate]:
        """The conflict ahead and behind: a kink close to the centre, on one side, spoils central differences alone."""
        ladder = self.ladder()
        return [extrapolate([(s.h, side, 2 * s.noise) for s, side in zip(ladder, slopes, strict=True)], power=1)
                for slopes in ([s.ahead for s in ladder], [s.behind for s in ladder])]

    def under_kinks(self) -> list[Sample]:
        """The steps so small that the jump of the slope, which larger ones see, is gone; none if it does not go."""
        seen = [s for s in reversed(self.ladder()) if abs(s.gap) > 10 * s.noise]
        if len(seen) < 2 or abs(seen[0].gap) > 1.2 * abs(seen[1].gap):
            return []  # a jump of the loss itself counts for more, the smaller the step
        if self.problem.loss_unit > 1e-10:
            return []  # in single precision rounding looks like that too
        under = [s for s in self.ladder() if s.h < seen[0].h]
        return under if any(max(abs(s.gap), 2 * s.noise) < abs(seen[0].gap) / 8 for s in under) else []

    def thicken(self, count: int = 6, largest: float = math.inf) -> Estimate:
        """More steps around and above the best one, so that a fit through many averages the noise."""
        h = max(self.estimate().step, 1e-12)
        for k in range(count):
            if h * 1.37 ** (k + 1) <= largest:
                self.measure(h * 1.37 ** (k + 1))
            self.measure(h / 1.21 ** (k + 1))
        self.thick, self.latest = True, None
        return self.estimate()

    def average(self, offset: Callable[[], Vector], pairs: int = 16) -> Estimate:
        """The best steps once more, from many centres close by: other rounding errors, the same slope.

        ``offset`` gives a random direction; the centres lie in pairs on opposite sides, so that curvature cancels.
        """
        best, problem, part = self.estimate(), self.problem, self.support
        top = best.step
        for s in reversed(self.ladder()):
            if s.h > top:
                if abs(s.conflict - best.value) > s.noise + best.bar:
                    break
                top = s.h
        for h, count in ((top, pairs), (top / 2, 2 * pairs)):
            sample = self.measure(h)
            conflicts = []
            for shift in [sign * (h / 1000) * u for u in (offset() for _ in range(count)) for sign in (1, -1)]:
                ahead, behind = self.centre + shift, self.centre + shift
                ahead[part] += h * self.direction[part]
                behind[part] -= h * self.direction[part]
                ahead, behind = problem.parameters.quantise(ahead), problem.parameters.quantise(behind)
                change = float(self.gradient[part] @ (ahead[part] - behind[part]))
                conflicts.append((problem.loss(ahead) - problem.loss(behind) - change) / (2 * h))
            mean = float(np.mean(conflicts))
            if sample is None or not abs(mean - sample.conflict) <= 2 * sample.noise:
                break  # a kink at the centre itself: the slopes close by are others
            self.samples[h] = replace(sample, conflict=mean, noise=sample.noise / math.sqrt(2 * count))
        self.latest = None
        return self.estimate()

    def solve(self, start: float, target: float, pairs: int = 6, largest: float = 8.0) -> Estimate:
        """Look for a step where neither curvature nor noise matters, until the error bar is at most ``target``."""
        h = start
        self.measure(h)
        self.measure(h / 2)
        while len(self.samples) + len(self.failed_steps) < pairs:
            best = self.estimate()
            if best.bar <= target:
                break
            ladder = self.ladder()
            if len(ladder) < 2:
                h = min([*self.samples, *self.failed_steps]) / 16
                self.measure(h)
                self.measure(h / 2)
                continue
            low, lowest = ladder[-2], ladder[-1]
            if abs(low.conflict - lowest.conflict) > 2 * (low.noise + lowest.noise):
                ratio = max(lowest.noise, 1e-300) / abs(low.conflict - lowest.conflict)
                shrink = min(max(ratio ** (1 / 3), 1 / 64), 1 / 2.5)
                new = lowest.h * shrink
            else:
                top = ladder[0]
                if len(ladder) > 1 and abs(top.conflict - ladder[1].conflict) > 2 * (top.noise + ladder[1].noise):
                    new = math.sqrt(top.h * ladder[1].h)  # noise below, curvature above: fill in between
                    if top.h / ladder[1].h < 2.2:
                        break
                else:
                    new = min(top.h * (8 if top.flat or best.bar > 100 * target else 3), largest)
                    if new <= top.h or new in self.failed_steps:
                        break
            if self.measure(new) is None and new < min(self.samples, default=new):
                break
        return self.estimate()

    def descend(self, smallest: float = 1e-15) -> Estimate:
        """Take ever smaller steps while they can still say something about the conflict."""
        best = self.estimate()
        h = min(self.samples, default=1e-3)
        for _ in range(24):
            h /= 4
            if h < smallest:
                break
            sample = self.measure(h)
            if sample is None:
                if h in self.failed_steps and not self.samples:
                    continue
                break
            best = self.estimate()
            if sample.noise > max(abs(sample.conflict), abs(best.value)) / 2:
                break
        return best

    def fits_zero(self, allowed: float) -> bool:
        """Is a conflict of at most ``allowed`` compatible with what was seen at the most telling small steps?

        A true conflict stays as h falls.  It is refuted by one smaller step at which numerical and analytic value
        agree although that step could have shown the conflict.
        """
        best = self.estimate()
        if best.step > 1:  # beyond the parameters' own scale the loss may have changed its ways: look closer to home
            best = extrapolate([(s.h, s.conflict, s.noise) for s in self.ladder() if s.h <= 1])
        if not abs(best.value) > best.bar * 2.5 + allowed:
            return True
        for s in self.ladder():
            if s.h < best.step and s.noise < abs(best.value) / 2.5 and abs(s.conflict) <= s.noise + allowed:
                return True
        return self.shrinks()

    def shrinks(self) -> bool:
        """Does the conflict keep falling with h down to the smallest telling step (a steep or rough function)?"""
        telling = [s for s in self.ladder() if s.noise < abs(s.conflict) / 4]
        if len(telling) < 3:
            return False
        a, b, c = telling[-3:]
        first, last = abs(a.conflict) / abs(b.conflict), abs(b.conflict) / abs(c.conflict)
        power = 0.2  # at least like h ** 0.2
        return bool(first > (a.h / b.h) ** power and last > (b.h / c.h) ** power)

    def side(self, allowed: float) -> tuple[int, Estimate]:
        """Does the gradient fit the slope on one side of the centre (+1 ahead, -1 behind), but not on the other?

        That is what a kink at the centre, or too close to it to be stepped under, looks like for a gradient that
        took one of its sides.  0 if neither side fits clearly, or if a small step shows the centre to be off the kink.
        """
        if self.under_kinks():
            return 0, self.estimate()
        conflict = abs(self.estimate().value)
        for sign in (1, -1):
            points = [(s.h, s.ahead if sign > 0 else s.behind, 2 * s.noise) for s in self.ladder()]
            best = extrapolate(points, power=1)
            if best.bar < conflict / 8 and abs(best.value) <= 2.5 * best.bar + allowed:
                return sign, best
        return 0, self.estimate()

    def kink(self) -> float:
        """The jump of the slope at the centre if there is one, else 0."""
        telling = [s for s in self.ladder() if 2 * s.noise < abs(s.gap) / 5]
        if len(telling) < 2 or self.under_kinks():
            return 0.0
        low = telling[-1]
        high = next((s for s in reversed(telling) if s.h >= 3.9 * low.h), telling[-2])
        if high.h < 1.9 * low.h:
            return 0.0
        share = low.gap / high.gap if high.gap else 0.0
        return low.gap if 0.7 < share < 1.5 else 0.0  # a jump of the loss itself counts for more, the smaller the step


def extrapolate(points: list[tuple[float, float, float]], power: int = 2) -> Estimate:
    """Romberg extrapolation of values at steps h (largest first) to h = 0, with the noise carried along.

    ``points`` holds (h, value, noise); the error is a series in ``h ** power``: 2 for central differences, 1 for
    one-sided ones.  Every entry of the table gets an error bar: its distance from the two
    entries that it was made of, plus its noise.
    """
    if not points:
        return Estimate(math.nan, math.inf, 0.0)
    if len(points) == 1:
        h, value, noise = points[0]
        return Estimate(value, math.inf, h)
    best = Estimate(points[-1][1], math.inf, points[-1][0])
    previous: list[tuple[float, float]] = []
    for k, (h, value, noise) in enumerate(points):
        row = [(value, noise)]
        for j in range(1, min(len(previous), 4) + 1):
            ratio = (points[k - j][0] / h) ** power
            if ratio < DISTINCT:
                break
            weight = 1.0 / (ratio - 1.0)
            (finer, finer_noise), (coarser, coarser_noise) = row[j - 1], previous[j - 1]
            new = finer + (finer - coarser) * weight
            new_noise = finer_noise * (1 + weight) + coarser_noise * weight
            spread = max(abs(new - finer), abs(new - coarser))
            row.append((new, new_noise))
            if spread + new_noise < best.bar:
                best = Estimate(new, spread + new_noise, h)
        if k and points[k - 1][0] > DISTINCT * h:
            # The plain difference: three times the error that its change from the step before suggests.
            ratio = (points[k - 1][0] / h) ** power
            change = abs(value - points[k - 1][1]) * max(1.0, 3.0 / (ratio - 1.0))
            if change + noise < best.bar:
                best = Estimate(value, change + noise, h)
        previous = row
    return best


def fit(points: list[tuple[float, float, float]]) -> Estimate:
    """Least squares through many steps: the conflict as a polynomial in h squared, its value at h = 0.

    A polynomial is believed if it passes through the values within their noise, and if one more term agrees.
    """
    best = Estimate(math.nan, math.inf, 0.0)
    data = np.array(points)
    for first in range(len(points) - 5):
        h, value, noise = data[first:].T
        if not np.all(noise > 1e-150):
            continue
        before: float | None = None
        for terms in (1, 2, 3, 4):
            if len(h) < terms + 3:
                break
            columns = (h[:, None] / h[0]) ** (2 * np.arange(terms)) / noise[:, None]
            covariance = np.linalg.pinv(columns.T @ columns)
            solution = covariance @ (columns.T @ (value / noise))
            rest = np.abs(columns @ solution - value / noise)
            if rest.max() > 1.0:
                continue
            error = math.sqrt(max(float(covariance[0, 0]), 0.0))
            if before is not None:
                bar = abs(float(solution[0]) - before) + error
                if bar < best.bar:
                    best = Estimate(float(solution[0]), bar, float(h[-1]))
            before = float(solution[0])
    return best
