"""The error that ends a training whose numbers are no longer finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from .history import History

Array = np.ndarray[Any, Any]


class TrainingDiverged(ArithmeticError):
    """A loss or a gradient was not finite. The step was not taken: the parameters are finite, those before it.

    Attributes
    ----------
    what : {"loss", "gradient", "squared gradient"}
        The last where Adam or RMSprop keeps the mean of the gradient's squares, and they leave the range of the dtype.
    epoch : int
        From 0.
    step : int
        The optimizer's, from 1.
    rows : list of int
        The batch's row numbers; places in the batch, if an iterator gave it.
    loss : float
    history : History
        Until then.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> try:
    ...     net.fit([[1.0], [float("inf")]], [[1.0], [2.0]], batch_size=1, shuffle=False)
    ... except fastbp.TrainingDiverged as error:
    ...     print(error.what, error.epoch, error.step, error.rows)
    loss 0 2 [1]
    """

    what: str
    epoch: int
    step: int
    rows: list[int]
    loss: float
    history: History


def diverged(
    what: str, loss: float, history: History, epochs: int, step: int, rows: Array | None, cause: str
) -> TrainingDiverged:
    """The error, with all it has to say."""
    came = f"the loss is {loss!r}" if what == "loss" else f"the {what} is not finite, the loss is {loss!r},"
    epoch = len(history.losses)
    shown = ""
    if rows is not None:
        shown = f", rows {', '.join(str(row) for row in rows[:5])}"
        if len(rows) > 5:
            shown += f" and {len(rows) - 5} more"
    error = TrainingDiverged(
        f"{came} at step {step}, in epoch {epoch + 1} of {epochs}{shown}: {cause}. "
        "The parameters are those before this step."
    )
    error.what, error.epoch, error.step, error.loss, error.history = what, epoch, step, loss, history
    error.rows = [] if rows is None else rows.tolist()
    return error


def not_finite(name: str, array: Array, places: Array, rows: Any) -> str | None:
    """Where an array is not finite, in words."""
    values = array[places]
    bad = np.argwhere(~np.isfinite(values))
    if len(bad) == 0:
        return None
    column = f", column {bad[0][1]}" if values.ndim == 2 else ""
    return f"{name} is {values[tuple(bad[0])]} at row {rows[bad[0][0]]}{column}"
