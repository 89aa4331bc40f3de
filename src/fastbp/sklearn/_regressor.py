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
    """A multi-layer perceptron for numbers: scikit-learn's, with fastbp's kernels.

    Parameters, attributes, random numbers and results are those of ``sklearn.neural_network.MLPRegressor``; what
    that does not have is marked as an extension.  The arithmetic is in X's dtype, float32 or float64.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default "squared_error"
        Half the squared error, or half the Poisson deviance, for y >= 0.  *Extension:* "binary_cross_entropy", for
        y in [0, 1], and "cross_entropy", for rows that are distributions over the outputs.
    hidden_layer_sizes : int or sequence of int, default (100,)
        Widths of the hidden layers; () for none.
    activation : str or sequence of str, default "relu"
        Of the hidden layers: "identity", "logistic", "tanh", "relu".  *Extension:* also "leaky_relu", "elu",
        "softplus", "gelu", "silu", and a list with one for each layer.
    solver : {"lbfgs", "sgd", "adam"}, default "adam"
        Full-batch quasi-Newton steps (SciPy's), or steps on batches: plain with momentum, or Adam's.
    alpha : float, default 0.0001
        L2 penalty of the weights; it is divided by the number of rows (or the sum of their weights) of a batch.
    batch_size : int or "auto", default "auto"
        Rows of a batch; "auto" is at most 200.
    learning_rate : {"constant", "invscaling", "adaptive"}, default "constant"
        For "sgd": as it is; ``learning_rate_init / (t_ + 1) ** power_t`` after each epoch; or divided by 5 each time
        that `n_iter_no_change` epochs bring nothing, until it is below 1e-6.
    learning_rate_init : float, default 0.001
        Of "sgd" and "adam".
    power_t : float, default 0.5
        Exponent of "invscaling".
    max_iter : int, default 200
        Epochs at most; iterations for "lbfgs".
    shuffle : bool, default True
        New order of the rows in each epoch.
    random_state : int, RandomState or None, default None
        Seeds the first parameters, the rows held out, and the order of rows: in this sequence, with the same numbers
        as scikit-learn's estimators.
    tol : float, default 1e-4
        What counts as an improvement of the loss (or validation score); for "lbfgs", of the gradient.
    verbose : bool or int, default False
        Print a line for each epoch.
    warm_start : bool, default False
        `fit` goes on from the parameters of the last one.  With `early_stopping` it ends with those of
        `best_validation_score_`, also where an earlier `fit` reached it; scikit-learn ends such a `fit` with its last
        parameters, for it overwrites the best ones.
    momentum : float in [0, 1], default 0.9
        Of "sgd".
    nesterovs_momentum : bool, default True
        Nesterov's form of it.
    early_stopping : bool, default False
        Hold `validation_fraction` of the rows out, stop when their score does not improve any more, and keep the
        parameters of the best epoch.
    validation_fraction : float in [0, 1), default 0.1
        For `early_stopping`.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999 and 1e-8
        Of "adam".
    n_iter_no_change : int or inf, default 10
        Epochs without improvement before the end, or before the next lower rate.
    max_fun : int, default 15000
        Evaluations at most, for "lbfgs".
    output_activation : str or None, default None
        *Extension:* any of the hidden ones, "exp" or "softmax".  None: "identity" for the squared error, "exp" for
        Poisson's, "logistic" and "softmax" for the other two.
    callbacks : callable, sequence of them, or None, default None
        *Extension:* called with the estimator after each epoch (iteration for "lbfgs"), when `n_iter_`, `loss_curve_`,
        `coefs_` and so on are those so far; training ends if one returns True.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        Weights, of shape (fan_in, fan_out), and biases of each layer.  May be changed, or replaced.
    loss_ : float
        The last epoch's mean loss, the penalty in it.
    best_loss_ : float or None
        The lowest of them; None with `early_stopping`.
    loss_curve_ : list of float
        One for each epoch.
    validation_scores_, validation_losses_ : list of float or None
        One for each epoch, with `early_stopping`; the losses are an *extension*.
    best_validation_score_ : float or None
        With `early_stopping`.
    n_iter_, t_ : int
        Epochs of the last call, and rows seen by all of them.
    n_layers_, n_outputs_ : int
        Layers, the input counted as one, and width of the last.
    out_activation_ : str
        As scikit-learn calls it: "logistic", "softmax", "identity", "exp", ...
    n_features_in_, feature_names_in_
        Columns of X, and their names where X had any.

    Notes
    -----
    As in scikit-learn, `loss_` is the mean over outputs for the squared error, while the steps are along the gradient
    of their sum; "lbfgs" minimizes the sum.  A loss or gradient that is not finite ends training at once, with the
    parameters of the last good step.

    An array of one row takes a short way: outputs and `partial_fit` then take microseconds, the latter if no parameter
    was set since the last one.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fastbp.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> mlp = MLPRegressor(hidden_layer_sizes=5, solver="lbfgs", tol=10, random_state=0)
    >>> model = make_pipeline(StandardScaler(), mlp)
    >>> model.fit(X, y).score(X, y) > 0.5
    True
    """

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
        with np.errstate(over="ignore"):
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
