"""At a kink: does the gradient belong to the generalised derivative?

Where the loss has a kink (relu at exactly 0, a tie in a maximum, the edge of a clip) there is no single gradient.
Close to the point, on every side, there is one; the right answers at the point are these gradients and all their
weighted means: the generalised derivative of Clarke.  That set is what the analytic gradient is held against here.

One-sided differences along single parameters cannot do it: they accept max(a, b) at a = b with gradient (1, 1), and
they refuse relu layers that start at zero with relu'(0) = 0.  So the check goes to points a little away from w0, on
the sides that the analytic gradient itself seems to have chosen, and asks two things.  Is the gradient at w0 a
weighted mean of the gradients at these points?  And are the gradients at these points right, numerically?
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .differences import SAFETY, Estimate, Line, extrapolate
from .nearby import LONG_SEARCH, NearbyGradients, Witness
from .numerical import MOST_ENTRIES, from_loss_alone
from .problem import BadGradient, Block, Vector
from .screen import DECISIVE, bisect, disagrees
from .setting import Setting, threshold

FINE_SHARE = 0.003  # of a conflict, that noise leaves open at a step that is short enough
COARSE = 1e-3  # noise of this third power, relative to the loss, is coarse
SHARP = 3e-4  # an error of this share of the largest entry is small
FARTHEST = 0.3  # from w0, as a share of the scales, that still counts as close by
PAIRS = 3  # of opposite points around w0, which see both sides of every kink


@dataclass
class Outcome:
    """What became of the blocks that seemed to be in conflict."""

    certified: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    right_nearby: bool = False  # the user's gradient is right at all points looked at around w0
    # For each certified block what error would have shown, as a share of its largest entry at w0, and around it.
    visible: dict[str, tuple[float, float]] = field(default_factory=dict)

    def certify(self, blocks: list[Block], nearby: NearbyGradients) -> None:
        """The gradients ``nearby`` vouch for ``blocks``."""
        self.certified += [b.name for b in blocks]
        self.visible |= {b.name: nearby.visible(b) for b in blocks}


def conflict_nearby(setting: Setting, line: Line, offset: Vector, delta: float, h: float) -> float:
    """Numerical slope at ``w0 + delta * offset`` minus the analytic slope *at w0*, along the line's direction."""
    centre = setting.problem.parameters.quantise(setting.problem.w0 + delta * offset)
    probe = Line(setting.problem, line.direction, line.gradient, line.noise, centre, line.support)
    sample = probe.measure(h)
    return sample.conflict if sample is not None else math.nan


def is_smooth(setting: Setting, line: Line, estimate: Estimate) -> bool | None:
    """Is the loss smooth at w0 as far as the derivative along ``line`` is concerned?

    Compared are the derivatives at pairs of points on opposite sides of w0.  Across a kink they differ, and keep
    differing as the points move in; where the loss is smooth the difference falls with the distance.  Where noise hides
    that, a line without a kink and a gradient that is continuous have to do; else the answer is None.
    """
    if line.kink():
        return False
    size = abs(estimate.value)
    everything, under = slice(0, setting.scale.size), bool(line.under_kinks())
    for share in (0.15,) if under else (FINE_SHARE, 0.03, 0.15):
        h = SAFETY * line.noise / (share * size) if size else math.inf
        delta = 40 * max(h, 1e-13)
        if delta < 0.05:
            break
    else:
        return True if is_straight(setting, line, size) else None
    if share > FINE_SHARE and not setting.problem.fixed_gradient and is_straight(setting, line, size):
        return True  # so far out, curvature would be taken for a kink
    # Larger steps are fine where noise is low, as long as they stay below those that the function's steepness asks for.
    h = h if under else max(h, min(estimate.step / 8, 1e-6))
    delta = 40 * h
    resolution = SAFETY * line.noise / h + share * size
    for _ in range(3):
        offset = setting.random_direction(everything)
        near = [conflict_nearby(setting, line, sign * offset, delta, h) for sign in (1, -1)]
        if not np.all(np.isfinite(near)):
            continue
        apart = near[0] - near[1]
        if abs(apart) <= 2 * resolution and abs(sum(near) / 2 - estimate.value) <= 2 * resolution + estimate.bar:
            continue
        far = [conflict_nearby(setting, line, sign * offset, 4 * delta, h) for sign in (1, -1)]
        if np.all(np.isfinite(far)):
            apart_far = far[0] - far[1]
            centre, centre_far = sum(near) / 2 - estimate.value, sum(far) / 2 - estimate.value
            grows = abs(apart_far) > 2.5 * abs(apart) or abs(apart) <= 2 * resolution
            grows_too = abs(centre_far) > 2.5 * abs(centre) or abs(centre) <= 2 * resolution + estimate.bar
            if grows and grows_too:
                continue
        return False
    return True


