"""partial_fit of a single row, without the checks and preparations that an earlier call has made."""

from __future__ import annotations

import math
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from ._stochastic import NOT_FINITE, end_epoch, not_finite

if TYPE_CHECKING:
    from ._base import BaseMLP


class OneRow:
    """What a step with one row needs of a fitted model, good until one of the model's parameters is set.

    `step` does nothing and returns False for whatever is not plainly right: the ordinary way then converts it, or says
    what is wrong.
    """

    def __init__(self, model: BaseMLP) -> None:
        self.names = tuple(model._get_param_names())
        self.settings = [getattr(model, name) for name in self.names]
        self.net = model._network()
        self.losses = np.empty(1)
        self.divisor = model._loss_divisor(self.net)
        self.encode = model._one_row_encoder()
        self.usable = model.batch_size in ("auto", 1)

    def fits(self, model: BaseMLP) -> bool:
        """Whether the model is as it was."""
        return all(map(is_, map(model.__dict__.get, self.names), self.settings)) and model._network() is self.net

    def step(self, model: BaseMLP, X: Any, y: Any) -> bool:
        net = self.net
        if not (self.usable and model._is_plain_row(X) and self.fits(model)):
            return False
        Y = self.encode(y)
        if Y is None:
            return False
        if X.dtype != net.dtype or not X.flags.carray:
            X = np.array(X, net.dtype, order="C")
        model.n_iter_ = 0
        _, failure = net._run_batches(
            X, Y, None, model._optimizer, None, 0, 1, self.losses, penalty=model.alpha, loss_divisor=self.divisor
        )
        if failure is not None:
            not_finite(model, failure)
        if not (math.isfinite(np.vdot(net.parameters, net.parameters)) or np.isfinite(net.parameters).all()):
            raise ValueError(NOT_FINITE)
        end_epoch(model, net, float(self.losses[0]), 1)
        return True
