"""What ``python -m fastbp demo`` shows, in three parts.

1. For which losses is ``delta = y - t`` the right start of backpropagation? A table over every pair of output
   activation and loss, with three hidden activations: fastbp's gradient and the shortcut's, beside finite
   differences.
2. How long one training step takes, beside the same step in plain NumPy.
3. A network learns to read handwritten digits.
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastbp

Array = NDArray[Any]

HIDDEN = ("sigmoid", "tanh", "relu")
AGREES = 1e-6  # relative difference below which a gradient agrees with finite differences
GOAL = 0.97  # accuracy on the held-out digits
SEED = 13  # of the table's data and parameters: none of its networks sits next to a kink
SPLIT_SEED = 0  # of which digits are held out
SIZES = (64, 256, 128, 10)
BATCH = 32
LEARNING_RATE = 2e-3


def load_digits() -> tuple[Array, Array]:
    """Load the handwritten digits that ship with fastbp.

    They are the test set of UCI's *Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak,
    1998, CC BY 4.0), as in scikit-learn.

    Returns
    -------
    images : ndarray of uint8, shape (1797, 64)
        One image of 8 x 8 pixels a row, values 0 to 16.
    labels : ndarray of uint8, shape (1797,)
        The digit that each shows.
    """
    source = importlib.resources.files("fastbp.data") / "digits.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


# --- 1. the gradient -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Relative differences from finite differences, for one network."""

    hidden: str
    output: str
    loss: str
    exact: float
    shortcut: float


def _difference(a: Array, b: Array) -> float:
    """Return ``|a - b| / max(|a|, |b|)`` in the Euclidean norm, 0 where both vanish."""
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / scale if scale else 0.0


def finite_differences(f: Callable[[], float], w: Array, step: float = 1e-4) -> Array:
    """Differentiate numerically: central differences of fourth order in each coordinate.

    Parameters
    ----------
    f : callable
        Returns the loss at the present values of `w`.
    w : ndarray of float64
        Varied in place and restored.
    step : float
        The outer step; the inner one is half of it.

    Returns
    -------
    ndarray
        The numerical gradient.
    """
    gradient = np.empty_like(w)
    for i, kept in enumerate(w.tolist()):
        slopes = []
        for h in (step, step / 2):
            w[i] = kept + h
            above = f()
            w[i] = kept - h
            slopes.append((above - f()) / (2 * h))
        w[i] = kept
        gradient[i] = (4 * slopes[1] - slopes[0]) / 3
    return gradient


def shortcut_gradient(net: fastbp.MLP, X: Array, T: Array) -> Array:
    """Backpropagate from ``delta = y - t`` at the output layer, whatever the loss: the usual mistake.

    Parameters
    ----------
    net : fastbp.MLP
        A network with one hidden layer and ``reduction="mean"``.
    X, T : ndarray
        Inputs and targets.

    Returns
    -------
    ndarray
        What this takes for the gradient, laid out as ``net.parameters``.
    """
    W1, W2 = net.weights
    hidden, z1 = fastbp.dense_forward(X, W1, net.biases[0], activation=net.activation[0])
    delta = (net(X) - T) / len(X)
    gradient = np.empty_like(net.parameters)
    (gW1, gW2), (gb1, gb2) = net.views(gradient)
    gW2[:], gb2[:] = hidden.T @ delta, delta.sum(axis=0)
    _, gW1[:], gb1[:] = fastbp.dense_backward(delta @ W2.T, X, W1, z1, activation=net.activation[0])
    return gradient


def compare_gradients() -> Iterator[Comparison]:
    """Compare gradients with finite differences for every pair of output activation and loss.

    Yields
    ------
    Comparison
        One for each loss, output activation and hidden activation, in this order.
    """
    rng = np.random.default_rng(SEED)
    X, T = rng.normal(size=(8, 4)), np.eye(3)[np.arange(8) % 3]
    start = rng.normal(scale=0.5, size=4 * 5 + 5 + 5 * 3 + 3)
    for loss in fastbp.LOSSES:
        for output in fastbp.ACTIVATIONS:
            for hidden in HIDDEN:
                net = fastbp.MLP([4, 5, 3], activation=hidden, output_activation=output, loss=loss)
                net.parameters[:] = start
                numerical = finite_differences(functools.partial(net.value, X, T), net.parameters)
                exact = _difference(net.value_and_grad(X, T)[1], numerical)
                shortcut = _difference(shortcut_gradient(net, X, T), numerical)
                yield Comparison(hidden, output, loss, exact, shortcut)