def is_straight(setting: Setting, line: Line, size: float) -> bool:
    """Is there no kink along ``line`` that could explain a conflict of ``size``, nor in the user's own gradient?"""
    gap = extrapolate([(s.h, s.gap, 4 * s.noise) for s in line.ladder()], power=1)
    if not abs(gap.value) + gap.bar <= size / 2:
        return False
    if setting.problem.fixed_gradient:
        return True
    part, problem = line.support, setting.problem
    for sign in (1, -1):
        offset = 1e-6 * sign * setting.random_direction(slice(0, setting.scale.size))
        try:
            _, near = problem.loss_and_gradient(problem.parameters.quantise(problem.w0 + offset))
        except BadGradient:
            return False
        if not abs(float((near - setting.gradient)[part] @ line.direction[part])) <= size / 10:
            return False
    return True


def out_of_reach(setting: Setting, lines: list[Line]) -> np.ndarray:
    """Entries that no kink at w0 reaches, going by the user's own gradient: it is the same on every side of w0.

    For them the loss has an ordinary slope at w0 itself, which shows errors much smaller than points close by can.
    Where the gradient at w0 is another one, it may be wrong, or that of a side so narrow that a few points miss it:
    then there are more points.
    """
    none = np.zeros(setting.scale.size, dtype=bool)
    if setting.problem.fixed_gradient:
        return none
    nearby = NearbyGradients(setting, shortest_distance(setting, lines), {})
    same = ~none
    for pairs in (PAIRS, 3 * PAIRS):
        for _ in range(pairs):
            offset = setting.random_direction(slice(0, setting.scale.size))
            if nearby.add(offset) is None or nearby.add(-offset) is None:
                return none
        limits, unit = np.array(nearby.limits), 3 * nearby.unit()
        same = np.asarray(np.ptp(limits, axis=0) <= unit)
        if not np.any(np.abs(limits[0] - setting.gradient)[same] > unit[same]):
            break
    return same


def same_error_nearby(setting: Setting, line: Line, estimate: Estimate) -> bool | None:
    """Is the user's gradient off by the same along ``line`` at points all around w0?  Then no kink explains it.

    None if it is not, but noise asks for points so far away that this says little.
    """
    size = abs(estimate.value)
    h = SAFETY * line.noise / (0.03 * size) if size else math.inf
    delta = max(16 * h, shortest_distance(setting, [line]))
    no = None if delta == 16 * h else False
    if delta > FARTHEST:
        return no
    for _ in range(2):
        offset = setting.random_direction(slice(0, setting.scale.size))
        for sign in (1, -1):
            centre = setting.problem.parameters.quantise(setting.problem.w0 + sign * delta * offset)
            try:
                _, gradient = setting.problem.loss_and_gradient(centre)
            except BadGradient:
                return False
            probe = Line(setting.problem, line.direction, gradient, line.noise, centre, line.support)
            there = probe.solve(delta / 16, size / 20)
            there = probe.thicken() if there.bar > size / 8 else there
            if not (there.bar <= size / 4 and abs(there.value - estimate.value) <= size / 2):
                return no
    return True


def shortest_distance(setting: Setting, lines: list[Line]) -> float:
    """How far from w0 points have to be, as a share of the scales, for noise not to matter much."""
    size = max([abs(setting.problem.loss0), float(np.max(np.abs(setting.gradient * setting.scale))),
                *(line.reach for line in lines), 1e-300])
    return float(min(max((setting.noise / size) ** (1 / 3), 1e-6), 0.02))


def middles_fit_together(setting: Setting, lines: list[Line], tries: int = 2) -> bool:
    """Along each line the gradient is the middle of the two slopes; is it so for steps along all of them at once?

    If it is along a random direction, it is the mean of the gradients on both sides of w0 there, which is valid.
    """
    everything = slice(0, setting.scale.size)
    for _ in range(tries):
        direction, allowed = np.zeros(setting.scale.size), 0.0
        for line in lines:
            stretch = setting.rng.choice([-1.0, 1.0]) * setting.rng.uniform(0.5, 1.0, direction.size)
            direction[line.support] += stretch[line.support] * line.direction[line.support]
            allowed += threshold(setting, line.direction, line.support)
        probe = setting.line(direction, everything)
        estimate = probe.solve(min(line.estimate().step for line in lines), allowed / 3)
        if disagrees(setting, probe, estimate, max(allowed, setting.slack(direction, everything))):
            return False
    return True


