"""The zoo: right and wrong gradients, each with its label, its cause and a loss that runs in any precision.

Every case has ``loss(w, dtype)`` (used in 80-bit arithmetic to certify the label, see certify.py), ``f(w)`` as the
checker sees it, the point, the layout, and the set of blocks whose gradient is wrong (empty for a right one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .zoo_networks import Net


@dataclass
class Case:
    name: str
    cause: str
    f: Callable
    loss: Callable
    w0: np.ndarray
    layout: list
    wrong: frozenset = frozenset()
    kink: bool = False
    sides: list = field(default_factory=list)  # for kinks in many dimensions: directions in which pieces lie
    net: Net | None = None
    dtype: str = "f8"
    expect: str = ""  # the diagnosis expected when the network is known

    def __repr__(self):
        return self.name


WRONG: list[Case] = []
RIGHT: list[Case] = []


def add(case):
    (WRONG if case.wrong else RIGHT).append(case)


def network(name, cause, wrong=(), expect="", dtypes=("f8",), sizes=None, hidden=("tanh", "tanh"),
            output="identity", loss="squared_error", mistakes=None, kink=False, sides=None, **options):
    for k, size in enumerate(sizes or [(3, 4, 4, 2), (6, 9, 7, 3)]):
        for dtype in dtypes:
            net = Net(size, tuple(hidden), output, loss, dtype=dtype, mistakes=mistakes or {}, seed=k, **options)
            names = [n for n, _ in net.layout]
            bad = set(names) if wrong == "all" else {n for n in names if n in wrong or (wrong == "biases" and
                                                     n[0] == "b") or (wrong == "weights" and n[0] == "W")}
            add(Case(f"{name} {'-'.join(map(str, size))} {dtype}", cause, net, net.value, net.w0, net.layout,
                     frozenset(bad), kink, sides(net) if sides else [], net, dtype, expect))


def function(name, cause, loss, gradient, w0, wrong=(), layout=None, dtype="f8", **options):
    """A loss written for any dtype, with the gradient claimed for it."""
    dt = np.dtype(dtype).type
    w0 = np.atleast_1d(np.asarray(w0, dtype=dt))
    layout = layout or [("w", w0.shape)]

    def f(w):
        with np.errstate(all="ignore"):
            return loss(np.asarray(w, dt), dt), np.asarray(gradient(w), dtype=dt).reshape(w.shape)

    add(Case(name, cause, f, loss, w0, layout, frozenset(wrong), dtype=dtype, **options))


BOTH = ("f8", "f4")
ALL = "all"

# ---------------------------------------------------------------- wrong: formulas of a network
network("relu output, cross-entropy, delta = y - t", "delta", ALL, "delta", hidden=("tanh", "tanh"), output="relu",
        loss="binary_cross_entropy", mistakes={"delta": True}, clip=1e-3)
network("tanh output, cross-entropy, delta = y - t", "delta", ALL, "delta", hidden=("relu", "tanh"), output="tanh",
        loss="binary_cross_entropy", mistakes={"delta": True}, clip=1e-3)
network("sigmoid output, squared error, delta = y - t", "delta", ALL, "delta", output="sigmoid", dtypes=BOTH,
        mistakes={"delta": True})
network("softmax output, squared error, delta = y - t", "delta", ALL, "delta", output="softmax",
        mistakes={"delta": True})
network("act' missing in the first layer", "no derivative", ("W0", "b0"), "no derivative", dtypes=BOTH,
        mistakes={"no derivative": 1})
network("act' missing in the second layer", "no derivative", ("W0", "b0", "W1", "b1"), "no derivative",
        hidden=("sigmoid", "silu"), mistakes={"no derivative": 2})
network("tanh' taken at a", "derivative at a", ("W0", "b0"), "derivative at a", mistakes={"derivative at a": 1})
network("sigmoid' taken at a", "derivative at a", ("W0", "b0", "W1", "b1"), "derivative at a",
        hidden=("tanh", "sigmoid"), mistakes={"derivative at a": 2})
network("tanh' = 1 - a", "1 - a", ("W0", "b0"), "1 - a", mistakes={"1 - a": 1})
network("1/N missing", "1/N", ALL, "1/N", dtypes=BOTH, mistakes={"no 1/N": True})
network("1/N twice", "1/N", ALL, "1/N", mistakes={"1/N twice": True})
network("1/N missing in the first layer", "1/N", ("W0", "b0"), "1/N", N=12,
        mistakes={"blocks": {"W0": lambda g: g * 12, "b0": lambda g: g * 12}})
network("bias mean for sum", "bias mean", "biases", "bias mean", mistakes={"bias mean": True})
network("bias gradient forgotten", "bias zero", ("b1",), "zero", mistakes={"blocks": {"b1": lambda g: 0 * g}})
network("sign of everything", "sign", ALL, "sign", mistakes={"blocks": {n: (lambda g: -g) for n in
        ("W0", "b0", "W1", "b1", "W2", "b2")}})
network("sign of one block", "sign", ("W1",), "sign", dtypes=BOTH, mistakes={"blocks": {"W1": lambda g: -g}})
network("factor 2", "factor", ("W2", "b2"), "factor", mistakes={"blocks": {"W2": lambda g: 2 * g,
                                                                          "b2": lambda g: 2 * g}})
network("factor 1/2", "factor", ("b0",), "factor", hidden=("relu", "relu"),
        mistakes={"blocks": {"b0": lambda g: g / 2}})
network("transposed block", "transposed", ("W1",), "transposed", sizes=[(3, 4, 4, 2), (5, 11, 11, 3)],
        mistakes={"blocks": {"W1": lambda g: g.T}})
network("Fortran order", "fortran", ("W0",), "fortran", mistakes={"blocks": {"W0": lambda g: g.ravel(order="F")}})
network("bias first", "order", ALL, "order", mistakes={"bias first": True})
network("clip ignored in the backward pass", "clip ignored", ALL, "clip ignored", output="sigmoid",
        loss="binary_cross_entropy", clip=0.2, mistakes={"clip ignored": True})
network("clip masked on the wrong side", "clip wrong side", ALL, "clip wrong side", output="sigmoid",
        loss="binary_cross_entropy", clip=0.2, mistakes={"clip wrong side": True})
network("softmax's diagonal only", "softmax diagonal", ALL, "softmax diagonal", output="softmax",
        sizes=[(3, 4, 4, 3), (6, 9, 7, 4)], mistakes={"softmax diagonal": True})
network("weight decay missing", "decay", "weights", "decay", decay=0.1, mistakes={"no decay": True})
network("weight decay twice", "decay", "weights", "decay", decay=0.1, mistakes={"decay twice": True})
network("weight decay on biases", "decay", "biases", "decay", decay=0.1, mistakes={"decay on biases": True})
network("sample weights ignored", "weights", ALL, "weights", weights=True, mistakes={"no weights": True})
network("label smoothing ignored", "smoothing", ALL, "smoothing", smoothing=0.1, output="softmax",
        loss="cross_entropy", mistakes={"no smoothing": True})
network("last row dropped", "last row", ALL, "last row", hidden=("silu", "tanh"), mistakes={"last row dropped": True})
network("the next layer's activation", "next activation", ("W0", "b0"), "next activation",
        hidden=("tanh", "softplus"), mistakes={"next activation": 1})
network("updated weights used below", "updated weights", ("W0", "b0", "W1", "b1"), "updated weights",
        mistakes={"updated weights": True})
network("stale activations", "stale", ("W1",), "", mistakes={"stale": 1})
network("W where its transpose belongs", "W not transposed", ("W0", "b0"), "W not transposed",
        mistakes={"W not transposed": 1}, sizes=[(3, 4, 4, 2), (5, 11, 11, 3)])

# ---------------------------------------------------------------- wrong: single entries and rows


def entry(i, change):
    def apply(g):
        flat = g.ravel()
        flat[i % flat.size] = change(flat[i % flat.size], flat)
        return g
    return apply


LARGE = [(6, 9, 7, 3), (20, 40, 30, 4)]
network("one entry off by 1 in 1,000", "entry", ("W1",), sizes=LARGE,
        mistakes={"blocks": {"W1": lambda g: np.where(np.abs(g) == np.abs(g).max(), g * 1.001, g)}})
network("one entry zero", "entry", ("W0",), sizes=LARGE, mistakes={"blocks": {"W0": entry(17, lambda v, g: 0.0)}})
network("one entry off by 1 in 10,000, relu", "entry", ("W0",), sizes=LARGE, hidden=("relu", "relu"),
        mistakes={"blocks": {"W0": lambda g: np.where(np.abs(g) == np.abs(g).max(), g * 1.0001, g)}})
network("two entries swapped", "permuted", ("W2",), sizes=LARGE, mistakes={"blocks": {
    "W2": lambda g: np.concatenate([g.ravel()[1::-1], g.ravel()[2:]])}})
network("rows rotated", "permuted", ("W1",), sizes=LARGE, mistakes={"blocks": {"W1": lambda g: np.roll(g, 1, 0)}})
network("one column doubled", "entry", ("W0",), sizes=LARGE, mistakes={"blocks": {
    "W0": lambda g: g * (1 + (np.arange(g.shape[1]) == 3))}})
network("last bias off by 1 in 10,000", "entry", ("b2",), sizes=LARGE, mistakes={"blocks": {
    "b2": entry(-1, lambda v, g: v + 1e-4 * np.abs(g).max())}})
network("errors that cancel in the sum", "entry", ("b1",), sizes=LARGE, mistakes={"blocks": {
    "b1": lambda g: g + 0.01 * np.abs(g).max() * (np.arange(g.size) % 2 * 2 - 1) * (np.arange(g.size) < 6)}})
network("rounded to three digits", "precision", ALL, sizes=[(6, 9, 7, 3)], mistakes={"blocks": {
    n: (lambda g: np.round(g / 10 ** np.floor(np.log10(np.abs(g).max())), 2)
        * 10 ** np.floor(np.log10(np.abs(g).max()))) for n in ("W0", "b0", "W1", "b1", "W2", "b2")}})

# ---------------------------------------------------------------- wrong at or near kinks
relu = lambda x: np.maximum(x, 0)  # noqa: E731
for bad in (1.5, -0.2, 2.0):
    function(f"relu at 0 with slope {bad}", "kink", lambda w, dt: relu(w).sum(), lambda w, b=bad: np.full(w.shape, b),
             np.zeros(1), ("w",), kink=True)
for bad in (1.1, -3.0):
    function(f"|x| at 0 with slope {bad}", "kink", lambda w, dt: np.abs(w).sum() + 1,
             lambda w, b=bad: np.array([b, 1.0]), [0.0, 2.0], ("w",), kink=True)
function("max(a, b) at a tie, full gradient to both", "tie", lambda w, dt: w.max() ** 2, lambda w: 2 * w.max() *
         (w == w.max()), [3.0, 3.0], ("w",), kink=True)
function("max of three at a tie, shares sum to 2", "tie", lambda w, dt: w.max(), lambda w: np.full(3, 2 / 3),
         [1.0, 1.0, 1.0], ("w",), kink=True)
function("max(a, b) at a tie, two blocks", "tie", lambda w, dt: w[:2].max(), lambda w: np.array([1.0, 1.0, 0.0]),
         [1.0, 1.0, 0.5], ("a", "b"), layout=[("a", (1,)), ("b", (1,)), ("c", (1,))], kink=True)
function("relu(x) - relu(-x) with slope 0", "cancelling kinks", lambda w, dt: (relu(w) - relu(-w)).sum(),
         lambda w: (w > 0) * 1.0 + (w < 0) * 1.0, np.zeros(3), ("w",), kink=True)
function("relu(x) - relu(-x) + (y-1)^2, two blocks", "cancelling kinks", lambda w, dt: relu(w[0]) - relu(-w[0]) +
         (w[1] - 1) ** 2, lambda w: np.array([(w[0] != 0) * 1.0, 2 * (w[1] - 1)]), [0.0, 0.3], ("x",),
         layout=[("x", (1,)), ("y", (1,))], kink=True)
function("hinge at its margin, slope beyond", "kink", lambda w, dt: relu(1 - w[0] * 2 + 0 * w[1]) + w[1] ** 2,
         lambda w: np.array([-4.0, 2 * w[1]]), [0.5, 1.0], ("w",), kink=True)
function("clip at its edge, slope beyond", "kink", lambda w, dt: 3 * np.clip(w, 0, 1).sum(),
         lambda w: np.array([3.5, 3.0]), [1.0, 0.5], ("w",), kink=True)
function("clip at its edge, wrong elsewhere", "kink", lambda w, dt: 3 * np.clip(w, 0, 1).sum(),
         lambda w: np.array([3.0, 2.9]), [1.0, 0.5], ("w",), kink=True)


def huber(w, dt):
    return np.where(np.abs(w) <= 1, w * w / 2, np.abs(w) - dt(0.5)).sum()


function("huber at its edge with 1.1", "formula", huber, lambda w: np.array([1.1]), [1.0], ("w",))
function("huber at its edge with 0", "formula", huber, lambda w: np.array([0.0, 1.0]), [1.0, 3.0], ("w",))
function("x |x| at 0.1 with 2 x wrong by 1 in 1,000", "formula", lambda w, dt: (w * np.abs(w)).sum(),
         lambda w: 2.002 * np.abs(w), [0.1], ("w",))
function("kink 1e-6 away, slope of the other side", "near kink", lambda w, dt: np.abs(w - 1).sum(),
         lambda w: -np.sign(w - 1), [1 + 1e-6, 3.0], ("w",))
function("kink 1e-6 away, slope between the sides", "near kink", lambda w, dt: np.abs(w - 1).sum() + (w**2).sum(),
         lambda w: 2 * w + np.array([0.0, 1.0]), [1 + 1e-6, 3.0], ("w",))
function("difference of kinks, slope outside the joint set", "tie", lambda w, dt: relu(w[0] + w[1]) - relu(w[0] - w[1]),
         lambda w: np.array([1.0, -1.0]), [0.0, 0.0], ("w",), kink=True)
function("|x| + |y| with a smooth entry wrong", "kink", lambda w, dt: np.abs(w[:2]).sum() + (w[2:] ** 2).sum(),
         lambda w: np.array([0.5, -1.0, 2 * w[2], 2.01 * w[3]]), [0.0, 0.0, 1.0, -2.0], ("s",),
         layout=[("k", (2,)), ("s", (2,))], kink=True)
network("relu layer at zero, output bias twice", "kink", ("b2",), "factor", hidden=("relu", "relu"),
        start="zero bias", mistakes={"blocks": {"b2": lambda g: 2 * g}}, kink=True)
network("relu layer at zero, W1 with the wrong sign", "kink", ("W1",), "sign", hidden=("relu", "relu"),
        start="zero bias", mistakes={"blocks": {"W1": lambda g: -g}}, kink=True)

# ---------------------------------------------------------------- wrong: scales, noise, precision
function("loss of 1e-12", "scale", lambda w, dt: dt(1e-12) * ((w - 1) ** 2).sum(), lambda w: 2.02e-12 * (w - 1),
         [0.3, 2.5], ("w",))
function("loss of 1e8", "scale", lambda w, dt: dt(1e8) + dt(1e6) * np.sin(w).sum(), lambda w: 1.001e6 * np.cos(w),
         [0.3, 2.5, -1.0], ("w",))
TWO = [("big", (3,)), ("small", (3,))]


def two_scales(w, dt):
    return np.sin(w[:3] * dt(1e-10)).sum() + np.cos(w[3:] * dt(1e10)).sum()


for which, good in (("big", (1.0, 1.001)), ("small", (1.001, 1.0))):
    function(f"blocks of 1e10 and 1e-10, {which} parameters wrong", "scale", two_scales,
             lambda w, good=good: np.concatenate([good[1] * 1e-10 * np.cos(w[:3] * 1e-10),
                                                  -good[0] * 1e10 * np.sin(w[3:] * 1e10)]),
             np.concatenate([[0.3e10, 1.0e10, -0.7e10], [0.3e-10, 1.1e-10, -0.8e-10]]), (which,), layout=TWO)
function("one flat vector of 1e10 and 1e-10", "scale", two_scales,
         lambda w: np.concatenate([1e-10 * np.cos(w[:3] * 1e-10), -1.01e10 * np.sin(w[3:] * 1e10)]),
         np.concatenate([[0.3e10, 1.0e10, -0.7e10], [0.3e-10, 1.1e-10, -0.8e-10]]), ("w",))
function("float32, 5 % off", "precision", lambda w, dt: (np.sin(w) * w).sum(),
         lambda w: 1.05 * (np.cos(w) * w + np.sin(w)), np.linspace(-1, 2, 7), ("w",), dtype="f4")
function("float32, one entry 3 % off", "precision", lambda w, dt: (np.sin(w) * w).sum(),
         lambda w: (np.cos(w) * w + np.sin(w)) * (1 + 0.03 * (np.arange(7) == 6)), np.linspace(-1, 2, 7), ("w",),
         dtype="f4")
function("steep: sin(1e6 w)", "steep", lambda w, dt: np.sin(dt(1e6) * w).sum(), lambda w: 1.01e6 * np.cos(1e6 * w),
         [0.3, 0.7], ("w",))
function("flat: 1e-7 w + 1", "flat", lambda w, dt: 1 + dt(1e-7) * w.sum(), lambda w: np.full(w.shape, 1.1e-7),
         [0.3, 0.7], ("w",))
function("zero where the slope is 1e-6", "flat", lambda w, dt: 1 + dt(1e-6) * (w**2).sum(), lambda w: 0 * w,
         [0.3, 0.7], ("w",))
function("constant 1e6 added", "noise", lambda w, dt: dt(1e6) + (w**3).sum(), lambda w: 3.03 * w**2, [0.7, -1.2],
         ("w",))
function("gradient of a point close by", "elsewhere", lambda w, dt: np.exp(w).sum(), lambda w: np.exp(w + 1e-3),
         np.linspace(-1, 1, 9), ("w",))
function("log-sum-exp, one entry missing", "formula", lambda w, dt: np.log(np.exp(w).sum()),
         lambda w: np.exp(w) / np.exp(w).sum() * (np.arange(w.size) != 4), np.linspace(-1, 1, 9), ("w",))
function("saturated sigmoid, factor 2", "saturated", lambda w, dt: 1 / (1 + np.exp(-w)).sum(),
         lambda w: 2 * np.exp(-w) / (1 + np.exp(-w)) ** 2, [-30.0], ("w",))
function("oscillating noise of 1e-9, 1 % off", "noise", lambda w, dt: (w**2).sum() + dt(1e-9) * np.sin(dt(1e12) *
         w.sum()), lambda w: 2.02 * w, [1.3, 0.4], ("w",), )

# ---------------------------------------------------------------- right: kinks at w0
for s in (0.0, 0.5, 1.0, 0.3):
    function(f"relu at 0 with {s}", "kink", lambda w, dt: relu(w).sum(), lambda w, s=s: (w > 0) + s * (w == 0),
             [0.0], kink=True)
    function(f"30 relus at 0 with {s}", "kink", lambda w, dt: (relu(w) * np.arange(1, w.size + 1)).sum(),
             lambda w, s=s: ((w > 0) + s * (w == 0)) * np.arange(1, w.size + 1), np.zeros(30), kink=True)
for s in (0.0, 1.0, -1.0, 0.3):
    function(f"|x| at 0 with {s}", "kink", lambda w, dt: np.abs(w).sum() + 1, lambda w, s=s: np.sign(w) + s * (w == 0),
             [0.0, 2.0], kink=True)
function("lasso penalty with many zeros", "kink", lambda w, dt: ((w - np.arange(w.size) % 3) ** 2).sum() +
         dt(0.7) * np.abs(w).sum(), lambda w: 2 * (w - np.arange(w.size) % 3) + 0.7 * np.sign(w),
         np.where(np.arange(40) % 2, 0.0, 0.4), kink=True)
for shares in ((1, 0, 0), (0.5, 0.5, 0), (1 / 3, 1 / 3, 1 / 3), (0.2, 0.5, 0.3)):
    function(f"max of three at a tie with {shares}", "tie", lambda w, dt: w.max(), lambda w, s=shares: np.array(s),
             [2.0, 2.0, 2.0], kink=True)
for g in ((1.0, 0.0, 0.0), (0.5, 0.5, 0.0)):
    function(f"max over two blocks with {g}", "tie", lambda w, dt: w[:2].max(), lambda w, g=g: np.array(g),
             [1.0, 1.0, 0.5], layout=[("a", (1,)), ("b", (1,)), ("c", (1,))], kink=True)
for g in ((0.0, 0.0), (0.0, 2.0), (1.0, 1.0), (-1.0, 1.0), (0.0, 1.0)):
    function(f"relu(a + b) - relu(a - b) at 0 with {g}", "tie", lambda w, dt: relu(w[0] + w[1]) - relu(w[0] - w[1]),
             lambda w, g=g: np.array(g), [0.0, 0.0], kink=True)
for g in (0.0, -2.0, -1.0):
    function(f"hinge at its margin with {g}", "kink", lambda w, dt: relu(1 - w[0] * 2) + w[1] ** 2,
             lambda w, g=g: np.array([g, 2 * w[1]]), [0.5, 1.0], kink=True)
for g in (3.0, 0.0, 1.5):
    function(f"clip at its edge with {g}", "kink", lambda w, dt: 3 * np.clip(w, 0, 1).sum(),
             lambda w, g=g: np.array([g, 3.0]), [1.0, 0.5], kink=True)
function("huber at its edge", "kink", huber, lambda w: np.clip(w, -1, 1), [1.0, -1.0, 0.3, 4.0])
function("relu(x)^2 at 0", "kink", lambda w, dt: (relu(w) ** 2).sum(), lambda w: 2 * relu(w), [0.0, 1.0, 0.0])
function("x |x| at 0", "kink", lambda w, dt: (w * np.abs(w)).sum() + w.sum(), lambda w: 2 * np.abs(w) + 1, [0.0, 0.3])
for slope in (2.0, 1.0):
    function(f"elu with alpha 2 at 0, slope {slope}", "kink", lambda w, dt: np.where(w > 0, w, 2 * np.expm1(
        np.minimum(w, 0))).sum(), lambda w, v=slope: np.where(w == 0, v, 1.0), [0.0, 1.0], kink=True)
function("|x|^1.5 at 0", "rough", lambda w, dt: (np.abs(w) ** dt(1.5)).sum(),
         lambda w: 1.5 * np.sign(w) * np.abs(w) ** 0.5, [0.0, 1.0])
function("relu(x)^1.5 at 0", "rough", lambda w, dt: (relu(w) ** dt(1.5)).sum(), lambda w: 1.5 * relu(w) ** 0.5,
         [0.0, 1.0])
for g in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.3, -0.4, 0.2)):
    function(f"length of a vector at 0 with {g}", "kink", lambda w, dt: np.sqrt((w**2).sum()),
             lambda w, g=g: np.array(g) if not w.any() else w / np.sqrt((w**2).sum()), np.zeros(3), kink=True)


def bias_sides(net):
    """For a relu layer at zero: all its biases down, which is where relu'(0) = 0 comes from."""
    offset = np.zeros(net.w0.size)
    start = 0
    for name, shape in net.layout:
        m = int(np.prod(shape))
        offset[start:start + m] = -1.0 if name[0] == "b" else 1e-3
        start += m
    return [offset]


