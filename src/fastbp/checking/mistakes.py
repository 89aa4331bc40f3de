"""The known mistakes of hand-written backpropagation, each planted in a small reference network in NumPy.

The gradient that a user computed is compared with what each mistake would give.  One function does the whole
backward pass; a mistake is a switch in it.  Nothing here is fast and nothing needs to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import Vector

Matrix = npt.NDArray[np.float64]
CANONICAL = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy"), ("identity", "squared_error"),
             ("exp", "poisson")}  # fmt: skip


def _sigmoid(z: Matrix) -> Matrix:
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1, e) / (1 + e))


def _normal(z: Matrix) -> tuple[Matrix, Matrix]:
    """The normal distribution function and density (for gelu)."""
    cdf = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return np.asarray(cdf, dtype=float), np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def activate(name: str, z: Matrix) -> Matrix:
    """An activation function applied to every entry of ``z`` (softmax: to every row)."""
    functions: dict[str, Callable[[Matrix], Matrix]] = {
        "identity": lambda z: z,
        "sigmoid": _sigmoid,
        "tanh": np.tanh,
        "relu": lambda z: np.maximum(z, 0),
        "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
        "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        "softplus": lambda z: np.logaddexp(0, z),
        "gelu": lambda z: z * _normal(z)[0],
        "silu": lambda z: z * _sigmoid(z),
        "exp": np.exp,
    }
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    return np.asarray(functions[name](z))


def slope(name: str, z: Matrix) -> Matrix:
    """The derivative of an activation function."""
    s = _sigmoid(z)
    functions: dict[str, Callable[[], Matrix]] = {
        "identity": lambda: np.ones_like(z),
        "sigmoid": lambda: s * _sigmoid(-z),
        "tanh": lambda: 1 - np.tanh(z) ** 2,
        "relu": lambda: (z > 0).astype(float),
        "leaky_relu": lambda: np.where(z > 0, 1.0, 0.01),
        "elu": lambda: np.where(z > 0, 1.0, np.exp(np.minimum(z, 0))),
        "softplus": lambda: s,
        "gelu": lambda: _normal(z)[0] + z * _normal(z)[1],
        "silu": lambda: s * (1 + z * _sigmoid(-z)),
        "exp": lambda: np.exp(z),
    }
    return functions[name]()


@dataclass
class Network:
    """A dense network with its data, read off any model that has the attributes of a `fastbp.MLP`."""

    sizes: tuple[int, ...]
    hidden: tuple[str, ...]
    output: str
    loss: str
    reduction: str
    clip: float | None
    eps: float
    X: Matrix
    T: Matrix
    weights: Vector | None
    decay: float = 0.0
    decay_biases: bool = False
    smoothing: float = 0.0
    factor: float = 1.0

    @classmethod
    def of(cls, model: Any, X: Any, Y: Any, sample_weight: Any) -> Network:
        sizes = tuple(int(s) for s in model.sizes)
        X = np.asarray(X, dtype=float)
        T = np.asarray(Y)
        k = sizes[-1]
        if T.ndim == 1 and model.loss == "cross_entropy" and T.dtype.kind in "iub":
            T = np.eye(k)[T.astype(int)]
        T = np.asarray(T, dtype=float).reshape(len(X), k)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=float).ravel()
        return cls(sizes, tuple(model.activation), str(model.output_activation), str(model.loss),
                   str(model.reduction), model.clip, float(np.finfo(np.dtype(model.dtype)).eps), X, T, weights)

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def split(self, w: Vector) -> list[Matrix]:
        """W0, b0, W1, b1, ... as arrays."""
        pieces, start = [], 0
        for a, b in zip(self.sizes, self.sizes[1:], strict=False):
            for shape in ((a, b), (b,)):
                stop = start + math.prod(shape)
                pieces.append(w[start:stop].reshape(shape))
                start = stop
        return pieces

    def forward(self, w: Vector) -> tuple[list[Matrix], list[Matrix], list[Matrix]]:
        P, A, Z = self.split(w), [self.X], []
        for i in range(self.layers):
            Z.append(A[-1] @ P[2 * i] + P[2 * i + 1])
            A.append(activate(self.output if i == self.layers - 1 else self.hidden[i], Z[-1]))
        return P, A, Z

    def targets(self, smoothing: float) -> Matrix:
        return np.asarray(self.T * (1 - smoothing) + smoothing * self.T.sum(1, keepdims=True) / self.sizes[-1])

    def row_weights(self, m: dict[str, Any]) -> Vector:
        n = len(self.X)
        w = np.ones(n) if self.weights is None or m.get("weights") == "ignored" else self.weights
        if self.reduction == "mean":
            w = w / (n if m.get("weights") == "divided by N" else w.sum())
        return np.asarray(w, dtype=float)

    def value(self, w: Vector) -> float:
        """The loss."""
        P, A, Z = self.forward(w)
        T, y, z = self.targets(self.smoothing), A[-1], Z[-1]
        exact = self.clip is None and (self.output, self.loss) in CANONICAL
        c = self.clip if self.clip is not None else self.eps
        with np.errstate(all="ignore"):
            if self.loss == "squared_error":
                per = 0.5 * (y - T) ** 2
            elif self.loss == "binary_cross_entropy":
                per = T * np.logaddexp(0, -z) + (1 - T) * np.logaddexp(0, z) if exact else \
                    -(T * np.log(np.maximum(y, c)) + (1 - T) * np.log(np.maximum(1 - y, c)))
            elif self.loss == "poisson":
                log_y = z if exact else np.log(np.maximum(y, c))
                per = y - T - np.where(T > 0, T * (log_y - np.log(T)), 0)
            elif exact:
                top = z.max(1, keepdims=True)
                per = T * (np.log(np.exp(z - top).sum(1, keepdims=True)) + top - z)
            else:
                per = -T * np.log(np.maximum(y, c))
        total = float((per.sum(1) * self.row_weights({})).sum()) * self.factor
        for k, p in enumerate(P):
            if k % 2 == 0 or self.decay_biases:
                total += 0.5 * self.decay * float((p**2).sum())
        return total

    def output_delta(self, y: Matrix, z: Matrix, m: dict[str, Any]) -> Matrix:
        """dE/dz of the last layer for each example, before the weights of the examples."""
        T = self.targets(0.0 if m.get("smoothing") == "ignored" else self.smoothing)
        if m.get("delta") == "y - t":
            return y - T
        exact = self.clip is None and (self.output, self.loss) in CANONICAL
        if exact and not {"delta", "softmax", "clip"} & set(m):
            return y * T.sum(1, keepdims=True) - T if self.output == "softmax" else y - T
        c = self.clip if self.clip is not None else self.eps
        with np.errstate(all="ignore"):
            if self.loss == "squared_error":
                dy = y - T
            else:
                low, high = y > c, 1 - y > c
                if exact or m.get("clip") == "ignored":
                    low, high = np.ones_like(low), np.ones_like(high)
                elif m.get("clip") == "wrong side":
                    low, high = ~low, ~high
                dy = np.where(low & (T > 0), -T / y, 0.0)
                if self.loss == "binary_cross_entropy":
                    dy = dy + np.where(high & (T < 1), (1 - T) / (1 - y), 0.0)
                elif self.loss == "poisson":
                    dy = dy + 1
        if m.get("delta") == "no derivative":
            return dy
        if self.output == "softmax":
            return dy * y * (1 - y) if "softmax" in m else y * (dy - (dy * y).sum(1, keepdims=True))
        at = y if m.get("delta") == "derivative at y" else z
        return dy * (1 - y if m.get("delta") == "1 - y" else slope(self.output, at))

    def gradient(self, w: Vector, m: dict[str, Any] | None = None) -> Vector:
        """The flat gradient with the mistakes ``m`` (none: the right one)."""
        m = m or {}
        P, A, Z = self.forward(w)
        rows = self.row_weights(m)
        n = len(self.X)
        if "dropped row" in m:
            rows = rows.copy()
            rows[m["dropped row"]] = 0
        L = self.layers
        d = self.output_delta(A[-1], Z[-1], m) * (rows * self.factor)[:, None]
        G: list[Matrix] = [np.zeros(0)] * (2 * L)
        for i in range(L - 1, -1, -1):
            a = A[i]
            if m.get("input") == ("z", i):
                a = Z[i - 1]
            elif m.get("input") == ("rolled", i):
                a = np.roll(a, 1, axis=0)
            G[2 * i], G[2 * i + 1] = a.T @ d, d.sum(0)
            if i == 0:
                break
            W = P[2 * i]
            if "updated" in m:
                W = W - m["updated"] * G[2 * i]
            back = d @ (W if m.get("not transposed") == i else W.T)
            name, z = self.hidden[i - 1], Z[i - 1]
            kind = m.get("slope", ("", -1))
            if kind[1] != i - 1:
                D = slope(name, z)
            elif kind[0] == "missing":
                D = np.ones_like(z)
            elif kind[0] == "at a":
                D = slope(name, A[i])
            elif kind[0] == "1 - a":
                D = 1 - A[i]
            elif kind[0] == "a":
                D = A[i]
            else:
                D = slope(kind[0], z)
            d = back * D
        if self.decay or m.get("decay") == "added":
            for k, p in enumerate(P):
                share = {"missing": 0.0, "twice": 2.0}.get(m.get("decay", ""), 1.0)
                if k % 2 and not self.decay_biases:
                    share = 1.0 if m.get("decay") == "biases too" else 0.0
                if k % 2 and self.decay_biases and m.get("decay") == "weights only":
                    share = 0.0
                G[k] = G[k] + share * self.decay * p
        for k, factor in m.get("scaled", {}).items():
            G[k] = G[k] * factor
        if "bias mean" in m:
            for i in range(L):
                if m["bias mean"] in ("all", i):
                    G[2 * i + 1] = G[2 * i + 1] / n
        if "rearranged" in m:
            return _rearranged(G, m["rearranged"])
        return np.concatenate([g.ravel() for g in G])


def _rearranged(G: list[Matrix], how: str) -> Vector:
    """The right numbers in a wrong order."""
    pieces: list[Matrix] = []
    for i in range(0, len(G), 2):
        W, b = G[i], G[i + 1]
        if how == "bias first":
            pieces += [b, W]
        elif how == "all transposed":
            pieces += [W.T, b]
        elif how == "Fortran order":
            pieces += [W.ravel(order="F"), b]
        elif how == "bias as first column":
            pieces += [np.hstack([b[:, None], W.T])]
        elif how == "bias as last column":
            pieces += [np.hstack([W.T, b[:, None]])]
        elif how == "weights before biases":
            pieces += [W]
    if how == "weights before biases":
        pieces += [G[i] for i in range(1, len(G), 2)]
    if how == "last layer first":
        pieces = [p for i in range(len(G) - 2, -1, -2) for p in (G[i], G[i + 1])]
    return np.concatenate([p.ravel() for p in pieces])


@dataclass(frozen=True)
class Mistake:
    """A known mistake: the switches that plant it, and how to explain it."""

    code: str
    text: str
    remedy: str
    switches: dict[str, Any] = field(default_factory=dict)


def known_mistakes(net: Network) -> Iterator[Mistake]:
    """All mistakes that can be made in this network."""
    L, n = net.layers, len(net.X)
    pair = f"{net.output} output with {net.loss.replace('_', ' ')}"
    if net.loss == "squared_error":
        formula = "delta = (y - t) * act'(z)"
    elif net.loss == "binary_cross_entropy":
        formula = "delta = ((1 - t) / (1 - y) - t / y) * act'(z), with a term zero where its clip is active"
    elif net.loss == "poisson":
        formula = "dE/dy = 1 - t / y (1 where the clip is active), then delta = dE/dy times the output's derivative"
    else:
        formula = "dE/dy = -t / y (zero where the clip is active), then delta = dE/dy times the output's derivative"
    if (net.output, net.loss) not in CANONICAL:
        yield Mistake("delta = y - t", f"The output layer uses delta = y - t. That is dE/dz only for sigmoid "
                                       f"with binary "
                      f"cross-entropy, softmax with cross-entropy, exp with poisson and identity with squared error; "
                      f"here it is a {pair}.",
                      formula, {"delta": "y - t"})
    if net.output not in ("identity", "softmax"):
        yield Mistake("output derivative missing", "The output layer passes on dE/dy without multiplying by act'(z).",
                      formula, {"delta": "no derivative"})
        yield Mistake("output derivative at y", "The derivative of the output activation is taken at y, after the "
                      "activation, instead of at z, before it.", formula, {"delta": "derivative at y"})
        yield Mistake("output derivative 1 - y", "The derivative of the output activation is taken to be 1 - y.",
                      "tanh' = 1 - y^2; sigmoid' = y (1 - y)", {"delta": "1 - y"})
    if net.output == "softmax":
        yield Mistake("softmax diagonal only", "Only the diagonal of softmax's derivative is used, y (1 - y), as "
                                               "if its "
                      "outputs did not share a denominator.", "dE/dz = y * (dE/dy - sum(dE/dy * y))", {"softmax": True})
    if net.loss != "squared_error" and not (net.clip is None and (net.output, net.loss) in CANONICAL):
        yield Mistake("clip ignored", "The loss clips y before the logarithm, the backward pass does not: where "
                                      "the clip "
                      "is active the loss does not move, so its derivative is zero.",
                      "dE/dy = 0 where y <= c (or 1 - y <= c)", {"clip": "ignored"})
        yield Mistake("clip on the wrong side", "The backward pass sets the derivative to zero where the clip is not "
                      "active, and keeps it where it is.", "keep 1/y where y > c, zero "
                                                           "elsewhere", {"clip": "wrong side"})
    for i in range(L - 1):
        act, where = net.hidden[i], f"hidden layer {i + 1} ({net.hidden[i]})"
        right = f"delta_{i + 1} = (delta_{i + 2} @ W{i + 1}.T) * {act}'(z_{i + 1})"
        if act != "identity":
            yield Mistake("act' missing", f"The derivative of the activation is missing in {where}: the error is "
                                          f"passed "
                          "down through the weights alone.", right, {"slope": ("missing", i)})
            yield Mistake("act' at a", f"In {where} the derivative is taken at a, the activation's result, "
                                       f"instead of at "
                          "z, its argument.", right, {"slope": ("at a", i)})
        if act in ("tanh", "sigmoid"):
            yield Mistake("1 - a", f"In {where} the derivative is taken to be 1 - a.",
                          "tanh' = 1 - a^2; sigmoid' = a (1 - a)", {"slope": ("1 - a", i)})
            yield Mistake("derivative a", f"In {where} the derivative is taken to be a itself.",
                          "tanh' = 1 - a^2; sigmoid' = a (1 - a)", {"slope": ("a", i)})
        following = net.hidden[i + 1] if i + 1 < L - 1 else net.output
        others = [following] + [h for h in ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu")]
        for other in dict.fromkeys(others):
            if other in (act, "softmax", "identity"):
                continue
            whose = "the next layer's activation" if other == following else f"the activation {other}"
            yield Mistake("next layer's activation" if other == following else "another activation's derivative",
                          f"In {where} the derivative is that of {whose} ({other}).", right, {"slope": (other, i)})
    for i in range(1, L):
        if net.sizes[i] == net.sizes[i + 1]:
            yield Mistake("W not transposed", f"The error is passed down through W{i} instead of its transpose; "
                                              f"the shapes "
                          "happen to agree because the matrix is square.", f"delta_{i + 1} @ W{i}.T",
                          {"not transposed": i})
        yield Mistake("z for a", f"The gradient of W{i} uses z, before the activation, instead of a.",
                      f"grad W{i} = a_{i}.T @ delta_{i + 1}", {"input": ("z", i)})
    for i in range(L):
        yield Mistake("rows out of step", f"The gradient of W{i} pairs each error with the activations of the example "
                      "before it.", f"grad W{i} = a_{i}.T @ delta_{i + 1}, same rows in both", {"input": ("rolled", i)})
    every = {k: 1.0 for k in range(2 * L)}
    groups: list[tuple[str, list[int]]] = [("everywhere", list(every))]
    groups += [(f"in layer {i + 1} only", [2 * i, 2 * i + 1]) for i in range(L)] if L > 1 else []
    groups += [("in the biases", list(range(1, 2 * L, 2))), ("in the weights", list(range(0, 2 * L, 2)))]
    groups += [(f"in {'Wb'[k % 2]}{k // 2} only", [k]) for k in every]
    for where, blocks in groups:
        biases = all(k % 2 for k in blocks)
        if n > 1 and net.reduction == "mean":
            yield Mistake("1/N missing", f"The division by the number of examples ({n}) is missing {where}.",
                          "divide by N exactly once", {"scaled": {k: float(n) for k in blocks}})
        if n > 1 and biases:
            yield Mistake("bias mean for sum", f"The bias gradient is the mean over the examples where it should "
                                               f"be the "
                          f"sum, {where}.", "grad b = delta.sum(axis=0)", {"scaled": {k: 1 / n for k in blocks}})
        elif n > 1:
            yield Mistake("1/N twice", f"The gradient is divided by the number of examples ({n}) once too often, "
                                       f"{where}.",
                          "divide by N exactly once", {"scaled": {k: 1 / n for k in blocks}})
        for factor, name in ((2.0, "twice too large"), (0.5, "half as large as it should be")):
            yield Mistake("factor", f"The gradient is {name} {where} (a forgotten or doubled 1/2 in the loss?).",
                          "the derivative of 0.5 (y - t)^2 is (y - t)", {"scaled": {k: factor for k in blocks}})
        k_out = net.sizes[-1]
        if k_out > 2:
            yield Mistake("1/K", f"The gradient is divided by the number of outputs ({k_out}) {where}, the loss "
                                 f"is not.",
                          "a mean over all entries of y divides by N K", {"scaled": {k: 1 / k_out for k in blocks}})
        yield Mistake("sign", f"The sign is wrong {where}: t - y where y - t belongs?", "the gradient points uphill",
                      {"scaled": {k: -1.0 for k in blocks}})
        yield Mistake("zero block", f"The gradient is zero {where}: it was forgotten or overwritten.",
                      "grad W = a.T @ delta, grad b = delta.sum(axis=0)", {"scaled": {k: 0.0 for k in blocks}})
    for how, text in (
        ("bias first", "Each layer's bias stands before its weights in the gradient, but after them in w."),
        ("all transposed", "Every weight matrix is transposed in the gradient: (fan_out, fan_in) for (fan_in, "
                           "fan_out)."),
        ("Fortran order", "Every weight matrix is flattened column by column (Fortran, MATLAB) instead of row by row."),
        ("bias as first column", "The bias is the first column of the transposed weight matrix, [b, W.T], flattened."),
        ("bias as last column", "The bias is the last column of the transposed weight matrix, [W.T, b], flattened."),
        ("weights before biases", "All weights come first and all biases after them."),
        ("last layer first", "The blocks are collected in the order of the backward pass, last layer first."),
    ):
        yield Mistake("order: " + how, text, "the gradient's entries stand in the order of w", {"rearranged": how})
    if net.weights is not None:
        yield Mistake("sample weights ignored", "The loss weights its examples, the gradient does not.",
                      "multiply each example's delta by its weight", {"weights": "ignored"})
        yield Mistake("weights divided by N", "The gradient divides by the number of examples, the loss by the sum of "
                      "their weights.", "divide by the sum of the weights", {"weights": "divided by N"})
    if net.smoothing:
        yield Mistake("label smoothing ignored", f"The loss smooths its labels (by {net.smoothing:.3g}), the gradient "
                      "uses the hard ones.", "delta = y - smoothed t", {"smoothing": "ignored"})
    if net.decay:
        yield Mistake("weight decay missing", f"The loss contains weight decay ({net.decay:.3g}), the gradient "
                                              f"does not.",
                      "add lambda * W", {"decay": "missing"})
        yield Mistake("weight decay twice", "The weight decay is twice as large in the gradient as in the loss.",
                      "the derivative of (lambda / 2) W^2 is lambda W", {"decay": "twice"})
        if net.decay_biases:
            yield Mistake("weight decay not on biases", "The loss decays the biases too, the gradient does not.",
                          "add lambda * b", {"decay": "weights only"})
        else:
            yield Mistake("weight decay on biases", "The gradient decays the biases too, the loss does not.",
                          "add lambda * W to weights only", {"decay": "biases too"})
    if n > 1:
        yield Mistake("last row dropped", "The last example does not enter the gradient.", "sum over all N rows",
                      {"dropped row": -1})
        yield Mistake("first row dropped", "The first example does not enter the gradient.", "sum over all N rows",
                      {"dropped row": 0})


def updated_weights(net: Network, w: Vector, gradient: Vector) -> Mistake | None:
    """Were the weights updated before the error was passed down through them?  The step size is read off first."""
    if net.layers < 2:
        return None
    base, moved = net.gradient(w), net.gradient(w, {"updated": 1.0})
    k = 2 * (net.layers - 2)  # in the layer below the last the effect is proportional to the step
    starts = np.cumsum([0] + [p.size for p in net.split(w)])
    part = slice(starts[k], starts[k + 1])
    change = moved[part] - base[part]
    size = float(change @ change)
    if size == 0:
        return None
    rate = float(change @ (gradient[part] - base[part])) / size
    if not 1e-9 < abs(rate) < 1e6:
        return None
    return Mistake("updated weights used below", f"The weights of a layer are updated (with step {rate:.4g}) "
                                                 f"before the "
                   "error is passed down through them.", "pass the error down first, update all weights afterwards",
                   {"updated": rate})
