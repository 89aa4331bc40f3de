"""What `training.py` fits: settings of a training, and the data, which are the same for everyone.

`CASES` is the list that the project's aim is stated for; `EPOCHS` are the shapes whose epoch is timed against its
steps alone.
"""

from __future__ import annotations

import gzip
import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts its files
CACHE = Path(__file__).parent.parent / "build" / "data"


class Absent(Exception):
    """The data are not here, and why."""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes
    ----------
    data : str
        digits, diabetes or fashion.
    hidden : tuple of int
        Widths of the hidden layers.
    solver : str
        adam, sgd (Nesterov's momentum 0.9) or lbfgs.
    epochs : int
        How many, or of lbfgs how many iterations at most. As many for everyone: nobody stops before.
    batch, rate : int and float
        Rows of a batch and learning rate; lbfgs has neither.
    activation : str
        Of the hidden layers, by scikit-learn's names.
    dtype : str
        Of data and parameters.
    early : bool
        Stop early, by scikit-learn's rule and its default patience; then only its estimators are compared.
    """

    data: str
    hidden: tuple[int, ...]
    solver: str
    epochs: int
    batch: int = 200
    rate: float = 1e-3
    activation: str = "relu"
    dtype: str = "f64"
    early: bool = False

    alpha = 1e-4  # L2 penalty of the weights, divided by the rows of the batch: scikit-learn's default

    @property
    def classes(self) -> bool:
        """Whether classes are to be told apart; else a number is to be predicted."""
        return self.data != "diabetes"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers."""
        inputs, outputs = {"digits": (64, 10), "diabetes": (10, 1), "fashion": (784, 10)}[self.data]
        return (inputs, *self.hidden, outputs)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype, as NumPy has it."""
        return np.dtype(np.float32 if self.dtype == "f32" else np.float64)

    @property
    def name(self) -> str:
        """Name, as the result files and tables have it."""
        words = f"{self.data} {'-'.join(map(str, self.sizes))} {self.activation} {self.dtype}, {self.solver}"
        if self.solver == "lbfgs":
            return f"{words}, {self.epochs} iterations"
        return f"{words}, batch {self.batch}, {'early stopping' if self.early else f'{self.epochs} epochs'}"


CASES = (
    Case("digits", (100,), "adam", 100),  # scikit-learn's defaults
    Case("digits", (100,), "adam", 500, early=True),
    Case("digits", (64, 64), "adam", 20, batch=32),
    Case("digits", (100,), "sgd", 20, batch=32, rate=0.02),
    Case("digits", (256, 128), "adam", 10, batch=64, activation="tanh", dtype="f32"),
    Case("digits", (50,), "lbfgs", 100),
    Case("diabetes", (100,), "adam", 200),  # scikit-learn's defaults
    Case("diabetes", (32, 32), "sgd", 30, batch=16, rate=5e-3, activation="tanh"),
    Case("diabetes", (100,), "lbfgs", 100, activation="logistic"),
    Case("fashion", (128,), "adam", 3, dtype="f32"),
    Case("fashion", (256, 256), "adam", 2, dtype="f32"),
    Case("fashion", (64,), "sgd", 2, batch=50, rate=0.05, activation="logistic", dtype="f32"),
)
QUICK = (CASES[2], CASES[7])

# (rows, sizes, batch, dtype) of an epoch that is timed against its steps
EPOCHS = (
    (1437, (64, 100, 10), 32, "f64"),
    (60_000, (784, 128, 10), 200, "f32"),
    (100_000, (4, 32, 16, 4), 64, "f32"),
    (200_000, (32, 64, 64, 10), 1000, "f32"),
    (1_000_000, (4, 32, 16, 4), 1000, "f32"),
)


def start(case: Case, seed: int) -> Array:
    """Return the parameters W0, b0, W1, ... to start from: those that scikit-learn draws from this seed."""
    rng = np.random.RandomState(seed)  # scikit-learn's generator
    parts = []
    for n, m in itertools.pairwise(case.sizes):
        bound = np.sqrt((2 if case.activation == "logistic" else 6) / (n + m))
        parts += [rng.uniform(-bound, bound, n * m), rng.uniform(-bound, bound, m)]
    return np.concatenate(parts).astype(case.numpy_dtype)


def load(case: Case, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return X, y to learn from and X, y held out; a fifth, drawn by the seed, where the data have no such part.

    Pixels are scaled to [0, 1]; the columns of diabetes and its target to mean 0 and deviation 1.
    """
    if case.data == "fashion":
        scale = case.numpy_dtype.type(255)
        X, X_held = (_idx(f"{part}-images-idx3").reshape(-1, 784) / scale for part in ("train", "t10k"))
        return X, _idx("train-labels-idx1"), X_held, _idx("t10k-labels-idx1")
    if case.data == "digits":
        from fastbp.demo import load_digits

        X, y = load_digits()
        X, y = X / 16, y.astype(np.int64)
    else:
        from sklearn.datasets import load_diabetes

        X, y = load_diabetes(return_X_y=True)
        X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    order = np.random.default_rng(seed).permutation(len(X))
    held, kept = np.split(order, [len(X) // 5])
    X, y = X.astype(case.numpy_dtype), y if case.classes else y.astype(case.numpy_dtype)
    return X[kept], y[kept], X[held], y[held]


def _idx(name: str) -> Array:
    """Return an array of Fashion-MNIST: one of the four files of bytes after a header of four bytes per dimension."""
    with gzip.open(fashion_folder() / f"{name}-ubyte.gz") as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    return values.astype(np.int64) if dimensions == 1 else values


def fashion_folder() -> Path:
    """Return the folder of Fashion-MNIST: Debian's, installed or else unpacked into the cache; Absent if neither."""
    unpacked = CACHE / SYSTEM.relative_to("/")
    for folder in (SYSTEM, unpacked):
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    package = "dataset-fashion-mnist"
    try:
        subprocess.run(["apt-get", "download", package], cwd=CACHE, check=True, capture_output=True, timeout=120)
        for file in CACHE.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", file, CACHE], check=True, capture_output=True)
            file.unlink()
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error).encode()
        raise Absent(f"`apt-get download {package}` failed: {words.decode().strip()}") from error
    return unpacked