for hidden in (("relu", "relu"), ("relu", "tanh"), ("leaky_relu", "leaky_relu")):
    network(f"{hidden[0]}-{hidden[1]}, first layer starts at zero", "zero layer", hidden=hidden,
            start="zero first layer", kink=True, sides=bias_sides, dtypes=BOTH)
    network(f"{hidden[0]}-{hidden[1]}, zero biases and an empty row", "zero row", hidden=hidden, start="zero bias",
            kink=True, sides=bias_sides, sizes=[(3, 4, 4, 2), (6, 9, 7, 3), (20, 40, 30, 4)])
network("relu-relu, zero row, softmax", "zero row", hidden=("relu", "relu"), output="softmax", loss="cross_entropy",
        start="zero bias", kink=True, sides=bias_sides, sizes=[(3, 4, 4, 3), (6, 9, 7, 4)])

# ---------------------------------------------------------------- right: kinks close to w0
for away in (1e-3, 1e-6, 1e-9):
    function(f"kink {away} away", "near kink", lambda w, dt: np.abs(w - 1).sum() + (w**2).sum(),
             lambda w: 2 * w + np.sign(w - 1), [1 + away, 1 - away, 3.0])
    function(f"relu units {away} from their kink", "near kink", lambda w, dt: (relu(w[:2] * dt(0.7)) * w[2:]).sum(),
             lambda w: np.concatenate([0.7 * (w[:2] > 0) * w[2:], relu(w[:2] * 0.7)]), [away, -away, 1.3, -0.8])
