"""Networks with a known mistake in their gradient, for the zoo.

Written for the tests alone and shares nothing with the package.  The forward pass runs in any floating-point type
(so that labels can be certified in 80-bit arithmetic); the backward pass has one switch per mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SLOPE_BELOW = {"relu": 0.0, "leaky_relu": 0.01}
EPS = {"f4": np.finfo(np.float32).eps, "f8": np.finfo(np.float64).eps}


def act(name, z):
    if name == "identity":
        return z
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "tanh":
        return np.tanh(z)
    if name == "relu":
        return np.maximum(z, 0)
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    if name == "softplus":
        return np.logaddexp(0 * z, z)
    if name == "silu":
        return z / (1 + np.exp(-z))
    if name == "leaky_relu":
        return np.where(z > 0, z, z * z.dtype.type(0.01))
    if name == "softmax":
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)
    raise KeyError(name)


def dact(name, z):
    if name == "identity":
        return np.ones_like(z)
    if name == "sigmoid":
        s = act("sigmoid", z)
        return s * (1 - s)
    if name == "tanh":
        return 1 - np.tanh(z) ** 2
    if name == "relu":
        return (z > 0).astype(z.dtype)
    if name == "elu":
        return np.where(z > 0, np.ones_like(z), np.exp(np.minimum(z, 0)))
    if name == "softplus":
        return 1 / (1 + np.exp(-z))
    if name == "silu":
        s = 1 / (1 + np.exp(-z))
        return s * (1 + z * (1 - s))
    if name == "leaky_relu":
        return np.where(z > 0, np.ones_like(z), np.full_like(z, 0.01))
    raise KeyError(name)


@dataclass
class Net:
    sizes: tuple
    hidden: tuple
    output: str
    loss: str
    N: int = 16
    dtype: str = "f8"
    seed: int = 0
    clip: float | None = None
    reduction: str = "mean"
    decay: float = 0.0
    weights: bool = False
    smoothing: float = 0.0
    mistakes: dict = field(default_factory=dict)
    start: str = "random"
    spread: float = 1.0
    ties: dict = field(default_factory=dict)  # relu'(0) where it is not 0: by layer, a number or an array like z

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, *self.sizes])
        dt = np.dtype(self.dtype)
        self.X = rng.normal(size=(self.N, self.sizes[0])).astype(dt)
        k = self.sizes[-1]
        if self.loss == "squared_error":
            self.T = rng.normal(size=(self.N, k)).astype(dt)
            if self.output in ("sigmoid", "softmax"):
                self.T = act(self.output, self.T)
        elif self.loss == "cross_entropy":
            self.T = np.eye(k)[rng.integers(0, k, self.N)].astype(dt)
        else:
            self.T = rng.integers(0, 2, size=(self.N, k)).astype(dt)
        self.sw = rng.uniform(0.5, 2.0, self.N).astype(dt) if self.weights else None
        self.layout = []
        for i, (a, b) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            self.layout += [(f"W{i}", (a, b)), (f"b{i}", (b,))]
        pieces = []
        for name, shape in self.layout:
            if name[0] == "W":
                piece = rng.normal(size=shape) * self.spread / np.sqrt(shape[0])
            else:
                piece = rng.normal(size=shape) * 0.3
            if self.start == "zero first layer" and name in ("W0", "b0"):
                piece = np.zeros(shape)
            if self.start == "zero bias" and name[0] == "b":
                piece = np.zeros(shape)
            pieces.append(piece.ravel())
        self.w0 = np.concatenate(pieces).astype(dt)
        if self.start == "zero bias":
            self.X[0] = 0

    def split(self, w):
        out, k = [], 0
        for _, shape in self.layout:
            m = shape[0] * shape[1] if len(shape) == 2 else shape[0]
            out.append(w[k:k + m].reshape(shape))
            k += m
        return out

    def forward(self, w, dt):
        w = np.asarray(w)
        key = w.tobytes(), w.dtype, dt, self.X.tobytes()  # value and gradient ask for the same point in turn
        if getattr(self, "latest", (None,))[0] != key:
            self.latest = key, self.forward_afresh(w, dt)
        return self.latest[1]

    def forward_afresh(self, w, dt):
        P = [p.astype(dt) for p in self.split(np.asarray(w))]
        A, Z = [self.X.astype(dt)], []
        L = len(self.sizes) - 1
        for i in range(L):
            Z.append(A[-1] @ P[2 * i] + P[2 * i + 1])
            A.append(act(self.output if i == L - 1 else self.hidden[i], Z[-1]))
        return P, A, Z

    def targets(self, dt):
        T = self.T.astype(dt)
        return T * (1 - dt(self.smoothing)) + dt(self.smoothing) / T.shape[1]

    def value(self, w, dt=None):
        dt = np.dtype(dt or self.dtype).type
        P, A, _Z = self.forward(w, dt)
        y, T = A[-1], self.targets(dt)
        c = dt(self.clip) if self.clip else dt(EPS[self.dtype])
        if self.loss == "squared_error":
            per = dt(0.5) * (y - T) ** 2
        elif self.loss == "cross_entropy":
            per = -T * np.log(np.maximum(y, c))
        else:
            per = -(T * np.log(np.maximum(y, c)) + (1 - T) * np.log(np.maximum(1 - y, c)))
        per = per.sum(1)
        sw = self.sw.astype(dt) if self.sw is not None else np.ones(self.N, dt)
        total = (per * sw).sum()
        if self.reduction == "mean":
            total = total / sw.sum()
        if self.decay:
            total = total + dt(self.decay) / 2 * sum((p ** 2).sum() for p in P[0::2])
        return total

    def gradient(self, w):
        m = self.mistakes
        dt = np.dtype(self.dtype).type
        P, A, Z = self.forward(w, dt)
        T = self.targets(dt)
        if m.get("no smoothing"):
            T = self.T.astype(dt)
        L = len(self.sizes) - 1
        y = A[-1]
        c = dt(self.clip) if self.clip else dt(EPS[self.dtype])
        sw = self.sw.astype(dt) if self.sw is not None and not m.get("no weights") else np.ones(self.N, dt)
        scale = sw / sw.sum() if self.reduction == "mean" else sw
        if m.get("no 1/N"):
            scale = sw
        if m.get("1/N twice"):
            scale = scale / self.N
        if m.get("last row dropped"):
            scale = scale.copy()
            scale[-1] = 0
        if self.loss == "squared_error":
            dy = y - T
        else:
            inside, inside1 = y > c, 1 - y > c
            if m.get("clip ignored"):
                inside, inside1 = np.ones_like(inside), np.ones_like(inside1)
            if m.get("clip wrong side"):
                inside, inside1 = ~inside, ~inside1
            with np.errstate(all="ignore"):
                dy = np.where(inside & (T > 0), -T / y, 0)
                if self.loss == "binary_cross_entropy":
                    dy = dy + np.where(inside1 & (T < 1), (1 - T) / (1 - y), 0)
        if m.get("delta"):
            d = y - T
        elif self.output == "softmax":
            if m.get("softmax diagonal"):
                d = dy * y * (1 - y)
            else:
                d = y * (dy - (dy * y).sum(1, keepdims=True))
        else:
            d = dy * dact(self.output, Z[-1])
        d = (d * scale[:, None]).astype(dt)
        G = [None] * (2 * L)
        for i in range(L - 1, -1, -1):
            a_in = A[i]
            if m.get("stale") == i:
                a_in = np.roll(a_in, 1, axis=0)
            G[2 * i] = a_in.T @ d
            G[2 * i + 1] = d.sum(0)
            if self.decay and not m.get("no decay"):
                G[2 * i] = G[2 * i] + dt(self.decay) * P[2 * i] * (2 if m.get("decay twice") else 1)
                if m.get("decay on biases"):
                    G[2 * i + 1] = G[2 * i + 1] + dt(self.decay) * P[2 * i + 1]
            if i:
                W = P[2 * i]
                if m.get("updated weights"):
                    W = W - dt(0.1) * G[2 * i]
                if m.get("W not transposed") == i:
                    W = W.T
                name, z = self.hidden[i - 1], Z[i - 1]
                if m.get("next activation") == i:
                    name = self.output if i == L - 1 else self.hidden[i]
                D = dact(name, z)
                if i - 1 in self.ties:
                    below = SLOPE_BELOW[name]
                    D = np.where(z == 0, below + (1 - below) * self.ties[i - 1], D).astype(dt)
                if m.get("no derivative") == i:
                    D = np.ones_like(z)
                if m.get("derivative at a") == i:
                    D = dact(name, A[i])
                if m.get("1 - a") == i:
                    D = 1 - A[i]
                d = (d @ W.T) * D
        if m.get("bias mean"):
            for i in range(L):
                G[2 * i + 1] = G[2 * i + 1] / self.N
        names = [n for n, _ in self.layout]
        for name, change in m.get("blocks", {}).items():
            j = names.index(name)
            G[j] = np.asarray(change(G[j].copy())).astype(dt).reshape(G[j].shape)
        if m.get("bias first"):
            order = [j for i in range(L) for j in (2 * i + 1, 2 * i)]
            return np.concatenate([G[j].ravel() for j in order])
        return np.concatenate([g.ravel() for g in G])

    def __call__(self, w):
        with np.errstate(all="ignore"):
            return self.value(w), self.gradient(w)
