"""Labels of the zoo from 80-bit arithmetic and linear programming; shares nothing with the checker."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

LONG = np.longdouble


def derivative(loss, w, i, scale, steps=(1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11)):
    """The derivative of ``loss`` for entry ``i``: the two neighbouring step sizes that agree best decide."""
    values, noise = [], []
    for s in steps:
        h = LONG(s) * LONG(scale)
        ahead, behind = w.copy(), w.copy()
        ahead[i] += h
        behind[i] -= h
        values.append((loss(ahead, LONG) - loss(behind, LONG)) / (ahead[i] - behind[i]))
        noise.append(10 * np.finfo(LONG).eps * abs(loss(w, LONG)) / h)
    values = np.array(values)
    apart = np.abs(np.diff(values)) + np.array(noise[1:])
    k = int(np.argmin(np.where(np.isfinite(apart), apart, np.inf)))
    return values[k + 1]


def limit_of_rough(loss, w, i, scale):
    """The derivative where differences converge like a root of h: Aitken's extrapolation of three of them."""
    a, b, c = (derivative(loss, w, i, scale, steps=(s, s)) for s in (1e-6, 1e-7, 1e-8))
    bend = (c - b) - (b - a)
    return c - (c - b) ** 2 / bend if abs(bend) > 1e-15 * abs(c) else c


def scales(w):
    size = np.abs(w).astype(float)
    return np.where(size > 0, size, max(float(size[size > 0].min()) if (size > 0).any() else 1.0, 1e-3))


def chosen_entries(case, rng, most=30):
    """The entries to certify: all of a small case; a sample of a big one, with every entry that looks wrong."""
    n = case.w0.size
    if n <= most:
        return np.arange(n)
    return np.sort(rng.choice(n, most, replace=False))


def tolerance(g, block):
    return 1e-5 * np.abs(g) + 1e-6 * np.abs(block).max()


def block_of_entry(case, i):
    start = 0
    for name, shape in case.layout:
        stop = start + int(np.prod(shape))
        if start <= i < stop:
            return name, slice(start, stop)
        start = stop
    raise IndexError(i)


def wrong_blocks(case, entries, gradient):
    """Blocks with an entry beyond its tolerance, by 80-bit differences (for a loss that is smooth at w0)."""
    w, scale = case.w0.astype(LONG), scales(case.w0)
    unit = 3e-5 if case.dtype == "f4" else 0.0  # a float32 gradient carries its own rounding
    found = set()
    for i in entries:
        name, part = block_of_entry(case, i)
        if case.cause == "rough":
            true = float(limit_of_rough(case.loss, w, i, scale[i]))
        elif case.net is not None:
            true = float(derivative(case.loss, w, i, scale[i], steps=(1e-6, 1e-7)))
        else:
            true = float(derivative(case.loss, w, i, scale[i]))
        limit = tolerance(true, gradient[part]) + unit * np.abs(gradient[part]).max()
        if not abs(float(gradient[i]) - true) <= limit:
            found.add(name)
    return found


def nearby_gradients(case, entries, rng, pairs=12):
    """Gradients at points close to w0 in many directions, by 80-bit differences."""
    w, scale = case.w0.astype(LONG), scales(case.w0)
    n = w.size
    ones = np.ones(n)
    offsets = [ones, -ones]
    for side in case.sides:
        offsets += [side, -side]
    for _ in range(pairs):
        u = rng.normal(size=n)
        offsets += [u, -u]
    if n <= 4:
        offsets += [rng.normal(size=n) for _ in range(60)]
        for i in range(n):
            for sign in (1, -1):
                u = 0.01 * rng.normal(size=n)
                u[i] = sign
                offsets.append(u)
        offsets += [case.f(case.w0)[1].astype(float), -case.f(case.w0)[1].astype(float)]
    delta = LONG(1e-5)
    rows = []
    for u in offsets:
        y = w + delta * u * scale
        rows.append([float(derivative(case.loss, y, i, scale[i], steps=(1e-9, 1e-9))) for i in entries])
    return np.array(rows)


def in_hull(vectors, target, slack):
    """Is ``target`` a weighted mean of ``vectors``, within ``slack`` per entry?  By linear programming."""
    k = len(vectors)
    A = np.vstack([vectors.T / slack[:, None], -vectors.T / slack[:, None]])
    b = np.concatenate([target / slack + 1, -target / slack + 1])
    answer = linprog(np.zeros(k), A_ub=A, b_ub=b, A_eq=np.ones((1, k)), b_eq=[1.0], bounds=(0, None), method="highs")
    return answer.status == 0


def kink_label_holds(case, gradient, rng):
    """Right cases lie in the hull of nearby gradients; wrong ones do not, and do once the wrong blocks are left out."""
    entries = chosen_entries(case, rng, 12)
    of_wrong = [i for i in range(case.w0.size) if block_of_entry(case, i)[0] in case.wrong]
    entries = np.union1d(entries, of_wrong[:12]).astype(int)
    vectors = nearby_gradients(case, entries, rng)
    size = max(np.abs(vectors).max(), 1e-12)
    slack = np.full(len(entries), (1e-3 if case.dtype == "f4" else 1e-4) * size)
    target = gradient[entries].astype(float)
    inside = in_hull(vectors, target, slack)
    if not case.wrong:
        return inside
    rest = np.array([block_of_entry(case, i)[0] not in case.wrong for i in entries])
    return not inside and (not rest.any() or in_hull(vectors[:, rest], target[rest], slack[rest]))
