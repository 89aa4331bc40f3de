"""The course of a fit: what it leaves behind, and what a callback gets after each epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mlp import MLP

_LISTS = ("losses", "validation_losses", "validation_scores", "seconds", "learning_rates")


@dataclass
class History:
    """The course of a `fit`: one entry per epoch in each list.

    Attributes
    ----------
    losses : list of float
        Mean loss of the epoch's batches (their sum, for reduction="sum"), each before its step, penalty included.
    validation_losses, validation_scores : list of float
        After each epoch; empty without validation, or without score.
    seconds : list of float
        What the epoch took, validation included.
    learning_rates : list of float
    best_epoch : int or None
        Index of the best epoch: by validation score, or validation loss, or else training loss.
    n_steps : int
        Steps taken in all.
    stopped : str
        Why it ended: "epochs" (all were done), "patience", "callback", "learning rate" (the schedule's end),
        "exhausted" (the iterator's end); for L-BFGS also "converged" and "line search". "" while it runs, or when an
        exception ended it.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> history = net.fit(X, 3 * X + 1, epochs=100, batch_size=5, optimizer=fastbp.SGD(0.1), rng=0)
    >>> history.n_steps, history.stopped, history.losses[-1] < 1e-4
    (400, 'epochs', True)
    """

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    n_steps: int = 0
    stopped: str = ""

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses against the epochs; needs matplotlib, the extra ``fastbp[plot]``.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Its figure is ``ax.figure``.

        Examples
        --------
        >>> import fastbp
        >>> ax = fastbp.History(losses=[3.0, 2.0, 1.5], validation_losses=[3.1, 2.4, 2.5], best_epoch=1).plot()
        >>> [line.get_label() for line in ax.lines]
        ['training', 'validation', 'best epoch']
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise ImportError("history.plot() needs matplotlib: pip install matplotlib, or fastbp[plot]") from None
            ax = pyplot.subplots()[1]
        epochs = range(1, len(self.losses) + 1)
        ax.plot(epochs, self.losses, label="training")
        if self.validation_losses:
            ax.plot(epochs, self.validation_losses, label="validation")
        if self.best_epoch is not None:
            ax.axvline(self.best_epoch + 1, color="0.6", linestyle=":", label="best epoch")
        positive = [loss > 0 for loss in (*self.losses, *self.validation_losses)]
        if positive and all(positive):
            ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        handles = list(ax.lines)
        if self.validation_scores:
            right = ax.twinx()
            handles += right.plot(epochs, self.validation_scores, color="C2", label="validation score")
            right.set_ylabel("score")
        ax.legend(handles=handles)
        return ax

    def _arrays(self) -> dict[str, list[float]]:
        return {name: getattr(self, name) for name in _LISTS}


@dataclass(frozen=True)
class Epoch:
    """What a callback of `MLP.fit` gets: where training is after an epoch.

    Attributes
    ----------
    net : MLP
    optimizer : Optimizer
        Its hyperparameters may be changed.
    history : History
        Until now, this epoch included.
    epoch : int
        From 0.
    loss, learning_rate, seconds : float
        The last entries of the history.
    validation_loss, validation_score : float or None

    Examples
    --------
    >>> import fastbp
    >>> def stop_when_good(epoch):
    ...     return epoch.loss < 1e-2
    >>> net = fastbp.MLP([1, 1], rng=0)
    >>> net.fit([[1.0]], [[2.0]], optimizer=fastbp.SGD(0.2), epochs=100, callbacks=stop_when_good).stopped
    'callback'
    """

    net: MLP
    optimizer: Any
    history: History
    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation_loss: float | None
    validation_score: float | None

    @classmethod
    def last(cls, net: MLP, optimizer: Any, history: History) -> Epoch:
        """The last one of a history."""
        losses, scores = history.validation_losses, history.validation_scores
        return cls(
            net, optimizer, history, len(history.losses) - 1, history.losses[-1], history.learning_rates[-1],
            history.seconds[-1], losses[-1] if losses else None, scores[-1] if scores else None,
        )  # fmt: skip
