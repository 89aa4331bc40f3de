"""Dense networks: how one is made, trained and saved."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from ._evaluation import Evaluation
from ._parameters import ACTIVATIONS, LOSSES
from .optim import Optimizer

if TYPE_CHECKING:
    from .history import Epoch, History
    from .lbfgs import LBFGS
    from .schedules import Schedule

Array = np.ndarray[Any, Any]

REDUCTIONS = ("mean", "sum")


class MLP(Evaluation):
    """A dense network and its loss: ``a_i = act_i(a_{i-1} W_i + b_i)``, rows are examples.

    The gradient is exact for the loss that is reported, whatever the activations.  Sigmoid with
    binary_cross_entropy, softmax with cross_entropy and exp with poisson are computed from the logits, finite wherever
    the output is.  Elsewhere a logarithm is that of ``max(y, clip)``, whose derivative is exactly 0 where the clip is
    active.

    ==================== ==================================================== =============================
    loss                 of one example                                       targets t
    ==================== ==================================================== =============================
    squared_error        ``0.5 * sum_k (y_k - t_k)**2``                       any
    binary_cross_entropy ``-sum_k [t_k log y_k + (1 - t_k) log(1 - y_k)]``    in [0, 1]
    cross_entropy        ``-sum_k t_k log y_k``                               >= 0, or one class per row
    poisson              ``sum_k [y_k - t_k - t_k log(y_k / t_k)]``           >= 0; ``t log t`` is 0 at 0
    ==================== ==================================================== =============================

    Parameters
    ----------
    sizes : sequence of int
        Widths of the layers, the input's first: at least two.
    activation : str or sequence of str, default "relu"
        Of the hidden layers, one for all or one for each: "identity", "sigmoid", "tanh", "relu" (relu'(0) = 0),
        "leaky_relu" (slope 0.01 for z <= 0), "elu", "softplus", "gelu" (exact), "silu", "exp".
    output_activation : str, default "identity"
        One of these or "softmax".
    loss : str, default "squared_error"
        See the table.
    reduction : {"mean", "sum"}, default "mean"
        Over examples: ``sum_i w_i l_i / sum_i w_i`` or ``sum_i w_i l_i``, w being sample_weight or 1.
    dtype : {float64, float32}, default float64
        Of parameters, arithmetic and results.  Losses are added up in double for both.
    clip : float in (0, 0.5), optional
        The c in log(max(y, c)).  None: the dtype's machine epsilon, and no clip at all for the three pairs computed
        from the logits.
    rng : int, numpy.random.Generator or None
        Seeds the weights: uniform, Glorot's [1]_ for sigmoid, tanh, exp, softmax and identity, He's [2]_ for the
        others; biases are 0.

    Attributes
    ----------
    parameters : ndarray, shape (n_parameters,)
        W0, b0, W1, b1, ... one after the other, each W in C order.  Assign *into* it to train by other means.
    weights, biases : tuple of ndarray
        Views into it, of shapes (fan_in, fan_out) and (fan_out,).
    layout : list of (name, shape)
        What is where in it.
    n_parameters : int
    sizes, activation, output_activation, loss, reduction, dtype, clip
        As given; activation as one name per hidden layer.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
       AISTATS 2010.
    .. [2] K. He et al., Delving deep into rectifiers, ICCV 2015.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> net = fastbp.MLP([4, 16, 3], activation="tanh", output_activation="softmax", loss="cross_entropy", rng=0)
    >>> X = np.random.default_rng(0).normal(size=(8, 4))
    >>> loss, grad = net.value_and_grad(X, [0, 1, 2, 0, 1, 2, 0, 1])
    >>> grad.shape == net.parameters.shape
    True
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        output_activation: str = "identity",
        loss: str = "squared_error",
        reduction: str = "mean",
        dtype: Any = np.float64,
        clip: float | None = None,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.sizes = _check.sizes("sizes", sizes)
        self.activation = _check.activations("activation", activation, ACTIVATIONS[:-1], len(self.sizes) - 2)
        self.output_activation = _check.choice("output_activation", output_activation, ACTIVATIONS)
        self.loss = _check.choice("loss", loss, LOSSES)
        self.reduction = _check.choice("reduction", reduction, REDUCTIONS)
        self.dtype = _check.dtype("dtype", dtype)
        self.clip = None if clip is None else _check.clip("clip", clip)
        generator = _check.generator("rng", rng)
        self._set_up()
        self._draw_weights(generator)

    # ---- training ----------------------------------------------------------------------------------------------------

    def train_step(self, X: Any, Y: Any, optimizer: Optimizer, sample_weight: Any = None) -> float:
        """One step of an optimizer along the gradient of a batch's loss.

        Parameters
        ----------
        X, Y, sample_weight
            As in `value_and_grad`.
        optimizer : SGD, RMSprop, Adam or AdamW
            Keeps its state from step to step, and belongs to the first network that it steps.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described; the parameters are as before then.

        Notes
        -----
        The step is taken whatever the loss and its gradient are; `Optimizer.step` says what becomes of numbers that are
        too large.  `fit` stops before a step along numbers that are not finite, and can clip them (``max_norm``).

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([1, 1])
        >>> net.parameters[:] = 0
        >>> net.train_step([[1.]], [[2.]], fastbp.SGD(learning_rate=0.5))
        2.0
        >>> net.parameters
        array([1., 1.])
        """
        try:
            state = optimizer._ready
        except AttributeError:
            state = None
        loss = self._network.train_step(X, Y, sample_weight, state)
        if loss is None:
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    "optimizer must be a fastbp optimizer (SGD, RMSprop, Adam, AdamW), "
                    f"got {_check.describe(optimizer)}"
                )
            self._writable()
            state = optimizer._state_for(self)
            X, Y, sample_weight = self._batch(X, Y, sample_weight)
            loss = self._network.train_step(X, Y, sample_weight, state)
        return loss  # type: ignore[no-any-return]

    def fit(
        self,
        X: Any,
        Y: Any = None,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        optimizer: Optimizer | LBFGS | None = None,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        sample_weight: Any = None,
        validation: Any = None,
        score: Callable[[Any, Array], Any] | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
        schedule: Schedule | Callable[[int], float] | None = None,
        penalty: float = 0.0,
        max_norm: float | None = None,
        dropout: float | Sequence[float] = 0.0,
        callbacks: Callable[[Epoch], Any] | Sequence[Callable[[Epoch], Any]] = (),
        progress: bool = False,
        steps_per_epoch: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: str | os.PathLike[str] | bool | None = None,
        comm: Any = None,
    ) -> History:
        """Train: go over the rows in shuffled batches, again and again, with one step of the optimizer for each batch.

        Steps run in compiled code. The same seed gives the same parameters, to the bit, for any number of threads.
        Ctrl-C ends it within a second, between two steps: the parameters are those after the last whole one, and the
        KeyboardInterrupt, like any other exception out of it, has the history as its attribute ``history``.

        Parameters
        ----------
        X : array_like, shape (rows, sizes[0]), or batches
            An array of any size and real dtype: large ones on disk (np.memmap) are never loaded whole. Or, without Y,
            batches (X, Y) or (X, Y, sample_weight), each for one step: an iterable, which is gone through in each
            epoch; a function that returns one; or an iterator, for one epoch or with steps_per_epoch.
        Y : array_like
            Targets, as in `value_and_grad`.
        epochs : int, default 10
            How often to go over all rows; with resume, those done before included.
        batch_size : int, default 32
            The last batch of an epoch may be shorter. With comm: of all ranks together.
        optimizer : SGD, RMSprop, Adam, AdamW or LBFGS, default Adam()
            LBFGS takes all rows at once, and each of its iterations is an epoch.
        shuffle : bool, default True
            Rows in a new order in each epoch. Large arrays on disk are shuffled in stretches of neighbours first, then
            within what fits in memory.
        rng : int, numpy.random.Generator or None
            Seeds the order, the drawing of a validation fraction, and dropout.
        sample_weight : array_like, shape (rows,), optional
            As in `value_and_grad`. Rows of weight 0 take no part.
        validation : (X, Y), (X, Y, sample_weight) or float, optional
            What to measure the loss on after each epoch; or the fraction of the rows to set aside for it, drawn at
            random, or the last ones without shuffle.
        score : callable, optional
            ``score(Y, predictions) -> float`` on the validation data, Y as given, the higher the better: such as
            scikit-learn's r2_score. The best epoch is that of the best score then.
        patience : int, optional
            Stop after so many epochs without progress, which is a validation score, or a validation loss, or without
            validation a training loss, better by more than min_delta than the last that was progress.
        min_delta : float, default 0
        restore_best : bool, default True
            With patience, end with the parameters of the best epoch.
        schedule : Schedule or callable, optional
            The learning rate of each epoch: one of `fastbp.schedules`, or a function from the epoch, counted from 0,
            to the rate. The optimizer has its own again afterwards.
        penalty : float, default 0
            Adds ``0.5 * penalty / W * sum(weights**2)`` to a batch's loss, W being its rows or their sum of weights;
            not for biases. It is scikit-learn's alpha. For weight decay see the optimizers.
        max_norm : float, optional
            A gradient whose norm is larger is scaled to it.
        dropout : float or sequence of float, default 0
            In each step, each unit of a hidden layer is left out with this probability, and what the others give is
            divided by 1 minus it. One for each hidden layer, or one for all.
        callbacks : callable or sequence of callables
            Called after each epoch with an `Epoch`; one that returns True ends the training.
        progress : bool, default False
            Show a bar of tqdm, where that is installed, else print a line per epoch, on standard error.
        steps_per_epoch : int, optional
            For batches: so many make an epoch, and the next goes on where it ended.
        checkpoint : path, optional
            A file to write after each checkpoint_every epochs and at the end: network, optimizer and position.
        checkpoint_every : int, default 1
        resume : path or bool, optional
            Go on from a checkpoint, the other arguments being as they were, to the same bits as without interruption.
            True: from the path checkpoint, if that exists. A learning_rate other than the first fit's takes its place.
        comm : mpi4py.MPI.Intracomm, optional
            Train together with the other ranks, each giving its share of the rows: to rounding as one process with all
            of them would, with the same parameters on every rank, at first those of rank 0. Rank 0 alone shows
            progress, calls callbacks, writes and reads checkpoints; an error on one rank is raised on all. The other
            arguments must be the same on every rank. See docs/scaling.md.

        Returns
        -------
        History
            Losses, validation losses and scores, seconds and learning rates by epoch, the best epoch, why it stopped.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described; nothing has been changed then.
        TrainingDiverged
            If a loss or gradient is not finite: the parameters are those before that step.

        Examples
        --------
        >>> import numpy as np, fastbp
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> net = fastbp.MLP([1, 20, 1], activation="tanh", rng=0)
        >>> history = net.fit(X, np.sin(3 * X), epochs=200, optimizer=fastbp.Adam(0.01), rng=0,
        ...                   validation=0.2, patience=50, schedule=fastbp.schedules.Cosine())
        >>> history.validation_losses[history.best_epoch] < 1e-2
        True
        """
        from .training import fit

        return fit(
            self, X, Y, epochs=epochs, batch_size=batch_size, optimizer=optimizer, shuffle=shuffle, rng=rng,
            sample_weight=sample_weight, validation=validation, score=score, patience=patience, min_delta=min_delta,
            restore_best=restore_best, schedule=schedule, penalty=penalty, max_norm=max_norm, dropout=dropout,
            callbacks=callbacks, progress=progress, steps_per_epoch=steps_per_epoch, checkpoint=checkpoint,
            checkpoint_every=checkpoint_every, resume=resume, comm=comm,
        )  # fmt: skip

    def _run_batches(
        self,
        X: Array,
        Y: Array,
        sample_weight: Array | None,
        optimizer: Optimizer,
        order: Array | None,
        begin: int,
        batch_size: int,
        losses: Array,
        *,
        penalty: float = 0.0,
        loss_divisor: float = 1.0,
        max_norm: float = math.inf,
        dropout: Sequence[float] | None = None,
        key: int = 0,
        seconds: float = 0.1,
    ) -> tuple[int, str | None]:
        """Steps over the batches of one pass from position `begin` on, until its end or for so many seconds.

        `losses` gets a batch's loss divided by `loss_divisor`, and the penalty; the steps do not know of the division.
        X, Y and sample_weight as `_batch` returns them.  Returns the position after the last step, and None or what was
        not finite at the batch there: "loss", "gradient" or "squared gradient".
        """
        self._writable()
        result = self._network.train_batches(
            X, Y, sample_weight, order, begin, batch_size, losses, optimizer._state_for(self), penalty, loss_divisor,
            max_norm, _rates(dropout), key, seconds,
        )  # fmt: skip
        if result is None:
            raise ValueError("X, Y, sample_weight or order: no longer valid, though they were checked before")
        return result[0], (None, "loss", "gradient", "squared gradient")[result[1]]

    def _batch_gradient(
        self,
        X: Array,
        Y: Array,
        sample_weight: Array | None,
        order: Array | None,
        begin: int,
        batch_size: int,
        out: Array,
        *,
        dropout: Sequence[float] | None = None,
        key: int = 0,
        step: int = 0,
    ) -> float:
        """Loss and gradient of one batch as `_run_batches` takes it, before its step."""
        loss = self._network.batch_gradient(
            X, Y, sample_weight, order, begin, batch_size, out, _rates(dropout), key, step
        )
        if loss is None:
            raise ValueError("X, Y, sample_weight, order or out: no longer valid, though they were checked before")
        return loss  # type: ignore[no-any-return]

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], optimizer: Optimizer | None = None) -> None:
        """Write the network to one file, from which `load` makes it again; nothing in it can execute.

        Parameters
        ----------
        path : str or path-like
            An .npz file of numbers and plain text; written beside and moved into place, so never half.
        optimizer : Optimizer, optional
            Of this network, to be saved with it: `load_checkpoint` gives both.

        Examples
        --------
        >>> import fastbp, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
        >>> net = fastbp.MLP([2, 3], rng=0)
        >>> net.save(path)
        >>> bool((fastbp.load(path).parameters == net.parameters).all())
        True
        """
        from .checkpoint import save

        save(path, self, optimizer)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> MLP:
        """Same as `fastbp.load`."""
        from .checkpoint import load

        return load(path)


def _rates(dropout: Sequence[float] | None) -> Array | None:
    return None if dropout is None else np.asarray(dropout, np.float64)
