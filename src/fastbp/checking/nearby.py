"""The user's own gradients at points close to w0, on the sides that the gradient at w0 seems to have chosen.

The gradient at w0 is looked for among their weighted means; the ones that it is made of are then checked numerically,
at those points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .differences import SAFETY, Line
from .planes import sides_with_mean
from .problem import BadGradient, Block, Vector
from .screen import DECISIVE, RESOLUTION, disagrees
from .setting import Setting, threshold, typical_move
from .simplex import mean_weights

TRIALS = 12  # in each round of a search, to lead further than the best point did
FINE = 1e-4  # an error of this share of the largest entry has to show at a point where nothing is in the way
DEEPER = 24  # trials to get further away from kinks
LONG_SEARCH = 12  # a search of this many rounds goes on as long as it makes progress


@dataclass
class Witness:
    """A line through a point close to w0 along which the user's gradient at that point is wrong."""

    line: Line
    setting: Setting

    @property
    def conflict(self) -> float:
        return abs(self.line.estimate().value)


class NearbyGradients:
    """A collection of the user's own gradients at points close to w0, to be combined and then verified.

    ``witnesses`` are shared by the collections of one search: for each block the lines along which its gradient was
    found wrong at some point.  Every point that is tried instead has to be able to show as much.
    """

    def __init__(self, setting: Setting, delta: float, witnesses: dict[str, list[Witness]]) -> None:
        self.setting = setting
        self.delta = delta
        self.witnesses = witnesses
        self.offsets: list[Vector] = []
        self.limits: list[Vector] = []  # the gradient's limit as the point moves into w0
        self.here: list[Vector] = []  # the gradient at the point itself
        self.changes: list[Vector] = []  # from the point to another one twice as far
        self.shown: dict[str, float] = {}  # for each block the error of an entry that showed at the points it rests on
        self.blur = np.zeros(setting.scale.size)
        self.top = np.zeros(setting.scale.size)
        everything = slice(0, setting.scale.size)
        self.open = np.zeros(setting.scale.size)  # how far the mean that was found may be from the gradient at w0
        self.tail = setting.random_direction(everything)
        gradient = setting.gradient
        self.base_unit = np.maximum(setting.tolerance, 16 * setting.problem.gradient_unit * np.abs(gradient))
        tiny = 1e-12 * max(abs(setting.problem.loss0), setting.noise) / setting.scale
        self.base_unit = np.maximum(self.base_unit, tiny)

    def add(self, offset: Vector) -> int | None:
        """Take the gradient at ``w0 + delta * offset`` (and twice as far, to extrapolate); its index, or None."""
        problem, delta = self.setting.problem, self.delta
        if self.setting.has_done_enough():
            return None
        try:
            near, far = (self.gradient(problem.parameters.quantise(problem.w0 + t * delta * offset)) for t in (1, 2))
        except BadGradient:
            return None
        if not (np.all(np.isfinite(near)) and np.all(np.isfinite(far))):
            return None
        self.offsets.append(offset)
        self.here.append(near)
        self.limits.append(2 * near - far)
        self.changes.append(np.abs(near - far))
        for block in problem.blocks:  # at a kink a block's largest entry is the largest of those around it
            top = float(np.abs(near[block.slice]).max())
            self.top[block.slice] = np.maximum(self.top[block.slice], top)
        most = np.maximum(np.abs(self.setting.gradient), RESOLUTION * self.top)
        self.blur = np.maximum(self.blur, 30 * delta * np.minimum(self.changes[-1], most))
        return len(self.offsets) - 1

    def deepen(self, index: int) -> bool:
        """Move a point further away from kinks, within the piece of the loss that it lies on.

        Kinks through w0 part cones, which are convex: a point moves outwards, and the middle of some is further inside.
        """
        setting, problem = self.setting, self.setting.problem
        limit = 3 * (self.unit() + self.changes[index])

        def is_on_piece(offset: Vector) -> bool:
            try:
                near = self.gradient(problem.parameters.quantise(problem.w0 + self.delta * offset))
            except BadGradient:
                return False
            return bool(np.all(np.abs(near - self.here[index]) <= limit))

        here = self.offsets[index]
        for level in np.unique(self.sizes(here)):
            size = self.sizes(here)
            wider = np.where(size <= level, here / level, here) if 0 < level < 0.5 else here
            here = wider if is_on_piece(wider) else here
        size, inside, reach = self.sizes(here), [here], 0.5
        for _ in range(DEEPER):
            trial = here + reach * size * setting.random_direction(slice(0, setting.scale.size))
            if is_on_piece(trial):
                inside.append(trial)
                here = np.mean(inside, axis=0)
            else:
                reach /= 1.5
        new = self.add(here)
        if new is None:
            return False
        moved = bool(np.all(np.abs(self.limits[new] - self.limits[index]) <= limit))
        for column in (self.offsets, self.limits, self.here, self.changes):
            last = column.pop()
            if moved:
                column[index] = last
        return moved

    def sizes(self, offset: Vector) -> Vector:
        """How far ``offset`` moves each block, as a share of its scale, entry by entry."""
        result = np.abs(offset) / self.setting.scale
        for block in self.setting.problem.blocks:
            result[block.slice] = result[block.slice].max()
        return np.asarray(result)

    def very_near(self, offset: Vector) -> Vector | None:
        """The gradient so close to w0 that what it differs by from its limit is of no account."""
        problem = self.setting.problem
        try:
            near = self.gradient(problem.w0 + math.sqrt(problem.gradient_unit) * offset)
        except BadGradient:
            return None
        return near if np.all(np.isfinite(near)) else None

    def add_sides_with_mean(self) -> np.ndarray:
        """Find the planes on which the kinks lie, and add points on sides that have the gradient at w0 as mean.

        Returns for which entries the gradient may be such a mean, whether or not sides were found.
        """
        setting, everything = self.setting, slice(0, self.setting.scale.size)
        start, turn = setting.random_direction(everything), setting.random_direction(everything)
        moves, may_be = sides_with_mean(self.very_near, start, turn, setting.gradient, self.unit(), setting.scale,
                                        setting.rng)
        for move in moves:
            self.add(move + 1e-3 * self.tail * (move == 0))
        return may_be

    def gradient(self, point: Vector) -> Vector:
        """The user's gradient at a point."""
        return self.setting.problem.loss_and_gradient(point)[1]

    def unit(self) -> Vector:
        """What counts as no difference, entry by entry."""
        share = max(1e-6, 100 * self.setting.problem.gradient_unit)
        return np.asarray(self.base_unit + self.blur + share * self.top)

    def led_by(self, block: Block, pattern: Vector, rest: float = 0.01) -> Vector:
        """Move ``block`` by ``pattern``, and everything else much less far, so that no other kink stays put."""
        offset = rest * self.tail
        offset[block.slice] = pattern[block.slice]
        return offset

    def sides(self, plus: int, minus: int, part: slice) -> list[Vector]:
        """For each entry of ``part`` the side that its gradient at w0 agrees with, seen from one pair of points.

        Where the gradient lies between the two sides, patterns are made for several shares, so that their mean can
        reach it.
        """
        gradient = self.setting.gradient[part]
        above, below = self.limits[plus][part], self.limits[minus][part]
        jump = above - below
        known = np.abs(jump) > 3 * self.unit()[part]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(known, np.clip((gradient - below) / jump, 0.0, 1.0), 0.5)
        if not known.any():
            return []
        levels = np.unique(np.round(share[known], 6))
        cuts = (levels[:-1] + levels[1:]) / 2 if levels.size > 1 else np.array([])
        if levels[0] > 1e-6:
            cuts = np.append(cuts, levels[0] / 2)
        if levels[-1] < 1 - 1e-6:
            cuts = np.append(cuts, (1 + levels[-1]) / 2)
        if cuts.size == 0:
            cuts = np.array([0.5])
        if cuts.size > 8:
            cuts = np.quantile(cuts, np.linspace(0.02, 0.98, 8))
        patterns = []
        size = np.abs(self.offsets[plus][part])
        for cut in cuts:
            pattern = self.offsets[plus].copy()
            pattern[part] = np.where(share > cut, size, -size)
            patterns.append(pattern)
        return patterns

    def lead(self, blocks: list[Block], up: Vector, rest: float) -> None:
        """Each block in turn leads up, down, and to the sides that its entries agree with."""
        for block in blocks:
            plus, minus = self.add(self.led_by(block, up, rest)), self.add(self.led_by(block, -up, rest))
            if plus is not None and minus is not None:
                for pattern in self.sides(plus, minus, block.slice):
                    self.add(pattern)

    def rest(self, entries: np.ndarray) -> tuple[Vector, float, Vector]:
        """Weights of the best mean, the largest remaining difference in tolerances, and the difference itself."""
        target, unit = self.setting.gradient[entries], self.unit()[entries]
        weights, left = mean_weights([v[entries] for v in self.limits], target, unit)
        return weights, float(np.abs(left).max(initial=0.0)), left * unit

    def search(self, blocks: list[Block], entries: np.ndarray, rounds: int) -> Vector | None:
        """Weights of a mean that equals the gradient at w0 on ``entries``, or None."""
        scale = self.setting.scale
        everything = slice(0, scale.size)
        if not self.offsets:
            start = self.setting.random_direction(everything)
            self.add(start)
            self.add(-start)
            up = np.abs(self.setting.random_direction(everything))
            self.lead(blocks, up, 0.01)
            uphill = self.setting.gradient * scale**2
            if uphill.any():
                uphill = uphill / np.max(np.abs(uphill / scale))
                uphill = np.where(uphill == 0, 0.01 * self.tail, uphill)
                self.add(uphill)
                self.add(-uphill)
                for side in (scale, -scale):  # everything to one side, where ties are settled as the gradient did
                    self.add(side + 0.01 * uphill)
                    self.add(side - 0.01 * uphill)
            plus, minus = self.add(up), self.add(-up)
            if plus is not None and minus is not None:
                for pattern in self.sides(plus, minus, everything):
                    self.add(pattern)
        if not self.offsets:
            return None
        weights, worst, left = self.rest(entries)
        nearest, stalled = math.inf, 0
        for attempt in range(rounds if rounds < LONG_SEARCH else 100):
            if worst <= 1.5:
                return weights
            # Where the loss curves upwards, the gradient that leads furthest towards the one at w0 lies in the
            # direction of what is still missing; where it curves downwards, in the opposite one.
            aim = np.zeros(scale.size)
            aim[entries] = -left / self.unit()[entries] ** 2
            top = float(np.abs(aim / scale).max())
            if top == 0:
                return weights
            tail = self.setting.random_direction(everything)
            for sign in (1.0, -1.0):
                self.add(sign * aim / top + (0.01 if attempt % 2 else 1e-4) * tail)
            if attempt in (1, 2):
                self.lead(blocks, np.abs(self.setting.random_direction(everything)), (1e-3, 1e-5)[attempt - 1])
            if attempt < LONG_SEARCH:
                self.flip(blocks, int(np.argmax(weights)))
            self.add(tail)
            self.add(-tail)
            self.climb(-left / self.unit()[entries] ** 2, entries)
            weights, worst, left = self.rest(entries)
            distance = float(np.linalg.norm(left / self.unit()[entries]))
            stalled = stalled + 1 if distance > 0.98 * nearest else 0
            nearest = min(nearest, distance)
            if stalled >= 6:
                break
            if len(self.offsets) > 160:
                self.keep(np.flatnonzero(weights > 0))
                weights, worst, left = self.rest(entries)
        return weights if worst <= 1.5 else None

    def flip(self, blocks: list[Block], best: int) -> None:
        """From the point that counts most, move the entries that still disagree to their other side."""
        off = np.abs(self.limits[best] - self.setting.gradient) > 3 * self.unit()
        for block in blocks:
            if off[block.slice].any():
                flipped = self.offsets[best].copy()
                flipped[block.slice] = np.where(off[block.slice], -flipped[block.slice], flipped[block.slice])
                self.add(flipped)

    def climb(self, aim: Vector, entries: np.ndarray) -> None:
        """From the gradient that leads furthest along ``aim``, on to others that lead further, by trial."""
        rng, everything = self.setting.rng, slice(0, self.setting.scale.size)
        heights = [float(limit[entries] @ aim) for limit in self.limits]
        best = int(np.argmax(heights))
        for _ in range(TRIALS):
            anew = rng.uniform(size=everything.stop) < rng.uniform(0.02, 0.5)
            new = self.add(np.where(anew, self.setting.random_direction(everything), self.offsets[best]))
            if new is not None and float(self.limits[new][entries] @ aim) > float(self.limits[best][entries] @ aim):
                best = new

    def distance(self, entries: np.ndarray) -> float:
        """How far the best mean stays away, as a share of the largest entry of the block in question."""
        left = self.rest(entries)[2]
        worst = int(np.argmax(np.abs(left) / self.unit()[entries]))
        top = max(float(self.top[entries[worst]]), abs(float(self.setting.gradient[entries[worst]])))
        return abs(float(left[worst])) / top if top else 0.0

    def is_fine(self, weights: Vector, entries: np.ndarray) -> bool:
        """Is the mean so close, and are its parts so certain, that an error of `RESOLUTION` would show?"""
        mean = sum(w * limit[entries] for w, limit in zip(weights, self.limits, strict=True))
        apart = sum(w * change[entries] for w, change in zip(weights, self.changes, strict=True))
        off = np.abs(mean - self.setting.gradient[entries]) + 30 * self.delta * apart
        self.open = np.zeros(self.setting.scale.size)
        self.open[entries] = off
        return bool(np.all(off <= RESOLUTION * self.top[entries] + self.base_unit[entries]))

    def visible(self, block: Block) -> tuple[float, float]:
        """The error of one entry that certainly showed, as a share of the block's largest at w0, and around it."""
        part = block.slice
        error = max(self.shown.get(block.name, 0.0), float(self.open[part].max()))
        around = float(self.top[part].max())
        here = float(np.abs(self.setting.gradient[part]).max()) or around
        return (error / here, error / around) if around else (RESOLUTION, RESOLUTION)

    def coarseness(self, blocks: list[Block]) -> float:
        """The error of one entry in any of ``blocks`` that certainly showed, as a share of the block's largest."""
        return max(self.visible(block)[0] for block in blocks)

    def keep(self, indices: np.ndarray) -> None:
        """Forget all points but these and the first ten."""
        self.select(np.union1d(indices, np.arange(10)))

    def select(self, wanted: np.ndarray) -> None:
        """Go on with these points alone."""
        self.offsets = [self.offsets[i] for i in wanted]
        self.limits = [self.limits[i] for i in wanted]
        self.here = [self.here[i] for i in wanted]
        self.changes = [self.changes[i] for i in wanted]

    def verify(self, index: int, block: Block, accused: Line | None = None, slack: float = 1.0) -> bool | None:
        """Is the user's gradient at point ``index`` numerically right within ``block``?  None if noise hides it.

        All that is asked is asked ``slack`` times less sharply.
        Where it was accused, at w0 or at another point, this one must be able to show an error as large along the
        same line: else a point so close to a kink that nothing can be told there would acquit it.
        """
        setting, part = self.setting, block.slice
        if setting.has_done_enough():
            return None
        centre = setting.problem.parameters.quantise(setting.problem.w0 + self.delta * self.offsets[index])
        gradient = self.here[index]
        local = replace(setting, gradient=gradient, centre=centre)
        accusers = [(accused.direction, abs(accused.estimate().value))] if accused else []
        accusers += [(w.line.direction, w.conflict) for w in self.witnesses.get(block.name, [])[-3:]]
        directions = accusers + [(setting.random_direction(part), math.inf) for _ in range(min(2, block.size))]
        verdict: bool | None = True
        for direction, conflict in directions:
            line = local.line(direction, part)
            need = threshold(setting, direction, part)
            allowed = slack * max(local.slack(direction, part), need)
            estimate = line.solve(self.delta / 64, 0.3 * need, pairs=6, largest=self.delta / 16)
            most = slack * min(self.finest(direction, part), conflict / 2)
            if DECISIVE * estimate.bar > most:
                estimate = line.descend()
            if line.kink():
                line.descend()
                if line.kink():
                    return False  # a point on a kink: the gradient there is a choice too
            if disagrees(local, line, estimate, allowed, self.delta / 16):
                self.witnesses.setdefault(block.name, []).append(Witness(line, local))
                return False
            if DECISIVE * line.estimate().bar > most:
                line.average(lambda: setting.random_direction(slice(0, setting.scale.size)))
            for h in (self.delta / 8, self.delta / 4, self.delta / 2):  # far steps may meet a kink: they only acquit
                if DECISIVE * line.estimate().bar > most:
                    line.measure(h)
            estimate = line.estimate()
            if DECISIVE * estimate.bar > most or abs(estimate.value) > DECISIVE * estimate.bar + allowed:
                verdict = None
            error = (DECISIVE * estimate.bar + allowed) / slack / typical_move(direction, part)
            self.shown[block.name] = max(error, self.shown.get(block.name, 0.0))
        return verdict

    def finest(self, direction: Vector, part: slice) -> float:
        """How large an error along ``direction`` has to show: `RESOLUTION`, as away from kinks, and `FINE` as far as
        noise allows it at a point that is as far from all kinks as most are.
        """
        setting = self.setting
        norm = max(float(np.linalg.norm(v[part] * direction[part])) for v in (*self.here, setting.gradient))
        entry = 0.5 * RESOLUTION * float(self.top[part].max()) * typical_move(direction, part)
        coarse = min(entry, 0.2 * RESOLUTION * norm) + 1e-6 * abs(setting.problem.loss0)
        own = float(np.abs(setting.gradient[part]).max()) or float(self.top[part].max())
        noise = 4 * DECISIVE * SAFETY * setting.noise / (self.delta / 64)
        return min(coarse, max(FINE * own * typical_move(direction, part), noise))
