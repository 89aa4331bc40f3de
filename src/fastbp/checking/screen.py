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
from .jumps import hidden_in_jumps, noise_of_jumps
from .path import CLEAR, along_path, is_continuous, is_single
from .problem import Block, Vector
from .setting import Setting, threshold, typical_move

DIRECTIONS = 3
MOST_EVALUATIONS = 3000  # for one block whose loss is so noisy that it is looked at in pieces
RESOLUTION = 1e-2  # the check must be able to see an error of this share of a block's largest entry
DECISIVE = 2.5  # a conflict counts only beyond this many error bars


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
    middles: list[Line] = field(default_factory=list)  # lines along which it is the middle of two slopes
    invariant: bool = False  # the loss does not depend on the block at all
    stopped: bool = False  # smaller pieces would show more, and take too long
    by_path: bool = False  # the conflict is one with the gradient all along a line, not only at w0

    def common_factor(self) -> tuple[float, float]:
        """By what factor (less one) the whole block seems to be off, from all directions together, and its error."""
        weight = sum((slope / bar) ** 2 for _, slope, bar in self.slopes)
        if not weight > 0:
            return 0.0, math.inf
        return sum(c / bar * (slope / bar) for c, slope, bar in self.slopes) / weight, 1 / math.sqrt(weight)


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
        setting.jumps = max(setting.jumps, 2 * noise)
        line.raise_noise(noise)
        line.thicken(largest=largest)
    return not line.fits_zero(allowed)


def screen_block(setting: Setting, block: Block, limit: float) -> Screened:
    """Compare the gradient along a few random directions within ``block``.

    Should noise hide more than ``limit`` of the largest entry (or a fifth of that of the block as a whole), the
    block is looked at in pieces, and those pieces that are still too coarse in smaller ones, down to single entries:
    the fewer entries move, the larger the steps that stay clear of kinks and curvature, and the smaller the part that
    noise plays.  An entry that is too coarse by itself ends that: the block cannot be decided.
    """
    result = Screened(block)
    _screen_part(setting, block, block.slice, limit, result)
    if not _hazy(setting, result, limit) or block.size <= DIRECTIONS:
        return result
    visible = limit * float(np.max(np.abs(setting.gradient[block.slice])))
    problem = setting.problem
    last = problem.evaluations + MOST_EVALUATIONS
    fine = Screened(block, visible=0.0)
    parts, hopeless = _pieces(block.slice), False
    while parts:
        if setting.has_done_enough():
            result.stopped = True
            return result
        part, piece = parts.pop(0), Screened(block)
        _screen_part(setting, block, part, limit, piece)
        coarse = piece.visible > visible or _hazy_conflict(setting, piece, limit)
        if coarse and part.stop - part.start > 1 and not hopeless:
            parts = _pieces(part) + parts
            continue
        if piece.conflict:
            entries, finished = bisect(setting, *piece.conflict, part, by_path=piece.by_path)
            if not finished or any(e.wrong for e in entries):
                fine.conflict, fine.state, fine.by_path = piece.conflict, "conflict", piece.by_path
                return fine
            line, found = piece.conflict  # dissolved when looked at entry by entry: a kink close by
            piece.visible = (abs(found.value) + found.bar) / typical_move(line.direction, part)
        fine.lines += piece.lines
        fine.middles += piece.middles
        fine.sided += piece.sided
        fine.slopes += piece.slopes
        fine.visible = max(fine.visible, piece.visible)
        hopeless = hopeless or piece.visible > visible or problem.evaluations > last
    fine.state = "agrees" if _fine_enough(setting, fine, limit) else "unclear"
    return fine if fine.state == "agrees" or result.conflict or fine.visible < result.visible else result


def screen_entries(setting: Setting, block: Block, entries: np.ndarray) -> Screened:
    """Random directions that move only some ``entries`` of ``block`` (indices of the whole vector)."""
    result = Screened(block)
    _screen_along(setting, block, block.slice, _directions(setting, block.slice, entries), RESOLUTION, result)
    return result


