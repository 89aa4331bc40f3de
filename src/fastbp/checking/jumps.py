"""Does the loss move in jumps, so that its slope at small steps says nothing?

A loss computed with rounding can be a staircase: log(1 - y), far in the sigmoid's tail, moves by a whole stair when
1 - y moves by its last bit, and not at all in between.  On a stair every small step agrees perfectly with every other,
on a slope that is not the loss's.  Short lines near w0 may lie on one stair, so the noise looks like nothing; and how
high the stairs are differs from one direction to the next.

So before a gradient is called wrong, the very line that accuses it is looked at once more.  If a larger step agrees
with the gradient much better than the small ones do, then the loss must have changed its ways in between; where it
did so within next to nothing, by a jump, the jump is noise, and the conflict has to stand out from that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .differences import Estimate, Line, Sample

FAR = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 2.0)  # steps from which the small ones are seen in perspective
HALVINGS = 60
STEADY = 9  # a change that survives so many halvings of the interval is a jump
SEVERAL = 4.0  # stairs, of as many examples, whose missing slopes add up
POINTS = 16  # of a scan for jumps further out


def noise_of_jumps(line: Line, largest: float = 2.0, scan: bool = False) -> float:
    """The uncertainty of the loss that jumps along ``line`` amount to; 0 if its steps give no reason to look.

    ``largest`` is how far along the line one may go; ``scan`` looks for jumps far out without a reason.  The line
    itself learns of the larger steps only if they matter.
    """
    best = line.estimate()
    if not (math.isfinite(best.bar) and best.step > 0):
        return 0.0
    probe = line.copy()
    for h in FAR:
        if 3 * best.step < h <= largest:
            probe.measure(h)
    found = 0.0
    for near, steps, sign in suspicious(probe, best, scan):
        for h in steps:  # the nearest step that finds one counts: further out, the stairs may be higher
            jump, counts = visible_jump(probe, best, near, sign * h, sign)
            found = max(found, jump if counts else 0.0)
            if counts or not jump:
                break
    if scan and found / 2 <= line.noise:
        found = max(found, *(scan_for_jump(probe, best, sign, reach) for reach in (0.1, 1.0) for sign in (1, -1)))
    if found / 2 > line.noise:
        line.samples, line.failed_steps = probe.samples, probe.failed_steps
    return found / 2


def hidden_in_jumps(line: Line, height: float) -> bool:
    """Could the conflict be that of a stair wider than all that was seen of this line?

    Jumps of ``height`` are known from other lines.  As long as what the loss is off by, from one end of the even
    stretch around the centre to the other, is no more than a few of them, this line may lie on one stair for every
    example that is saturated.
    """
    best = line.estimate()
    even = best.step
    for s in reversed(line.ladder()):
        if s.h > even:
            if abs(s.conflict - best.value) > abs(best.value) / 4 + s.noise:
                break
            even = s.h
    return 2 * even * abs(best.value) <= SEVERAL * height


def suspicious(line: Line, best: Estimate, one_sided: bool) -> Iterator[tuple[Sample, list[float], int]]:
    """Steps up to which a continuous loss would hardly change its slope: the sample to start from, larger steps, and
    the side, +1 or -1.  ``one_sided`` looks at each side by itself too, where bends are more often suspected."""
    ladder, near = line.ladder(), telling(line, best)
    for sign in (1, -1):
        # A larger step agrees with the gradient far better than the small ones that accuse it, or the slope changes too
        # early for a bend.
        steps: list[float] = []
        for far in reversed(ladder):
            if near is None or far.h <= near.h:
                continue
            beyond = abs(far.ahead if sign > 0 else far.behind) if one_sided else math.inf
            early = far.h < 0.05 and abs(far.conflict - near.conflict) > abs(best.value) / 10
            if early or min(beyond, abs(far.conflict)) < abs(best.value) / 2:
                steps.append(far.h)
        if near and steps:
            yield near, steps[:: max(1, len(steps) // 4)], sign
    # Still smaller steps do not come to the same slope.
    far_enough = [s.h for s in ladder if s.h >= best.step]
    for s in ladder:
        if far_enough and s.h < best.step and abs(s.conflict - best.value) > 10 * s.noise + 3 * best.bar:
            yield s, far_enough[-1:], 1
            yield s, far_enough[-1:], -1
            break


def telling(line: Line, best: Estimate) -> Sample | None:
    """The sample at (or next to) the step of the estimate at which the slopes are hardly touched by noise."""
    clear = [s for s in line.ladder() if 20 * s.noise <= abs(best.value)]
    return next((s for s in clear if s.h <= best.step), clear[-1] if clear else None)


def visible_jump(line: Line, best: Estimate, near: Sample, far: float, sign: int) -> tuple[float, bool]:
    """The jump between a sample and a larger step, and whether it counts: beyond the step of the estimate only if
    stairs of that height could make up the conflict."""
    slope = near.ahead if sign > 0 else near.behind
    inside = near.h < best.step
    height, place = jump_between(line, slope, sign * near.h, far, 0.0 if inside else abs(best.value) * near.h)
    return height, bool(height) and (inside or explains(line, best, height, place))


def explains(line: Line, best: Estimate, height: float, place: float) -> bool:
    """Could stairs of this height make up the conflict?  They would have to be height / conflict apart: one must have
    come up by ``place``, and neither side may go on without one for much longer."""
    apart = height / abs(best.value)
    near = telling(line, best)
    if 3 * apart < abs(place) or near is None:
        return False
    for before, side in ((near.ahead, 1), (near.behind, -1)):
        even = near.h
        for s in reversed(line.ladder()):
            if s.h > near.h:
                if abs((s.ahead if side > 0 else s.behind) - before) > abs(best.value) / 10:
                    break
                even = s.h
        if even > 4 * apart:
            return False
    return True


def scan_for_jump(line: Line, best: Estimate, sign: int, reach: float) -> float:
    """A jump on one side of the centre, out to ``reach``: high differences of equally spaced values show it, as they
    make what is smooth vanish."""
    near = telling(line, best)
    if near is None or 3 * near.h > reach / POINTS:
        return 0.0
    places = [sign * reach * (k + 0.5) / POINTS for k in range(POINTS)]
    values = [line.excess(t) for t in places]
    if any(v is None for v in values):
        return 0.0
    rough = np.abs(np.diff(np.array(values, dtype=float), 6))
    middle = int(np.argmax(rough)) + 3
    if rough.max() / 10 <= max(8 * line.noise, abs(best.value) * near.h):
        return 0.0
    slope = near.ahead if sign > 0 else near.behind
    found = 0.0
    for k in (middle, middle - 1, middle + 1):
        if 1 <= k < POINTS:
            height, place = jump_between(line, slope, places[k - 1], places[k], abs(best.value * places[k - 1]))
            if height and explains(line, best, height, place):
                found = max(found, height)
    height, place = jump_between(line, slope, sign * near.h, places[0], abs(best.value) * near.h)
    return max(found, height if height and explains(line, best, height, place) else 0.0)


def jump_between(line: Line, slope: float, a: float, b: float, floor: float = 0.0) -> tuple[float, float]:
    """The largest jump found between steps ``a`` and ``b`` of the same sign, and where; 0 if the loss is continuous.

    ``slope`` is how the loss, less its predicted change, goes on from ``a``.  The interval is halved again and again;
    the half with the larger departure from that slope is followed.  A bend departs less in each smaller interval, a
    jump does not.  Below a twentieth of ``floor`` (which grows with the distance from the centre) it is of no interest.
    """
    start = a
    left, right = line.excess(a), line.excess(b)
    if left is None or right is None:
        return 0.0, a
    history: list[tuple[float, float]] = []  # the departure, and the width of the interval it belongs to
    for _ in range(HALVINGS):
        middle = math.copysign(math.sqrt(a * b), a) if abs(b) > 4 * abs(a) else (a + b) / 2
        value = line.excess(middle)
        if value is None or middle in (a, b):
            break
        first = abs(value - left - slope * (middle - a))
        second = abs(right - value - slope * (b - middle))
        if first >= second:
            b, right = middle, value
        else:
            a, left = middle, value
        change = max(first, second)
        history.append((change, abs(b - a)))
        if change <= max(8 * line.noise, floor / 20 * abs(a / start)):
            break
        if len(history) > STEADY:
            earlier, width = history[-1 - STEADY]
            if change > 0.7 * earlier and abs(b - a) < width / 250:
                return change, a
    return 0.0, a
