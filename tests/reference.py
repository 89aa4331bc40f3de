"""Every kernel and the whole network in plain NumPy float64: the slow twin, written to be read.

Never imports fastbp. Good to about 1e-13 relative away from a clip's edges; truth.py is for what lies beyond.
Layer i: z = a W + b, W of shape (fan_in, fan_out), the rows of X are examples.
"""

import itertools

import numpy as np
from scipy.special import erfc, xlogy

LEAKY_SLOPE = 0.01
EPS = float(np.finfo(np.float64).eps)
ELEMENTWISE = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "exp")
OUTPUTS = (*ELEMENTWISE, "softmax")
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy", "poisson")


def sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)


def normal_cdf(z):
    return 0.5 * erfc(-z / np.sqrt(2.0))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def activate(name, z):
    if name == "identity":
        return z.copy()
    if name == "sigmoid":
        return sigmoid(z)
    if name == "tanh":
        return np.tanh(z)
    if name == "relu":
        return np.where(z > 0, z, 0.0 * z)
    if name == "leaky_relu":
        return np.where(z > 0, z, LEAKY_SLOPE * z)
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0.0)))
    if name == "softplus":
        return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    if name == "gelu":
        return z * normal_cdf(z)
    if name == "silu":
        return z * sigmoid(z)
    if name == "exp":
        return np.exp(z)
    if name == "softmax":
        return softmax(z)
    raise ValueError(name)


def derivative(name, z):
    """act'(z), elementwise; 0 at relu's kink, the left slope at leaky_relu's."""
    if name == "identity":
        return np.ones_like(z)
    if name == "sigmoid":
        return sigmoid(z) * sigmoid(-z)
    if name == "tanh":
        q = np.exp(-2.0 * np.abs(z))
        return 4.0 * q / (1.0 + q) ** 2
    if name == "relu":
        return np.where(z > 0, 1.0, 0.0)
    if name == "leaky_relu":
        return np.where(z > 0, 1.0, LEAKY_SLOPE)
    if name == "elu":
        return np.where(z > 0, 1.0, np.exp(np.minimum(z, 0.0)))
    if name == "softplus":
        return sigmoid(z)
    if name == "gelu":
        return normal_cdf(z) + z * normal_density(z)
    if name == "silu":
        return sigmoid(z) * (1.0 + z * sigmoid(-z))
    if name == "exp":
        return np.exp(z)
    raise ValueError(name)


def complement(name, z):
    """1 - y, without the subtraction where the activation allows it."""
    if name == "sigmoid":
        return sigmoid(-z)
    if name == "tanh":
        q = np.exp(-2.0 * np.abs(z))
        return np.where(z > 0, 2.0 * q, 2.0) / (1.0 + q)
    if name == "softmax":
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        others = np.stack([np.delete(e, k, axis=-1).sum(axis=-1) for k in range(z.shape[-1])], axis=-1)
        return others / e.sum(axis=-1, keepdims=True)
    return 1.0 - activate(name, z)


def safe_log(y, c):
    """log(max(y, c)) and its derivative: 1/y where y > c, exactly 0 elsewhere; nan stays nan."""
    y = np.asarray(y, dtype=np.float64)
    held = np.where(y <= c, c, y)
    return np.log(held), np.where(y <= c, 0.0, 1.0 / held)


def weighted(weight, value):
    """weight * value, where a weight of 0 gives 0 whatever the value."""
    return np.where(weight == 0, 0.0, weight * value)


def loss_of_outputs(y, t, loss, c, one_minus_y=None):
    """Per row the loss of outputs y, and dloss/dy."""
    if loss == "squared_error":
        return 0.5 * np.sum((y - t) ** 2, axis=1), y - t
    log_y, slope_y = safe_log(y, c)
    if loss == "cross_entropy":
        return -np.sum(weighted(t, log_y), axis=1), -weighted(t, slope_y)
    if loss == "poisson":
        return np.sum(y - weighted(t, log_y) + xlogy(t, t) - t, axis=1), 1.0 - weighted(t, slope_y)
    log_n, slope_n = safe_log(1.0 - y if one_minus_y is None else one_minus_y, c)
    value = -np.sum(weighted(t, log_y) + weighted(1.0 - t, log_n), axis=1)
    return value, weighted(1.0 - t, slope_n) - weighted(t, slope_y)


def head(activation, loss, z, t, clip=None, eps=EPS):
    """Per row of logits z the loss, and dloss/dz."""
    if clip is None and (activation, loss) == ("sigmoid", "binary_cross_entropy"):
        value = weighted(t, activate("softplus", -z)) + weighted(1.0 - t, activate("softplus", z))
        return value.sum(axis=1), (1.0 - t) * sigmoid(z) - t * sigmoid(-z)
    if clip is None and (activation, loss) == ("softmax", "cross_entropy"):
        top = z.max(axis=1, keepdims=True)
        lse = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
        return weighted(t, lse - z).sum(axis=1), softmax(z) * t.sum(axis=1, keepdims=True) - t
    if clip is None and (activation, loss) == ("exp", "poisson"):
        return np.sum(np.exp(z) - weighted(t, z) + xlogy(t, t) - t, axis=1), np.exp(z) - t
    y, c = activate(activation, z), eps if clip is None else clip
    value, dy = loss_of_outputs(y, t, loss, c, complement(activation, z))
    if activation == "softmax":
        return value, y * (dy - np.sum(y * dy, axis=1, keepdims=True))
    return value, dy * derivative(activation, z)


