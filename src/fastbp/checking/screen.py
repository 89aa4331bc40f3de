"""Looking at many entries at once: random directions within a block, and bisection where one of them disagrees.

Along a random direction that moves every entry of a block, the derivative of the loss is the sum of all the block's
gradient entries, each times a random number.  One wrong entry makes that sum wrong, so a few directions vouch for
thousands of entries.  Where a direction disagrees, the block is halved again and again, always following the half
with the larger disagreement, until single entries are left; those are then looked at one by one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from .differences import Estimate, Line, extrapolate
from .jumps import noise_of_jumps
from .problem import Block, Problem, Vector

DIRECTIONS = 3
MOST_EVALUATIONS = 3000  # for one block whose loss is so noisy that it is looked at in pieces
DECISIVE = 2.5  # a conflict counts only beyond this many error bars


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

    def line(self, direction: Vector, support: slice | None = None, centre: Vector | None = None,
             noise: float = 0.0) -> Line:
        return Line(self.problem, direction, self.gradient, max(noise, self.noise), centre, support)

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


@dataclass
class Entry:
    """One entry of the gradient beside its numerical value."""

    flat: int
    block: str
    index: tuple[int, ...]
    analytic: float
    numerical: float
    bar: float
    wrong: bool
    jump: float  # slope ahead minus slope behind where the entry sits on a kink, else 0
    ahead: float
    behind: float
    steps: list[tuple[float, float, float]] = field(default_factory=list)  # (step, conflict, noise)

    @property
    def relative(self) -> float:
        size = max(abs(self.analytic), abs(self.numerical))
        return abs(self.analytic - self.numerical) / size if size else 0.0


@dataclass
class Screened:
    """What the random directions said about one block."""

    block: Block
    state: str = "agrees"  # "agrees", "conflict", "unclear"
    lines: list[Line] = field(default_factory=list)
    visible: float = math.inf  # the smallest error of one entry that would have been seen, absolute
    slopes: list[tuple[float, float, float]] = field(default_factory=list)  # conflict, analytic slope, error bar
    conflict: tuple[Line, Estimate] | None = None
    sided: list[tuple[Line, int]] = field(default_factory=list)  # lines along which the gradient fits one side only
    kinked: bool = False
    invariant: bool = False  # the loss does not depend on the block at all

    def common_factor(self) -> tuple[float, float]:
        """By what factor (less one) the whole block seems to be off, from all directions together, and its error."""
        weight = sum((slope / bar) ** 2 for _, slope, bar in self.slopes)
        if not weight > 0:
            return 0.0, math.inf
        return sum(c * slope / bar**2 for c, slope, bar in self.slopes) / weight, 1 / math.sqrt(weight)


def threshold(setting: Setting, direction: Vector, part: slice) -> float:
    """A conflict along ``direction`` below this cannot come from one entry beyond its tolerance."""
    return 0.9 * float(np.min(setting.tolerance[part] * np.abs(direction[part])))


def disagrees(setting: Setting, line: Line, estimate: Estimate, allowed: float, largest: float = 2.0,
              scan: bool = False) -> bool:
    """Confirm a suspicion: go down to smaller steps, and believe only a conflict that no smaller step refutes.

    Nor is it believed if the loss jumps along this line (up to step ``largest``) and the conflict is no larger than
    the jumps explain; there may be stairs of several heights.
    """
    if abs(estimate.value) <= DECISIVE * estimate.bar + allowed:
        return False
    line.descend()
    for _ in range(4):
        if line.fits_zero(allowed):
            return False
        noise = noise_of_jumps(line, largest, scan)
        if noise <= line.noise:
            return True
        line.raise_noise(noise)
        line.thicken(largest=largest)
    return not line.fits_zero(allowed)


def screen_block(setting: Setting, block: Block, limit: float) -> Screened:
    """Compare the gradient along a few random directions within ``block``.

    Should noise hide more than ``limit`` of the largest entry (or a fifth of that of the block as a whole), the
    block is looked at in pieces: the fewer entries move, the larger the steps that stay clear of kinks and
    curvature, and the smaller the part that noise plays.
    """
    result = Screened(block)
    spent = setting.problem.evaluations
    _screen_part(setting, block, block.slice, limit, result)
    for pieces in (16, 128):
        jumpy = any(line.noise > setting.noise for line in result.lines)  # then some entries may be calm by themselves
        if not _hazy(setting, result, limit) or block.size < (DIRECTIONS + 1 if jumpy else pieces // 2):
            break
        fine = Screened(block)
        edges = np.unique(np.linspace(block.start, block.stop, pieces + 1).astype(int))
        views = []
        for start, stop in itertools.pairwise(edges):
            piece, part = Screened(block), slice(int(start), int(stop))
            _screen_part(setting, block, part, limit, piece)
            fine.lines += piece.lines
            fine.kinked = fine.kinked or piece.kinked
            fine.sided += piece.sided
            fine.slopes += piece.slopes
            if piece.conflict:
                entries, finished = bisect(setting, *piece.conflict, part)
                if not finished or any(e.wrong for e in entries):
                    fine.conflict, fine.state = piece.conflict, "conflict"
                    return fine
                line, found = piece.conflict  # dissolved when looked at entry by entry: a kink close by
                piece.visible = (abs(found.value) + found.bar) / float(np.median(np.abs(line.direction[part])))
            views.append(piece)
            if setting.problem.evaluations - spent > MOST_EVALUATIONS:
                result.state = "unclear"
                return result
        fine.visible = max(v.visible for v in views)
        fine.state = "agrees" if _fine_enough(setting, fine, limit) else "unclear"
        if fine.state == "agrees" or result.conflict or fine.visible < result.visible:
            result = fine
    return result


def _hazy(setting: Setting, result: Screened, limit: float) -> bool:
    """Does noise leave open what the directions say: too coarse, or a weak conflict with a wide error bar?"""
    if result.state == "unclear":
        return True
    if result.conflict is None:
        return False
    line, estimate = result.conflict
    part = line.support
    largest = float(np.max(np.abs(setting.gradient[part] * line.direction[part])))
    return abs(estimate.value) < 12 * estimate.bar and DECISIVE * estimate.bar > 0.1 * limit * largest


def _fine_enough(setting: Setting, result: Screened, limit: float) -> bool:
    largest = float(np.max(np.abs(setting.gradient[result.block.slice])))
    factor, error = result.common_factor()
    return result.visible <= limit * largest and max(abs(factor), DECISIVE * error) <= 0.2 * limit


def _screen_part(setting: Setting, block: Block, part: slice, limit: float, result: Screened) -> None:
    """Random directions within ``part`` of a block; what they say is put into ``result``."""
    size = part.stop - part.start
    small = size <= DIRECTIONS
    directions: list[Vector] = [setting.coordinate(i) for i in range(part.start, part.stop)] if small \
        else [setting.random_direction(part) for _ in range(DIRECTIONS)]
    largest = float(np.max(np.abs(setting.gradient[block.slice])))
    whole = 0.75 * float(np.linalg.norm(setting.gradient[part] * setting.scale[part]))
    visible = []
    for direction in directions:
        line = setting.line(direction, part)
        allowed = max(setting.slack(direction, part), threshold(setting, direction, part))
        spread = np.abs(direction[part])
        typical = float(np.median(spread[spread > 0]))
        norm = max(whole, float(np.linalg.norm(setting.gradient[part] * direction[part])))
        target = max(0.3 * threshold(setting, direction, part), 0.1 * setting.slack(direction, part))
        estimate = line.solve(setting.step, target, pairs=6 if direction is directions[0] else 4)

        def too_coarse(estimate: Estimate, typical: float = typical, norm: float = norm) -> bool:
            return DECISIVE * estimate.bar > min(0.5 * limit * largest * typical, 0.2 * limit * norm)

        if too_coarse(estimate):
            estimate = line.solve(setting.step, target, pairs=12)
            if too_coarse(estimate) and abs(estimate.value) <= 8 * estimate.bar + allowed:
                estimate = line.thicken()
        result.lines.append(line)
        if math.isfinite(estimate.bar) and 1e-9 < estimate.step < 0.3:
            setting.step = min(max(2 * estimate.step, 1e-8), 0.1)
        if disagrees(setting, line, estimate, allowed):
            side, one_sided = line.side(allowed)
            if not side:
                found = line.estimate()
                if result.conflict is None or abs(found.value) > abs(result.conflict[1].value):
                    result.conflict = (line, found)  # the clearest conflict is the one to follow up
                result.state = "conflict"
                continue
            result.sided.append((line, side))
            found = one_sided
        else:
            found = line.estimate()
        visible.append((DECISIVE * found.bar + allowed) / typical)
        result.slopes.append((found.value, line.slope, max(found.bar, 1e-300)))
        result.kinked = result.kinked or line.kink() != 0
    if result.state == "conflict":
        return
    result.visible = max(visible) if small else float(np.median(visible))
    if not _fine_enough(setting, result, limit) and not _independent(setting, result, largest):
        result.state = "unclear"


def _independent(setting: Setting, result: Screened, largest: float) -> bool:
    """Is the block's derivative zero as far as anybody can tell: claimed to be (all but) zero, and the loss does
    not move beyond its noise however far one goes?"""
    biggest = float(np.max(np.abs(setting.gradient * setting.scale)))
    here = float(np.max(np.abs((setting.gradient * setting.scale)[result.block.slice])))
    if here > 0 and (here > 100 * setting.problem.gradient_unit * biggest or here == biggest):
        return False
    if here == 0:
        # Zero is claimed: the slope must be small beside what the loss does when moved by a whole scale.
        size = max([abs(setting.problem.loss0), *(line.reach for line in result.lines)])
        spread = np.min(setting.scale[result.block.slice])
        if bool(result.visible * spread <= 1e-6 * size):
            return True
        return all(line.ladder() and line.ladder()[-1].flat for line in result.lines)
    for line in result.lines:
        sample = line.measure(8.0)
        if sample is None or abs(sample.conflict) > sample.noise:
            return False
    result.invariant = True
    return True


def check_entry(setting: Setting, flat: int, thorough: bool = True) -> Entry:
    """Look at one entry on its own: central and one-sided differences over many steps."""
    problem = setting.problem
    block = problem.block_of(flat)
    direction = setting.coordinate(flat)
    scale = float(setting.scale[flat])
    part = slice(flat, flat + 1)
    line = setting.line(direction, part)
    tolerance = float(setting.tolerance[flat]) * scale
    estimate = line.solve(setting.step, 0.2 * tolerance, pairs=14 if thorough else 4)
    allowed = max(tolerance, setting.slack(direction, part))
    wrong = disagrees(setting, line, estimate, allowed, scan=thorough)
    if wrong and thorough:
        for h in (1.0, 0.1, 1e-2, 1e-3):
            line.measure(h)
        wrong = not line.fits_zero(allowed)
    estimate = line.estimate()
    jump = line.kink() / scale
    analytic = float(setting.gradient[flat])
    ladder = line.ladder()
    ahead = analytic + extrapolate([(s.h, s.ahead, 2 * s.noise) for s in ladder], power=1).value / scale
    behind = analytic + extrapolate([(s.h, s.behind, 2 * s.noise) for s in ladder], power=1).value / scale
    return Entry(flat, block.name, block.index(flat), analytic, analytic + estimate.value / scale,
                 estimate.bar / scale, wrong, jump, ahead, behind,
                 [(s.h * scale, s.conflict / scale, s.noise / scale) for s in ladder])


def bisect(setting: Setting, line: Line, estimate: Estimate, part: slice, budget: int = 0,
           wanted: int = 1) -> tuple[list[Entry], bool]:
    """Find wrong entries behind a conflict along ``line``, the largest disagreement first.

    Returns the entries looked at (wrong ones first) and whether the search came to its end: if it did and found
    nothing wrong, then the conflict is made up of differences that are each within their tolerance.
    """
    direction, step = line.direction, max(estimate.step, 1e-12)
    budget = budget or 40 + 6 * max(1, math.ceil(math.log2(max(2, part.stop - part.start))))
    queue: list[tuple[float, int, int]] = [(-abs(estimate.value), part.start, part.stop)]
    conflicts = {(part.start, part.stop): (estimate.value, estimate.bar)}
    entries: list[Entry] = []
    while queue and budget > 0 and sum(e.wrong for e in entries) < wanted:
        _, start, stop = heapq.heappop(queue)
        if stop - start == 1:
            entries.append(check_entry(setting, start))
            continue
        budget -= 1
        value, bar = conflicts[start, stop]
        middle = (start + stop) // 2
        left, right = slice(start, middle), slice(middle, stop)
        half_line = setting.line(direction, left, noise=line.noise)
        half = half_line.solve(2 * step, max(abs(value) / 30, 0.3 * threshold(setting, direction, left)), pairs=4)
        for half_part, half_value, half_bar in (
            (left, half.value, half.bar),
            (right, value - half.value, bar + half.bar),
        ):
            if half_bar < math.inf and abs(half_value) + half_bar < threshold(setting, direction, half_part):
                continue
            if abs(half_value) <= half_bar and half_bar < math.inf and half_bar < abs(value) / 4:
                continue
            conflicts[half_part.start, half_part.stop] = (half_value, half_bar)
            heapq.heappush(queue, (-abs(half_value), half_part.start, half_part.stop))
    entries.sort(key=lambda e: (not e.wrong, -e.relative))
    return entries, not queue


def locate_kinks(setting: Setting, line: Line, part: slice, most: int = 4) -> list[Entry]:
    """Entries that sit on a kink: halve the block, following the halves across which the slope jumps."""
    entries: list[Entry] = []
    stack = [(part.start, part.stop)]
    budget = 12 * math.ceil(math.log2(max(2, part.stop - part.start)) + 1)
    while stack and len(entries) < most and budget > 0:
        start, stop = stack.pop()
        if stop - start == 1:
            entry = check_entry(setting, start)
            if entry.jump:
                entries.append(entry)
            continue
        middle = (start + stop) // 2
        for piece in (slice(middle, stop), slice(start, middle)):
            budget -= 1
            probe = setting.line(line.direction, piece, noise=line.noise)
            step = max(line.ladder()[-1].h if line.samples else setting.step, 1e-9)
            for h in (step, step / 4, step / 16):
                probe.measure(h)
            if probe.kink():
                stack.append((piece.start, piece.stop))
    return entries
