"""What MLPClassifier and MLPRegressor share: rules for parameters, the network behind coefs_, fitting, copies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from numbers import Integral, Real
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _check
from .._parameters import ACTIVATIONS
from ..mlp import MLP
from . import _lbfgs, _rows, _stochastic
from ._online import OneRow

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

UNBOUNDED = ("alpha", "learning_rate_init", "power_t", "tol", "epsilon")
HIDDEN = {"logistic", *ACTIVATIONS} - {"softmax"}


def fastbp_name(activation: str) -> str:
    """scikit-learn says logistic where fastbp says sigmoid; it may be given either way."""
    return "sigmoid" if activation == "logistic" else activation


def sklearn_name(activation: str) -> str:
    return "logistic" if activation == "sigmoid" else activation


def at_least(low: float, kind: type = Real) -> Interval:
    return Interval(kind, low, None, closed="left")


def learns_by_steps(model: BaseMLP) -> bool:
    """Whether there is a partial_fit."""
    if model.solver == "lbfgs":
        raise AttributeError("partial_fit needs one of the stochastic solvers, sgd or adam; this one's is lbfgs")
    return True


class BaseMLP(BaseEstimator):  # type: ignore[misc]
    """Base of the two estimators.

    ``coefs_`` and ``intercepts_`` are lists of views into the parameters of a fastbp network, which is made again when
    they are replaced, and after unpickling.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", at_least(1, Integral)],
        "activation": [StrOptions(HIDDEN), "array-like"],
        "output_activation": [StrOptions({*HIDDEN, "softmax"}), None],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [at_least(0)],
        "batch_size": [StrOptions({"auto"}), at_least(1, Integral)],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [at_least(0)],
        "max_iter": [at_least(1, Integral)],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [at_least(0)],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [at_least(1, Integral), Options(Real, {np.inf})],
        "max_fun": [at_least(1, Integral)],
        "callbacks": [callable, "array-like", None],
    }

    _optimizer: Any  # SGD or Adam
    _net: MLP | None = None
    _one_row: OneRow | None = None

    # ---- what the two say of themselves ------------------------------------------------------------------------------

    def _check_data(self, X: Any, y: Any, sample_weight: Any, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        """X, the targets in the form that the loss wants, and the weights of the rows."""
        raise NotImplementedError

    def _output_and_loss(self) -> tuple[str, str]:
        """The network's output activation and loss, by fastbp's names."""
        raise NotImplementedError

    def _loss_divisor(self, net: MLP) -> int:
        """By what the loss is divided, without its penalty, before it is reported."""
        return 1

    def _outputs_score(self, outputs: Array, Y: Array, weights: Array | None) -> float:
        """What `score` would say."""
        raise NotImplementedError

    def _one_row_encoder(self) -> Callable[[Any], Array | None]:
        """A function that gives one row's target as the network wants it, or None for what is not plainly right."""
        raise NotImplementedError

    # ---- the network -------------------------------------------------------------------------------------------------

    def _hidden_activations(self, layers: int) -> list[str]:
        given = self.activation
        names = [given] * layers if isinstance(given, str) else np.atleast_1d(np.asarray(given, object)).tolist()
        return list(_check.activations("activation", [fastbp_name(name) for name in names], ACTIVATIONS[:-1], layers))

    def _initialize(self, sizes: list[int], dtype: np.dtype[Any]) -> None:
        """A new network, with scikit-learn's random parameters: weights and biases uniform, by Glorot's bounds."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = sklearn_name(self._output_and_loss()[0])
        hidden = self._hidden_activations(len(sizes) - 2)
        self.coefs_, self.intercepts_ = [], []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            below = hidden[min(i, len(hidden) - 1)] if hidden else self.activation  # which counts without hidden layers
            bound = np.sqrt((2 if below in ("sigmoid", "logistic") else 6) / (fan_in + fan_out))
            self.coefs_.append(self._random_state.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype, copy=False))
            self.intercepts_.append(self._random_state.uniform(-bound, bound, fan_out).astype(dtype, copy=False))
        self._net = None
        if self.solver != "lbfgs":
            self._start_curves()

    def _start_curves(self) -> None:
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        early = self.early_stopping
        self.best_loss_: Any = None if early else np.inf
        self.validation_scores_: Any = [] if early else None
        self.validation_losses_: Any = [] if early else None
        self.best_validation_score_: Any = -np.inf if early else None

    def _network(self) -> MLP:
        """The network that coefs_ and intercepts_ are views of."""
        net = self._net
        if net is None or not (
            len(self.coefs_) == len(self.intercepts_) == len(net.weights)
            and all(map(is_, self.coefs_, net.weights))
            and all(map(is_, self.intercepts_, net.biases))
        ):
            net = self._make_network()
        return net

    def _make_network(self) -> MLP:
        """A network with the values that coefs_ and intercepts_ have; they become views of its parameters."""
        coefs, intercepts = [np.asarray(W) for W in self.coefs_], [np.asarray(b) for b in self.intercepts_]
        sizes = [coefs[0].shape[0], *(W.shape[1] for W in coefs)]
        loss = self._output_and_loss()[1]
        net = MLP(
            sizes, activation=self._hidden_activations(len(sizes) - 2), loss=loss,
            output_activation=fastbp_name(self.out_activation_), dtype=np.result_type(np.float32, *coefs), rng=0,
        )  # fmt: skip
        for view, values in zip((*net.weights, *net.biases), (*coefs, *intercepts), strict=True):
            view[...] = values
        if hasattr(self, "_optimizer"):
            self._optimizer = copy.copy(self._optimizer)  # with its state; a copy may step another network
        self.coefs_, self.intercepts_, self._net = list(net.weights), list(net.biases), net
        return net

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: coefs_ and intercepts_ have its parameters."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_net", "_one_row")}

    # ---- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels or an indicator matrix; numbers for a regressor.
        sample_weight : array-like of shape (n_samples,), optional
            Not negative.  A row of weight 0 is as if it were not there.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        if not get_config()["skip_parameter_validation"]:
            self._validate_params()
            for name in UNBOUNDED:  # no integers that a float cannot hold; True is 1 here
                _check.number(name, +getattr(self, name), 0, math.inf, "a finite number >= 0")
        hidden: Any = self.hidden_layer_sizes
        hidden = list(hidden) if isinstance(hidden, Iterable) and getattr(hidden, "shape", None) != () else [hidden]
        if not all(isinstance(width, Integral) for width in hidden):
            raise TypeError(f"hidden_layer_sizes must be integers, got {hidden}.")
        hidden = [int(width) for width in hidden]
        if any(width <= 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        if any(width > (most := _check.MAX_WIDTH) for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be at most {most} each, got {_check.describe(hidden)}.")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        self._hidden_activations(len(hidden))
        if self.callbacks is not None:
            _check.functions("callbacks", self.callbacks)
        X, Y, weights = self._check_data(X, y, sample_weight, incremental, reset=first)
        if weights is not None:
            weights = _check.weights("sample_weight", weights, X.shape[0])
            if not weights.all():
                some = np.flatnonzero(weights)
                X, Y, weights = X[some], Y[some], weights[some]
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        net = self._network()
        output_activation, loss = self._output_and_loss()
        self.out_activation_ = sklearn_name(output_activation)
        hidden_activations = self._hidden_activations(len(net.activation))
        if ([*net.activation], net.output_activation, net.loss) != (hidden_activations, output_activation, loss):
            net = self._make_network()
        if self.solver == "lbfgs":
            _lbfgs.fit(self, net, X, Y, weights)
        else:
            _stochastic.fit(self, net, X, Y, weights, incremental)
        if not np.isfinite(net.parameters).all():
            raise ValueError(_stochastic.NOT_FINITE)
        if incremental and X.shape[0] == 1 and not (self._one_row and self._one_row.fits(self)):
            self._one_row = OneRow(self)
        return self

    def _step_one_row(self, X: Any, y: Any) -> bool:
        """partial_fit of one row by the short way, if it can go that way."""
        return self._one_row is not None and self._one_row.step(self, X, y)

    def _callbacks(self) -> Iterable[Callable[[Any], Any]]:
        if self.callbacks is None:
            return ()
        return [self.callbacks] if callable(self.callbacks) else self.callbacks

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def _is_plain_row(self, X: Any) -> bool:
        """Whether X is one row as it should be: scikit-learn's checks, slower than a network, can be left out."""
        return (
            type(X) is np.ndarray
            and self._net is not None
            and X.shape == (1, self._net.sizes[0])
            and X.dtype.kind in "fiu"
            and not hasattr(self, "feature_names_in_")
            and math.isfinite(np.vdot(X, X))
        )

    def _outputs(self, X: Any) -> Array:
        if not self._is_plain_row(X):
            check_is_fitted(self)
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return _rows.predict(self._network(), X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
