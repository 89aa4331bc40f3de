"""Loss and gradient to 60 digits, straight from the definitions: what every other number is judged by.

Inputs are taken as the exact values of the floats given. Where a clip is active is decided at 60 digits.

An activation's value is held as `anchor + rest`, the anchor being the exact number that it approaches (0, 1,
-1 or z itself) and the rest having 60 digits of its own: y - t, 1 - y and log y then stay exact where y is
within e^-750 of its limit, which 60 digits of y alone would not show.
Each result comes with its `scale`: the sum of the absolute values of the terms that it is the sum of. A
result much smaller than its scale is small because its inputs happen to cancel; rounding decides its digits.
"""

from dataclasses import dataclass
from functools import cache

import mpmath
import numpy as np

mp = mpmath.MPContext()
mp.dps = 60
ZERO, ONE, HALF = mp.mpf(0), mp.mpf(1), mp.mpf("0.5")
LEAKY_SLOPE = mp.mpf(0.01)

ELEMENTWISE = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "exp")
OUTPUTS = (*ELEMENTWISE, "softmax")
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy", "poisson")
CANONICAL = (("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy"), ("exp", "poisson"))


@dataclass
class Point:
    """An activation at one z: y = anchor + rest, its derivative, and the derivative's scale."""

    anchor: object
    rest: object
    slope: object
    slope_scale: object

    @property
    def y(self):
        return self.anchor + self.rest

    @property
    def one_minus_y(self):
        return (1 - self.anchor) - self.rest

    @property
    def log_y(self):
        return mp.log1p(self.rest) if self.anchor == 1 else mp.log(self.y)

    @property
    def log_one_minus_y(self):
        return mp.log1p(-self.rest) if self.anchor == 0 else mp.log(self.one_minus_y)

    def minus(self, t):
        return (self.anchor - t) + self.rest

    def minus_scale(self, t):
        return abs(self.anchor - t) + abs(self.rest)


def exact(values):
    """The floats (NumPy's or Python's) or 60-digit numbers, as 60-digit numbers."""
    return [v if isinstance(v, mp.mpf) else mp.mpf(float(v)) for v in values]


def sigma(z):
    return 1 / (1 + mp.exp(-z))


def phi(z):
    return mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def Phi(z):
    if abs(z) > 1e5:  # erfc gives up on huge arguments; what it would return is 0 or 1 to a billion digits
        return ONE if z > 0 else phi(z) / -z
    return mp.erfc(-z / mp.sqrt(2)) / 2


def point(name, z):
    z = mp.mpf(z)
    if name == "identity":
        return Point(z, ZERO, ONE, ONE)
    if name == "relu":
        return Point(z, ZERO, ONE, ONE) if z > 0 else Point(ZERO, ZERO, ZERO, ZERO)
    if name == "leaky_relu":
        slope = ONE if z > 0 else LEAKY_SLOPE
        return Point(slope * z, ZERO, slope, slope)
    if name == "sigmoid":
        s, other = sigma(z), sigma(-z)
        return Point(ONE, -other, s * other, s * other) if z > 0 else Point(ZERO, s, s * other, s * other)
    if name == "tanh":
        q = mp.exp(-2 * abs(z))
        slope = 4 * q / (1 + q) ** 2
        if abs(z) < 1:
            return Point(ZERO, mp.tanh(z), slope, slope)
        sign = ONE if z > 0 else -ONE
        return Point(sign, -sign * 2 * q / (1 + q), slope, slope)
    if name == "elu":
        if z > 0:
            return Point(z, ZERO, ONE, ONE)
        e = mp.exp(z)
        return Point(-ONE, e, e, e) if z < -1 else Point(ZERO, mp.expm1(z), e, e)
    if name == "softplus":
        s = sigma(z)
        return Point(z if z > 0 else ZERO, mp.log1p(mp.exp(-abs(z))), s, s)
    if name == "gelu":
        below, bump = Phi(z), z * phi(z)
        anchor, rest = (z, -z * Phi(-z)) if z > 0 else (ZERO, z * below)
        return Point(anchor, rest, below + bump, below + abs(bump))
    if name == "silu":
        s, other = sigma(z), sigma(-z)
        anchor, rest = (z, -z * other) if z > 0 else (ZERO, z * s)
        return Point(anchor, rest, s + z * s * other, s + abs(z) * s * other)
    if name == "exp":
        e = mp.exp(z)
        return Point(ONE, mp.expm1(z), e, e) if abs(z) < HALF else Point(ZERO, e, e, e)
    raise ValueError(name)