def _directions(setting: Setting, part: slice, entries: np.ndarray) -> list[Vector]:
    """Each of a few entries of ``part`` on its own, or random directions that move them all."""
    if entries.size <= DIRECTIONS:
        return [setting.coordinate(int(i)) for i in entries]
    chosen = np.zeros(setting.scale.size)
    chosen[entries] = 1.0
    return [chosen * setting.random_direction(part) for _ in range(DIRECTIONS)]


def _pieces(part: slice) -> list[slice]:
    """``part`` cut into sixteen, or into single entries where there are no more than that."""
    edges = np.unique(np.linspace(part.start, part.stop, 17).astype(int)).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _hazy(setting: Setting, result: Screened, limit: float) -> bool:
    """Does noise leave open what the directions say: too coarse, or a weak conflict with a wide error bar?"""
    return result.state == "unclear" or _hazy_conflict(setting, result, limit)


def _hazy_conflict(setting: Setting, result: Screened, limit: float) -> bool:
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
    directions = _directions(setting, part, np.arange(part.start, part.stop))
    _screen_along(setting, block, part, directions, limit, result)


def _screen_along(setting: Setting, block: Block, part: slice, directions: list[Vector], limit: float,
                  result: Screened) -> None:
    """The gradient along ``directions`` within ``part``; what they say is put into ``result``."""
    small = all(np.count_nonzero(direction) == 1 for direction in directions)
    largest = float(np.max(np.abs(setting.gradient[block.slice])))
    whole = 0.75 * float(np.linalg.norm(setting.gradient[part] * setting.scale[part]))
    visible = []
    for direction in directions:
        line = setting.line(direction, part)
        typical = typical_move(direction, part)
        norm = max(whole, float(np.linalg.norm(setting.gradient[part] * direction[part])))
        target = max(0.3 * threshold(setting, direction, part), 0.1 * setting.slack(direction, part))
        pairs = 6 if direction is directions[0] else 3 if is_single(setting.problem) else 4
        estimate = line.solve(setting.step, target, pairs)

        allowed = max(setting.slack(direction, part), threshold(setting, direction, part), line.rounding())

        needed = min(0.5 * limit * largest * typical, 0.2 * limit * norm)

        def too_coarse(estimate: Estimate, needed: float = needed) -> bool:
            return DECISIVE * estimate.bar > needed

        if too_coarse(estimate):
            estimate = line.solve(setting.step, target, pairs=12)
            if too_coarse(estimate) and abs(estimate.value) <= 8 * estimate.bar + allowed:
                estimate = line.thicken()
                if small and too_coarse(estimate):
                    estimate = line.average(lambda: setting.random_direction(slice(0, setting.scale.size)))
        result.lines.append(line)
        if math.isfinite(estimate.bar) and 1e-9 < estimate.step < 0.3:
            setting.step = min(max(2 * estimate.step, 1e-8), 0.1)
        suspicious = disagrees(setting, line, estimate, allowed)
        if needed > 0 and (suspicious or too_coarse(line.estimate())) and is_continuous(setting, part):
            found = along_path(setting, line, needed / 3)
            is_off = abs(found.value) > CLEAR * found.bar + allowed
            if is_off and (not too_coarse(found) or abs(found.value) > 12 * found.bar):
                if not result.by_path or result.conflict is None or abs(found.value) > abs(result.conflict[1].value):
                    result.conflict = (line, found)
                result.by_path, result.state = True, "conflict"
                continue
            if suspicious or not too_coarse(found):
                visible.append((max(abs(found.value), DECISIVE * found.bar) + allowed) / typical)
                result.slopes.append((found.value, line.slope, max(found.bar, 1e-300)))
                continue
        if suspicious:
            side, one_sided = line.side(allowed)
            if not side:
                found = line.estimate()
                if result.conflict is None or (abs(found.value) > abs(result.conflict[1].value) and not result.by_path):
                    result.conflict = (line, found)  # the clearest conflict is the one to follow up
                result.state = "conflict"
                continue
            result.sided.append((line, side))
            found = one_sided
        else:
            found = line.estimate()
            result.middles += [line] if line.kink() and not is_continuous(setting, part) else []
        visible.append((DECISIVE * found.bar + allowed) / typical)
        result.slopes.append((found.value, line.slope, max(found.bar, 1e-300)))
    if result.state == "conflict":
        return
    result.visible = max(visible) if small else float(np.median(visible))
    if not _fine_enough(setting, result, limit) and not _independent(setting, result):
        result.state = "unclear"


