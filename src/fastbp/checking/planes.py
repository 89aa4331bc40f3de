"""Where the kinks through w0 lie, as the user's gradients around it tell, and which sides have the gradient as mean.

Close to w0 the loss of a network on a kink is linear in pieces, and planes through w0 part them.  Since the loss is
continuous, its gradient jumps along a plane's normal: the jump tells the plane.  On the way from a point to the one
opposite, every plane is crossed.  So one such way, halved at each jump, finds them all; after that the gradient in
every piece is known without asking the user's function, and a mean is looked for among thousands of them.

Parameters that no plane mixes (the inputs of one unit and those of another) choose their pieces independently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .problem import Vector
from .simplex import mean_weights, nonnegative_least_squares

MOST_PLANES = 400
SMALL = 1e-5  # a jump of an entry, beside the largest at the same place, that the planes' own curvature makes
NARROW = 1e-6  # of the way: two planes closer than this count as one
PIECES = 3000  # that are drawn at random, of one group of parameters
ROUNDS = 60  # of a search for the pieces that make up a mean


@dataclass
class Group:
    """Planes that share parameters, and pieces between them whose gradients have the wanted mean."""

    entries: np.ndarray
    places: np.ndarray  # a row for each piece: the moves of the entries that lead there
    weights: Vector


def find_planes(limit: Callable[[Vector], Vector | None], start: Vector, turn: Vector, unit: Vector,
                scale: Vector) -> tuple[np.ndarray, np.ndarray] | None:
    """Normals of all planes between ``start`` and ``-start`` (by way of ``turn``), and +1 or -1 for each, as the loss
    bends up or down there.  ``limit`` gives the gradient next to w0, ``unit`` what counts as no difference.
    """
    def floor(jump: Vector) -> Vector:
        return np.asarray(np.maximum(unit, SMALL * float(np.max(np.abs(jump * scale))) / scale))

    def difference(after: Vector, before: Vector) -> Vector:
        jump = after - before
        return np.asarray(np.where(np.abs(jump) > floor(jump), jump, 0.0))

    def at(angle: float) -> Vector:
        return np.asarray(math.cos(angle) * start + math.sin(angle) * turn)

    first, last = limit(start), limit(-start)
    if first is None or last is None:
        return None
    normals: list[Vector] = []
    bends: list[float] = []
    stack = [(0.0, math.pi, first, last)]
    while stack:
        a, b, before, after = stack.pop()
        jump = difference(after, before)
        if not jump.any():
            continue
        middle = (a + b) / 2
        ends = float(jump @ at(a)), float(jump @ at(b))
        crossing = math.atan2(-float(jump @ start), float(jump @ turn)) % math.pi
        single = b - a < NARROW
        if not single and ends[0] * ends[1] < 0 and a < crossing < b:
            margin = min(1e-3 * (b - a), (crossing - a) / 2, (b - crossing) / 2)
            sides = limit(at(crossing - margin)), limit(at(crossing + margin))
            single = all(side is not None and bool(np.all(np.abs(side - end) <= floor(jump)))
                         for side, end in zip(sides, (before, after), strict=True))
        if single:
            normals.append(jump)
            bends.append(math.copysign(1.0, ends[1] - ends[0]))
            if len(normals) > MOST_PLANES:
                return None
            continue
        between = limit(at(middle))
        if between is None:
            return None
        stack += [(middle, b, between, after), (a, middle, before, between)]
    return np.array(normals).reshape(-1, start.size), np.array(bends)


def groups_of(normals: np.ndarray) -> list[np.ndarray]:
    """The planes, by number, in groups that have no parameter in common."""
    left, groups = list(range(len(normals))), []
    touched = normals != 0
    while left:
        group = [left.pop(0)]
        support = touched[group[0]].copy()
        while joined := [k for k in left if np.any(touched[k] & support)]:
            group += joined
            left = [k for k in left if k not in joined]
            support |= touched[joined].any(0)
        groups.append(np.array(group))
    return groups


def pieces_for(normals: np.ndarray, bends: np.ndarray, start: Vector, base: Vector, target: Vector, unit: Vector,
               scale: Vector, rng: np.random.Generator) -> tuple[np.ndarray, Vector] | None:
    """Places in pieces whose gradients have the mean ``target``, and their weights; None if no such are found.

    ``base`` is the gradient at ``start``.
    """
    lengths = np.linalg.norm(normals * scale, axis=1)
    unmoved = normals @ start > 0
    steps = normals * bends[:, None]

    def gradients(places: np.ndarray) -> np.ndarray:
        sides = (places @ normals.T > 0).astype(float) - unmoved
        return np.asarray(base + sides @ steps)

    def margins(places: np.ndarray) -> Vector:
        return np.asarray(np.min(np.abs(places @ normals.T) / lengths, axis=1))

    def draw(count: int) -> np.ndarray:
        return np.asarray(scale * rng.uniform(-1, 1, (count, scale.size)))

    pool = draw(PIECES)
    pool = np.vstack([pool, -pool])
    of_pool, room = gradients(pool), margins(pool)
    chosen = np.array([int(np.argmin(np.sum(((of_pool - target) / unit) ** 2, axis=1)))])
    places, found = pool[chosen], of_pool[chosen]
    nearest, stalled = math.inf, 0
    for _ in range(ROUNDS):
        weights, left = mean_weights(list(found), target, unit)
        if float(np.abs(left).max()) <= 0.3:
            used = weights > 0
            return widened(places[used], normals, lengths, scale, rng), weights[used]
        size = float(np.linalg.norm(left))
        stalled = stalled + 1 if size > 0.999 * nearest else 0
        nearest = min(nearest, size)
        if stalled > 6:
            return None
        kept = weights > 0
        places, found = places[kept], found[kept]
        aim = -left / unit
        uphill = aim * scale**2
        tries = np.outer(np.repeat([1.0, -1.0], 100), uphill / np.max(np.abs(uphill / scale)))
        tries += draw(200) * rng.choice([0.0, 0.1, 0.3, 1.0], (200, 1))
        best = pool[np.argsort(of_pool @ aim)[-20:]]
        near = np.repeat(best, 20, axis=0)
        near = near + draw(400) * (rng.uniform(size=near.shape) < 0.3)
        tries = np.vstack([tries, near])
        pool = np.vstack([pool, tries])
        of_pool, room = np.vstack([of_pool, gradients(tries)]), np.append(room, margins(tries))
        heights = of_pool @ aim
        top = heights.max()
        same = np.flatnonzero(heights >= top - 1e-9 * abs(top))
        new = same[np.argmax(room[same])]
        places, found = np.vstack([places, pool[new]]), np.vstack([found, of_pool[new]])
    return None


def widened(places: np.ndarray, normals: np.ndarray, lengths: Vector, scale: Vector,
            rng: np.random.Generator) -> np.ndarray:
    """The places, each moved away from the planes around its piece."""
    result = []
    for place in places:
        best, sides = place / np.max(np.abs(place / scale)), np.sign(normals @ place)
        room = float(np.min(np.abs(normals @ best) / lengths))
        for reach in (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.003):
            tries = best + reach * scale * rng.uniform(-1, 1, (300, scale.size))
            tries /= np.max(np.abs(tries / scale), axis=1)[:, None]
            rooms = np.min(sides * (tries @ normals.T) / lengths, axis=1)
            if rooms.max() > room:
                best, room = tries[int(np.argmax(rooms))], float(rooms.max())
        result.append(best)
    return np.array(result)


def together(groups: list[Group], size: int) -> list[Vector]:
    """Moves of all parameters, among which every group spends its weights on its own pieces."""
    ends = [np.cumsum(g.weights) for g in groups]
    times = np.unique(np.concatenate([[0.0], *ends]))
    result = []
    for before, after in itertools.pairwise(times):
        if after - before < 1e-6:
            continue
        move = np.zeros(size)
        for g, end in zip(groups, ends, strict=True):
            k = min(int(np.searchsorted(end, (before + after) / 2)), len(end) - 1)
            move[g.entries] = g.places[k]
        result.append(move)
    return result


def is_within_bounds(steps: np.ndarray, base: Vector, target: Vector, unit: Vector) -> bool:
    """Is ``target`` the ``base`` plus a share between -1 and 1 of each step?  If not, it is no mean of any sides."""
    count = len(steps)
    moved = 2 * steps.T / unit[:, None]
    weight = 100 * float(np.abs(moved).max())
    system = np.vstack([np.hstack([moved, np.zeros_like(moved)]), weight * np.hstack([np.eye(count), np.eye(count)])])
    shares = nonnegative_least_squares(
        system, np.concatenate([(target - base) / unit + moved.sum(1) / 2, np.full(count, weight)]))
    off = base + steps.T @ np.clip(2 * shares[:count] - 1, -1, 1) - target
    return bool(np.all(np.abs(off) <= 1.5 * unit))


def sides_with_mean(limit: Callable[[Vector], Vector | None], start: Vector, turn: Vector, target: Vector, unit: Vector,
                    scale: Vector, rng: np.random.Generator) -> tuple[list[Vector], np.ndarray]:
    """Moves away from w0 to sides whose gradients have the mean ``target``, where such are found, and the entries for
    which the gradient may be a mean: that on one side, or so many steps away from it as there are planes."""
    found, base = find_planes(limit, start, turn, unit, scale), limit(start)
    if found is None or base is None:
        return [], np.zeros(scale.size, dtype=bool)
    normals, bends = found
    groups, may_be = [], np.abs(base - target) <= 1.5 * unit
    for members in groups_of(normals):
        entries = np.flatnonzero(normals[members].any(0))
        own = normals[np.ix_(members, entries)]
        pieces = pieces_for(own, bends[members], start[entries], base[entries], target[entries], unit[entries],
                            scale[entries], rng)
        if pieces is not None:
            groups.append(Group(entries, *pieces))
        # The start is on one side of every plane: to either side of the middle it is half a jump.
        half = own * (bends[members] / 2)[:, None]
        middle = base[entries] - np.where(own @ start[entries] > 0, 1, -1) @ half
        may_be[entries] = pieces is not None or is_within_bounds(half, middle, target[entries], unit[entries])
    moves = []
    for move in together(groups, scale.size) if groups else []:
        top = float(np.max(np.abs(move / scale)))
        moves.append(move / top if top else move)
    return moves, may_be
