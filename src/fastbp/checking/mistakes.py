"""The known mistakes of hand-written backpropagation: the switches of `Network.gradient` that plant each, and the words
for it.  The gradient that a user computed is compared with what each of them would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .network import CANONICAL, Network
from .problem import Vector


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
                          "down through the weights alone.", right, {"slope": {i: "missing"}})
            yield Mistake("act' at a", f"In {where} the derivative is taken at a, the activation's result, "
                                       f"instead of at "
                          "z, its argument.", right, {"slope": {i: "at a"}})
        if act in ("tanh", "sigmoid"):
            yield Mistake("1 - a", f"In {where} the derivative is taken to be 1 - a.",
                          "tanh' = 1 - a^2; sigmoid' = a (1 - a)", {"slope": {i: "1 - a"}})
            yield Mistake("derivative a", f"In {where} the derivative is taken to be a itself.",
                          "tanh' = 1 - a^2; sigmoid' = a (1 - a)", {"slope": {i: "a"}})
        following = net.hidden[i + 1] if i + 1 < L - 1 else net.output
        others = [following] + [h for h in ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu")]
        for other in dict.fromkeys(others):
            if other in (act, "softmax", "identity"):
                continue
            whose = "the next layer's activation" if other == following else f"the activation {other}"
            yield Mistake("next layer's activation" if other == following else "another activation's derivative",
                          f"In {where} the derivative is that of {whose} ({other}).", right, {"slope": {i: other}})
    for i in range(1, L):
        if net.sizes[i] == net.sizes[i + 1]:
            yield Mistake("W not transposed", f"The error is passed down through W{i} instead of its transpose; "
                                              f"the shapes "
                          "happen to agree because the matrix is square.", f"delta_{i + 1} @ W{i}.T",
                          {"not transposed": i})
        yield Mistake("z for a", f"The gradient of W{i} uses z, before the activation, instead of a.",
                      f"grad W{i} = a_{i}.T @ delta_{i + 1}", {"input": {i: "z"}})
    for i in range(L):
        yield Mistake("rows out of step", f"The gradient of W{i} pairs each error with the activations of the example "
                      "before it.", f"grad W{i} = a_{i}.T @ delta_{i + 1}, same rows in both", {"input": {i: "rolled"}})
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
