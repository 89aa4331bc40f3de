"""L-BFGS: SciPy's, over all rows at once."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from ._sources import Table
from .divergence import diverged
from .training import Training

if TYPE_CHECKING:
    from .mlp import MLP

Array = np.ndarray[Any, Any]

_TOLERANCE = (0.0, math.inf, "a finite number >= 0")


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keep SciPy's BLAS to one thread, where threadpoolctl is installed.

    Its vectors are short, and threads that spin for more of them take the cores from ours: up to four times the time.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")  # type: ignore[no-any-return]


def add_penalty(net: MLP, gradient: Array, penalty: float) -> float:
    """Return 0.5 * penalty * sum(weights**2), its derivative added to the gradient; biases are not included."""
    squares = 0.0
    for W, g in zip(net.weights, net.views(gradient)[0], strict=True):
        g += penalty * W
        squares += float(np.square(W, dtype=np.float64).sum())
    return 0.5 * penalty * squares


MOST_PAIRS = 2**16  # SciPy makes room for all at once


class LBFGS:
    """L-BFGS [1]_ for ``net.fit(..., optimizer=fastbp.LBFGS())``: SciPy's, each step along the gradient of all rows.

    An epoch is one of its iterations, which may compute the gradient more than once. Needs SciPy, the extra
    ``fastbp[scipy]``.

    Parameters
    ----------
    history_size : int, default 10
        Pairs of earlier steps and gradients that stand for the second derivatives.
    gtol : float, default 1e-5
        Converged where no component of the gradient is larger.
    ftol : float, default 2.2e-9
        Converged where an iteration lowers the loss by less than this fraction of it.

    References
    ----------
    .. [1] R. H. Byrd et al., A limited memory algorithm for bound constrained optimization, SIAM Journal on Scientific
       Computing 16, 1995.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> net.fit(X, 3 * X + 1, epochs=100, optimizer=fastbp.LBFGS()).stopped
    'converged'
    >>> net.parameters.round(3)
    array([3., 1.])
    """

    def __init__(self, history_size: int = 10, gtol: float = 1e-5, ftol: float = 2.2e-9) -> None:
        self.history_size = _check.integer("history_size", history_size, 1, MOST_PAIRS)
        self.gtol = _check.number("gtol", gtol, *_TOLERANCE)
        self.ftol = _check.number("ftol", ftol, *_TOLERANCE)

    def __repr__(self) -> str:
        return f"LBFGS(history_size={self.history_size}, gtol={self.gtol!r}, ftol={self.ftol!r})"


class _Stop(Exception):
    """Out of SciPy's loop."""


class FullBatch(Training):
    """A fit whose epochs are the iterations of L-BFGS."""

    _source: Table

    def __init__(self, net: Any, X: Any, Y: Any, **arguments: Any) -> None:
        unused = ("schedule", "max_norm", "steps_per_epoch", "checkpoint", "resume")
        for name in unused:
            if arguments[name] is not None:
                raise ValueError(f"{name} is not for L-BFGS, got {_check.describe(arguments[name])}")
        try:
            from scipy.optimize import minimize
        except ImportError:
            raise ImportError("fastbp.LBFGS needs SciPy: pip install scipy, or fastbp[scipy]") from None
        super().__init__(net, X, Y, **arguments)
        self._minimize = minimize
        if self._options.dropout is not None:
            raise ValueError(f"dropout is not for L-BFGS, got {arguments['dropout']!r}")
        if not isinstance(self._source, Table):
            raise ValueError(f"L-BFGS needs X and Y as arrays, got X as {_check.describe(X)}")

    def _check_optimizer(self, optimizer: Any) -> None:
        pass

    def _choose_optimizer(self, given: Any) -> Any:
        return given

    def _begin(self) -> None:
        self._batch_size = self._source.n_pool

    def _n_steps(self) -> int:
        return len(self._history.losses)

    def _train(self) -> None:
        net, o, optimizer = self._net, self._options, self._optimizer
        accepted = net._buffer.copy()  # what an exception leaves behind
        self._start = time.perf_counter()

        def after_iteration(w: Array) -> None:
            net._buffer[:] = accepted[:] = w
            self._after_epoch(self._last_loss, math.nan, self._start)
            self._start = time.perf_counter()
            if self._over():
                raise _Stop

        options = {"maxiter": o.epochs, "maxfun": 2**31 - 1, "maxcor": optimizer.history_size}
        options |= {"gtol": optimizer.gtol, "ftol": optimizer.ftol}
        w = net._buffer.astype(np.float64)
        try:
            with one_blas_thread():
                result = self._minimize(
                    self._objective, w, jac=True, method="L-BFGS-B", callback=after_iteration, options=options
                )
            self._history.stopped = "converged" if result.status == 0 else "line search"
        except _Stop:
            pass
        finally:
            net._buffer[:] = accepted

    def _objective(self, w: Array) -> tuple[float, Array]:
        """The loss of all rows and its gradient, in double precision."""
        net = self._net
        net._buffer[:] = w
        total = weight = 0.0
        gradient = np.zeros(net.n_parameters)
        for X, Y, sample_weight in self._source.blocks():
            here = len(X) if sample_weight is None else float(sample_weight.sum())
            loss, grad = net.value_and_grad(X, Y, sample_weight)
            share = here if net._mean else 1.0
            total += share * loss
            gradient += share * grad
            weight += here
        if net._mean:
            total /= weight
            gradient /= weight
        if self._options.penalty:
            total += add_penalty(net, gradient, self._options.penalty / weight)
        if not (math.isfinite(total) and np.isfinite(gradient).all()):
            what = "gradient" if math.isfinite(total) else "loss"
            cause = "check X and Y for nan and inf, or scale them to about unit size"
            raise diverged(what, total, self._history, self._options.epochs, self._n_steps() + 1, None, cause)
        self._last_loss = total
        return total, gradient