network("relu network of the usual kind", "near kink", hidden=("relu", "relu"), sizes=[(6, 9, 7, 3), (20, 40, 30, 4)],
        N=64)
network("relu network, softmax", "near kink", hidden=("relu", "leaky_relu"), output="softmax", loss="cross_entropy",
        sizes=[(6, 9, 7, 3), (20, 40, 30, 4)], N=64)

# ---------------------------------------------------------------- right: scales, noise, precision
function("loss of 1e-12, right", "scale", lambda w, dt: dt(1e-12) * ((w - 1) ** 2).sum(),
         lambda w: 2e-12 * (w - 1), [0.3, 2.5])
function("loss of 1e8, right", "scale", lambda w, dt: dt(1e8) + dt(1e6) * np.sin(w).sum(), lambda w: 1e6 * np.cos(w),
         [0.3, 2.5, -1.0])
function("loss at its minimum", "scale", lambda w, dt: ((w - 1) ** 2).sum(), lambda w: 2 * (w - 1),
         [1.0, 1.0])
function("loss close to its minimum", "scale", lambda w, dt: ((w - 1) ** 2).sum(), lambda w: 2 * (w - 1),
         [1.0 + 1e-7, 1.0 - 3e-8])
function("blocks of 1e10 and 1e-10, right", "scale", two_scales,
         lambda w: np.concatenate([1e-10 * np.cos(w[:3] * 1e-10), -1e10 * np.sin(w[3:] * 1e10)]),
         np.concatenate([[0.3e10, 1.0e10, -0.7e10], [0.3e-10, 1.1e-10, -0.8e-10]]), layout=TWO)
