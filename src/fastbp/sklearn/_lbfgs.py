"""The solver "lbfgs": SciPy's, on the loss of all rows and its penalty."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from .. import _check
from ..lbfgs import add_penalty, one_blas_thread
from . import _rows

if TYPE_CHECKING:
    from ..mlp import MLP
    from ._base import BaseMLP

    Array = np.ndarray[Any, Any]

STOPPED = 99  # SciPy's status after a StopIteration


def fit(model: BaseMLP, net: MLP, X: Any, Y: Array, weights: Array | None) -> None:
    """Iterate from the network's parameters until one of the limits."""
    X, Y, weights = _rows.checked(net, X, Y, weights)
    total = float(len(Y) if weights is None else weights.sum())
    divisor = model._loss_divisor(net)

    def objective(w: Array) -> tuple[float, Array]:
        net.parameters[:] = w
        loss, gradient = _rows.value_and_grad(net, X, Y, weights)
        return loss + add_penalty(net, gradient, model.alpha / total), gradient

    def reported(loss: float) -> float:
        penalty = 0.5 * model.alpha / total * float(sum(np.vdot(W, W) for W in net.weights))
        return float((loss - penalty) / divisor + penalty)

    reached = net.parameters.copy()

    def iteration_ends(intermediate_result: Any) -> None:
        reached[:] = net.parameters[:] = intermediate_result.x
        model.n_iter_ += 1
        model.loss_ = reported(intermediate_result.fun)
        if model.verbose:
            print(f"Iteration {model.n_iter_}, loss = {model.loss_:.8f}")
        if any([_check.is_true(callback(model)) for callback in model._callbacks()]):
            raise StopIteration

    model.n_iter_ = 0
    options = {"maxfun": model.max_fun, "maxiter": model.max_iter, "gtol": model.tol}
    try:
        with one_blas_thread():
            result = scipy.optimize.minimize(
                objective, net.parameters.astype(np.float64), jac=True, method="L-BFGS-B", callback=iteration_ends,
                options=options,
            )  # fmt: skip
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
        net.parameters[:] = reached
        return
    net.parameters[:] = result.x
    model.loss_ = reported(result.fun)
    model.n_iter_ = result.nit
    if result.status != STOPPED:
        model.n_iter_ = _check_optimize_result("lbfgs", result, model.max_iter)
