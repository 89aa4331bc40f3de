"""`fit` against a plain NumPy loop, and what it promises about order, data, stopping, errors and interruption."""

import math
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
import reference
from conftest import SANITIZED
from test_optim import RULES

import fastbp
from fastbp import _sources

RNG = np.random.default_rng(0)
SIZES = (5, 7, 3)
X = RNG.normal(size=(50, 5))
T = RNG.normal(size=(50, 3))
LABELS = RNG.integers(0, 3, size=50)
W = RNG.uniform(0.5, 2, size=50)
TOLERANCE = {np.float64: 1e-10, np.float32: 2e-4}


def make(sizes=SIZES, **options):
    return fastbp.MLP(sizes, **{"activation": "tanh", "rng": 1, **options})


def classifier(**options):
    return make(output_activation="softmax", loss="cross_entropy", **options)


def plain_fit(net, X, Y, *, epochs, batch_size, rule, options, seed, sample_weight=None, penalty=0.0,
              max_norm=math.inf):  # fmt: skip
    """The training loop that one writes without fastbp: parameters, and the mean loss of each epoch."""
    w, state, rng, means = net.parameters.astype(np.float64), {}, np.random.default_rng(seed), []
    activations = (*net.activation, net.output_activation)
    for _ in range(epochs):
        order = np.arange(len(X)) if seed is None else fastbp.permutation(len(X), rng)
        total = weight = 0.0
        for begin in range(0, len(X), batch_size):
            rows = order[begin : begin + batch_size]
            v = None if sample_weight is None else sample_weight[rows]
            here = len(rows) if v is None else v.sum()
            loss, g = reference.value_and_grad(w, net.sizes, activations, net.loss, X[rows], Y[rows],
                                               sample_weight=v, reduction=net.reduction)  # fmt: skip
            for matrix, block in zip(reference.unflatten(w, net.sizes)[0], reference.unflatten(g, net.sizes)[0],
                                     strict=True):  # fmt: skip
                loss += 0.5 * penalty / here * (matrix**2).sum()
                block += penalty / here * matrix
            g *= min(1.0, max_norm / np.linalg.norm(g))
            w = RULES[rule](w, state, g, **options)
            total, weight = total + here * loss, weight + here
        means.append(total / weight)
    return w, means


