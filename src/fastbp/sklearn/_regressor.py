"""MLPRegressor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, validate_data

from ._base import BaseMLP, fastbp_name, learns_by_steps

if TYPE_CHECKING:
    from ..mlp import MLP

    Array = np.ndarray[Any, Any]

# loss -> the output activation that goes with it
OUTPUT = {
    "squared_error": "identity",
    "poisson": "exp",
    "binary_cross_entropy": "logistic",
    "cross_entropy": "softmax",
}


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """DOC"""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(OUTPUT))],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        output_activation: str | None = None,
        callbacks: Any = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.output_activation = output_activation
        self.callbacks = callbacks

    def _check_data(self, X: Any, y: Any, sample_weight: Any, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        Y = y.reshape(len(y), -1)
        self.n_outputs_ = Y.shape[1]
        return X, Y, sample_weight

    def _one_row_encoder(self) -> Callable[[Any], Array | None]:
        dtype, loss = self.coefs_[0].dtype, self.loss
        shapes = ((1,), (1, 1)) if self.n_outputs_ == 1 else ((1, self.n_outputs_),)

        def encode(y: Any) -> Array | None:
            Y = np.asarray(y)
            if loss != "squared_error" or Y.dtype.kind not in "fiu" or Y.shape not in shapes:
                return None
            Y = Y.astype(dtype).reshape(1, -1)
            return Y if math.isfinite(np.vdot(Y, Y)) else None

        return encode

    def _output_and_loss(self) -> tuple[str, str]:
        return fastbp_name(self.output_activation or OUTPUT[self.loss]), self.loss

    def _loss_divisor(self, net: MLP) -> int:
        return net.sizes[-1] if self.loss == "squared_error" else 1

    def _outputs_score(self, outputs: Array, Y: Array, weights: Array | None) -> float:
        """R2, the mean over outputs; an output that does not vary counts 1 if hit and 0 if not."""
        Y = Y.astype(np.float64, copy=False)
        unexplained = np.average((Y - outputs) ** 2, axis=0, weights=weights)
        variance = np.average((Y - np.average(Y, axis=0, weights=weights)) ** 2, axis=0, weights=weights)
        varies = variance > 0
        scores = np.where(varies, 1 - unexplained / np.where(varies, variance, 1), unexplained == 0)
        return float(scores.mean())

    def predict(self, X: Any) -> Array:
        """The outputs of the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    @available_if(learns_by_steps)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """One pass over some rows, going on from what was learnt.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self
        """
        if sample_weight is None and self._step_one_row(X, y):
            return self
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]