function("one flat vector of 1e10 and 1e-10, right", "scale", two_scales,
         lambda w: np.concatenate([1e-10 * np.cos(w[:3] * 1e-10), -1e10 * np.sin(w[3:] * 1e10)]),
         np.concatenate([[0.3e10, 1.0e10, -0.7e10], [0.3e-10, 1.1e-10, -0.8e-10]]))
function("steep: sin(1e6 w), right", "steep", lambda w, dt: np.sin(dt(1e6) * w).sum(), lambda w: 1e6 * np.cos(1e6 * w),
         [0.3, 0.7])
function("steep: exp(300 w)", "steep", lambda w, dt: np.exp(300 * w).sum(), lambda w: 300 * np.exp(300 * w), [0.9, 1.0])
function("flat: 1e-7 w + 1, right", "flat", lambda w, dt: 1 + dt(1e-7) * w.sum(), lambda w: np.full(w.shape, 1e-7),
         [0.3, 0.7])
function("constant 1e6 added, right", "noise", lambda w, dt: dt(1e6) + (w**3).sum(), lambda w: 3 * w**2, [0.7, -1.2])
function("oscillating noise of 1e-9", "noise", lambda w, dt: (w**2).sum() + dt(1e-9) * np.sin(dt(1e12) * w.sum()),
         lambda w: 2 * w, [1.3, 0.4])
