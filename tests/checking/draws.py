"""Random networks with random mistakes in their gradient, and right ones with kinks placed at w0 on purpose."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from .zoo_networks import Net

SMOOTH = ("tanh", "sigmoid", "softplus", "silu", "elu")
KINKED = ("relu", "leaky_relu")
HEADS = (("identity", "squared_error"), ("sigmoid", "squared_error"), ("sigmoid", "binary_cross_entropy"),
         ("softmax", "cross_entropy"), ("tanh", "squared_error"))


@dataclass
class Draw:
    """One random case: what to check, the blocks that are wrong (none if it is right), and how it was made."""

    f: object
    w0: np.ndarray
    layout: list
    wrong: frozenset
    text: str


def error_matters(g, changed):
    """Is some entry beyond the documented tolerance, with a margin of 3?"""
    off = np.abs(changed - g)
    limit = 3 * (1e-5 * np.maximum(np.abs(g), np.abs(changed)) + 1e-6 * max(np.abs(g).max(), np.abs(changed).max()))
    return bool(np.any(off > limit))


def mutate(rng, g):
    """A wrong version of a block's gradient, and a word for it; relative sizes go down to 1e-4."""
    size = 10.0 ** rng.uniform(-4, 0.3) * rng.choice([-1, 1])
    flat = g.copy().ravel()
    kind = rng.choice(["entry", "entries", "block", "row", "swap", "zero entry", "shift", "noise", "transpose"])
    top = np.flatnonzero(np.abs(flat) >= 0.05 * np.abs(flat).max())
    if kind == "entry":
        flat[rng.choice(top)] *= 1 + size
    elif kind == "entries":
        flat[rng.choice(top, min(3, top.size), replace=False)] *= 1 + size
    elif kind == "block":
        flat *= 1 + size
    elif kind == "row":
        rows = flat.reshape(g.shape[0], -1)
        rows[rng.integers(g.shape[0])] *= 1 + size
    elif kind == "swap" and flat.size > 1:
        i, j = rng.choice(flat.size, 2, replace=False)
        flat[[i, j]] = flat[[j, i]]
    elif kind == "zero entry":
        flat[rng.choice(top)] = 0
    elif kind == "shift":
        flat = np.roll(flat, 1)
    elif kind == "noise":
        flat *= 1 + size * rng.normal(size=flat.size)
    elif kind == "transpose" and g.ndim == 2:
        flat = g.T.ravel().copy()
    return flat.reshape(g.shape), f"{kind} {size:.1e}"


def draw(seed: int) -> Draw:
    """Case number ``seed``: half of them right, half wrong; half with kinks exactly at w0."""
    rng = np.random.default_rng([20240607, seed])
    depth = int(rng.integers(1, 4))
    sizes = tuple(int(s) for s in rng.integers(1, 9, depth + 2))
    kinks = bool(rng.integers(2))
    hidden = [str(rng.choice(SMOOTH + KINKED)) for _ in range(depth)]
    if kinks:
        hidden[int(rng.integers(depth))] = str(rng.choice(KINKED))
    output, loss = HEADS[int(rng.integers(len(HEADS)))]
    if output == "softmax" and sizes[-1] < 2:
        sizes = (*sizes[:-1], 3)
    net = Net(sizes, tuple(hidden), output, loss, N=int(rng.integers(1, 24)), seed=int(rng.integers(1 << 30)),
              clip=None, reduction=str(rng.choice(["mean", "sum"])), decay=float(rng.choice([0.0, 0.1])),
              spread=float(rng.choice([0.5, 1.0, 2.0])))
    first_smooth = 0
    if kinks:
        layer = int(rng.choice([i for i, h in enumerate(hidden) if h in KINKED]))
        place_kinks(rng, net, layer)
        first_smooth = layer + 1  # layers above the kink have an ordinary derivative
    text = f"{seed}: {sizes} {hidden} {output} {loss} N={net.N} kinks={kinks}"
    if rng.integers(2):
        return Draw(net, net.w0, net.layout, frozenset(), text + " right")
    gradient = net.gradient(net.w0)
    starts = np.cumsum([0] + [int(np.prod(s)) for _, s in net.layout])
    blocks = list(range(2 * first_smooth, len(net.layout)))
    for _ in range(20):
        k = int(rng.choice(blocks))
        name, shape = net.layout[k]
        g = gradient[starts[k]:starts[k + 1]].reshape(shape)
        if not np.abs(g).max() > 1e-9:
            continue
        state = rng.bit_generator.state
        changed, how = mutate(rng, g)
        if error_matters(g, changed):
            # The same mutation, from the same random numbers, wherever the gradient is asked for.
            def change(g, state=state):
                again = np.random.default_rng(0)
                again.bit_generator.state = state
                return mutate(again, g)[0] if np.abs(g).max() > 0 else g
            net.mistakes = {"blocks": {name: change}}
            return Draw(net, net.w0, net.layout, frozenset([name]), f"{text} wrong in {name}: {how}")
    return Draw(net, net.w0, net.layout, frozenset(), text + " right")


