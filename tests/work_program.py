"""What test_work.py counts: run under callgrind, which dumps its counts at every os.getppid().

For every case there are four dumps: what comes before, the work, nothing, the same work again.
"""

import itertools
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastbp

STEPS = 2  # that are counted together


class Case(NamedTuple):
    """A network, a batch and a call."""

    call: str  # gradient, step or pass; or numpy, a yardstick for the way into compiled code and back
    rows: int = 1
    sizes: tuple[int, ...] = (1, 1)
    activation: str = "relu"
    head: str = "identity"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.call} {self.rows} x {'-'.join(map(str, self.sizes))} {self.activation} {self.head} {self.dtype}"

    @property
    def vectors(self) -> float:
        """Vectors of 32 bytes that the multiply-adds of a step fill."""
        products = [n * m for n, m in itertools.pairwise(self.sizes)]
        return self.rows * (3 * sum(products) - products[0]) * np.dtype(self.dtype).itemsize / 32


CASES = (
    Case("numpy"),
    Case("gradient", 4, (2, 8, 1), "tanh", "identity", "float64"),
    Case("step", 1, (8, 64, 64, 4), "tanh"),
    Case("gradient", 17, (48, 48, 48, 48)),  # rows just enough to pack weights for
    Case("gradient", 128, (10, 128, 128, 10)),
    Case("gradient", 128, (20, 100, 10), "relu", "softmax", "float64"),
    Case("step", 64, (300, 160, 10), "relu", "softmax"),  # by phases
    Case("pass", 300, (4, 32, 16, 4), "tanh"),
)
BATCH = 64  # of a pass: four whole ones, and one of 44


def work_of(case: Case) -> Callable[[], object]:
    """Return a function that does a case's work once."""
    if case.call == "numpy":
        a, b, c = np.ones(4), np.ones(4), np.empty(4)
        return lambda: np.add(a, b, out=c)
    net = fastbp.MLP(
        case.sizes,
        activation=case.activation,
        output_activation=case.head,
        loss="cross_entropy" if case.head == "softmax" else "squared_error",
        dtype=case.dtype,
        rng=0,
    )
    rng = np.random.default_rng(1)
    X = rng.normal(size=(case.rows, case.sizes[0])).astype(case.dtype)
    Y = rng.normal(size=(case.rows, case.sizes[-1])).astype(case.dtype)
    if case.head == "softmax":
        Y = np.arange(case.rows) % case.sizes[-1]
    adam, out = fastbp.Adam(), np.empty_like(net.parameters)
    if case.call == "pass":
        order, losses = rng.permutation(case.rows).astype(np.uint32), np.empty(-(-case.rows // BATCH))
        return lambda: net._run_batches(X, Y, None, adam, order, 0, BATCH, losses, seconds=1e6)
    if case.call == "step":
        return lambda: net.train_step(X, Y, adam)
    return lambda: net.value_and_grad(X, Y, out=out)


def main() -> None:
    """Do everything once."""
    for case in CASES:
        work = work_of(case)
        for _ in range(20 if case.vectors < 10_000 else 3):  # until plans are made and the interpreter is warm
            work()
        for _ in range(2):
            os.getppid()
            for _ in range(STEPS):
                work()
            os.getppid()


if __name__ == "__main__":
    main()
