"""What a fit shows while it runs: tqdm's bar where tqdm is installed, else one line per epoch."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from .history import History


class Progress:
    """A bar over all steps, or a line per epoch, on the standard error stream."""

    def __init__(self, epochs: int, steps_per_epoch: int | None, done: int) -> None:
        self._epochs = epochs
        self._bar: Any = None
        try:
            tqdm = import_module("tqdm.auto").tqdm
        except ImportError:
            return
        total = None if steps_per_epoch is None else epochs * steps_per_epoch
        initial = 0 if steps_per_epoch is None else done * steps_per_epoch
        self._bar = tqdm(total=total, initial=initial, unit="step")

    def steps(self, n: int) -> None:
        """So many more steps are done."""
        if self._bar is not None:
            self._bar.update(n)

    def epoch(self, history: History) -> None:
        """An epoch is done."""
        figures = {"loss": history.losses[-1]}
        if history.validation_losses:
            figures["validation loss"] = history.validation_losses[-1]
        if history.validation_scores:
            figures["score"] = history.validation_scores[-1]
        texts = [f"{name} {value:.4g}" for name, value in figures.items()]
        title = f"epoch {len(history.losses)}/{self._epochs}"
        if self._bar is not None:
            self._bar.set_description(title, refresh=False)
            self._bar.set_postfix_str(", ".join(texts), refresh=False)
        else:
            print(", ".join([title, *texts, f"{history.seconds[-1]:.2f} s"]), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
