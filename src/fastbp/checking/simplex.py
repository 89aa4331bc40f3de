"""Is a vector a weighted mean of given vectors?  Non-negative least squares (Lawson and Hanson) in NumPy."""

from __future__ import annotations

import numpy as np

from .problem import Vector


def nonnegative_least_squares(A: np.ndarray, b: Vector) -> Vector:
    """The x >= 0 for which ``A @ x`` is closest to ``b``."""
    columns = A.shape[1]
    x = np.zeros(columns)
    active = np.zeros(columns, dtype=bool)
    gradient = A.T @ (b - A @ x)
    limit = 1e-12 * max(1.0, float(np.abs(A.T @ b).max(initial=0.0)))
    for _ in range(6 * columns + 20):
        if active.all() or gradient[~active].max() <= limit:
            break
        active[np.flatnonzero(~active)[np.argmax(gradient[~active])]] = True
        for _ in range(columns + 1):
            trial = np.zeros(columns)
            trial[active] = np.linalg.lstsq(A[:, active], b, rcond=1e-13)[0]
            if trial[active].min() > 0:
                x = trial
                break
            negative = active & (trial <= 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.min(np.where(x[negative] - trial[negative] > 0,
                                       x[negative] / (x[negative] - trial[negative]), 0.0))
            x = x + step * (trial - x)
            active &= x > 1e-14
            x[~active] = 0.0
            if not active.any():
                break
        gradient = A.T @ (b - A @ x)
    return x


def mean_weights(vectors: list[Vector], target: Vector, unit: Vector) -> tuple[Vector, Vector]:
    """Weights that sum to one and make the mean of ``vectors`` come closest to ``target``, and what is left over.

    Every entry is measured in its own ``unit``; the rest is returned in those units.
    """
    A = np.stack([(v - target) / unit for v in vectors], axis=1)
    size = max(1.0, float(np.abs(A).max(initial=0.0)))
    reduced: np.ndarray = A / size
    if A.shape[0] > A.shape[1] + 8:
        reduced = np.asarray(np.linalg.qr(reduced, mode="r"))
    system = np.vstack([reduced, np.ones(A.shape[1])])
    weights = nonnegative_least_squares(system, np.concatenate([np.zeros(reduced.shape[0]), [1.0]]))
    total = weights.sum()
    weights = weights / total if total > 0 else np.full(len(vectors), 1.0 / len(vectors))
    return weights, A @ weights
