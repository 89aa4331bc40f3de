"""What tests/test_mpi.py runs under mpiexec: every rank runs `python tests/mpi_program.py NAME`.

``all`` makes every check of `CHECKS`, all ranks together (through ``-m mpi4py``: an assertion that fails on one of them
ends all). The other names are for what ends the program.
"""

import os
import pickle
import signal
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import fastbp
from fastbp import _mpi, _ranks

comm = MPI.COMM_WORLD
RANK, SIZE = comm.rank, comm.size
LAST = SIZE - 1
CUTS = {1: (0, 61), 2: (0, 42, 61), 3: (0, 30, 49, 61)}[SIZE]  # of the rows: unequal shares
SHARES = {1: (12,), 2: (8, 4), 3: (6, 4, 2)}[SIZE]  # of a batch of 12 rows, in about the same proportion
MINE = slice(CUTS[RANK], CUTS[RANK + 1])

rng = np.random.default_rng(7)
X = rng.normal(size=(61, 4))
Y = np.tanh(X @ rng.normal(size=(4, 2))) + 0.1 * rng.normal(size=(61, 2))
WEIGHTS = rng.random(61)


def network(dtype=np.float64, **arguments):
    """Other parameters on every rank: root's are those that count."""
    return fastbp.MLP([4, 6, 5, 2], activation=["tanh", "silu"], dtype=dtype, rng=RANK, **arguments)


def fit(net, rows=MINE, **arguments):
    return net.fit(X[rows], Y[rows], **{"epochs": 3, "batch_size": 12, "rng": 0, "comm": comm, **arguments})


def assert_same(*values):
    """The same bits on every rank."""
    packed = pickle.dumps([np.asarray(value).tobytes() for value in values])
    assert comm.allgather(packed) == [packed] * SIZE


def raised(kind, call, *arguments, **options):
    """What a call raises; every rank must raise such a thing."""
    with pytest.raises(kind) as found:
        call(*arguments, **options)
    comm.Barrier()
    return found.value