@pytest.mark.parametrize("batch_size", [1, 16, 50, 64])
@pytest.mark.parametrize(
    ("rule", "options"),
    [("SGD", {"learning_rate": 0.003, "momentum": 0.9, "nesterov": True}), ("Adam", {"learning_rate": 0.01})],
)
def test_parameters_and_losses_are_those_of_a_plain_loop(isa, dtype, batch_size, rule, options):
    net = make(dtype=dtype)
    data = X.astype(dtype), T.astype(dtype)
    w, means = plain_fit(net, *data, epochs=3, batch_size=batch_size, rule=rule, options=options, seed=7)
    history = net.fit(*data, epochs=3, batch_size=batch_size, optimizer=getattr(fastbp, rule)(**options), rng=7)
    np.testing.assert_allclose(net.parameters, w, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(history.losses, means, rtol=TOLERANCE[dtype])
    assert history.n_steps == 3 * -(-50 // batch_size)
    assert history.stopped == "epochs"
    assert len(history.seconds) == len(history.learning_rates) == 3


@pytest.mark.parametrize("options", [{}, {"sample_weight": W}, {"penalty": 0.5}, {"max_norm": 0.1}], ids=str)
@pytest.mark.parametrize("seed", [None, 3])
def test_weights_penalty_and_clipping_are_those_of_a_plain_loop(seed, options):
    net = classifier()
    w, means = plain_fit(net, X, LABELS, epochs=2, batch_size=16, rule="SGD", options={"learning_rate": 0.5},
                         seed=seed, **options)  # fmt: skip
    history = net.fit(X, LABELS, epochs=2, batch_size=16, optimizer=fastbp.SGD(0.5), rng=seed,
                      shuffle=seed is not None, **options)  # fmt: skip
    np.testing.assert_allclose(net.parameters, w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(history.losses, means, rtol=1e-12)


def test_a_sum_is_added_up_over_the_epoch():
    net = make(reduction="sum")
    loss = net.value(X, T)
    history = net.fit(X, T, epochs=1, batch_size=8, optimizer=fastbp.SGD(0.0), validation=(X, T))
    np.testing.assert_allclose([history.losses[0], history.validation_losses[0]], loss, rtol=1e-13)


def test_rows_of_weight_0_take_no_part():
    weight = np.where(np.arange(50) % 3 == 0, 0.0, W)
    used = weight > 0
    broken = np.where(used[:, None], X, np.nan)
    one, other = make(), make()
    one.fit(broken, T, sample_weight=weight, batch_size=7, rng=0)
    other.fit(X[used], T[used], sample_weight=weight[used], batch_size=7, rng=0)
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_default_is_adam_and_the_seed_decides():
    nets = [make() for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        net.fit(X, T, rng=seed)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert not np.array_equal(nets[0].parameters, nets[2].parameters)
    other = make()
    other.fit(X, T, optimizer=fastbp.Adam(), rng=np.random.default_rng(5), epochs=10, batch_size=32)
    np.testing.assert_array_equal(nets[0].parameters, other.parameters)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_bits_for_any_number_of_threads(dtype, dropout):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(600, 40)).astype(dtype), rng.normal(size=(600, 10)).astype(dtype)
    results = []
    try:
        for threads in (1, 2):
            fastbp.set_num_threads(threads)
            net = make((40, 64, 64, 10), dtype=dtype)
            net.fit(*data, epochs=3, batch_size=256, rng=0, dropout=dropout)
            results.append(net.parameters.copy())
    finally:
        fastbp.set_num_threads(None)
    np.testing.assert_array_equal(*results)


def test_dropout_is_seeded_and_takes_one_rate_or_one_per_layer():
    def parameters(dropout, seed=0):
        net = make((5, 8, 8, 3))
        net.fit(X, T, epochs=2, rng=seed, dropout=dropout)
        return net.parameters.tobytes()

    assert parameters(0.0) == parameters([0, 0])
    assert parameters(0.5) == parameters((0.5, 0.5))
    assert len({parameters(d) for d in (0.0, 0.5, (0.5, 0), (0, 0.5))}) == 4


# ---- validation, stopping, callbacks ---------------------------------------------------------------------------------


def test_validation_is_measured_after_each_epoch():
    net = classifier()
    seen = []
    Xv, Yv, Wv = X[:20] + 0.1, LABELS[:20], W[:20]
    history = net.fit(
        X, LABELS, epochs=4, rng=0, validation=(Xv, Yv, Wv), score=lambda y, p: np.mean(p.argmax(axis=1) == y),
        callbacks=lambda e: seen.append((e.net.value(Xv, Yv, Wv), np.mean(e.net(Xv).argmax(axis=1) == Yv))),
    )  # fmt: skip
    np.testing.assert_allclose(history.validation_losses, [loss for loss, _ in seen], rtol=1e-14)
    assert history.validation_scores == [accuracy for _, accuracy in seen]
    assert history.best_epoch == int(np.argmax(history.validation_scores))


@pytest.mark.parametrize("score", [None, "high", [1.0, 2.0]])
def test_a_score_is_a_number(score):
    with pytest.raises(TypeError, match="score must return a number, got"):
        make().fit(X, T, validation=0.2, score=lambda y, p: score)


def test_a_fraction_is_set_aside():
    broken = X.copy()
    broken[40:] = np.nan
    net = make()
    history = net.fit(broken, T, validation=0.2, shuffle=False)  # the last rows
    assert np.isfinite(net.parameters).all()
    assert np.isnan(history.validation_losses).all()
    assert history.best_epoch is None

    one, other = make(), make()
    rows = np.sort(np.random.default_rng(3).permutation(50)[10:])
    aside = np.setdiff1d(np.arange(50), rows)
    history = one.fit(X, T, validation=0.2, rng=3, batch_size=50, optimizer=fastbp.SGD(0.1))
    theirs = other.fit(X[rows], T[rows], validation=(X[aside], T[aside]), batch_size=50, optimizer=fastbp.SGD(0.1))
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-12)
    np.testing.assert_allclose(history.validation_losses, theirs.validation_losses, rtol=1e-12)


def stop_by_hand(values, patience, min_delta):
    mark, waited = math.inf, 0
    for epoch, value in enumerate(values):
        waited, mark = (0, value) if value < mark - min_delta else (waited + 1, mark)
        if waited == patience:
            return epoch + 1
    return None


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("min_delta", [0.0, 0.01])
@pytest.mark.parametrize("restore_best", [True, False])
def test_patience(patience, min_delta, restore_best):
    """Overfitting: the validation loss falls and rises again, the training loss only falls."""
    kept = []
    net = make((5, 40, 3))
    history = net.fit(
        X[:25], T[:25], epochs=500, rng=0, optimizer=fastbp.Adam(0.02), validation=(X[25:], T[25:]),
        patience=patience, min_delta=min_delta, restore_best=restore_best,
        callbacks=lambda e: kept.append(e.net.parameters.copy()),
    )  # fmt: skip
    values = history.validation_losses
    assert history.stopped == "patience"
    assert len(values) == stop_by_hand(values, patience, min_delta) > patience
    assert history.best_epoch == int(np.argmin(values))
    np.testing.assert_array_equal(net.parameters, kept[history.best_epoch if restore_best else -1])


def test_patience_without_validation_watches_the_training_loss():
    net = make((1, 1))
    x = np.linspace(-1, 1, 8)[:, None]
    history = net.fit(x, 2 * x, epochs=1000, batch_size=8, optimizer=fastbp.SGD(0.5), patience=3, min_delta=1e-3)
    assert history.stopped == "patience"
    assert len(history.losses) == stop_by_hand(history.losses, 3, 1e-3)


def test_callbacks_see_the_epoch_and_may_stop_and_change_the_rate():
    seen = []

    def watch(epoch):
        seen.append((epoch.epoch, epoch.loss, epoch.learning_rate, epoch.validation_loss, epoch.validation_score))
        epoch.optimizer.learning_rate /= 2
        return epoch.epoch == 2

    others = []
    net, optimizer = make(), fastbp.SGD(0.4)
    history = net.fit(X, T, epochs=10, optimizer=optimizer, callbacks=[watch, others.append])
    assert history.stopped == "callback"
    assert seen == [(i, history.losses[i], 0.4 / 2**i, None, None) for i in range(3)]
    assert others[-1].net is net
    assert others[-1].history is history
    assert optimizer.learning_rate == 0.05, "what a callback sets stays"
    assert make().fit(X, T, epochs=3, callbacks=lambda epoch: "yes").stopped == "epochs"
    assert make().fit(X, T, epochs=3, callbacks=lambda epoch: np.float32(epoch.loss) > 0).stopped == "callback"


def test_an_error_in_a_callback_comes_out_with_the_history():
    def fail(epoch):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        make().fit(X, T, callbacks=fail)
    assert len(caught.value.history.losses) == 1
    assert caught.value.history.stopped == ""


def test_an_optimizer_goes_on_in_a_second_fit():
    one, other, adam, theirs = make(), make(), fastbp.Adam(), fastbp.Adam()
    rng = np.random.default_rng(0)
    first, second = (one.fit(X, T, epochs=2, optimizer=adam, rng=rng) for _ in range(2))
    whole = other.fit(X, T, epochs=4, optimizer=theirs, rng=0)
    np.testing.assert_array_equal(one.parameters, other.parameters)
    assert first.losses + second.losses == whole.losses
    assert first.n_steps + second.n_steps == whole.n_steps


# ---- what is not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divergence_ends_with_the_last_finite_parameters(dtype):
    net, optimizer = make(activation="relu", dtype=dtype), fastbp.SGD(50.0)
    with pytest.raises(fastbp.TrainingDiverged, match=r"learning_rate \(50 now\), max_norm") as caught:
        net.fit(X, T, epochs=1000, batch_size=10, optimizer=optimizer, rng=0)
    error = caught.value
    assert np.isfinite(net.parameters).all()
    assert f"at step {error.step}, in epoch {error.epoch + 1} of 1000" in str(error)
    assert error.history.n_steps == error.step - 1
    assert len(error.history.losses) == error.epoch

    again = make(activation="relu", dtype=dtype)  # the same steps, one by one
    rng, sgd, steps = np.random.default_rng(0), fastbp.SGD(50.0), 0
    data = X.astype(dtype), T.astype(dtype)
    while steps < error.step:
        for rows in fastbp.permutation(50, rng).reshape(5, 10):
            steps += 1
            if steps == error.step:
                assert not np.isfinite(again.value_and_grad(data[0][rows], data[1][rows])[1]).all()
                assert error.rows == rows.tolist()
                break
            again.train_step(data[0][rows], data[1][rows], sgd)
    np.testing.assert_allclose(net.parameters, again.parameters, rtol=1e-3)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x, t: x.__setitem__((33, 2), np.nan), "X is nan at row 33, column 2"),
        (lambda x, t: t.__setitem__((12, 1), -np.inf), "Y is -inf at row 12, column 1"),
    ],
)
def test_a_number_that_is_not_finite_is_named(spoil, says):
    x, t = X.copy(), T.copy()
    spoil(x, t)
    net = make()
    with pytest.raises(fastbp.TrainingDiverged, match=says) as caught:
        net.fit(x, t, batch_size=8, rng=0)
    assert caught.value.epoch == 0
    assert np.isfinite(net.parameters).all()
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.step, copied.rows, str(copied)) == (caught.value.step, caught.value.rows, str(caught.value))