def _independent(setting: Setting, result: Screened) -> bool:
    """Is the block's derivative zero as far as anybody can tell: claimed to be (all but) zero, and the loss does not
    move beyond its noise however far one goes?"""
    biggest = float(np.max(np.abs(setting.gradient * setting.scale)))
    here = float(np.max(np.abs((setting.gradient * setting.scale)[result.block.slice])))
    if here <= max(line.rounding() for line in result.lines):
        # Zero is claimed: the slope must be small beside what the loss does when moved by a whole scale.
        size = max([abs(setting.problem.loss0), *(line.reach for line in result.lines)])
        spread = np.min(setting.scale[result.block.slice])
        if bool(result.visible * spread <= 1e-6 * size):
            return True
        if here == 0:
            return all(line.ladder() and line.ladder()[-1].flat for line in result.lines)
    if here > 100 * setting.problem.gradient_unit * biggest or here == biggest:
        return False
    for line in result.lines:
        sample = line.measure(8.0)
        if sample is None or abs(sample.conflict) > sample.noise:
            return False
    result.invariant = True
    return True


def check_entry(setting: Setting, flat: int, thorough: bool = True, noise: float = 0.0, by_path: bool = False) -> Entry:
    """Look at one entry on its own: central and one-sided differences over many steps, or, ``by_path``, the gradient
    all along a line.

    ``noise`` is what the loss is known to be uncertain by along other lines, if that is more than elsewhere.
    """
    problem = setting.problem
    block = problem.block_of(flat)
    direction = setting.coordinate(flat)
    scale = float(setting.scale[flat])
    part = slice(flat, flat + 1)
    line = setting.line(direction, part, noise)
    tolerance = float(setting.tolerance[flat]) * scale
    estimate = line.solve(setting.step, 0.2 * tolerance, pairs=14 if thorough else 3 if is_single(problem) else 4)
    allowed = max(tolerance, setting.slack(direction, part), line.rounding())
    wrong = disagrees(setting, line, estimate, allowed, scan=thorough)
    if wrong and thorough:
        for h in (1.0, 0.1, 1e-2, 1e-3):
            line.measure(h)
        wrong = not line.fits_zero(allowed)
    estimate = line.estimate()
    if by_path:
        largest = float(np.max(np.abs(setting.gradient[block.slice])))
        estimate = along_path(setting, line, 0.1 * RESOLUTION * largest * scale)
        wrong = abs(estimate.value) > CLEAR * estimate.bar + allowed
    wrong = wrong and not hidden_in_jumps(line, setting.jumps)
    jump = line.kink() / scale
    analytic = float(setting.gradient[flat])
    ladder = line.ladder()
    ahead = analytic + extrapolate([(s.h, s.ahead, 2 * s.noise) for s in ladder], power=1).value / scale
    behind = analytic + extrapolate([(s.h, s.behind, 2 * s.noise) for s in ladder], power=1).value / scale
    return Entry(flat, block.name, block.index(flat), analytic, analytic + estimate.value / scale,
                 estimate.bar / scale, wrong, jump, ahead, behind,
                 [(s.h * scale, s.conflict / scale, s.noise / scale) for s in ladder])


def bisect(setting: Setting, line: Line, estimate: Estimate, part: slice, budget: int = 0,
           wanted: int = 1, by_path: bool = False) -> tuple[list[Entry], bool]:
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
            entries.append(check_entry(setting, start, by_path=by_path))
            continue
        budget -= 1
        value, bar = conflicts[start, stop]
        middle = (start + stop) // 2
        left, right = slice(start, middle), slice(middle, stop)
        if not (direction[left].any() and direction[right].any()):
            moved = left if direction[left].any() else right
            conflicts[moved.start, moved.stop] = value, bar
            heapq.heappush(queue, (-abs(value), moved.start, moved.stop))
            continue
        half_line = setting.line(direction, left, noise=line.noise)
        finest = max(abs(value) / 30, 0.3 * threshold(setting, direction, left))
        half = along_path(setting, half_line, abs(value) / 8) if by_path else half_line.solve(2 * step, finest, pairs=4)
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
