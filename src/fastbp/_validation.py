"""How good a network is after an epoch, and which epoch was the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from ._sources import Batches, Table

if TYPE_CHECKING:
    from .mlp import MLP

Array = np.ndarray[Any, Any]
Score = Callable[[Any, Array], Any]

_SHARE = (math.nextafter(0, 1), 1.0, "a fraction in (0, 1) of the rows, or (X, Y) or (X, Y, sample_weight)")


class Validation:
    """Rows that are not trained on, and what is measured on them."""

    def __init__(self, table: Table, rows: Array | None, Y: Any, score: Score | None) -> None:
        alone = None if rows is None else table.copy_of(rows)
        self._table, self._rows = (table, rows) if alone is None else (alone, None)
        self._score = score
        if score is not None:
            chosen = table.pool if rows is None else rows
            self._truth = np.asarray(Y) if chosen is None else np.asarray(Y)[chosen]

    def measure(self, net: MLP, group: Any) -> tuple[float, float | None]:
        """The loss and the score."""
        total = weight = 0.0
        outputs = []
        for X, Y, w in self._table.blocks(self._rows):
            here = len(X) if w is None else float(w.sum())
            total += net.value(X, Y, w) * (here if net._mean else 1)
            weight += here
            if self._score is not None:
                outputs.append(net.predict(X))
        if group is not None:
            total, weight = group.sum([total, weight])
        loss = float(total / weight if net._mean else total)
        if self._score is None:
            return loss, None
        truth, found = self._truth, outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        if group is None:
            return loss, self._score_of(truth, found)
        parts = group.gather((truth, found))  # the score is that of all rows
        score = self._score_of(*map(np.concatenate, zip(*parts, strict=True))) if group.is_root else None
        return loss, group.agree(score)

    def _score_of(self, truth: Any, found: Any) -> float:
        assert self._score is not None
        score = self._score(truth, found)
        try:
            return float(score)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"score must return a number, got {_check.describe(score)}") from None


def hold_out(
    net: MLP, validation: Any, source: Table | Batches, Y: Any, score: Any, generator: np.random.Generator | None
) -> Validation | None:
    """The arguments `validation` and `score` of fit; a fraction leaves the source with the rest of its rows."""
    if score is not None and not callable(score):
        raise TypeError(f"score must be a function of (Y, predictions) or None, got {_check.describe(score)}")
    if validation is None:
        if score is not None:
            raise ValueError("score needs validation, got validation=None")
        return None
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(f"validation must be {_SHARE[2]}, got {len(validation)} items")
        try:
            table = Table(net, *validation)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
        return Validation(table, table.pool, validation[1], score)
    fraction = _check.number("validation", validation, *_SHARE)
    if not isinstance(source, Table):
        raise ValueError(f"validation must be (X, Y) where an iterator gives the batches, got {validation!r}")
    return Validation(source, source.split(fraction, generator), Y, score)


class Best:
    """The best epoch so far, and for how many epochs there was no progress."""

    def __init__(self, min_delta: float, keep: bool) -> None:
        self._min_delta, self.keep = min_delta, keep
        self.value = self.mark = math.inf
        self.waited = 0
        self.epoch: int | None = None
        self.parameters: Array | None = None

    def see(self, net: MLP, epoch: int, value: float) -> None:
        """Judge an epoch by a value, lower being better."""
        if value < self.mark - self._min_delta:
            self.mark, self.waited = value, 0
        else:
            self.waited += 1
        if value < self.value:
            self.value, self.epoch = value, epoch
            if self.keep:
                self.parameters = net._buffer.copy()

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "mark": self.mark, "waited": self.waited, "epoch": self.epoch}

    def restore(self, state: dict[str, Any], parameters: Array | None, net: MLP) -> None:
        self.value, self.mark, self.waited, self.epoch = (state[k] for k in ("value", "mark", "waited", "epoch"))
        if self.keep and self.epoch is not None:
            self.parameters = net._buffer.copy() if parameters is None else parameters
