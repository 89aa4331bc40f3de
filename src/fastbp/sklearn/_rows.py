"""Rows of data as the network takes them: dense; sparse ones that are large become so a slab at a time.

A call for all rows takes a slab at a time, too, if it would take long: Ctrl-C is seen between two of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from .. import _check
from .._sources import WORK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..mlp import MLP
    from ..optim import Optimizer

    Array = np.ndarray[Any, Any]

DENSE_BYTES = 2**28  # a sparse matrix whose dense form is no larger is made dense once
SLAB_BYTES = 2**26  # else so much of it at a time


def checked(net: MLP, X: Any, Y: Array, weights: Array | None) -> tuple[Any, Array, Array | None]:
    """Training data in the form of what ``net._batch`` returns; a large sparse X in CSR form."""
    Y = _check.targets("y", Y, net.dtype, X.shape[0], net.sizes[-1], net.loss, net._softmax)
    if scipy.sparse.issparse(X):
        X = X.tocsr().astype(net.dtype, copy=False)
        if X.shape[0] * X.shape[1] * net.dtype.itemsize > DENSE_BYTES:
            return X, Y, weights
        X = X.toarray()
    return _check.matrix("X", X, net.dtype, net.sizes[0]), Y, weights


def slab_rows(X: Any, dtype: np.dtype[Any], batch_size: int = 1) -> int:
    """How many rows are made dense at a time: whole batches."""
    return int(max(SLAB_BYTES // (X.shape[1] * dtype.itemsize) // batch_size, 1) * batch_size)


def at_once(X: Any, net: MLP) -> bool:
    """Whether one call takes all rows."""
    return not scipy.sparse.issparse(X) and X.shape[0] * net.n_parameters <= WORK


def slabs(X: Any, net: MLP) -> Iterator[tuple[slice, Any]]:
    """The rows of X as dense pieces, with their place."""
    sparse = scipy.sparse.issparse(X)
    rows = max(1, int(WORK // net.n_parameters))
    if sparse:
        X = X.tocsr()
        rows = min(rows, slab_rows(X, net.dtype))
    for begin in range(0, X.shape[0], rows):
        place = slice(begin, min(begin + rows, X.shape[0]))
        yield place, X[place].toarray() if sparse else X[place]


def predict(net: MLP, X: Any) -> Array:
    """The network's outputs for dense or sparse rows."""
    if at_once(X, net):
        return net.predict(X)
    Y = np.empty((X.shape[0], net.sizes[-1]), net.dtype)
    for place, part in slabs(X, net):
        net.predict(part, out=Y[place])
    return Y


def mean_loss(net: MLP, X: Any, Y: Array, weights: Array | None) -> float:
    """The loss of dense or sparse rows."""
    loss, total = 0.0, 0.0
    for place, part in slabs(X, net):
        w = None if weights is None else weights[place]
        share = len(part) if w is None else float(w.sum())
        loss += share * net.value(part, Y[place], w)
        total += share
    return loss / total


def value_and_grad(net: MLP, X: Any, Y: Array, weights: Array | None) -> tuple[float, Array]:
    """The loss of dense or sparse rows, and its gradient as a new float64 vector."""
    if at_once(X, net):
        loss, gradient = net.value_and_grad(X, Y, weights)
        return loss, gradient.astype(np.float64, copy=False)
    loss, gradient, total = 0.0, np.zeros(net.n_parameters), 0.0
    for place, part in slabs(X, net):
        w = None if weights is None else weights[place]
        share = len(part) if w is None else float(w.sum())
        part_loss, part_gradient = net.value_and_grad(part, Y[place], w)
        loss += share * part_loss
        gradient += share * part_gradient
        total += share
    return loss / total, gradient / total


def run_pass(
    net: MLP, X: Any, Y: Array, weights: Array | None, optimizer: Optimizer, order: Array | None, batch_size: int,
    losses: Array, penalty: float, divisor: int,
) -> str | None:  # fmt: skip
    """One step per batch of the rows in this order; returns what was not finite, if anything.

    X, Y and weights are as `checked` returns them.  `losses` gets each batch's loss, divided, and its penalty.
    """
    if scipy.sparse.issparse(X) and order is not None:
        rows = slab_rows(X, net.dtype, batch_size)
        for begin in range(0, len(order), rows):
            take = order[begin : begin + rows]
            part = net._batch(X[take].toarray(), Y[take], None if weights is None else weights[take])
            here = losses[begin // batch_size : -(-(begin + len(take)) // batch_size)]
            failure = run_pass(net, *part, optimizer, None, batch_size, here, penalty, divisor)
            if failure is not None:
                return failure
        return None
    rows = len(X) if order is None else len(order)
    position, failure = 0, None
    while position < rows and failure is None:  # comes back now and then, so that Ctrl-C is obeyed
        position, failure = net._run_batches(
            X, Y, weights, optimizer, order, position, batch_size, losses, penalty=penalty, loss_divisor=divisor
        )
    return failure