def one_hot(labels, n_classes):
    t = np.zeros((len(labels), n_classes))
    t[np.arange(len(labels)), np.asarray(labels, dtype=np.int64)] = 1.0
    return t


def dense_forward(X, W, b, activation="identity"):
    z = X @ W + b
    return activate(activation, z), z


def dense_backward(dA, X, W, z, activation="identity"):
    dZ = dA * derivative(activation, z)
    return dZ @ W.T, X.T @ dZ, dZ.sum(axis=0)


def unflatten(vector, sizes):
    """Lists of W and b, views into a flat vector laid out W0 b0 W1 b1 ..."""
    weights, biases, start = [], [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        weights.append(vector[start : start + n_in * n_out].reshape(n_in, n_out))
        start += n_in * n_out
        biases.append(vector[start : start + n_out])
        start += n_out
    assert start == vector.size
    return weights, biases


def forward(parameters, sizes, activations, X):
    """Inputs and logits of every layer; activations has one name per layer, the output's last."""
    weights, biases = unflatten(parameters, sizes)
    inputs, logits = [np.asarray(X, dtype=np.float64)], []
    for W, b, name in zip(weights, biases, activations, strict=True):
        a, z = dense_forward(inputs[-1], W, b, name)
        inputs.append(a)
        logits.append(z)
    return inputs, logits


def backward_from(dZ, parameters, sizes, activations, inputs, logits):
    """dX and the flat gradient, given dloss/dz of the last layer."""
    weights, _ = unflatten(parameters, sizes)
    parts = []
    for i in reversed(range(len(weights))):
        parts = [(inputs[i].T @ dZ).ravel(), dZ.sum(axis=0), *parts]
        dA = dZ @ weights[i].T
        if i:
            dZ = dA * derivative(activations[i - 1], logits[i - 1])
    return dA, np.concatenate(parts)


def backward(dY, parameters, sizes, activations, X):
    """dX and the flat gradient for a given dloss/dy."""
    inputs, logits = forward(parameters, sizes, activations, X)
    if activations[-1] == "softmax":
        y = inputs[-1]
        dZ = y * (dY - np.sum(y * dY, axis=1, keepdims=True))
    else:
        dZ = dY * derivative(activations[-1], logits[-1])
    return backward_from(dZ, parameters, sizes, activations, inputs, logits)


def value_and_grad(
    parameters, sizes, activations, loss, X, Y, *, sample_weight=None, reduction="mean", clip=None, eps=EPS
):
    """(loss, flat gradient); integer labels for cross_entropy as a 1-D Y."""
    parameters = np.asarray(parameters, dtype=np.float64)
    Y = np.asarray(Y)
    if Y.ndim == 1:
        Y = one_hot(Y, sizes[-1]) if loss == "cross_entropy" and sizes[-1] > 1 else Y[:, None]
    Y = Y.astype(np.float64)
    inputs, logits = forward(parameters, sizes, activations, X)
    w = np.ones(len(Y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if reduction == "mean":
        w = w / w.sum()
    value, dZ = head(activations[-1], loss, logits[-1], Y, clip, eps)
    _, grad = backward_from(dZ * w[:, None], parameters, sizes, activations, inputs, logits)
    return float(value @ w), grad


def sfc64(words, stream=0):
    """A function that gives the random numbers which three words and a stream stand for, from NumPy's own SFC64."""
    bits = np.random.SFC64()
    state = bits.state
    state["state"]["state"] = np.array([words[0], words[1], (int(words[2]) + stream) % 2**64, 1], np.uint64)
    bits.state = state
    bits.random_raw(12)
    return lambda: int(bits.random_raw())


def shuffle_list(rows, number):
    """Fisher and Yates' shuffle with two indices from each number, by Lemire's multiplication."""
    n = len(rows)
    while n > 1:
        x = number()
        for bits in (x % 2**32, x >> 32):
            product = bits * n
            while n > 1 and product % 2**32 < 2**32 % n:
                product = (number() >> 32) * n
            k = product >> 32
            n -= 1
            rows[n], rows[k] = rows[k], rows[n]
            if n == 0:
                break


def shuffled(rows, words):
    rows = list(rows)
    shuffle_list(rows, sfc64(words))
    return np.array(rows, np.int64)


def dealt_and_shuffled(rows, words, piles, shares):
    """Each row to the pile that one byte of a random number says, share by share; then each pile by itself."""
    digits = []
    for share, part in enumerate(np.array_split(rows, shares)):
        number = sfc64(words, 1 + share)
        digits.append(np.array([number() for _ in range(-(-len(part) // 8))], "<u8").view(np.uint8)[: len(part)])
    digits = np.concatenate(digits)
    result = []
    for pile in range(piles):
        part = rows[digits == pile].tolist()
        shuffle_list(part, sfc64(words, 1 + shares + pile))
        result += part
    return np.array(result, np.int64)