def test_the_same_for_batches():
    good, bad = (X[:8], T[:8]), (np.where(np.arange(8)[:, None] == 3, np.inf, X[:8]), T[:8])
    with pytest.raises(fastbp.TrainingDiverged, match=r"at step 2.*X is inf at row 3"):
        make().fit([good, bad])


def test_a_gradient_too_large_to_be_squared_is_divergence():
    net = fastbp.MLP([1, 1], dtype=np.float32, rng=0)
    before = net.parameters.copy()
    says = "the squared gradient is not finite, .* at step 1, .* largest parameter is .* max_norm=1.0, or X and Y"
    with pytest.raises(fastbp.TrainingDiverged, match=says) as caught:
        net.fit([[1e19]], [[-1e19]], epochs=3, optimizer=fastbp.RMSprop())
    assert caught.value.what == "squared gradient"
    np.testing.assert_array_equal(net.parameters, before)
    net.fit([[1e19]], [[-1e19]], epochs=3, optimizer=fastbp.RMSprop(), max_norm=1.0)


def test_clipping_keeps_it_finite():
    net = make(activation="relu")
    net.fit(X, T, epochs=100, batch_size=10, optimizer=fastbp.SGD(1.0), max_norm=1.0, rng=0)
    assert np.isfinite(net.parameters).all()


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("long", ["one long epoch", "many short epochs"])
def test_ctrl_c_is_obeyed_soon_and_after_whole_steps(long):
    rows = 200_000 if long == "one long epoch" else 64
    rng = np.random.default_rng(0)
    data = rng.normal(size=(rows, 20)), rng.normal(size=(rows, 1))
    net, adam = make((20, 100, 1)), fastbp.Adam()
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        net.fit(*data, epochs=10**6, batch_size=32, optimizer=adam, rng=0)
    assert time.perf_counter() - sent[0] < 1
    history = caught.value.history
    assert history.stopped == ""
    assert history.n_steps > 0

    again, order_of = make((20, 100, 1)), np.random.default_rng(0)
    done, theirs = 0, fastbp.Adam()
    while done < history.n_steps:
        order = fastbp.permutation(rows, order_of).astype(np.uint32)
        here = min(rows, 32 * (history.n_steps - done))
        end, _ = again._run_batches(*data, None, theirs, order[:here], 0, 32, np.empty(-(-here // 32)), seconds=60)
        assert end == here
        done += -(-here // 32)
    np.testing.assert_array_equal(net.parameters, again.parameters)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("sizes", [(2, 150, 150, 150, 1), (64, 512, 512, 512, 1)], ids=["by chunks", "by phases"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_step_that_takes_seconds(sizes, threads):
    rows = 3_000_000 if sizes[0] == 2 else 200_000
    X, Y = np.zeros((rows, sizes[0]), np.float32), np.zeros((rows, 1), np.float32)
    net = make(sizes, dtype=np.float32)
    before, sent = net.parameters.copy(), []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    fastbp.set_num_threads(threads)
    try:
        threading.Timer(0.3, interrupt).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            net.fit(X, Y, epochs=9, batch_size=rows, shuffle=False, rng=0)
        assert time.perf_counter() - sent[0] < 1
    finally:
        fastbp.set_num_threads(None)
    assert caught.value.history.n_steps == 0
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.skipif(SANITIZED, reason="takes a minute there")
def test_a_step_given_up_for_a_signal_that_ends_nothing_is_done_again():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200_000, 2)).astype(np.float32), rng.normal(size=(200_000, 1)).astype(np.float32)
    nets, seen = [make((2, 150, 150, 150, 1), dtype=np.float32) for _ in range(2)], []

    def fit(net):
        return net.fit(X, Y, epochs=2, batch_size=len(X), rng=0, dropout=0.3)

    theirs = signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    try:
        threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
        history = fit(nets[0])
    finally:
        signal.signal(signal.SIGINT, theirs)
    assert seen
    assert history.losses == fit(nets[1]).losses
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_ctrl_c_before_the_first_step_has_an_empty_history(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_sources.Table, "split", interrupted)
    net = make()
    before = net.parameters.copy()
    with pytest.raises(KeyboardInterrupt) as caught:
        net.fit(X, T, validation=0.2)
    assert caught.value.history == fastbp.History()
    np.testing.assert_array_equal(net.parameters, before)


# ---- rows from elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch):
    """What is large begins at 1000 bytes, so that the arrays here are."""
    for name, size in (("LARGE", 1000), ("PIECE", 2000), ("STRETCH", 100)):
        monkeypatch.setattr(_sources, name, size)


def on_disk(path, array):
    written = np.memmap(path, array.dtype, "w+", shape=array.shape)
    written[...] = array
    written.flush()
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def test_a_memmap_that_is_not_large_is_as_good_as_an_array(tmp_path, dtype):
    one, other = make(dtype=dtype), make(dtype=dtype)
    one.fit(on_disk(tmp_path / "x", X.astype(dtype)), on_disk(tmp_path / "y", T), rng=0)
    other.fit(X.astype(dtype), T, rng=0)
    np.testing.assert_array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["as it is", "converted", "labels", "bytes", "in memory"])
def test_pieces_of_large_arrays_hold_every_row_once(tmp_path, small_pieces, monkeypatch, kind, shuffle):
    """Which rows stepped together is read off the batches; the steps themselves are checked by their sum."""
    n = 437
    x = np.arange(n, dtype=np.float64)[:, None] + np.zeros(5)
    y = np.arange(n) % 3 if kind == "labels" else np.zeros((n, 3))
    net = classifier() if kind == "labels" else make()
    if kind == "as it is":
        x, y = on_disk(tmp_path / "x", x), on_disk(tmp_path / "y", y)
    elif kind == "converted":
        x, y = on_disk(tmp_path / "x", x.astype(np.float32)), on_disk(tmp_path / "y", y)
    elif kind == "bytes":
        n = 256
        x, y = on_disk(tmp_path / "x", x[:n].astype(np.uint8)), y[:n]
    elif kind == "in memory":
        x = x.astype(np.int32)
    seen, lengths = [], []

    def steps(X, Y, weight, optimizer, order, begin, size, losses, **options):
        order = np.arange(len(X)) if order is None else order
        lengths.append(len(order))
        seen.extend(X[order, 0].astype(int).tolist())
        if kind == "labels":
            np.testing.assert_array_equal(Y[order], X[order, 0] % 3)
        losses[:] = 0
        return len(order), None

    monkeypatch.setattr(net, "_run_batches", steps)
    net.fit(x, y, epochs=2, batch_size=8, rng=0, shuffle=shuffle)
    epochs = [seen[:n], seen[n:]]
    assert len(lengths) > 4
    assert all(length % 8 == 0 for length in lengths[: len(lengths) // 2 - 1]), "only the last batch is short"
    assert [sorted(rows) for rows in epochs] == [list(range(n))] * 2
    assert (epochs[0] != epochs[1]) == shuffle
    if shuffle:
        neighbours = np.abs(np.diff(epochs[0])) == 1
        assert neighbours.mean() < 0.2, "rows that lie together are separated"


def test_converted_or_in_place_the_steps_are_the_same(tmp_path, small_pieces):
    x = RNG.integers(0, 256, size=(300, 5))
    y, w = RNG.normal(size=(300, 3)), RNG.uniform(size=300)
    results = []
    for dtype in (np.uint8, np.float64):
        net = make()
        history = net.fit(on_disk(tmp_path / f"{dtype.__name__}", x.astype(dtype)), y, sample_weight=w, batch_size=16,
                          epochs=2, rng=0, validation=0.25, score=lambda t, p: -np.mean((t - p) ** 2))  # fmt: skip
        results.append((net.parameters.tobytes(), history.losses, history.validation_losses,
                        history.validation_scores, history.n_steps))  # fmt: skip
    assert results[0] == results[1]
    assert results[0][-1] == 2 * -(-225 // 16)


def test_a_large_array_is_never_copied_whole(tmp_path, monkeypatch):
    import tracemalloc

    for name in ("LARGE", "PIECE"):
        monkeypatch.setattr(_sources, name, 2**18)
    x = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(2**15, 64))  # as float64: 16 MB
    net = make((64, 1))
    net.fit(x[:64], np.zeros(64), epochs=1)
    tracemalloc.start()
    net.fit(x, np.zeros(2**15), epochs=1, batch_size=256, validation=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_more_rows_than_indices_count_are_taken_in_pieces(small_pieces, monkeypatch):
    """As if 32 bits were fewer: the steps are those over the same rows, in the two-stage order of large arrays."""
    monkeypatch.setattr(_sources, "MOST_ROWS", 49)
    seen, net = [], make()
    run = net._run_batches

    def steps(X, Y, weight, optimizer, order, *rest, **options):
        if rest[0] == 0:
            seen.append(X[order])
        return run(X, Y, weight, optimizer, order, *rest, **options)

    monkeypatch.setattr(net, "_run_batches", steps)
    net.fit(X, T, epochs=1, batch_size=8, rng=0)
    assert len(seen) > 1
    assert sorted(map(tuple, np.concatenate(seen))) == sorted(map(tuple, X))


def test_bad_targets_on_disk_are_found_before_training(tmp_path, small_pieces):
    labels = np.full(2000, 1, np.int16)
    labels[1234] = 3
    net = classifier()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"^Y\[\d+:\d+\] must hold labels from 0 to 2, got 3"):
        net.fit(np.zeros((2000, 5)), on_disk(tmp_path / "y", labels))
    np.testing.assert_array_equal(net.parameters, before)


BATCHES = [(X[:16], T[:16]), (X[16:32], T[16:32], W[16:32]), (X[32:], T[32:])]


@pytest.mark.parametrize("source", [BATCHES, lambda: iter(BATCHES), lambda: (b for b in BATCHES)])
def test_batches_are_steps(source):
    net, other, adam = make(), make(), fastbp.Adam()
    history = net.fit(source, epochs=2)
    losses = [other.train_step(b[0], b[1], adam, b[2] if len(b) == 3 else None) for b in BATCHES * 2]
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=1e-13)
    weights = [16, W[16:32].sum(), 18]
    np.testing.assert_allclose(
        history.losses, [np.average(losses[:3], weights=weights), np.average(losses[3:], weights=weights)]
    )
    assert history.n_steps == 6


def test_an_iterator_is_gone_through_once_or_in_parts():
    assert make().fit(iter(BATCHES), epochs=1).n_steps == 3
    net, other = make(), make()
    history = net.fit((BATCHES[i % 3] for i in range(10**9)), epochs=3, steps_per_epoch=4)
    assert (history.n_steps, len(history.losses), history.stopped) == (12, 3, "epochs")
    other.fit(BATCHES, epochs=3, steps_per_epoch=4)  # begins again where it ends
    np.testing.assert_array_equal(net.parameters, other.parameters)
    history = make().fit(iter(BATCHES), epochs=9, steps_per_epoch=2)
    assert (history.n_steps, len(history.losses), history.stopped) == (3, 2, "exhausted")
    history = make().fit(iter(BATCHES[:2]), epochs=9, steps_per_epoch=2)
    assert (history.n_steps, len(history.losses), history.stopped) == (2, 1, "exhausted")


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (iter(BATCHES), {"epochs": 2}, "X is an iterator"),
        ([], {}, "X gave no batches"),
        ([], {"steps_per_epoch": 3}, "X gave no batches"),
        ([X], {}, "X: a batch must be"),
        ([(X, T[:3])], {}, "Y must have shape"),
        (BATCHES, {"sample_weight": W}, "sample_weight needs X and Y as arrays"),
        (BATCHES, {"validation": 0.1}, r"validation must be \(X, Y\)"),
        (3.0, {}, "X must have shape"),
        (None, {}, "X must be an array"),
    ],
)
def test_bad_batches(source, options, says):
    net = make()
    before = net.parameters.copy()
    with pytest.raises((TypeError, ValueError), match=says):
        net.fit(source, **options)
    np.testing.assert_array_equal(net.parameters, before)


# ---- what it shows ---------------------------------------------------------------------------------------------------


def test_silent_by_default(capfd):
    make().fit(X, T, epochs=2, validation=0.2)
    assert capfd.readouterr() == ("", "")


def test_one_line_per_epoch_without_tqdm(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    history = make().fit(X, T, epochs=2, validation=0.2, progress=True, score=lambda y, p: 0.5)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2
    assert lines[1].startswith(
        f"epoch 2/2, loss {history.losses[1]:.4g}, validation loss {history.validation_losses[1]:.4g}, score 0.5, "
    )


def test_a_bar_with_tqdm(capfd):
    pytest.importorskip("tqdm")
    history = make().fit(X, T, epochs=2, batch_size=10, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "10/10" in err
    assert "epoch 2/2" in err
    assert f"loss {history.losses[-1]:.4g}" in err
    make().fit(BATCHES, epochs=2, progress=True)
    assert "6step" in capfd.readouterr().err


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    history = make().fit(X, T, epochs=3, validation=0.2, score=lambda y, p: -1.0)
    ax = history.plot()
    assert [line.get_label() for line in ax.lines] == ["training", "validation", "best epoch"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), history.losses)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history.validation_losses)
    assert history.plot(ax) is ax
    assert fastbp.History().plot().get_xlabel() == "epoch"
    from matplotlib import pyplot

    pyplot.close("all")


# ---- L-BFGS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, W])
def test_lbfgs_is_that_of_scipy(weight):
    optimize = pytest.importorskip("scipy.optimize")
    net, other = make(), make()
    seen = []
    history = net.fit(X, T, epochs=25, optimizer=fastbp.LBFGS(), sample_weight=weight, validation=(X, T),
                      callbacks=lambda e: seen.append(e.net.value(X, T, weight)))  # fmt: skip
    losses = []
    result = optimize.minimize(
        other.objective(X, T, weight), other.parameters.copy(), jac=True, method="L-BFGS-B",
        callback=lambda w: losses.append(other.value(X, T, weight)), options={"maxiter": 25, "gtol": 1e-5},
    )  # fmt: skip
    np.testing.assert_allclose(net.parameters, result.x, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(history.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(history.losses, seen, rtol=1e-12)
    assert (history.stopped, history.n_steps, len(history.validation_losses)) == ("epochs", 25, 25)


def test_lbfgs_stops():
    pytest.importorskip("scipy")
    x = np.linspace(-1, 1, 9)[:, None]
    history = make((1, 1)).fit(x, 2 * x, epochs=100, optimizer=fastbp.LBFGS())
    assert history.stopped == "converged"
    net = make()
    history = net.fit(X, T, epochs=100, optimizer=fastbp.LBFGS(), penalty=1.0, patience=2, min_delta=0.05)
    assert history.stopped == "patience"
    kept = []
    net = make((5, 30, 3))
    history = net.fit(X[:25], T[:25], epochs=100, optimizer=fastbp.LBFGS(), validation=(X[25:], T[25:]), patience=3,
                      callbacks=lambda e: kept.append(e.net.parameters.copy()))  # fmt: skip
    assert history.stopped == "patience"
    np.testing.assert_array_equal(net.parameters, kept[history.best_epoch])


def test_lbfgs_leaves_the_last_finite_parameters():
    pytest.importorskip("scipy")
    net = make()
    before = net.parameters.copy()
    with pytest.raises(fastbp.TrainingDiverged, match="check X and Y"):
        net.fit(np.full((4, 5), np.nan), T[:4], optimizer=fastbp.LBFGS())
    np.testing.assert_array_equal(net.parameters, before)


def test_lbfgs_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"fastbp.LBFGS needs SciPy: pip install scipy"):
        make().fit(X, T, optimizer=fastbp.LBFGS())


# ---- bad arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 2.0), ("batch_size", 0), ("batch_size", "all"), ("optimizer", "adam"),
        ("optimizer", fastbp.Adam), ("rng", -1), ("rng", "seed"), ("sample_weight", W[:3]),
        ("sample_weight", np.zeros(50)), ("validation", 1.0), ("validation", 1e-9), ("validation", 0.999),
        ("validation", (X,)), ("validation", (X, T[:3])), ("validation", "0.1"), ("score", 3),
        ("score", lambda y, p: 0.0), ("patience", 0), ("patience", 1.5), ("min_delta", -1), ("schedule", 0.1),
        ("penalty", -1), ("penalty", math.nan), ("max_norm", 0), ("max_norm", "1"), ("dropout", 1.0),
        ("dropout", (0.1, 0.1)), ("dropout", "half"), ("dropout", None), ("callbacks", 3), ("callbacks", [print, 3]),
        ("steps_per_epoch", 3), ("checkpoint", 3), ("checkpoint", "/nowhere/at/all"), ("checkpoint_every", 0),
        ("resume", 3), ("resume", True), ("comm", "world"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_argument_is_named_and_nothing_has_happened(name, value):
    net, rng, adam = make(), np.random.default_rng(0), fastbp.Adam()
    before, state = net.parameters.copy(), rng.bit_generator.state
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        net.fit(X, T, **{"rng": rng, "optimizer": adam, name: value})
    np.testing.assert_array_equal(net.parameters, before)
    assert rng.bit_generator.state == state
    make().fit(X, T, optimizer=adam, epochs=1)  # it still belongs to no network


@pytest.mark.parametrize(("X", "Y"), [(X, None), (X[:, :3], T), (X, T[:7]), (X, LABELS), (X[0], T[0]), (X * 1j, T)])
def test_bad_rows(X, Y):
    net = make()
    before = net.parameters.copy()
    with pytest.raises((TypeError, ValueError), match=r"^[XY] must"):
        net.fit(X, Y)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [("schedule", fastbp.schedules.Cosine()), ("max_norm", 1.0), ("dropout", 0.5), ("checkpoint", "net.npz"),
     ("resume", "net.npz"), ("steps_per_epoch", 3)],
)  # fmt: skip
def test_what_is_not_for_lbfgs(name, value):
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match=f"^{name} is not for L-BFGS"):
        make().fit(X, T, optimizer=fastbp.LBFGS(), **{name: value})
    with pytest.raises(ValueError, match="L-BFGS needs X and Y as arrays"):
        make().fit(BATCHES, optimizer=fastbp.LBFGS())


def test_an_optimizer_of_another_network_and_read_only_parameters():
    adam = fastbp.Adam()
    make().fit(X, T, optimizer=adam, epochs=1)
    with pytest.raises(ValueError, match="optimizer: it belongs to the network"):
        make().fit(X, T, optimizer=adam)
    net = make()
    net.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters must be writable"):
        net.fit(X, T)


def test_dropout_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="dropout needs a hidden layer"):
        make((5, 3)).fit(X, T, dropout=0.5)