def sides_fit_together(setting: Setting, sided: list[tuple[Line, int]], tries: int = 2) -> bool:
    """The gradient fits one side of each line; does it fit one step to all those sides at once?

    A random direction points into the interior of one smooth piece of the loss.  If the slope that way is what the
    gradient says, then the gradient is that piece's, or differs from it by something that a random direction does
    not see, which has probability zero.
    """
    for _ in range(tries):
        direction = np.zeros(setting.scale.size)
        allowed = 0.0
        for line, side in sided:
            stretch = setting.rng.uniform(0.6, 1.0, direction.size)
            direction[line.support] += side * stretch[line.support] * line.direction[line.support]
            allowed += threshold(setting, line.direction, line.support)
        everything = slice(0, direction.size)
        allowed = max(allowed, setting.slack(direction, everything))
        probe = setting.line(direction, everything)
        h = min(max(min(line.estimate().step for line, _ in sided), 1e-9), 1e-2)
        for k in range(-2, 4):
            probe.measure(h / 4**k)
        points = [(s.h, s.ahead, 2 * s.noise) for s in probe.ladder()]
        best = extrapolate(points, power=1)
        if not abs(best.value) <= DECISIVE * best.bar + allowed:
            return False
        weakest = min(abs(line.estimate().value) for line, _ in sided)
        if best.bar > 0.3 * weakest:
            return False
    return True


def certify(setting: Setting, conflicts: dict[str, Line], hazy: set[str], blocks: list[Block], excluded: set[str],
            kinked: set[str]) -> Outcome:
    """Decide for the blocks in ``conflicts``, all of which touch a kink, whether their gradient is a valid choice.

    So do those in ``hazy`` perhaps, where noise hid the slope at w0; close by, a step may show more.  ``blocks`` are
    all blocks; those in ``excluded`` are wrong already and do not take part.  ``kinked`` are blocks on a kink whose
    value is the middle of the two slopes, which is valid as far as they alone go.
    """
    outcome = Outcome()
    usable = [b for b in blocks if b.name not in excluded]
    doubtful = [b for b in usable if b.name in conflicts or b.name in hazy]
    base = shortest_distance(setting, list(conflicts.values()))
    tried: list[NearbyGradients] = []
    witnesses: dict[str, list[Witness]] = {}
    seems_a_mean = False  # of the user's own gradients close by, as far as the planes of the kinks tell
    if not setting.problem.fixed_gradient:
        answers: list[bool | None] = []
        for delta in (base, base / 30, min(base * 20, 0.05), *([0.3] if base > COARSE else [])):
            tried.append(NearbyGradients(setting, delta, witnesses))
            rounds = LONG_SEARCH if delta == base else 4
            answers.append(_explained(tried[-1], blocks, usable, doubtful, conflicts, rounds))
            if answers[-1] and tried[-1].coarseness(doubtful) <= SHARP:
                break
        vouching = _vouching(tried, answers, doubtful)
        if vouching:
            outcome.certify(doubtful, vouching)
            return outcome
        # Blocks without a kink were compared at w0 itself.
        touched = [b for b in usable if b in doubtful or b.name in kinked]
        entries = np.concatenate([np.arange(b.start, b.stop) for b in touched])
        for _ in range(3):
            may_be = tried[0].add_sides_with_mean()
            seems_a_mean = seems_a_mean or bool(may_be[entries].all())
            if not seems_a_mean:
                break
            if _explained(tried[0], blocks, touched, doubtful, conflicts, 1) is True:
                outcome.certify(doubtful, tried[0])
                return outcome
    # Right at no point for all blocks at once, as (1, 1) is beside a tie of max(a, b), it is no mean of right ones.
    is_open = seems_a_mean and right_somewhere(tried[0], doubtful)
    candidates = []

    for block in doubtful:
        answer: bool | None = True
        alone = [_explained(attempt, blocks, [block], [block], conflicts, 4) for attempt in tried[:2]]
        vouching = _vouching(tried[:2], alone, [block])
        if vouching is None:
            lines = [conflicts[block.name]] if block.name in conflicts else []
            lines += [w.line for w in witnesses.get(block.name, [])]
            by_loss = from_loss_alone(setting, base, blocks, [block], lines, suspects(tried, block))
            answer = by_loss.is_mean
            outcome.visible |= by_loss.visible
            if answer is None:
                alone += [_explained(attempt, blocks, [block], [block], conflicts, 4) for attempt in tried[2:]]
                vouching = _vouching(tried, alone, [block])
                # False: the gradients close by, of which it is a mean, are wrong.
                answer = True if vouching else False if False in alone and True not in alone else None
        if vouching:
            outcome.visible[block.name] = vouching.visible(block)
        if answer is True:
            candidates.append(block)
        elif answer is None or is_open:
            outcome.unclear.append(block.name)
        else:
            outcome.wrong.append(block.name)
            outcome.reasons[block.name] = "on a kink, and not among the slopes found around it"
            if by_loss.distance > 0:
                outcome.reasons[block.name] += f" ({by_loss.distance:.1e} away)"
    settled = [b for b in usable if b in candidates or b not in doubtful]
    if candidates and len(candidates) < len(doubtful):
        for attempt in tried:
            if _explained(attempt, blocks, settled, candidates, conflicts, 6) is True:
                outcome.certify(candidates, attempt)
                candidates = []
                break
    others = [b for b in usable if b.name in kinked and b not in candidates]
    together = candidates + others
    answer = True
    if candidates and len(together) > 1:
        lines = [conflicts[b.name] for b in together if b.name in conflicts]
        answer = from_loss_alone(setting, base, blocks, together, lines,
                                 [i for b in together for i in suspects(tried, b)]).is_mean
    for block in candidates:
        if answer is True:
            outcome.certified.append(block.name)
        elif answer is None or is_open:
            outcome.unclear.append(block.name)
        else:
            outcome.wrong.append(block.name)
            outcome.reasons[block.name] = "valid by itself, but no choice of sides gives all blocks theirs at once"
    if outcome.wrong and tried and len(tried[0].offsets) >= 2:
        outcome.right_nearby = all(tried[0].verify(i, b) is True for i in (0, 1) for b in doubtful
                                   if b.name in outcome.wrong)
    return outcome