def softmax_points(z):
    """One point per class; y and 1 - y both as sums of exponentials, so that neither is a difference."""
    top = max(z)
    e = [mp.exp(v - top) for v in z]
    total = mp.fsum(e)
    points = []
    for k, own in enumerate(e):
        others = mp.fsum(e[:k] + e[k + 1 :])
        slope = own * others / total**2
        if own > others:
            points.append(Point(ONE, -others / total, slope, slope))
        else:
            points.append(Point(ZERO, own / total, slope, slope))
    return points


def clipped_terms(p, t, loss, c):
    """(loss, dloss/dy, scale of dloss/dy) of one output under the clipped log."""
    log_c = mp.log(c) if c else -mp.inf
    if loss == "poisson":
        if t == 0 or p.y <= c:
            return p.y + (t * (mp.log(t) - 1 - log_c) if t else ZERO), ONE, ONE
        return half_deviance(p, t), p.minus(t) / p.y, p.minus_scale(t) / p.y
    value = slope = scale = ZERO
    if t != 0:
        active = p.y > c
        value -= t * (p.log_y if active else log_c)
        slope -= t / p.y if active else ZERO
        scale += t / p.y if active else ZERO
    if loss == "binary_cross_entropy" and t != 1:
        active = p.one_minus_y > c
        value -= (1 - t) * (p.log_one_minus_y if active else log_c)
        slope += (1 - t) / p.one_minus_y if active else ZERO
        scale += (1 - t) / p.one_minus_y if active else ZERO
    return value, slope, scale


def half_deviance(p, t):
    """y - t - t log(y / t), of which the first 60 digits would cancel where y is close to t."""
    f = p.minus(t) / t
    if abs(f) < mp.mpf("1e-3"):
        return t * mp.fsum((-f) ** k / k for k in range(2, 24))
    return p.minus(t) - t * (p.log_y - mp.log(t))


def canonical(activation, z, t):
    """(loss, falling terms, rising terms) of the pairs with a log-sum-exp: dloss/dz = rising - falling."""
    if activation == "sigmoid":
        pairs = list(zip(z, t, strict=True))
        value = mp.fsum(tk * mp.log1p(mp.exp(-zk)) + (1 - tk) * mp.log1p(mp.exp(zk)) for zk, tk in pairs)
        return value, [tk * sigma(-zk) for zk, tk in pairs], [(1 - tk) * sigma(zk) for zk, tk in pairs]
    pairs = list(zip(softmax_points(z), t, strict=True))
    value = mp.fsum(-tk * p.log_y for p, tk in pairs)
    rising = [p.y * mp.fsum(t[:k] + t[k + 1 :]) for k, (p, _) in enumerate(pairs)]
    return value, [tk * p.one_minus_y for p, tk in pairs], rising


