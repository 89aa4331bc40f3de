"""What is timed: networks, batches and dtypes, and the data to feed them.

`TABLE` is the list that the project's aims are stated for. `EXTRA` holds shapes that nobody tuned for;
`WIDTHS` and `BATCHES` vary one size at a time for the plots; `ROWS` holds narrow nets on ever more rows,
where time per row should stay flat.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One network and batch.

    Attributes
    ----------
    batch : int
        Rows of X.
    sizes : tuple of int
        Widths of the layers, inputs first.
    activation : str
        Of every hidden layer: relu, tanh or sigmoid.
    head : str
        ``softmax`` (with cross-entropy and integer labels) or ``identity`` (with squared error).
    dtype : str
        ``f32`` or ``f64``.
    """

    batch: int
    sizes: tuple[int, ...]
    activation: str
    head: str
    dtype: str

    @property
    def name(self) -> str:
        """Name, as the result files and tables have it."""
        head = " softmax" if self.head == "softmax" else ""
        return f"{self.batch} x {'-'.join(map(str, self.sizes))} {self.activation}{head} {self.dtype}"

    @property
    def loss(self) -> str:
        """The loss that goes with the head."""
        return "cross_entropy" if self.head == "softmax" else "squared_error"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype, as NumPy has it."""
        return np.dtype(np.float32 if self.dtype == "f32" else np.float64)

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum((n + 1) * m for n, m in itertools.pairwise(self.sizes))

    def flops(self, phase: str = "step") -> int:
        """Count the floating-point operations of the matrix products, a multiply-add as two.

        Parameters
        ----------
        phase : {"step", "forward"}
            Loss and gradient, or outputs alone. A step has a product forward, one for dW and, but for the
            first layer, one for dX.
        """
        products = [2 * self.batch * n * m for n, m in itertools.pairwise(self.sizes)]
        return sum(products) if phase == "forward" else 3 * sum(products) - products[0]

    def data(self, seed: int = 0) -> tuple[Array, Array, Array]:
        """Make parameters (flat: W0, b0, W1, ...), inputs and targets (labels for softmax)."""
        rng = np.random.default_rng(seed)
        layers = []
        for n, m in itertools.pairwise(self.sizes):
            layers += [rng.normal(scale=(1.5 / n) ** 0.5, size=n * m), rng.normal(scale=0.1, size=m)]
        X = rng.normal(size=(self.batch, self.sizes[0]))
        if self.head == "softmax":
            Y: Array = rng.integers(0, self.sizes[-1], size=self.batch)
        else:
            Y = rng.normal(size=(self.batch, self.sizes[-1])).astype(self.numpy_dtype)
        return np.concatenate(layers).astype(self.numpy_dtype), X.astype(self.numpy_dtype), Y


def _case(batch: int, sizes: str, activation: str, dtype: str, head: str = "identity") -> Case:
    return Case(batch, tuple(map(int, sizes.split("-"))), activation, head, dtype)


TABLE = (
    _case(128, "20-100-10", "relu", "f64", "softmax"),
    _case(4, "2-8-1", "tanh", "f64"),
    _case(1, "8-64-64-4", "tanh", "f32"),
    _case(64, "8-64-64-4", "tanh", "f32"),
    _case(128, "10-128-128-10", "relu", "f32"),
    _case(1024, "2-64-64-64-64-1", "tanh", "f64"),
    _case(128, "784-128-10", "relu", "f32", "softmax"),
    _case(256, "784-256-256-10", "relu", "f32", "softmax"),
    _case(256, "128-256-256-1", "sigmoid", "f32"),
    _case(10_000, "4-32-16-4", "tanh", "f32"),
    _case(1024, "1024-1024-1024-1024", "relu", "f32"),
)

EXTRA = (
    *(_case(128, f"{width}-{width}-{width}-{width}", "relu", "f32") for width in (45, 46, 47, 48)),
    _case(128, "10-46-46-10", "relu", "f32"),
    _case(100, "13-37-29-3", "sigmoid", "f64", "softmax"),
    _case(256, "16-24-24-24-24-24-24-24-24-24-24-2", "tanh", "f32"),
    _case(500, "784-128-32-128-784", "sigmoid", "f32"),
    _case(1, "4-16-2", "tanh", "f64"),
    _case(1, "784-128-10", "relu", "f32", "softmax"),
    _case(32, "64-256-128-10", "relu", "f32", "softmax"),
    _case(2000, "3-100-100-1", "relu", "f64"),
    _case(384, "384-384-384", "relu", "f64"),
)

SWEEP = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WIDTHS = tuple(_case(128, f"32-{w}-{w}-8", "relu", "f32") for w in SWEEP)
BATCHES = tuple(_case(b, "16-64-64-4", "tanh", "f32") for b in (1, 4, 16, 64, 256, 1024, 4096, 16384))
ROWS = tuple(
    _case(rows, sizes, activation, dtype)
    for sizes, activation, dtype in (("4-32-16-4", "tanh", "f32"), ("8-24-24-2", "relu", "f64"))
    for rows in (256, 1024, 4096, 16_384, 65_536, 262_144, 1_000_000)
)

# "quick" is for a look in between: a small, a middle-sized and a large one.
GROUPS = {
    "table": TABLE,
    "extra": EXTRA,
    "widths": WIDTHS,
    "batches": BATCHES,
    "rows": ROWS,
    "quick": (TABLE[1], TABLE[4], TABLE[7]),
}
SWEEPS = ("widths", "batches", "rows")  # one size varies