function("float32 in and out", "precision", lambda w, dt: (np.sin(w) * w).sum(), lambda w: np.cos(w) * w + np.sin(w),
         np.linspace(-1, 2, 7), dtype="f4")
function("saturated sigmoid", "saturated", lambda w, dt: 1 / (1 + np.exp(-w)).sum(),
         lambda w: np.exp(-w) / (1 + np.exp(-w)) ** 2, [-30.0])
function("dead unit", "flat", lambda w, dt: relu(w[0] - 5) + w[1] ** 2, lambda w: np.array([0.0, 2 * w[1]]),
         [1.0, 2.0], layout=[("dead", (1,)), ("alive", (1,))])
function("log at a small argument", "steep", lambda w, dt: -np.log(w).sum(), lambda w: -1 / w, [1e-8, 1e-3, 1.0])
function("square root at a small argument", "steep", lambda w, dt: np.sqrt(w).sum(), lambda w: 0.5 / np.sqrt(w),
         [1e-10, 1e-3, 1.0])
function("tiny entries beside large ones", "scale", lambda w, dt: (w * np.array([1e-6, 1, 1e3], dt)).sum() ** 2 / 2,
         lambda w: (w * np.array([1e-6, 1, 1e3])).sum() * np.array([1e-6, 1, 1e3]), [0.3, -0.8, 1.1])