def spoiled(case, name, factor, text):
    """The network of a case, with the gradient of one block multiplied by ``factor``, entry by entry."""
    case.f.mistakes = {"blocks": {name: lambda g: g * factor}}
    return Draw(case.f, case.w0, case.layout, frozenset([name]), text)


def draw_on_kink(seed: int) -> Draw:
    """A network on a kink, with mistakes in a block that the kink passes through, where the kink does not reach.

    Which entries those are is told by the right gradient at many points close by: they are the same at all of them.
    """
    for attempt in itertools.count():
        rng = np.random.default_rng([20261125, seed, attempt])
        case = draw(int(rng.integers(1 << 40)))
        net, starts = case.f, np.cumsum([0] + [int(np.prod(s)) for _, s in case.layout])
        if case.wrong or "kinks=True" not in case.text:
            continue
        here = net.gradient(net.w0)
        nearby = np.array([net.gradient(net.w0 + 1e-9 * rng.normal(size=here.size)) for _ in range(60)])
        moved = np.abs(nearby - here).max(0)
        for k in rng.permutation(len(case.layout)):
            part, (name, shape) = slice(starts[k], starts[k + 1]), case.layout[k]
            g, top = here[part], np.abs(nearby[:, part]).max()
            fixed = np.flatnonzero((moved[part] < 1e-6 * top) & (np.abs(g) > 0.05 * top))
            if fixed.size == 0 or moved[part].max() < 1e-3 * top or top < 1e-9:
                continue
            chosen = rng.choice(fixed, min(fixed.size, int(rng.integers(1, 4))), replace=False)
            factor = np.ones(g.size)
            factor[chosen] += 10.0 ** rng.uniform(-4, 0.3) * rng.choice([-1, 1])
            if error_matters(g, g * factor):
                return spoiled(case, name, factor.reshape(shape),
                               f"{seed} on a kink: {case.text} but wrong in {name}, entries {chosen.tolist()} "
                               f"times {factor[chosen[0]]:.6g}")


def on_kink(rng) -> Draw:
    """A right network on a kink, all of whose ties are in one layer."""
    while True:
        case = draw(int(rng.integers(1 << 40)))
        if not case.wrong and "kinks=True" in case.text and tied_layer(case.f) is not None:
            return case


def tied_layer(net):
    """The layer with pre-activations of exactly zero, if it is one layer."""
    Z = net.forward(net.w0, np.float64)[2]
    tied = [i for i, name in enumerate(net.hidden) if name in KINKED and (Z[i] == 0).any()]
    return tied[0] if len(tied) == 1 else None


def draw_right_on_kink(seed: int) -> Draw:
    """A network on a kink, with a gradient that is valid there: relu'(0) is 0, 1/2 or 1 at all ties."""
    rng = np.random.default_rng([20261126, seed])
    case = on_kink(rng)
    tie = float(rng.integers(3)) / 2
    case.f.ties = {tied_layer(case.f): tie}
    return Draw(case.f, case.w0, case.layout, frozenset(), f"{seed} right on a kink: {case.text}, tie {tie}")