def _paint(text: str, good: bool) -> str:
    """Colour a cell where the output is a terminal that shows colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{32 if good else 31}m{text}\033[0m"


def _show_gradients() -> bool:
    """Print the table; return whether every exact gradient agrees with finite differences."""
    print("1. The gradient, beside finite differences\n")
    print("   Relative difference from the numerical gradient of the loss, network 4-5-3, double precision:")
    print("   of fastbp's gradient, and of the one that starts from the usual shortcut, delta = y - t.\n")
    width = 2 + max(map(len, fastbp.ACTIVATIONS))
    print(f"   {'':{width}}" + "".join(f"   {'hidden ' + hidden:^18}" for hidden in HIDDEN))
    print(f"   {'loss / output':{width}}" + f"   {'fastbp':>7}{'y - t':>9}  " * len(HIDDEN))
    found: list[Comparison] = []
    for c in compare_gradients():
        if not found or c.loss != found[-1].loss:
            print(f"\n   {c.loss}", end="")
        if c.hidden == HIDDEN[0]:
            print(f"\n   {'  ' + c.output:{width}}", end="")
        shortcut = f"{c.shortcut:9.0e}  " if c.shortcut < AGREES else f"{100 * c.shortcut:9.1f} %"
        exact = _paint(f"{c.exact:7.0e}", c.exact < AGREES)
        print(f"   {exact}{_paint(shortcut, c.shortcut < AGREES)}", end="")
        found.append(c)
    right = [c for c in found if c.shortcut < AGREES]
    off = [100 * c.shortcut for c in found if c.shortcut >= AGREES]
    failed = [c for c in found if not c.exact < AGREES]
    verdict = f"disagrees in {len(failed)}" if failed else "is right in all"
    worst = max(c.exact for c in found)
    pairs = ", ".join(dict.fromkeys(f"{c.output} + {c.loss}" for c in right))
    print("\n\n" + textwrap.fill(f"y - t is right for {pairs};", 100, initial_indent="   ", subsequent_indent="   "))
    print(f"   elsewhere it is off, by up to {max(off):.0f} %. fastbp {verdict}", end="")
    print(f": {len(found)} networks, {worst:.0e} at worst.\n")
    return not failed


# --- 2. the time of a step -------------------------------------------------------------------------------


class NumpyNet:
    """The digits' network by hand in NumPy: relu, softmax with cross-entropy, Adam.

    Parameters
    ----------
    weights, biases : sequence of ndarray
        The parameters to start from, one of each per layer; they are copied.
    learning_rate : float
        Adam's.
    """

    def __init__(self, weights: Sequence[Array], biases: Sequence[Array], learning_rate: float) -> None:
        self.parameters = [p.copy() for layer in zip(weights, biases, strict=True) for p in layer]
        self.means = [np.zeros_like(p) for p in self.parameters]
        self.squares = [np.zeros_like(p) for p in self.parameters]
        self.learning_rate = learning_rate
        self.steps = 0

    def value_and_grad(self, X: Array, labels: Array) -> tuple[float, list[Array]]:
        """Return the mean loss and its gradient, a list like `parameters`."""
        weights, biases = self.parameters[::2], self.parameters[1::2]
        outputs = [X]
        for W, b in zip(weights, biases, strict=True):
            z = outputs[-1] @ W
            z += b
            outputs.append(np.maximum(z, 0, out=z) if len(outputs) < len(weights) else z)
        delta, rows = outputs.pop(), np.arange(len(X))
        delta -= delta.max(axis=1, keepdims=True)
        true = delta[rows, labels]
        np.exp(delta, out=delta)
        total = delta.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - true))
        delta /= total
        delta[rows, labels] -= 1
        delta /= len(X)
        gradient: list[Array] = []
        for W, a in zip(reversed(weights), reversed(outputs), strict=True):
            gradient += [delta.sum(axis=0), a.T @ delta]
            if a is not X:
                delta = delta @ W.T
                delta *= a > 0
        return loss, gradient[::-1]

    def train_step(self, X: Array, labels: Array) -> float:
        """Take one step of Adam and return the loss before it."""
        loss, gradients = self.value_and_grad(X, labels)
        self.steps += 1
        rate = self.learning_rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        small = 1e-8 * (1 - 0.999**self.steps) ** 0.5
        for p, g, m, v in zip(self.parameters, gradients, self.means, self.squares, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * m / (np.sqrt(v) + small)
        return loss


def _microseconds(calls: Sequence[Callable[[], object]], seconds: float = 0.8) -> list[float]:
    """Time calls in turn, each warm, and return the best time of each."""
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            call()
            start = time.perf_counter()
            for _ in range(3):
                call()
            best[i] = min(best[i], (time.perf_counter() - start) / 3)
    return [1e6 * b for b in best]


def _digits() -> tuple[Array, Array]:
    """Return the digits in the order of the demonstration, pixels scaled to [0, 1] in single precision."""
    images, labels = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    return (images[order] / 16).astype(np.float32), labels[order].astype(np.intp)


def _digits_net(seed: int) -> fastbp.MLP:
    """Return a network for the digits, as initialised from `seed`."""
    return fastbp.MLP(
        SIZES,
        activation="relu",
        output_activation="softmax",
        loss="cross_entropy",
        dtype=np.float32,
        rng=seed,
    )


def _show_time(seed: int) -> None:
    """Print how long a gradient and a training step take, here and in NumPy."""
    X, t = (array[:BATCH] for array in _digits())
    net = _digits_net(seed)
    by_hand = NumpyNet(net.weights, net.biases, LEARNING_RATE)
    out = np.empty_like(net.parameters)
    theirs = np.concatenate([g.ravel() for g in by_hand.value_and_grad(X, t)[1]])
    apart = _difference(net.value_and_grad(X, t, out=out)[1], theirs)
    optimizer = fastbp.Adam(learning_rate=LEARNING_RATE)
    calls: dict[str, Sequence[Callable[[], object]]] = {
        "loss and gradient": (
            lambda: net.value_and_grad(X, t, out=out),
            lambda: by_hand.value_and_grad(X, t),
        ),
        "training step, Adam": (lambda: net.train_step(X, t, optimizer), lambda: by_hand.train_step(X, t)),
    }
    threads = fastbp.get_num_threads()
    print("2. The time of a step, on this machine, now\n")
    print(f"   Network {'-'.join(map(str, SIZES))}, {BATCH} digits at a time, single precision,", end=" ")
    print(f"{threads} thread{'s' if threads > 1 else ''}, {fastbp.get_config()['isa']}.")
    print(f"   Best times in microseconds; the two gradients agree within {apart:.0e}.\n")
    print(f"   {'':24}{'fastbp':>8}{'plain NumPy':>14}")
    for what, pair in calls.items():
        ours, numpys = _microseconds(pair)
        print(f"   {what:24}{ours:8.1f}{numpys:14.1f}   {numpys / ours:5.1f} times as fast")
    print()


# --- 3. digits ---------------------------------------------------------------------------------------------


def _show_training(seed: int, epochs: int) -> float:
    """Train on three quarters of the digits; return the accuracy on the last quarter."""
    X, t = _digits()
    held_out = len(X) // 4
    X_train, t_train, X_test, t_test = X[held_out:], t[held_out:], X[:held_out], t[:held_out]
    net = _digits_net(seed)
    optimizer = fastbp.Adam(learning_rate=LEARNING_RATE)
    rng = np.random.default_rng(seed)
    print(f"3. {len(X_train):,} handwritten digits to learn from, {held_out} held out\n")
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        order = rng.permutation(len(X_train))
        total = 0.0
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            total += len(rows) * net.train_step(X_train[rows], t_train[rows], optimizer)
        taken = 1e3 * (time.perf_counter() - start)
        accuracy = float(np.mean(net(X_test).argmax(axis=1) == t_test))
        print(f"   epoch {epoch:2}   loss {total / len(order):.4f}   accuracy {accuracy:.4f}", end="")
        print(f"   {taken:6.1f} ms", flush=True)
    print(f"\naccuracy {accuracy:.4f}")
    return accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command-line arguments; see ``python -m fastbp demo --help``.

    Returns
    -------
    int
        0 if every gradient agrees and the digits are read well enough, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m fastbp demo", description="What fastbp does, shown.")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order in part 3")
    parser.add_argument("--epochs", type=int, default=20, help="passes through the digits, default 20")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    agree = _show_gradients()
    _show_time(options.seed)
    accuracy = _show_training(options.seed, options.epochs)
    return 0 if agree and accuracy >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