function("zero start of a product", "scale", lambda w, dt: w[0] * w[1] + w[2], lambda w: np.array([w[1], w[0], 1.0]),
         [0.0, 0.0, 0.0])
network("tanh network", "precision", dtypes=BOTH, sizes=[(3, 4, 4, 2), (20, 40, 30, 4)])
network("mixed activations", "precision", hidden=("elu", "silu"), dtypes=BOTH, output="softmax",
        loss="cross_entropy", sizes=[(3, 4, 4, 3), (20, 40, 30, 4)])
network("relu in float32", "precision", hidden=("relu", "relu"), dtypes=("f4",), sizes=[(3, 4, 4, 2), (20, 40, 30, 4)])
network("saturated tanh", "saturated", hidden=("tanh", "tanh"), spread=4.0, sizes=[(3, 4, 4, 2), (6, 9, 7, 3)])
network("weights, decay, smoothing, clip", "formula", output="sigmoid", loss="binary_cross_entropy", clip=0.2,
        weights=True, decay=0.05, smoothing=0.1, sizes=[(3, 4, 4, 2), (6, 9, 7, 3)])

# ---------------------------------------------------------------- several kinks through one point
RNG = np.random.default_rng(7)
FAN = RNG.normal(size=(8, 5))
ROWS, SIGNS = RNG.normal(size=(40, 10)), np.sign(RNG.normal(size=40))


