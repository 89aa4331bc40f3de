"""Learning rates that change from epoch to epoch, for ``net.fit(schedule=...)``.

A schedule starts from the optimizer's own learning_rate. A plain function will do as well: ``schedule=lambda epoch:
0.1 / (1 + epoch)`` gives the rate itself, epochs counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import _check

__all__ = ["Adaptive", "Constant", "Cosine", "InverseScaling", "Schedule", "Step"]

_POSITIVE = (math.nextafter(0, 1), math.inf, "a finite number > 0")
_NONNEGATIVE = (0.0, math.inf, "a finite number >= 0")
_FACTOR = (math.nextafter(0, 1), 1.0, "a number in (0, 1)")


class Schedule:
    """What all schedules share. Make your own by giving `rate`, and `observe` if it depends on the losses.

    Examples
    --------
    >>> import fastbp
    >>> class Halving(fastbp.schedules.Schedule):
    ...     def rate(self, epoch):
    ...         return self.base / 2**epoch
    >>> schedule = Halving()
    >>> schedule.start(base=0.8, epochs=3)
    >>> schedule.rate(2)
    0.2
    """

    base: float
    total: int

    def start(self, base: float, epochs: int) -> None:
        """Begin at epoch 0 of a fit of so many epochs; base is the optimizer's learning_rate."""
        self.base, self.total = base, epochs

    def rate(self, epoch: int) -> float | None:
        """The learning rate of an epoch, counted from 0; None ends the training."""
        raise NotImplementedError

    def observe(self, value: float) -> None:
        """See what an epoch has reached, lower being better: validation loss, minus its score, or training loss."""

    def state(self) -> dict[str, float]:
        """The numbers, beside the arguments, from which `restore` goes on: for checkpoints."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on where another left off that had this state; comes after `start`."""
        self.__dict__.update(state)

    def __repr__(self) -> str:
        given = {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k not in ("base", "total")}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


class Constant(Schedule):
    """The same rate throughout: what no schedule means.

    Examples
    --------
    >>> import fastbp
    >>> schedule = fastbp.schedules.Constant()
    >>> schedule.start(base=0.1, epochs=5)
    >>> schedule.rate(4)
    0.1
    """

    def rate(self, epoch: int) -> float:
        return self.base


class InverseScaling(Schedule):
    """``base / (1 + epoch)**power``.

    Parameters
    ----------
    power : float > 0, default 0.5

    Examples
    --------
    >>> import fastbp
    >>> schedule = fastbp.schedules.InverseScaling()
    >>> schedule.start(base=0.1, epochs=5)
    >>> [schedule.rate(epoch) for epoch in (0, 3)]
    [0.1, 0.05]
    """

    def __init__(self, power: float = 0.5) -> None:
        self.power = _check.number("power", power, *_POSITIVE)

    def rate(self, epoch: int) -> float:
        return float(self.base * (1 + epoch) ** -self.power)


class Adaptive(Schedule):
    """Multiply the rate by a factor whenever there was no progress for some epochs.

    Progress is a value more than min_delta below the last one that was progress: of the validation loss, or of minus
    its score, or, without validation, of the training loss. The count of epochs starts again with each new rate.

    Parameters
    ----------
    factor : float in (0, 1), default 0.2
    patience : int, default 2
        Epochs without progress.
    min_delta : float, default 1e-4
    min_rate : float, default 1e-6
        Training ends when the rate would fall below it.

    Examples
    --------
    >>> import fastbp
    >>> schedule = fastbp.schedules.Adaptive(factor=0.5, patience=2)
    >>> schedule.start(base=0.1, epochs=5)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(loss)
    >>> schedule.rate(4)
    0.05
    """

    def __init__(self, factor: float = 0.2, patience: int = 2, min_delta: float = 1e-4, min_rate: float = 1e-6) -> None:
        self.factor = _check.number("factor", factor, *_FACTOR)
        self.patience = _check.integer("patience", patience, 1)
        self.min_delta = _check.number("min_delta", min_delta, *_NONNEGATIVE)
        self.min_rate = _check.number("min_rate", min_rate, *_NONNEGATIVE)

    def start(self, base: float, epochs: int) -> None:
        super().start(base, epochs)
        self._rate, self._mark, self._waited = base, math.inf, 0

    def rate(self, epoch: int) -> float | None:
        return None if self._rate < self.min_rate else self._rate

    def observe(self, value: float) -> None:
        if value < self._mark - self.min_delta:
            self._mark, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited >= self.patience:
            self._rate *= self.factor
            self._waited = 0

    def state(self) -> dict[str, float]:
        return {"_rate": self._rate, "_mark": self._mark, "_waited": self._waited}


class Cosine(Schedule):
    """Half a cosine from the optimizer's rate down: ``last + (base - last) * (1 + cos(pi * epoch / epochs)) / 2`` [1]_.

    Parameters
    ----------
    epochs : int, optional
        Its length, those of the fit by default; after them the rate stays at last.
    last : float, default 0

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.

    Examples
    --------
    >>> import fastbp
    >>> schedule = fastbp.schedules.Cosine()
    >>> schedule.start(base=0.1, epochs=4)
    >>> [round(schedule.rate(epoch), 4) for epoch in range(4)]
    [0.1, 0.0854, 0.05, 0.0146]
    """

    def __init__(self, epochs: int | None = None, last: float = 0.0) -> None:
        self.epochs = None if epochs is None else _check.integer("epochs", epochs, 1)
        self.last = _check.number("last", last, *_NONNEGATIVE)

    def rate(self, epoch: int) -> float:
        length = self.total if self.epochs is None else self.epochs
        if epoch >= length:
            return self.last
        return self.last + (self.base - self.last) * (0.5 + 0.5 * math.cos(math.pi * (epoch / length)))


class Step(Schedule):
    """``base * factor**(epoch // every)``.

    Parameters
    ----------
    every : int
        Epochs between two steps.
    factor : float in (0, 1), default 0.1

    Examples
    --------
    >>> import fastbp
    >>> schedule = fastbp.schedules.Step(every=10, factor=0.5)
    >>> schedule.start(base=0.1, epochs=30)
    >>> [schedule.rate(epoch) for epoch in (0, 9, 10, 20)]
    [0.1, 0.1, 0.05, 0.025]
    """

    def __init__(self, every: int, factor: float = 0.1) -> None:
        self.every = _check.integer("every", every, 1)
        self.factor = _check.number("factor", factor, *_FACTOR)

    def rate(self, epoch: int) -> float:
        return float(self.base * self.factor ** (epoch // self.every))


class _Function(Schedule):
    """A plain function from the epoch to its rate."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self._function = function

    def rate(self, epoch: int) -> float:
        return _check.number("schedule's rate", self._function(epoch), *_NONNEGATIVE)


def schedule(name: str, value: Any) -> Schedule | None:
    """The argument as a Schedule, or the error that says what is wrong."""
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            f"{name} must be a schedule of fastbp.schedules, such as Cosine(), or a function from the epoch to a rate, "
            f"got {_check.describe(value)}"
        )
    return _Function(value)
