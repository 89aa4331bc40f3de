"""A small dense network in plain NumPy, into whose backward pass each known mistake can be planted.

One function does the whole backward pass; a mistake is a switch in it.  Nothing here is fast and nothing needs to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
            kind = m.get("input", {}).get(i)
            if kind:
                a = Z[i - 1] if kind == "z" else np.roll(a, 1, axis=0)
            G[2 * i], G[2 * i + 1] = a.T @ d, d.sum(0)
            if i == 0:
                break
            W = P[2 * i]
            if "updated" in m:
                W = W - m["updated"] * G[2 * i]
            back = d @ (W if m.get("not transposed") == i else W.T)
            name, z = self.hidden[i - 1], Z[i - 1]
            kind = m.get("slope", {}).get(i - 1, name)
            if kind == "missing":
                D = np.ones_like(z)
            elif kind == "at a":
                D = slope(name, A[i])
            elif kind == "1 - a":
                D = 1 - A[i]
            elif kind == "a":
                D = A[i]
            else:
                D = slope(kind, z)
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