def pooled(w, dt):
    x = w.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    return (x.max(1) ** 2).sum()


def pool_gradient(mode):
    def gradient(w):
        x = np.asarray(w, float).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
        top = x.max(1, keepdims=True)
        hit = (x == top).astype(float)
        if mode == "first":
            hit = np.eye(4)[x.argmax(1)]
        elif mode == "share":
            hit = hit / hit.sum(1, keepdims=True)
        return (2 * top * hit).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).ravel()
    return gradient


TIED = np.where(np.arange(16) == 3, 2.0, 1.0)
function("max pooling with ties, all of them", "tie", pooled, pool_gradient("all"), TIED, ("w",), kink=True)
for mode in ("first", "share"):
    function(f"max pooling with ties, {mode}", "tie", pooled, pool_gradient(mode), TIED, kink=True,
             sides=[RNG.normal(size=16) for _ in range(300)])
function("|A w| at 0, beyond all slopes", "kink", lambda w, dt: np.abs(FAN.astype(dt) @ w).sum(),
         lambda w: 1.01 * np.abs(FAN).sum(0), np.zeros(5), ("w",), kink=True)
for name, g in (("0", np.zeros(5)), ("one side", FAN.T @ np.sign(FAN @ np.ones(5)))):
    function(f"|A w| at 0 with {name}", "kink", lambda w, dt: np.abs(FAN.astype(dt) @ w).sum(),
             lambda w, g=g: FAN.T @ np.sign(FAN @ w) + (0 if w.any() else g), np.zeros(5), kink=True)
for s in (0.0, 0.5):
    function(f"40 perceptron losses at 0 with {s}", "kink", lambda w, dt: relu(-SIGNS * (ROWS.astype(dt) @ w)).sum(),
             lambda w, s=s: -ROWS.T @ (SIGNS * ((SIGNS * (ROWS @ w) < 0) + s * (ROWS @ w == 0))), np.zeros(10),
             kink=True, sides=[RNG.normal(size=10) for _ in range(300)])
function("sum of the three largest, ties counted twice", "tie", lambda w, dt: np.sort(w)[-3:].sum(),
         lambda w: (w >= np.sort(w)[-3]) * 1.0, [1.0, 1, 1, 1, 0, 3], ("w",), kink=True)
function("sum of the three largest with ties", "tie", lambda w, dt: np.sort(w)[-3:].sum(),
         lambda w: np.isin(np.arange(w.size), np.argsort(-w, kind="stable")[:3]) * 1.0, [1.0, 1, 1, 1, 0, 3], kink=True)
