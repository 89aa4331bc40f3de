"""The solvers "sgd" and "adam": passes over shuffled batches, and when to stop or to slow down."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from .. import _check
from ..optim import SGD, Adam, Optimizer
from . import _rows

if TYPE_CHECKING:
    from ..mlp import MLP
    from ._base import BaseMLP

    Array = np.ndarray[Any, Any]

SLOWEST = 1e-6  # the learning rate at which "adaptive" gives up
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


class HeldOut(NamedTuple):
    """The rows kept for validation."""

    X: Any
    Y: Array
    weights: Array | None


def make_optimizer(model: BaseMLP) -> Optimizer:
    if model.solver == "adam":
        adam = Adam(float(model.learning_rate_init), model.beta_1, model.beta_2, float(model.epsilon))
        adam._eps_hat = True  # as scikit-learn's
        return adam
    momentum = min(model.momentum, math.nextafter(1, 0))  # 1 itself is allowed here
    return SGD(float(model.learning_rate_init), momentum, nesterov=model.nesterovs_momentum and momentum > 0)


def set_learning_rate(optimizer: Any, net: MLP, rate: float) -> None:
    """SGD's, with the velocity rescaled: scikit-learn's has the rates of its steps in it, fastbp's has not."""
    if 0 < rate != optimizer.learning_rate:
        velocity = optimizer._state_for(net).first
        velocity *= optimizer.learning_rate / rate
        optimizer.learning_rate = rate


def fit(model: BaseMLP, net: MLP, X: Any, Y: Array, weights: Array | None, incremental: bool) -> None:
    """One epoch if incremental, else all of them."""
    if incremental and model.early_stopping:
        raise ValueError("partial_fit does not support early_stopping=True")
    if not incremental or not hasattr(model, "_optimizer"):
        model._optimizer = make_optimizer(model)
    if not hasattr(model, "loss_curve_") or model.early_stopping != (model.best_loss_ is None):
        model._start_curves()
    X, Y, weights = _rows.checked(net, X, Y, weights)
    train, held_out = split(model, X, Y, weights) if model.early_stopping else (np.arange(len(Y)), None)
    epoch = Epoch(model, net, X, Y, weights, train)
    best = net.parameters.copy()
    model.n_iter_ = 0
    try:
        while True:
            failure = epoch.run()
            if failure is not None:
                not_finite(model, failure)
            score = None
            if held_out is not None:
                score = math.nan if failure else validate(model, net, held_out)
                if score > model.best_validation_score_:
                    best[:] = net.parameters
            stop = end_epoch(model, net, math.nan if failure else epoch.loss(), len(train), score)
            if stop or failure or incremental:
                break
            if model.n_iter_ == model.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({model.max_iter}) reached and the optimization "
                    "hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
                break
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    if held_out is not None:
        net.parameters[:] = best


def not_finite(model: BaseMLP, failure: str) -> None:
    """With early stopping there are best parameters to return to, and a warning; else it is an error."""
    message = f"The {failure} was not finite in epoch {model.n_iter_ + 1}"
    if not model.early_stopping:
        raise ValueError(f"{NOT_FINITE} {message}; learning_rate_init={model.learning_rate_init} may be too large.")
    warnings.warn(f"{message}: the best parameters before are kept.", ConvergenceWarning, stacklevel=5)
    model.validation_losses_.append(math.nan)


class Epoch:
    """Passes over the training rows, each in a new order."""

    def __init__(self, model: BaseMLP, net: MLP, X: Any, Y: Array, weights: Array | None, train: Array) -> None:
        self.model, self.net, self.data, self.order = model, net, (X, Y, weights), train.astype(np.uint32)
        rows = len(train)
        if model.batch_size == "auto":
            self.batch_size = min(200, rows)
        else:
            if model.batch_size > rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=5
                )
            self.batch_size = min(model.batch_size, rows)
        self.losses = np.empty(-(-rows // self.batch_size))
        self.shares = np.full(len(self.losses), self.batch_size / rows)
        self.shares[-1] = 1 - (len(self.losses) - 1) * self.batch_size / rows

    def run(self) -> str | None:
        """One pass; what was not finite, if anything."""
        model = self.model
        if model.shuffle:
            permutation = np.arange(len(self.order))
            model._random_state.shuffle(permutation)
            self.order = self.order[permutation]
        return _rows.run_pass(
            self.net, *self.data, model._optimizer, self.order, self.batch_size, self.losses, model.alpha,
            model._loss_divisor(self.net),
        )  # fmt: skip

    def loss(self) -> float:
        """The mean over the pass, the penalty in it."""
        return float(self.losses @ self.shares)


def split(model: BaseMLP, X: Any, Y: Array, weights: Array | None) -> tuple[Array, HeldOut]:
    """Numbers of the rows to train with, and the rows held out; two classes in the proportions of all rows."""
    if model.validation_fraction == 0:
        raise ValueError("early_stopping needs a validation_fraction above 0, got 0")
    stratify = Y.astype(bool) if is_classifier(model) and model.n_outputs_ == 1 else None
    train, rest = train_test_split(
        np.arange(len(Y)), random_state=model._random_state, test_size=model.validation_fraction, stratify=stratify
    )
    if len(rest) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return train, HeldOut(X[rest], Y[rest], None if weights is None else weights[rest])


def validate(model: BaseMLP, net: MLP, held_out: HeldOut) -> float:
    """The score of the rows held out; their loss goes to validation_losses_."""
    X, Y, weights = held_out
    model.validation_losses_.append(_rows.mean_loss(net, X, Y, weights))
    outputs = _rows.predict(net, X)
    return model._outputs_score(outputs, Y, weights) if np.isfinite(outputs).all() else math.nan


def end_epoch(model: BaseMLP, net: MLP, loss: float, rows: int, score: float | None = None) -> bool:
    """Record an epoch, and slow down or say that it was the last."""
    model.n_iter_ += 1
    model.t_ += rows
    model.loss_ = loss
    model.loss_curve_.append(loss)
    if model.verbose:
        print(f"Iteration {model.n_iter_}, loss = {loss:.8f}")
    if score is None:
        missed = loss > model.best_loss_ - model.tol
        model.best_loss_ = min(model.best_loss_, loss)
    else:
        if model.verbose:
            print(f"Validation score: {score:f}")
        model.validation_scores_.append(score)
        missed = score < model.best_validation_score_ + model.tol
        model.best_validation_score_ = max(model.best_validation_score_, score)
    model._no_improvement_count = model._no_improvement_count + 1 if missed else 0

    optimizer = model._optimizer
    if model.learning_rate == "invscaling" and model.solver == "sgd":
        set_learning_rate(optimizer, net, model.learning_rate_init / (model.t_ + 1) ** model.power_t)
    stop = model._no_improvement_count > model.n_iter_no_change
    if stop:
        measure = "Training loss" if score is None else "Validation score"
        then = "Stopping."
        if model.learning_rate == "adaptive" and model.solver == "sgd":
            if optimizer.learning_rate > SLOWEST:
                stop = False
                model._no_improvement_count = 0
                set_learning_rate(optimizer, net, optimizer.learning_rate / 5)
                then = f"Setting learning rate to {optimizer.learning_rate:f}"
            else:
                then = "Learning rate too small. Stopping."
        if model.verbose:
            print(
                f"{measure} did not improve more than tol={model.tol:f} for {model.n_iter_no_change} consecutive "
                f"epochs. {then}"
            )
    return any([_check.is_true(callback(model)) for callback in model._callbacks()]) or stop
