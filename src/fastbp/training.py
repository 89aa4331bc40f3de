"""What `MLP.fit` does: passes over the rows in compiled code, and all that happens between two of them."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from . import checkpoint as files
from ._options import Options
from ._sources import Batches, Part, Table, is_batches
from ._validation import Best, hold_out
from .divergence import TrainingDiverged, diverged, not_finite
from .history import Epoch, History
from .optim import Adam, Optimizer

if TYPE_CHECKING:
    from ._progress import Progress
    from .mlp import MLP

Array = np.ndarray[Any, Any]

SECONDS = 0.1  # between two looks at Ctrl-C


class Training:
    """One fit. Making it checks all arguments and changes nothing; `run` trains."""

    def __init__(
        self, net: MLP, X: Any, Y: Any, *, optimizer: Any, sample_weight: Any, validation: Any, score: Any,
        group: Any, **options: Any,
    ) -> None:  # fmt: skip
        self._net, self._group = net, group
        self._is_root = group is None or group.is_root
        if not self._is_root:  # files are root's
            options |= {"checkpoint": None, "resume": None}
        self._options = o = Options(net, **options)
        self._check_optimizer(optimizer)
        net._writable()
        self._source: Table | Batches
        if is_batches(X, Y):
            for name, value in (("sample_weight", sample_weight), ("comm", group)):
                if value is not None:
                    raise ValueError(f"{name} needs X and Y as arrays, got X as {_check.describe(X)}")
            self._source = Batches(net, X, o.epochs, o.steps)
        else:
            if o.steps is not None:
                raise ValueError(f"steps_per_epoch is for batches from an iterator, got X as {_check.describe(X)}")
            self._source = Table(net, X, Y, sample_weight, pieces=group is None)
        self._history = History()
        self._saved = None if o.resume is None else files.load_checkpoint(o.resume)
        if group is not None:
            self._saved = group.agree(self._saved)
        self._optimizer = self._choose_optimizer(optimizer)
        self._best = Best(o.min_delta, o.keep_best)
        self._written: tuple[int, str] | None = None

        # What is drawn at the beginning: a fit that goes on draws it again.
        self._rng = o.rng if self._saved is None else files.generator_from(self._saved.training["rng_at_start"], o.rng)
        self._rng_at_start = None if o.checkpoint is None else files.generator_state(self._rng)
        generator = self._rng if group is None else group.generator(self._rng)
        self._validation = hold_out(net, validation, self._source, Y, score, generator if o.shuffle else None)
        self._key = int(self._rng.integers(2**63)) if o.dropout is not None else 0

    # ---- arguments ---------------------------------------------------------------------------------------------------

    def _check_optimizer(self, optimizer: Any) -> None:
        if optimizer is None:
            return
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a fastbp optimizer or None, got {_check.describe(optimizer)}")
        if optimizer._state is not None:
            optimizer._state_for(self._net)  # or the error that it belongs to another network

    def _choose_optimizer(self, given: Any) -> Any:
        """The optimizer given, or the saved one, or Adam."""
        if self._saved is None:
            return Adam() if given is None else given
        saved = self._saved.optimizer
        if saved is None or self._saved.history is None:
            raise ValueError(f"resume: {self._options.resume!r} was not written by fit(checkpoint=...)")
        if given is not None and type(given) is not type(saved):
            raise ValueError(f"resume: it was trained with {saved!r}, got optimizer={given!r}")
        for theirs, own in (
            (self._saved.net._arguments(), self._net._arguments()),
            (self._saved.training["facts"], self._facts()),
        ):
            for name, value in own.items():
                if theirs[name] != value:
                    raise ValueError(f"resume: it was trained with {name} {theirs[name]!r}, got {value!r}")
        return saved if given is None else given

    def _facts(self) -> dict[str, Any]:
        """What must be as it was for a fit to go on as if it had not been interrupted."""
        facts: dict[str, Any] = {"shuffle": self._options.shuffle, "dropout": self._options.dropout}
        if isinstance(self._source, Table):
            facts["batch_size"] = self._options.batch_size
            if self._is_root:
                facts["rows"] = self._source.rows
        return facts

    # ---- from beginning to end ---------------------------------------------------------------------------------------

    def run(self) -> History:
        """Train until the end, or until something goes wrong."""
        net = self._net
        self._begin()
        history = self._history
        self._progress = self._make_progress() if self._options.progress and self._is_root else None
        history.stopped = ""
        try:
            self._train()
            self._write(at_end=True)
        except BaseException as error:
            error.history = history  # type: ignore[attr-defined]
            raise
        finally:
            history.n_steps = self._n_steps()
            if self._options.schedule is not None:
                self._optimizer.learning_rate = self._base_rate
            if self._progress is not None:
                self._progress.close()
        if self._best.parameters is not None:
            net._buffer[:] = self._best.parameters
        return history

    def _begin(self) -> None:
        """Be at the beginning, or where a file says that training was."""
        net, optimizer, o = self._net, self._optimizer, self._options
        self._base_rate = getattr(optimizer, "learning_rate", math.nan)
        if self._saved is not None:
            saved, training = self._saved, self._saved.training
            assert saved.optimizer is not None
            assert saved.history is not None
            if optimizer is saved.optimizer or self._base_rate == training["base_rate"]:  # else the user wants another
                self._base_rate = training["base_rate"]
                optimizer.learning_rate = training["learning_rate"]
            state = saved.optimizer._state_for(saved.net)
            files.set_state(optimizer, state.steps, (state.first, state.second))
            net._buffer[:] = saved.net._buffer
            self._history = saved.history
            self._best.restore(training["best"], saved.best_parameters, net)
            self._rng.bit_generator.state = files.generator_from(training["rng"], self._rng).bit_generator.state
        if o.schedule is not None:
            o.schedule.start(self._base_rate, o.epochs)
            if self._saved is not None:
                o.schedule.restore(self._saved.training["schedule"])
        self._batch_size = o.batch_size
        if self._group is not None:
            assert isinstance(self._source, Table)
            settings = self._facts() | {
                "epochs": o.epochs, "schedule": repr(o.schedule), "penalty": o.penalty, "max_norm": o.max_norm,
                "patience": o.patience, "min_delta": o.min_delta, "restore_best": o.keep_best,
                "validation (None or not)": self._validation is not None,
            }  # fmt: skip
            settings.pop("rows", None)
            self._batch_size, self._n_batches = self._group.start(
                net, optimizer, self._source.n_pool, o.batch_size, settings
            )
            self._key = self._group.agree(self._key)
        self._steps_before = self._history.n_steps - optimizer._state_for(net).steps

    def _n_steps(self) -> int:
        return int(self._steps_before + self._optimizer._state_for(self._net).steps)

    def _make_progress(self) -> Progress:
        from ._progress import Progress

        steps = self._options.steps
        if isinstance(self._source, Table):
            steps = -(-self._source.n_pool // self._batch_size) if self._group is None else self._n_batches
        return Progress(self._options.epochs, steps, len(self._history.losses))

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        history, optimizer, schedule = self._history, self._optimizer, self._options.schedule
        while not self._over():
            start = time.perf_counter()
            if schedule is not None:
                rate = schedule.rate(len(history.losses))
                if rate is None:
                    history.stopped = "learning rate"
                    break
                optimizer.learning_rate = rate
            generator = self._rng if self._group is None else self._group.generator(self._rng)
            loss = self._pass(generator if self._options.shuffle else None)
            if loss is None:
                history.stopped = "exhausted"
                break
            self._after_epoch(loss, optimizer.learning_rate, start)

    def _over(self) -> bool:
        """Whether there is no other epoch to do, and then why."""
        history, o = self._history, self._options
        if o.patience is not None and self._best.waited >= o.patience:
            history.stopped = "patience"
        elif len(history.losses) >= o.epochs:
            history.stopped = "epochs"
        return history.stopped != ""

    def _after_epoch(self, loss: float, rate: float, start: float) -> None:
        """Measure, keep the books, tell those who watch."""
        history, net, o = self._history, self._net, self._options
        value = loss
        if self._validation is not None:
            value, score = self._validation.measure(net, self._group)
            history.validation_losses.append(value)
            if score is not None:
                history.validation_scores.append(score)
                value = -score
        self._best.see(net, len(history.losses), value)
        history.best_epoch = self._best.epoch
        history.losses.append(loss)
        history.learning_rates.append(rate)
        history.n_steps = self._n_steps()
        history.seconds.append(time.perf_counter() - start)
        if o.schedule is not None:
            o.schedule.observe(value)
        if self._progress is not None:
            self._progress.epoch(history)
        stop = False
        if o.callbacks and self._is_root:
            epoch = Epoch.last(net, self._optimizer, history)
            stop = any([_check.is_true(callback(epoch)) for callback in o.callbacks])
        if self._group is not None:
            stop, hyperparameters = self._group.agree((stop, self._optimizer._hyperparameters()))
            for name, number in hyperparameters.items():  # a callback may have changed them
                setattr(self._optimizer, name, number)
            self._group.check(net)
        if stop:
            history.stopped = "callback"
        self._over()  # so that a last checkpoint says why, and is not written again for that
        self._write()

    def _pass(self, generator: np.random.Generator | None) -> float | None:
        """All batches once: the mean of their losses, by weight; None if there were none."""
        total = weight = 0.0
        if isinstance(self._source, Table):
            parts = self._source.parts(generator, self._batch_size)
        else:
            parts = self._source.parts()
        for part in parts:
            size = self._batch_size if isinstance(self._source, Table) else len(part.X)
            losses = self._steps_over(part, size)
            if not self._net._mean:
                total += float(losses.sum())
                weight += part.n
            elif part.weight is None and self._group is None:  # the last batch may be short, the others are alike
                total += size * float(losses.sum()) - (size * len(losses) - part.n) * float(losses[-1])
                weight += part.n
            else:
                weights = _batch_weights(part, size, len(losses))
                if self._group is not None:
                    weights = self._group.sum(weights)
                total += float(losses @ weights)
                weight += float(weights.sum())
        if weight == 0:
            if not self._history.losses:
                raise ValueError("X gave no batches")
            return None
        return total / weight if self._net._mean else total

    def _steps_over(self, part: Part, size: int) -> Array:
        """Step over the batches of a part; their losses."""
        net, optimizer, group, o = self._net, self._optimizer, self._group, self._options
        run = net._run_batches if group is None else partial(group.run, net)
        losses = np.empty(-(-part.n // size) if group is None else self._n_batches)
        step = 0
        while step < len(losses):  # Ctrl-C is seen between two calls, which is between two steps
            end, failure = run(
                part.X, part.Y, part.weight, optimizer, part.order, step * size, size, losses,
                penalty=o.penalty, max_norm=o.max_norm, dropout=o.dropout, key=self._key, seconds=SECONDS,
            )  # fmt: skip
            if self._progress is not None:
                self._progress.steps(-(-end // size) - step)
            step = -(-end // size)
            if failure is not None:
                raise self._diverged(failure, float(losses[step]), part, slice(step * size, (step + 1) * size))
        return losses

    def _diverged(self, what: str, loss: float, part: Part, batch: slice) -> TrainingDiverged:
        places = np.arange(part.n)[batch] if part.order is None else part.order[batch]
        rows: Array | None = places if part.rows is None else part.rows[batch]
        cause = not_finite("X", part.X, places, rows) or not_finite("Y", part.Y, places, rows)
        if self._group is not None:  # the same error on all ranks
            found = self._group.gather((cause, rows))
            rank = next((rank for rank, (known, _) in enumerate(found) if known), 0)
            cause, rows = (f"{found[rank][0]} of rank {rank}", found[rank][1]) if found[rank][0] else (None, None)
        if cause is None:
            largest, max_norm = float(np.abs(self._net._buffer).max()), self._options.max_norm
            norm = "max_norm=1.0" if max_norm == math.inf else f"a smaller max_norm ({max_norm:g} now)"
            cause = (
                f"X and Y are finite there, and the largest parameter is {largest:.3g}; try a lower learning_rate "
                f"({self._optimizer.learning_rate:g} now), {norm}, or X and Y scaled to about unit size"
            )
        return diverged(what, loss, self._history, self._options.epochs, self._n_steps() + 1, rows, cause)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _write(self, at_end: bool = False) -> None:
        """Write the checkpoint if it is time."""
        o, done = self._options, len(self._history.losses)
        if o.checkpoint is None or not self._is_root or not (at_end or done % o.checkpoint_every == 0):
            return
        position = (done, self._history.stopped)
        if position == self._written:
            return
        training = {
            "facts": self._facts(),
            "rng_at_start": self._rng_at_start,
            "rng": files.generator_state(self._rng),
            "base_rate": self._base_rate,
            "learning_rate": self._optimizer.learning_rate,
            "schedule": {} if o.schedule is None else o.schedule.state(),
            "best": self._best.state(),
        }
        files.write(
            o.checkpoint,
            files.Checkpoint(self._net, self._optimizer, self._history, training, self._best.parameters),
        )
        self._written = position


def fit(net: MLP, X: Any, Y: Any, *, comm: Any, **arguments: Any) -> History:
    """See `MLP.fit`."""
    from .lbfgs import LBFGS, FullBatch

    full_batch = isinstance(arguments["optimizer"], LBFGS)
    try:
        if comm is None:
            return (FullBatch if full_batch else Training)(net, X, Y, group=None, **arguments).run()
        from . import _mpi

        with _mpi.join(comm) as group:  # from here on an error on one rank is everybody's
            if full_batch:
                raise ValueError(f"comm is not for L-BFGS, got {_check.describe(comm)}")
            return Training(net, X, Y, group=group, **arguments).run()
    except KeyboardInterrupt as error:
        if not hasattr(error, "history"):  # it came before the first step
            error.history = History()  # type: ignore[attr-defined]
        raise


def _batch_weights(part: Part, size: int, n_batches: int) -> Array:
    """The weight of each batch: of its rows, or their number."""
    starts = np.minimum(np.arange(n_batches + 1) * size, part.n)
    if part.weight is None:
        return np.diff(starts).astype(np.float64)
    running = np.zeros(part.n + 1)
    np.cumsum(part.weight if part.order is None else part.weight[part.order], out=running[1:])
    return np.diff(running[starts])
