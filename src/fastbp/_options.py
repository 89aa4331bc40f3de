"""The arguments of `MLP.fit` that need no data to be checked."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, schedules

if TYPE_CHECKING:
    from .mlp import MLP

ALL_ROWS = 2**48  # more than there are, and few enough to be counted in the kernels

_POSITIVE = (math.nextafter(0, 1), math.inf, "a finite number > 0, or None")
_NONNEGATIVE = (0.0, math.inf, "a finite number >= 0")
_RATE = (0.0, 1.0, "a rate in [0, 1), or one for each hidden layer")


class Options:
    """Checked, in the form that training wants; making it changes nothing."""

    def __init__(
        self,
        net: MLP,
        *,
        epochs: Any,
        batch_size: Any,
        shuffle: Any,
        rng: Any,
        patience: Any,
        min_delta: Any,
        restore_best: Any,
        schedule: Any,
        penalty: Any,
        max_norm: Any,
        dropout: Any,
        callbacks: Any,
        progress: Any,
        steps_per_epoch: Any,
        checkpoint: Any,
        checkpoint_every: Any,
        resume: Any,
    ) -> None:
        self.epochs = _check.integer("epochs", epochs, 1)
        self.batch_size = min(_check.integer("batch_size", batch_size, 1), ALL_ROWS)
        self.shuffle = _check.flag("shuffle", shuffle)
        self.rng = _check.generator("rng", rng)
        self.patience = None if patience is None else _check.integer("patience", patience, 1)
        self.min_delta = _check.number("min_delta", min_delta, *_NONNEGATIVE)
        self.keep_best = _check.flag("restore_best", restore_best) and self.patience is not None
        self.schedule = schedules.schedule("schedule", schedule)
        self.penalty = _check.number("penalty", penalty, *_NONNEGATIVE)
        self.max_norm = math.inf if max_norm is None else _check.number("max_norm", max_norm, *_POSITIVE)
        self.dropout = _rates(dropout, len(net.sizes) - 2)
        self.callbacks = _check.functions("callbacks", callbacks)
        self.progress = _check.flag("progress", progress)
        self.steps = None if steps_per_epoch is None else _check.integer("steps_per_epoch", steps_per_epoch, 1)
        self.checkpoint, self.resume = _paths(checkpoint, resume)
        self.checkpoint_every = _check.integer("checkpoint_every", checkpoint_every, 1)


def _rates(dropout: Any, hidden: int) -> list[float] | None:
    """One rate for each hidden layer, or None where all are 0."""
    if isinstance(dropout, (list, tuple)) or (isinstance(dropout, np.ndarray) and dropout.ndim == 1):
        rates = [_check.number("dropout", rate, *_RATE) for rate in dropout]
        if len(rates) != hidden:
            raise ValueError(f"dropout must be {_RATE[2]} ({hidden}), got {len(rates)}: {rates!r}")
    else:
        rate = _check.number("dropout", dropout, *_RATE)
        rates = [rate] * hidden
        if rate and not hidden:
            raise ValueError(f"dropout needs a hidden layer, got {rate!r} for a network without")
    return rates if any(rates) else None


def _paths(checkpoint: Any, resume: Any) -> tuple[str | None, str | None]:
    """Where to write, and what to go on from."""
    path = None
    if checkpoint is not None:
        path = _check.path("checkpoint", checkpoint)
        folder = os.path.dirname(path) or "."
        if os.path.isdir(path) or not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
            raise ValueError(f"checkpoint must be a file in a folder that can be written to, got {path!r}")
    if resume is None or resume is False:
        return path, None
    if resume is not True:
        return path, _check.path("resume", resume)
    if path is None:
        raise ValueError("resume=True needs checkpoint, the path to go on from")
    return path, path if os.path.exists(path) else None
