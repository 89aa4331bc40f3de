"""MLPClassifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, validate_data

from ._base import BaseMLP, fastbp_name, learns_by_steps

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """A multi-layer perceptron that classifies: scikit-learn's, with fastbp's kernels.

    Parameters, attributes, random numbers and results are those of ``sklearn.neural_network.MLPClassifier``; what
    that does not have is marked as an extension.  The arithmetic is in X's dtype, float32 or float64.

    Parameters
    ----------
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
    loss : {"log_loss", "squared_error"}, default "log_loss"
        *Extension:* the squared error of the probabilities (Brier's score).
    output_activation : {"softmax", "logistic"} or None, default None
        *Extension:* "logistic" learns each of several classes against the rest.  None: "softmax" for several
        classes, "logistic" for two and for multilabel targets.
    class_weight : dict, "balanced", list of dict or None, default None
        *Extension:* factor of the rows of each class; "balanced" is inverse to how many there are.  A list has one
        dict for each column of multilabel targets.
    callbacks : callable, sequence of them, or None, default None
        *Extension:* called with the estimator after each epoch (iteration for "lbfgs"), when `n_iter_`, `loss_curve_`,
        `coefs_` and so on are those so far; training ends if one returns True.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The numbers of the columns for multilabel targets.
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
    The log loss is computed from the logits, not from clipped probabilities: where scikit-learn's loss stops at 36,
    this one goes on.  The steps of "sgd" and "adam" are the same; "lbfgs" may take others, for its line search compares
    losses, also far from where it ends.  A loss or gradient that is not finite ends training at once, with the
    parameters of the last good step.

    An array of one row takes a short way: outputs and `partial_fit` then take microseconds, the latter if no parameter
    was set since the last one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((16, 8), activation=["tanh", "gelu"], solver="lbfgs", tol=1e-2, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    >>> model.predict(X[:3])
    array([0, 0, 0])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"log_loss", "squared_error"})],
        "output_activation": [StrOptions({"logistic", "sigmoid", "softmax"}), None],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
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
        loss: str = "log_loss",
        output_activation: str | None = None,
        class_weight: Any = None,
        callbacks: Any = None,
    ) -> None:
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
        self.loss = loss
        self.output_activation = output_activation
        self.class_weight = class_weight
        self.callbacks = callbacks

    # ---- targets -----------------------------------------------------------------------------------------------------

    def _check_data(self, X: Any, y: Any, sample_weight: Any, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=reset
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if hasattr(self, "classes_") and (self.warm_start or incremental):
            self._check_classes(unique_labels(y))
        else:
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if self.class_weight is not None:
            by_class = self._weights_by_class(y, incremental)
            sample_weight = by_class if sample_weight is None else by_class * sample_weight
        Y = self._encode(y, X.dtype)
        self.n_outputs_ = len(self.classes_) if Y.ndim == 1 else Y.shape[1]
        return X, Y, sample_weight

    def _check_classes(self, classes: Array) -> None:
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _weights_by_class(self, y: Any, incremental: bool) -> Array:
        """The weight of each row that class_weight gives it."""
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all rows at once, partial_fit has some of them: use "
                "sklearn.utils.class_weight.compute_class_weight and pass its weights as a dict"
            )
        if self._label_binarizer.y_type_ == "multilabel-indicator":
            return np.asarray(compute_sample_weight(self.class_weight, y))
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return np.asarray(weights[np.searchsorted(self.classes_, y)])

    def _encode(self, y: Any, dtype: np.dtype[Any]) -> Array:
        """Labels as the loss wants them: class numbers for softmax with log_loss, else a column per output."""
        if self._label_binarizer.y_type_ == "multilabel-indicator":
            return np.asarray(self._label_binarizer.transform(y), dtype)
        numbers: Array = np.searchsorted(self.classes_, y)
        if len(self.classes_) <= 2:
            return np.asarray(numbers == 1, dtype)[:, None]
        if self._output_and_loss() == ("softmax", "cross_entropy"):
            return numbers
        return np.asarray(numbers[:, None] == np.arange(len(self.classes_)), dtype)

    def _one_row_encoder(self) -> Callable[[Any], Array | None]:
        if self._label_binarizer.y_type_ == "multilabel-indicator" or self.class_weight is not None:
            return lambda y: None
        Y = self._encode(self.classes_, self.coefs_[0].dtype)
        targets = {label: Y[i : i + 1].copy() for i, label in enumerate(self.classes_.tolist())}

        def encode(y: Any) -> Array | None:
            if type(y) is np.ndarray and y.shape == (1,):
                label = y.item()
                if y.dtype.kind == "O" and not isinstance(label, str):
                    return None
            elif type(y) is list and len(y) == 1:
                label = y[0]
            else:
                return None
            return targets.get(label) if type(label).__hash__ is not None else None

        return encode

    def _output_and_loss(self) -> tuple[str, str]:
        multiclass = self._label_binarizer.y_type_ == "multiclass"
        output = fastbp_name(self.output_activation or ("softmax" if multiclass else "logistic"))
        if output == "softmax" and not multiclass:
            raise ValueError(
                "output_activation='softmax' is for more than two classes, one for each row, got y of type "
                f"{self._label_binarizer.y_type_!r}: use 'logistic' or None"
            )
        if self.loss == "squared_error":
            return output, "squared_error"
        return output, "cross_entropy" if output == "softmax" else "binary_cross_entropy"

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def _outputs_score(self, outputs: Array, Y: Array, weights: Array | None) -> float:
        if Y.ndim == 1:
            right = outputs.argmax(axis=1) == Y
        elif self._label_binarizer.y_type_ == "multiclass":
            right = outputs.argmax(axis=1) == Y.argmax(axis=1)
        else:
            right = ((outputs > 0.5) == Y).all(axis=1)
        return float(np.average(right, weights=weights))

    def predict(self, X: Any) -> Array:
        """The class of each row, or an indicator matrix for multilabel targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        outputs = self._outputs(X)
        if self.n_outputs_ == 1:
            outputs = outputs.ravel()
        return self._label_binarizer.inverse_transform(outputs)  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, in the order of ``classes_``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        p = self._outputs(X)
        if self.n_outputs_ == 1:
            return np.hstack([1 - p, p])
        if self._label_binarizer.y_type_ == "multiclass" and self.out_activation_ == "logistic":
            p /= p.sum(axis=1, keepdims=True)
        return p

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        p = self.predict_proba(X)
        return np.log(p, out=p)

    # ---- learning bit by bit -----------------------------------------------------------------------------------------

    @available_if(learns_by_steps)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """One pass over some rows, going on from what was learnt.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        classes : array-like of shape (n_classes,), optional
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
        """
        known = classes is None or np.array_equal(classes, getattr(self, "classes_", ()))
        if known and sample_weight is None and self._step_one_row(X, y):
            return self
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