def _vouching(tried: list[NearbyGradients], answers: list[bool | None], group: list[Block]) -> NearbyGradients | None:
    """Of the attempts that explained the gradient on ``group`` the one that would have shown the smallest error.

    One that would not have shown small errors does not count if another one did show some.
    """
    those = [attempt for attempt, answer in zip(tried, answers, strict=True) if answer]
    best = min(those, key=lambda attempt: attempt.coarseness(group), default=None)
    return best if best and (best.coarseness(group) <= SHARP or False not in answers) else None


def right_somewhere(nearby: NearbyGradients, group: list[Block]) -> bool:
    """Is the user's gradient certainly right on all of ``group`` at one of a few points close to w0?"""
    return any(all(nearby.verify(i, b) is True for b in group) for i in range(min(6, len(nearby.offsets))))


def suspects(tried: list[NearbyGradients], block: Block) -> list[int]:
    """Entries of ``block`` at which the user's gradient is wrong at some point close to w0."""
    if not tried or block.size <= MOST_ENTRIES or not tried[0].witnesses.get(block.name):
        return []
    witness = tried[0].witnesses[block.name][-1]
    entries, _ = bisect(witness.setting, witness.line, witness.line.estimate(), block.slice, wanted=8)
    return [e.flat for e in entries if e.wrong]


def _explained(nearby: NearbyGradients, leading: list[Block], group: list[Block], doubtful: list[Block],
               conflicts: dict[str, Line], rounds: int) -> bool | None:
    """Is the gradient on ``group`` a mean of gradients at nearby points which are right on all of ``doubtful``?

    False if all those that a mean was found of are wrong; None if there is no such mean or noise hides the answer.
    """
    entries, of_doubtful = (np.concatenate([np.arange(b.start, b.stop) for b in part]) for part in (group, doubtful))
    right_somewhere = False
    for _ in range(3):
        weights = nearby.search(leading, entries, rounds)
        if weights is None or not nearby.is_fine(weights, of_doubtful):
            return None
        used = np.flatnonzero(weights > 1e-5)
        slack = np.maximum(1.0, 1 / (used.size * weights[used]))  # a point of small weight may be off by more
        for deeper in (False, True):
            if deeper:  # further away from kinks larger steps fit
                for i in used:
                    nearby.deepen(int(i))
                if not nearby.is_fine(weights, of_doubtful):
                    return None
            nearby.shown = {}
            answers = {int(i): [nearby.verify(int(i), b, conflicts.get(b.name), more) for b in doubtful]
                       for i, more in zip(used, slack, strict=True)}
            bad = [i for i, answer in answers.items() if False in answer]
            if bad or (all(map(all, answers.values())) and nearby.coarseness(doubtful) <= SHARP):
                break
        if not bad:
            return None if any(None in answer for answer in answers.values()) else True
        right_somewhere = right_somewhere or any(all(answers[int(i)]) for i in used[slack < 10])
        # A point that sits on a kink itself gives no gradient of its own: do without it, if that is possible.
        rest = np.setdiff1d(np.arange(len(nearby.offsets)), bad)
        if rest.size < 2:
            break
        nearby.select(rest)
    return None if right_somewhere else False