def head(activation, loss, z, t, clip, eps):
    """One example: (loss, [dloss/dz], [scale of each]) for logits z and targets t, sequences of floats."""
    z, t = exact(z), exact(t)
    if clip is None and (activation, loss) in CANONICAL[:2]:
        value, falling, rising = canonical(activation, z, t)
        both = list(zip(falling, rising, strict=True))
        return value, [r - f for f, r in both], [r + f for f, r in both]
    points = softmax_points(z) if activation == "softmax" else [point(activation, v) for v in z]
    pairs = list(zip(points, t, strict=True))
    if loss == "squared_error":
        terms = [(p.minus(tk) ** 2 / 2, p.minus(tk), p.minus_scale(tk)) for p, tk in pairs]
    else:
        c = 0 if clip is None and (activation, loss) in CANONICAL else float(eps if clip is None else clip)
        terms = [clipped_terms(p, tk, loss, mp.mpf(c)) for p, tk in pairs]
    values, d, d_scale = zip(*terms, strict=True)
    if activation == "softmax":
        y, ks = [p.y for p in points], range(len(points))
        grad = [y[k] * mp.fsum(y[j] * (d[k] - d[j]) for j in ks if j != k) for k in ks]
        scale = [y[k] * mp.fsum(y[j] * (d_scale[k] + d_scale[j]) for j in ks if j != k) for k in ks]
    else:
        grad = [v * p.slope for v, p in zip(d, points, strict=True)]
        scale = [v * p.slope_scale for v, p in zip(d_scale, points, strict=True)]
    return mp.fsum(values), grad, scale


def network(weights, biases, activations, loss, X, Y, *, clip, eps, reduction="mean", sample_weight=None):
    """(loss, flat gradient W0 b0 W1 b1 ...) of a whole net, computed at 60 digits and rounded to float64."""
    weights = [[exact(row) for row in W] for W in weights]
    biases = [exact(b) for b in biases]
    w = [ONE] * len(X) if sample_weight is None else exact(sample_weight)
    norm = mp.fsum(w) if reduction == "mean" else ONE
    total = ZERO
    grad_W = [[[ZERO] * len(W[0]) for _ in W] for W in weights]
    grad_b = [[ZERO] * len(b) for b in biases]
    for x, t, w_i in zip(X, Y, w, strict=True):
        inputs, slopes = [exact(x)], []
        for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
            z = [b_k + mp.fdot(inputs[i], (row[k] for row in W)) for k, b_k in enumerate(b)]
            if i < len(weights) - 1:
                points = [point(activations[i], v) for v in z]
                inputs.append([p.y for p in points])
                slopes.append([p.slope for p in points])
        value, delta, _ = head(activations[-1], loss, z, t, clip, eps)
        total += w_i * value
        delta = [w_i * v / norm for v in delta]
        for i in reversed(range(len(weights))):
            for j, a_j in enumerate(inputs[i]):
                for k, d_k in enumerate(delta):
                    grad_W[i][j][k] += a_j * d_k
            grad_b[i] = [g + d for g, d in zip(grad_b[i], delta, strict=True)]
            if i:
                delta = [mp.fdot(row, delta) * s for row, s in zip(weights[i], slopes[i - 1], strict=True)]
    flat = [v for gW, gb in zip(grad_W, grad_b, strict=True) for v in [u for row in gW for u in row] + gb]
    return float(total / norm), np.array([float(v) for v in flat])


@cache
def clip_edges(activation, c, dtype, low=-800.0, high=800.0):
    """The pairs of neighbouring floats between which y > c, and 1 - y > c, change: decided at 60 digits."""
    c = mp.mpf(c)

    def bisect(test):
        a, b = dtype(low), dtype(high)
        assert test(a) != test(b)
        while np.nextafter(a, b) != b:
            middle = dtype(a / 2 + b / 2)
            middle = middle if a < middle < b else np.nextafter(a, b)
            a, b = (middle, b) if test(middle) == test(a) else (a, middle)
        return [a, b]

    above = bisect(lambda z: point(activation, float(z)).y > c)
    below = bisect(lambda z: point(activation, float(z)).one_minus_y > c)
    return above + below


def softmax_edge(others, c, dtype):
    """The two neighbouring floats of the first logit between which y_0 > c changes; others: the rest."""
    a, b = dtype(-800), dtype(800)
    c = mp.mpf(float(c))

    def test(z):
        return softmax_points(exact((z, *others)))[0].y > c

    while np.nextafter(a, b) != b:
        middle = dtype(a / 2 + b / 2)
        middle = middle if a < middle < b else np.nextafter(a, b)
        a, b = (middle, b) if test(middle) == test(a) else (a, middle)
    return [a, b]