def draw_mean_of_sides(seed: int) -> Draw:
    """A network on a kink, with the weighted mean of the gradients on two random sides: valid, and hard to see."""
    rng = np.random.default_rng([20261128, seed])
    case = on_kink(rng)
    net, layer = case.f, tied_layer(case.f)
    sides = [net.forward(net.w0 + 1e-9 * rng.normal(size=net.w0.size), np.float64)[2][layer] > 0 for _ in range(2)]
    share = rng.uniform()
    net.ties = {layer: share * sides[0] + (1 - share) * sides[1]}
    return Draw(net, net.w0, net.layout, frozenset(), f"{seed} mean of two sides: {case.text}")


def outside(net, part, wrong):
    """Is the gradient ``wrong`` of a block beyond its tolerance from all that any slopes at the ties give?

    The gradient is linear in these slopes, each between the two sides'; linear programming looks for some that fit.
    """
    layer = tied_layer(net)
    z = net.forward(net.w0, np.float64)[2][layer]
    base, columns, ties = net.gradient(net.w0)[part], [], np.argwhere(z == 0)
    for tie in ties:
        net.ties = {layer: np.zeros_like(z)}
        net.ties[layer][tuple(tie)] = 1
        columns.append(net.gradient(net.w0)[part] - base)
    net.ties = {}
    A, top = np.array(columns).T, max(np.abs(base).max(), np.abs(base + np.sum(columns, axis=0)).max())
    limit = 3 * (1e-5 * np.abs(wrong) + 1e-6 * top)
    answer = linprog(np.zeros(len(ties)), A_ub=np.vstack([A, -A]) / np.tile(limit, 2)[:, None], bounds=(0, 1),
                     b_ub=np.concatenate([wrong - base, base - wrong]) / np.tile(limit, 2) + 1, method="highs")
    return answer.status == 2


def draw_in_reach(seed: int) -> Draw:
    """A network on a kink, with mistakes in entries that the kink reaches, too large to be a choice of sides."""
    for attempt in itertools.count():
        rng = np.random.default_rng([20261127, seed, attempt])
        case = on_kink(rng)
        net, starts = case.f, np.cumsum([0] + [int(np.prod(s)) for _, s in case.layout])
        k = int(rng.integers(2 * tied_layer(net) + 2))
        part, (name, shape) = slice(starts[k], starts[k + 1]), case.layout[k]
        g, ahead = net.gradient(net.w0)[part], net.gradient(net.w0 + 1e-9 * rng.normal(size=net.w0.size))[part]
        moved = np.flatnonzero((np.abs(ahead - g) > 1e-3 * np.abs(g).max()) & (np.abs(g) > 0.05 * np.abs(g).max()))
        if moved.size == 0 or np.abs(g).max() < 1e-9:
            continue
        chosen = rng.choice(moved, min(moved.size, int(rng.integers(1, 4))), replace=False)
        factor = np.ones(g.size)
        factor[chosen if rng.integers(2) else slice(None)] += 10.0 ** rng.uniform(-4, 0.3) * rng.choice([-1, 1])
        if error_matters(g, g * factor) and outside(net, part, g * factor):
            return spoiled(case, name, factor.reshape(shape),
                           f"{seed} in reach of a kink: {case.text} but wrong in {name}, "
                           f"entries {np.flatnonzero(factor != 1).tolist()} times {factor[chosen[0]]:.6g}")


def place_kinks(rng, net, layer):
    """Make pre-activations of ``layer`` exactly zero: the whole layer starts at zero, or biases make up for them."""
    pieces = net.split(net.w0)
    how = int(rng.integers(3))
    if how == 0:
        pieces[2 * layer][...] = 0
        pieces[2 * layer + 1][...] = 0
    elif how == 1:
        pieces[2 * layer + 1][...] = 0
        if layer == 0:
            net.X[rng.integers(net.N)] = 0
        else:
            pieces[2 * layer][:, rng.integers(pieces[2 * layer].shape[1])] = 0
    else:
        unit = int(rng.integers(pieces[2 * layer].shape[1]))
        pieces[2 * layer][:, unit] = 0
        pieces[2 * layer + 1][unit] = 0
