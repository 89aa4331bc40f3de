"""The gradients around w0 from the loss alone, for when the user's own are no guide: where the gradient was given as
an array at w0, or is wrong close by too.

Single entries are differentiated one by one, at every point.  Of many entries that would take too long, so a mean is
looked for that fits some of them; slopes along random directions then tell whether it fits all the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .differences import SAFETY, Estimate, Line
from .nearby import LONG_SEARCH, NearbyGradients
from .problem import Block, Vector
from .screen import DECISIVE, RESOLUTION
from .setting import Setting, threshold, typical_move

MOST_ENTRIES = 64  # that are differentiated one by one to begin with
EXTENSIONS = 8  # of these by entries that the mean did not fit
ADDED = 4  # entries at a time


class NumericalGradients(NearbyGradients):
    """The search among gradients close to w0 with derivatives from the loss alone, for some ``entries`` only."""

    def __init__(self, setting: Setting, delta: float, entries: np.ndarray) -> None:
        super().__init__(setting, delta, {})
        self.entries = entries
        self.noise = np.zeros(setting.scale.size)

    def gradient(self, point: Vector) -> Vector:
        """Central differences for the entries in question; the rest is taken to be as at w0.

        nan where a kink is too close: entries that mix its two sides in different shares are no gradient together.
        """
        result = self.setting.gradient.copy()
        loss = self.setting.problem.loss(point)
        for i in self.entries:
            result[i] = self.derivative(point, loss, i)
            if math.isnan(result[i]):
                break
        return result

    def derivative(self, point: Vector, loss: float, i: int) -> float:
        """The derivative for entry ``i``, at a step that does not reach across a kink."""
        setting, problem = self.setting, self.setting.problem
        for share, most in ((16, 1e-4), (512, 1e-2)):
            step = self.delta / share * setting.scale[i]
            ahead, behind = point.copy(), point.copy()
            ahead[i] += step
            behind[i] -= step
            ahead, behind = problem.parameters.quantise(ahead), problem.parameters.quantise(behind)
            up, down = ahead[i] - point[i], point[i] - behind[i]
            if not (up and down):
                break
            slope_up, slope_down = (problem.loss(ahead) - loss) / up, (loss - problem.loss(behind)) / down
            noise = SAFETY * setting.noise / step
            bend = max(most, 4 * self.delta / share) * max(abs(slope_up), abs(slope_down), float(self.top[i]))
            if abs(slope_up - slope_down) <= 2 * noise + bend:
                self.noise[i] = max(self.noise[i], 3 * noise)  # two quotients make a limit: 2 * near - far
                return float((slope_up * up + slope_down * down) / (up + down))
        return math.nan

    def unit(self) -> Vector:
        return np.asarray(super().unit() + self.noise)

    def is_fine(self, weights: Vector, entries: np.ndarray) -> bool:
        fine = super().is_fine(weights, entries)
        self.open[entries] += DECISIVE * self.noise[entries]
        return fine

    def tells(self, lines: list[Line]) -> bool:
        """Would an error have shown, one of `RESOLUTION` and one as large as that which ``lines`` showed at w0?"""
        setting, entries = self.setting, self.entries
        noise = DECISIVE * self.noise
        limit = RESOLUTION * self.top * setting.scale + 1e-6 * abs(setting.problem.loss0)
        if np.any((noise * setting.scale)[entries] > limit[entries]):
            return False
        return all(float(np.linalg.norm(noise * line.direction)) <= abs(line.estimate().value) / 2 for line in lines)

    def extend(self, new: np.ndarray) -> None:
        """Differentiate ``new`` entries too, at all points so far."""
        offsets, self.entries = self.offsets, np.union1d(self.entries, new)
        self.offsets, self.limits, self.here, self.changes = [], [], [], []
        for offset in offsets:
            self.add(offset)

    def slope(self, offset: Vector, direction: Vector, part: slice) -> Estimate:
        """The slope along ``direction`` at ``w0 + offset``, less the analytic slope at w0."""
        setting, problem = self.setting, self.setting.problem
        centre = problem.parameters.quantise(problem.w0 + offset)
        line = Line(problem, direction, setting.gradient, setting.noise, centre, part)
        return line.solve(self.delta / 64, 0.0, pairs=4, largest=self.delta / 16)

    def slope_of_mean(self, weights: Vector, direction: Vector, part: slice) -> Estimate:
        """The mean slope along ``direction`` next to w0, on the sides that ``weights`` belong to, less the analytic
        slope at w0."""
        value, bar = 0.0, 0.0
        for i in np.flatnonzero(weights > 1e-5):
            near, far = (self.slope(t * self.delta * self.offsets[i], direction, part) for t in (1, 2))
            value += weights[i] * (2 * near.value - far.value)
            bar += weights[i] * (2 * near.bar + far.bar + 30 * self.delta * abs(near.value - far.value))
        return Estimate(value, bar, self.delta)

    def allowed(self, weights: Vector, direction: Vector, part: slice) -> float:
        """How far off the mean may be along ``direction``, its weights being as uncertain as they are."""
        least = max(threshold(self.setting, direction, part), self.setting.slack(direction, part))
        if np.count_nonzero(weights > 1e-5) == 1:
            return least
        unit = math.sqrt(float(np.mean(self.unit()[self.entries] ** 2)))
        return max(least, unit * float(np.linalg.norm(direction[part])))

    def fits(self, weights: Vector, block: Block) -> tuple[bool | None, list[int]]:
        """Does the mean fit all of ``block``, its other entries too?  If not, some that it does not fit."""
        answer: bool | None = True
        for _ in range(2):
            direction = self.setting.random_direction(block.slice)
            found = self.slope_of_mean(weights, direction, block.slice)
            if abs(found.value) > DECISIVE * found.bar + self.allowed(weights, direction, block.slice):
                return False, self.misfits(weights, direction, block, found.value)
            if not DECISIVE * found.bar <= self.finest(direction, block.slice):
                answer = None
            error = DECISIVE * found.bar + self.allowed(weights, direction, block.slice)
            error /= typical_move(direction, block.slice)
            self.shown[block.name] = max(error, self.shown.get(block.name, 0.0))
        return answer, []

    def misfits(self, weights: Vector, direction: Vector, block: Block, value: float) -> list[int]:
        """Entries that make up a misfit along ``direction``: halves of the block, the larger misfit first."""
        found: list[int] = []
        stack = [(value, block.start, block.stop)]
        while stack and len(found) < ADDED:
            value, start, stop = stack.pop()
            if stop - start == 1:
                found.append(start)
                continue
            middle = (start + stop) // 2
            half = self.slope_of_mean(weights, direction, slice(start, middle))
            halves = [(half.value, start, middle), (value - half.value, middle, stop)]
            halves.sort(key=lambda item: abs(item[0]))
            least = max(DECISIVE * half.bar, abs(value) / 10)
            stack += [(v, a, b) for v, a, b in halves[:1]
                      if abs(v) > least + self.allowed(weights, direction, slice(a, b))]
            stack.append(halves[1])
        return found

    def is_beyond(self, new: np.ndarray) -> bool:
        """Is the gradient at w0, for one of the ``new`` entries, far from that at all points?"""
        values, target = np.array(self.limits)[:, new], self.setting.gradient[new]
        low, high = values.min(0), values.max(0)
        off = np.maximum(low - target, target - high)
        return bool(np.any(off > (high - low) + 3 * self.unit()[new]))


@dataclass
class Answer:
    """Is the gradient at w0 a mean of those around it?"""

    is_mean: bool | None
    distance: float = math.nan  # to the nearest mean found, as a share of the block's largest slope
    visible: dict[str, tuple[float, float]] = field(default_factory=dict)  # see `NearbyGradients.visible`


def from_loss_alone(setting: Setting, delta: float, leading: list[Block], group: list[Block],
                    lines: list[Line], suspects: list[int]) -> Answer:
    """Is the gradient on ``group`` a mean of slopes found around w0?

    Of many entries some are looked at one by one, the ``suspects`` among them.
    """
    entries = np.concatenate([np.arange(b.start, b.stop) for b in group])
    sampled = entries.size > MOST_ENTRIES
    if sampled:
        known = np.intersect1d(entries, np.array(suspects, dtype=int))[:MOST_ENTRIES // 2]
        others = setting.rng.choice(np.setdiff1d(entries, known), MOST_ENTRIES - known.size, replace=False)
        entries = np.union1d(known, others)
    nearby = NumericalGradients(setting, delta, entries)
    weights = nearby.search(leading, entries, LONG_SEARCH if entries.size <= MOST_ENTRIES // 4 else 4)
    if len(nearby.offsets) < 2:
        return Answer(None)
    if weights is None:
        return Answer(None if setting.has_done_enough() else False, nearby.distance(entries))
    for _ in range(EXTENSIONS if sampled else 0):
        nearby.shown = {}
        answers = [nearby.fits(weights, block) for block in group]
        if all(answer is True for answer, _ in answers):
            break
        new = np.setdiff1d([i for _, found in answers for i in found], nearby.entries).astype(int)
        if new.size == 0:
            return Answer(None)
        nearby.extend(new)
        if len(nearby.offsets) < 2:
            return Answer(None)
        beyond = nearby.is_beyond(new)
        weights = nearby.search(leading, nearby.entries, 4)
        if weights is None:
            return Answer(False if beyond and not setting.has_done_enough() else None, nearby.distance(nearby.entries))
    else:
        if sampled:
            return Answer(None)
    if not (nearby.is_fine(weights, nearby.entries) and nearby.tells(lines)):
        return Answer(None)
    return Answer(True, 0.0, {b.name: nearby.visible(b) for b in group})
