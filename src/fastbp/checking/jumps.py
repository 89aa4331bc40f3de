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

from .differences import Estimate, Line, Sample

FAR = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 2.0)  # steps from which the small ones are seen in perspective
HALVINGS = 60
STEADY = 6  # a change that survives so many halvings of the interval is a jump


def noise_of_jumps(line: Line, largest: float = 2.0) -> float:
    """The uncertainty of the loss that jumps along ``line`` amount to; 0 if its steps give no reason to look.

    ``largest`` is how far along the line one may go.  The line itself learns of the larger steps only if they matter.
    """
    best = line.estimate()
    if not (math.isfinite(best.bar) and best.step > 0):
        return 0.0
    probe = line.copy()
    for h in FAR:
        if 3 * best.step < h <= largest:
            probe.measure(h)
    noise = max((jump_between(probe, near.ahead if sign > 0 else near.behind, sign * near.h, sign * far.h)
                 for near, far, sign in suspicious(probe, best)), default=0.0) / 2
    if noise > line.noise:
        line.samples, line.failed_steps = probe.samples, probe.failed_steps
    return noise


def suspicious(line: Line, best: Estimate) -> Iterator[tuple[Sample, Sample, int]]:
    """Pairs of steps between which a continuous loss would hardly change its slope, and the side on which it did."""
    ladder = line.ladder()
    clear = [s for s in ladder if 20 * s.noise <= abs(best.value)]
    near = next((s for s in clear if s.h <= best.step), clear[-1] if clear else None)
    for sign in (1, -1):
        # A larger step agrees with the gradient far better than the small ones that accuse it.  The nearest such step
        # counts: further out, the stairs may be higher.
        for far in reversed(ladder):
            beyond = far.ahead if sign > 0 else far.behind
            if near and far.h > near.h and min(abs(beyond), abs(far.conflict)) < abs(best.value) / 2:
                yield near, far, sign
                break
    # Still smaller steps do not come to the same slope.
    far_enough = [s for s in ladder if s.h >= best.step]
    for s in ladder:
        if far_enough and s.h < best.step and abs(s.conflict - best.value) > 10 * s.noise + 3 * best.bar:
            yield s, far_enough[-1], 1
            yield s, far_enough[-1], -1
            break


def jump_between(line: Line, slope: float, a: float, b: float) -> float:
    """The largest jump found between steps ``a`` and ``b`` of the same sign, by halving; 0 if the loss is continuous.

    ``slope`` is how the loss, less its predicted change, goes on from ``a``.  Of the two halves the one with the
    larger departure from that is followed.  A bend departs less in each smaller interval; a jump does not.
    """
    left, right = line.excess(a), line.excess(b)
    if left is None or right is None:
        return 0.0
    history: list[float] = []
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
        history.append(change)
        if change <= 8 * line.noise:
            return 0.0
        if len(history) > STEADY and change > 0.7 * history[-1 - STEADY] and abs(b - a) < 0.03 * abs(b):
            return change
    return 0.0