def before_call(net, number, function):
    """Have something done before the gradient of some step is computed."""
    ordinary, calls = net._batch_gradient, []

    def gradient(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            function()
        return ordinary(*arguments, **options)

    net._batch_gradient = gradient


def one_process(net, optimizer, weights, penalty, max_norm):
    """Three epochs over all rows in the batches that the ranks make together; the epochs' losses."""
    epochs = []
    for _ in range(3):
        losses, sums = [], []
        for step in range(max(-(-(end - begin) // n) for (begin, end), n in zip(pairwise(CUTS), SHARES, strict=True))):
            shares = zip(pairwise(CUTS), SHARES, strict=True)
            rows = np.concatenate([np.arange(*cut)[step * n : (step + 1) * n] for cut, n in shares])
            w = np.ones(len(rows)) if weights is None else weights[rows]
            loss, gradient = net.value_and_grad(X[rows], Y[rows], w)
            for W, g in zip(net.weights, net.views(gradient)[0], strict=True):
                loss += 0.5 * penalty / w.sum() * (W**2).sum()
                g += penalty / w.sum() * W
            optimizer.step(net, gradient * min(1, max_norm / np.linalg.norm(gradient)))
            losses.append(loss)
            sums.append(w.sum())
        epochs.append(np.average(losses, weights=sums) if net.reduction == "mean" else np.sum(losses))
    return epochs


def check_equals_one_process():
    for dtype, reduction, weights, rule in (
        (np.float64, "mean", None, fastbp.Adam),
        (np.float64, "sum", WEIGHTS, fastbp.SGD),
        (np.float32, "mean", 1e-30 * WEIGHTS, fastbp.AdamW),
    ):
        options = {"penalty": 1e-32 if dtype == np.float32 else 0.3, "max_norm": 0.3}
        net, reference = network(dtype, reduction=reduction), network(dtype, reduction=reduction)
        comm.Bcast(reference.parameters)
        own = None if weights is None else weights[MINE]
        validation = (X[MINE], Y[MINE]) if weights is None else (X[MINE], Y[MINE], own)
        history = fit(net, optimizer=rule(0.02), sample_weight=own, shuffle=False, validation=validation, **options)
        losses = one_process(reference, rule(0.02), weights, **options)
        tolerance = 1e-12 if dtype == np.float64 else 2e-5
        np.testing.assert_allclose(net.parameters, reference.parameters, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(history.losses, losses, rtol=tolerance)
        np.testing.assert_allclose(history.validation_losses[-1], net.value(X, Y, weights), rtol=tolerance)
        assert history.n_steps == 3 * {1: 6, 2: 6, 3: 6}[SIZE]
        assert_same(net.parameters, history.losses, history.validation_losses)


def check_one_rank_is_no_comm():
    """Shuffled, with dropout, and a share for validation."""
    options = {"dropout": 0.2, "validation": 0.2, "patience": 2, "epochs": 6}
    nets = [network() for _ in range(3)]
    histories = [fit(net, **options) for net in nets[:2]]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert_same(nets[0].parameters, histories[0].losses, histories[0].validation_losses)
    if SIZE == 1:
        history = fit(nets[2], comm=None, **options)
        np.testing.assert_allclose(nets[0].parameters, nets[2].parameters, rtol=1e-12)
        np.testing.assert_allclose(histories[0].validation_losses, history.validation_losses, rtol=1e-12)
    else:  # each rank has masks and an order of its own, made from root's seed
        other = network()
        fit(other, rng=RANK, **options)
        np.testing.assert_array_equal(nets[0].parameters, other.parameters)


def check_dropout():
    """The same rows on every rank, and yet other masks."""
    together, alone = network(), fastbp.MLP([4, 6, 5, 2], activation=["tanh", "silu"], rng=0)
    fit(together, slice(12), batch_size=12 * SIZE, dropout=0.5, shuffle=False)
    fit(alone, slice(12), dropout=0.5, shuffle=False, comm=None)
    assert np.allclose(together.parameters, alone.parameters, rtol=1e-12) == (SIZE == 1)


def check_optimizer_goes_on():
    """Root's state is everybody's."""
    net, optimizer = network(), fastbp.Adam(0.01)
    if RANK == 0:
        net.train_step(X, Y, optimizer)
    fit(net, optimizer=optimizer)
    state = optimizer._state_for(net)
    assert state.steps == 19
    assert_same(state.first, state.second)


def check_callbacks():
    """On root alone, which may stop all and change the optimizer."""
    seen = []

    def callback(epoch):
        seen.append(epoch.epoch)
        epoch.optimizer.learning_rate /= 2
        assert fastbp.get_num_threads() <= max(1, (os.cpu_count() or 1) // SIZE)
        return epoch.epoch == 1

    net, optimizer = network(), fastbp.Adam(0.01)
    history = fit(net, optimizer=optimizer, callbacks=[callback] if RANK == 0 else [])
    assert history.stopped == "callback"
    assert optimizer.learning_rate == 0.0025
    assert seen == ([0, 1] if RANK == 0 else [])
    assert_same(net.parameters)


def check_score():
    """It is that of all rows, whoever has them."""
    history = fit(network(), validation=(X[MINE], Y[MINE]), score=lambda truth, found: np.median(truth - found))
    net = network()
    scores = []
    fit(net, callbacks=lambda epoch: scores.append(np.median(Y - epoch.net(X))))
    if RANK == 0:
        np.testing.assert_allclose(history.validation_scores, scores, rtol=1e-12)
    assert_same(history.validation_scores)


def check_resume():
    """Root alone reads and writes the file; the others need not even have the folder."""
    folder = Path(sys.argv[2]) / str(SIZE) if RANK == 0 else Path("/nowhere")
    folder.mkdir(exist_ok=True) if RANK == 0 else None
    whole, first, second = network(), network(), network()
    options = {"dropout": 0.1, "validation": 0.2, "patience": 9, "restore_best": False}
    history = fit(whole, epochs=4, **options)
    fit(first, epochs=2, checkpoint=folder / "x.npz", **options)
    resumed = fit(second, epochs=4, checkpoint=folder / "x.npz", resume=True, rng=5, **options)
    np.testing.assert_array_equal(second.parameters, whole.parameters)
    assert resumed.losses == history.losses
    if RANK == 0:
        assert [file.name for file in folder.iterdir()] == ["x.npz"]


def check_errors_are_everybodys():
    net = network()

    def planted(epoch):
        raise ZeroDivisionError("planted")

    error = raised(ZeroDivisionError, fit, net, callbacks=planted)
    assert "planted" in str(error)
    assert RANK == 0 or "on rank 0" in str(error.__cause__)
    assert_same(net.parameters)  # whatever they trained before it

    fails = X[MINE, :3] if RANK == LAST else X[MINE]
    error = raised(ValueError, net.fit, fails, Y[MINE], comm=comm)
    assert "X must have shape" in str(error)
    error = raised(TypeError, fit, net, **({"rng": 0, "callbacks": 3} if RANK == LAST else {}))
    assert "callbacks" in str(error)
    error = raised(ValueError, fit, net, optimizer=fastbp.LBFGS() if RANK == LAST else None)
    assert "comm is not for L-BFGS" in str(error)
    error = raised(ValueError, fit, net, batch_size=SIZE - 1)
    assert "batch_size" in str(error)
    if SIZE == 1:
        return
    for name, value in (("epochs", 3 + RANK), ("batch_size", 12 + RANK), ("max_norm", 1.0 + RANK)):
        error = raised(ValueError, fit, net, **{name: value})
        assert f"{name} must be the same on every rank" in str(error)
    error = raised(ValueError, fit, net, optimizer=fastbp.Adam(0.1 * (RANK + 1)))
    assert "optimizer must be the same on every rank" in str(error)
    error = raised(ValueError, fit, network(reduction="sum" if RANK else "mean"))
    assert "net must be the same on every rank" in str(error)
    error = raised((ValueError, RuntimeError), fit, net, validation=0.2 if RANK == LAST else None)
    assert "rank" in str(error)

    validation = (X[MINE], Y[MINE])
    error = raised(RuntimeError, fit, net, validation=validation, score=np.linalg.norm if RANK == LAST else None)
    assert "the ranks do not go the same way: 'agree' on rank 0" in str(error)

    def spoil(epoch):
        epoch.net.parameters[3] *= 1 + 1e-15

    error = raised(RuntimeError, fit, net, callbacks=spoil)
    assert "parameters on rank 1" in str(error)


def check_an_error_between_steps():
    """Where the others wait for a gradient."""

    def planted():
        raise MemoryError("planted")

    net, optimizer = network(), fastbp.Adam()
    if RANK == LAST:
        before_call(net, 3, planted)
    error = raised(MemoryError, fit, net, optimizer=optimizer)
    assert "planted" in str(error)
    assert optimizer._state_for(net).steps == 2
    assert_same(net.parameters)


def check_divergence():
    """An example that is not finite, of one rank; a learning rate that is too high."""
    net = network()
    spoiled = X.copy()
    spoiled[CUTS[SIZE] - 2] = np.inf
    error = raised(fastbp.TrainingDiverged, net.fit, spoiled[MINE], Y[MINE], batch_size=12, shuffle=False, comm=comm)
    assert error.what == "loss"
    assert error.epoch == 0
    assert str(error).startswith("the loss is")
    assert f"X is inf at row {CUTS[SIZE] - 2 - CUTS[LAST]}" in str(error)
    assert_same(net.parameters, error.step, error.rows, str(error))
    assert np.isfinite(net.parameters).all()
    assert error.step > 3  # the steps before it were taken
    before = net.parameters.copy()
    net.fit(X[MINE], Y[MINE], epochs=1, comm=comm)
    assert (net.parameters != before).any()
    net = fastbp.MLP([4, 6, 2], dtype=np.float32, rng=0)
    error = raised(fastbp.TrainingDiverged, fit, net, optimizer=fastbp.SGD(1e9), epochs=99)
    assert "learning_rate" in str(error)
    assert_same(net.parameters, str(error))
    assert np.isfinite(net.parameters).all()
    net = fastbp.MLP([1, 1], dtype=np.float32, rng=0)
    net.parameters[:] = 0
    one = np.ones((MINE.stop - MINE.start, 1), np.float32)
    error = raised(fastbp.TrainingDiverged, net.fit, 1e20 * one, one, batch_size=SIZE, epochs=1, comm=comm)
    assert (error.what, error.step) == ("squared gradient", 1)
    assert_same(net.parameters, str(error))
    assert not net.parameters.any()


def check_interrupt():
    """Ctrl-C on one rank stops all after the same whole step, in the middle of a long epoch."""
    net = network()
    rows = np.resize(np.arange(61)[MINE], 1200)
    if RANK == LAST:
        before_call(net, 10, lambda: os.kill(os.getpid(), signal.SIGINT))
    error = raised(KeyboardInterrupt, fit, net, rows, epochs=99)
    assert error.history.losses == []
    assert error.history.n_steps in (9, 10)
    assert_same(net.parameters)
    assert np.isfinite(net.parameters).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def check_threads():
    """A number that the user has set is kept, and a warning says that it is too large."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fastbp.set_num_threads(cores)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(network())
    assert fastbp.get_num_threads() == cores
    messages = [str(warning.message) for warning in caught]
    crowded = RANK == 0 and cores > max(1, cores // SIZE)
    assert len(messages) == crowded
    assert all(f"{SIZE} ranks of {cores} threads on {cores} cores" in message for message in messages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if SIZE > 1 and cores > 1:
            raised(RuntimeWarning, fit, network())
    fastbp.set_num_threads(None)


def check_one_comes_late():
    if RANK == LAST:
        time.sleep(0.5)
    net = network()
    fit(net)
    assert_same(net.parameters)


def check_nothing_is_left():
    """Fits of other communicators; threads and messages as before."""
    before = fastbp.get_num_threads()
    fit(network(), comm=MPI.COMM_SELF)
    part = comm.Split(RANK == 0)
    fit(network(), comm=part)
    part.Free()
    assert fastbp.get_num_threads() == before
    with pytest.raises(ValueError, match=r"comm must be .* MPI\.COMM_NULL"):
        fit(network(), comm=MPI.COMM_NULL)


def end_with_an_error():
    """No one catches it."""

    def planted(epoch):
        raise ZeroDivisionError("planted")

    fit(network(), callbacks=planted)


def end_where_nobody_comes():
    """Root fails while the others are elsewhere for good."""
    _ranks.GRACE = 0.3
    with _mpi.join(comm):
        if RANK > 0:
            time.sleep(600)
        raise ZeroDivisionError("planted")


def end_where_one_has_left():
    """Without an error, and before the others begin."""
    if RANK == LAST:
        sys.exit(0)
    _ranks.NOTICE = 0.2
    fit(network())


def end_by_interrupt_before_all_are_there():
    """mpiexec gets a Ctrl-C while some wait for one that does something else."""
    if RANK == LAST:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(600)
    _ranks.NOTICE = 0.2
    fit(network())


def end_by_interrupt():
    """mpiexec gets a Ctrl-C."""
    if RANK == 0:
        print("ready", flush=True)
    fit(network(), epochs=10**9)


CHECKS = [function for name, function in list(globals().items()) if name.startswith("check_")]

if __name__ == "__main__":
    if sys.argv[1] != "all":
        globals()[sys.argv[1]]()
    else:
        for check in CHECKS:
            check()
            comm.Barrier()
            if RANK == 0:
                print("passed", check.__name__, flush=True)
