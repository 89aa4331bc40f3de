"""Optimizers: hyperparameters, and the state they keep for one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _check

if TYPE_CHECKING:
    from .mlp import MLP

_NONNEGATIVE = (0.0, np.inf, "a finite number >= 0")
_POSITIVE = (np.nextafter(0, 1), np.inf, "a finite number > 0")
_FRACTION = (0.0, 1.0, "a number in [0, 1)")


class Optimizer:
    """What all optimizers share: one network each, checked hyperparameters, a step.

    Hyperparameters are attributes and may be changed between steps.
    """

    _rules: ClassVar[dict[str, tuple[float, float, str]]] = {}
    _rule = ""  # its name in the kernels
    _vectors = 0  # of state, each as long as the parameters

    def __init__(self, **hyperparameters: Any) -> None:
        self._state: Any = None
        self._ready: Any = None  # the state, unless hyperparameters have changed since it was told them
        self._restored: dict[str, Any] | None = None
        for name, value in hyperparameters.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._rules:
            value = _check.number(name, value, *self._rules[name])
        object.__setattr__(self, name, value)
        if name in self._rules or name == "nesterov":
            object.__setattr__(self, "_ready", None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._hyperparameters().items())})"

    def _hyperparameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._rules}

    def _settings(self) -> tuple[Any, ...]:
        """What UpdateState.set takes."""
        raise NotImplementedError

    def _arrays(self, net: MLP) -> tuple[Any, Any]:
        """The two state vectors, or None for those not needed."""
        return tuple(np.zeros(net.n_parameters, net.dtype) if k < self._vectors else None for k in range(2))  # type: ignore[return-value]

    def _state_for(self, net: MLP) -> Any:
        """The compiled state, made at the first step, with the hyperparameters as they are now."""
        if self._state is None:
            first, second = self._arrays(net)
            steps = 0
            if self._restored is not None:
                steps = self._restored["steps"]
                first, second = (None if v is None else np.array(v) for v in self._restored["vectors"])
                for vector in (first, second):
                    if vector is not None and (vector.size != net.n_parameters or vector.dtype != net.dtype):
                        raise ValueError(
                            f"optimizer: its saved state is for {vector.size} parameters of dtype {vector.dtype}, "
                            f"this network has {net.n_parameters} of dtype {net.dtype}"
                        )
            self._state = net._kernels.UpdateState(net._network.identity, self._rule, first, second)
            self._state.steps = steps
        elif self._state.owner is not net._network.identity:
            raise ValueError("optimizer: it belongs to the network that it stepped first; make one for each network")
        if self._ready is None:
            self._state.set(*self._settings())
            self._ready = self._state
        return self._state

    def step(self, net: MLP, grad: Any) -> None:
        """Update the network's parameters along a gradient.

        Parameters
        ----------
        net : MLP
            The network; an optimizer belongs to the first one that it steps.
        grad : array_like, shape (n_parameters,)
            Laid out as ``net.parameters``.

        Raises
        ------
        ValueError, TypeError
            If grad has another shape or is not of real numbers, or the optimizer belongs to another network.

        Notes
        -----
        What the numbers are is not looked at: a nan in grad makes its parameter nan, and with RMSprop, Adam and AdamW
        one that is too large for the mean of squares (beyond about 1e20 in single precision) makes its parameter stand
        still from then on.  PyTorch does the same.  `MLP.fit` stops before such a step, with an error.

        Examples
        --------
        >>> import numpy as np, fastbp
        >>> net = fastbp.MLP([2, 1], rng=0)
        >>> before = net.parameters.copy()
        >>> fastbp.SGD(learning_rate=0.5).step(net, np.ones(3))
        >>> np.allclose(net.parameters, before - 0.5)
        True
        """
        if not hasattr(net, "_network"):
            raise TypeError(f"net must be a fastbp.MLP, got {_check.describe(net)}")
        grad = _check.vector("grad", grad, net.dtype, net.n_parameters)
        net._writable()
        self._state_for(net).step(net._buffer, grad)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_state", "_ready", "_restored")}
        if self._state is not None:
            state["_restored"] = {"steps": self._state.steps, "vectors": (self._state.first, self._state.second)}
        else:
            state["_restored"] = self._restored
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = self._ready = None


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's if asked for.

    With g the gradient plus ``weight_decay`` times the parameters, and v the velocity (0 at first):
    ``v = momentum * v + g``; the step is ``learning_rate * v``, or with Nesterov's
    ``learning_rate * (g + momentum * v)``.  These are PyTorch's formulas [1]_.

    Parameters
    ----------
    learning_rate : float, default 0.01
    momentum : float in [0, 1), default 0
    nesterov : bool, default False
        Needs momentum.
    weight_decay : float, default 0
        L2 penalty 0.5 * weight_decay * |w|^2, added to the gradient of all parameters, biases too.

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is out of its range, also when it is set later.

    References
    ----------
    .. [1] I. Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> sgd = fastbp.SGD(learning_rate=0.1, momentum=0.9)
    >>> for _ in range(200):
    ...     loss = net.train_step(X, 3 * X + 1, sgd)
    >>> np.round(net.parameters, 2)
    array([3., 1.])
    """

    _rules: ClassVar = {"learning_rate": _NONNEGATIVE, "momentum": _FRACTION, "weight_decay": _NONNEGATIVE}
    _rule = "sgd"

    learning_rate: float
    momentum: float
    weight_decay: float

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
        self.nesterov = _check.flag("nesterov", nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError(f"nesterov needs momentum > 0, got momentum={momentum!r}")
        self._vectors = 1  # kept from the start: momentum may be set later

    def _hyperparameters(self) -> dict[str, Any]:
        return {**super()._hyperparameters(), "nesterov": self.nesterov}

    def _settings(self) -> tuple[Any, ...]:
        return self.learning_rate, self.weight_decay, False, self.momentum, self.nesterov, 0.0, 0.0, 0.0, False


class RMSprop(Optimizer):
    """RMSprop: steps scaled by a running mean of the gradient's square, with momentum if asked for.

    ``v = rho * v + (1 - rho) * g**2``, ``u = momentum * u + g / (sqrt(v) + eps)``, ``w -= learning_rate * u`` [1]_;
    PyTorch's formulas and defaults, rho being its alpha.

    Parameters
    ----------
    learning_rate : float, default 0.01
    rho : float in [0, 1), default 0.99
    eps : float > 0, default 1e-8
    momentum : float in [0, 1), default 0
    weight_decay : float, default 0
        L2 penalty, added to the gradient of all parameters.

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is out of its range, also when it is set later.

    References
    ----------
    .. [1] T. Tieleman, G. Hinton, Lecture 6.5: RMSprop, Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> rmsprop = fastbp.RMSprop(learning_rate=0.02)
    >>> for _ in range(500):
    ...     loss = net.train_step(X, 3 * X + 1, rmsprop)
    >>> np.round(net.parameters, 1)
    array([3., 1.])
    """

    _rules: ClassVar = {
        "learning_rate": _NONNEGATIVE,
        "rho": _FRACTION,
        "eps": _POSITIVE,
        "momentum": _FRACTION,
        "weight_decay": _NONNEGATIVE,
    }
    _rule = "rmsprop"
    _vectors = 2

    learning_rate: float
    rho: float
    eps: float
    momentum: float
    weight_decay: float

    def __init__(
        self,
        learning_rate: float = 0.01,
        rho: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate=learning_rate, rho=rho, eps=eps, momentum=momentum, weight_decay=weight_decay)

    def _settings(self) -> tuple[Any, ...]:
        return self.learning_rate, self.weight_decay, False, self.momentum, False, 0.0, self.rho, self.eps, False


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``, and at step t
    ``w -= learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)`` [1]_.

    Parameters
    ----------
    learning_rate : float, default 1e-3
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
    eps : float > 0, default 1e-8
    weight_decay : float, default 0
        L2 penalty, added to the gradient of all parameters; see AdamW for decoupled decay.

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is out of its range, also when it is set later.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([2, 8, 1], activation="tanh", output_activation="sigmoid", loss="binary_cross_entropy", rng=0)
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> adam = fastbp.Adam(learning_rate=0.05)
    >>> for _ in range(300):
    ...     loss = net.train_step(X, [0, 1, 1, 0], adam)
    >>> net(X).ravel().round()
    array([0., 1., 1., 0.])
    """

    _rules: ClassVar = {
        "learning_rate": _NONNEGATIVE,
        "beta1": _FRACTION,
        "beta2": _FRACTION,
        "eps": _POSITIVE,
        "weight_decay": _NONNEGATIVE,
    }
    _rule = "adam"
    _vectors = 2
    _decoupled = False
    _eps_hat = False  # eps added to sqrt(v) before its correction, as scikit-learn does

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate=learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def _settings(self) -> tuple[Any, ...]:
        return (
            self.learning_rate, self.weight_decay, self._decoupled, 0.0, False,
            self.beta1, self.beta2, self.eps, self._eps_hat,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay: ``w *= 1 - learning_rate * weight_decay`` before each of Adam's steps [1]_.

    Parameters
    ----------
    learning_rate, beta1, beta2, eps
        As in Adam.
    weight_decay : float, default 0.01

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR 2019.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.AdamW(weight_decay=0.1)
    AdamW(learning_rate=0.001, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.1)
    """

    _decoupled = True

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, eps, weight_decay)
