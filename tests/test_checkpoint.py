"""Files: what was saved comes back to the bit, going on is as if never interrupted, and what is damaged is refused."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

import fastbp
from fastbp import checkpoint as files
from fastbp import schedules

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
T = RNG.normal(size=(60, 2))
OPTIMIZERS = [
    lambda: fastbp.SGD(0.05, momentum=0.9, nesterov=True),
    lambda: fastbp.RMSprop(0.003, momentum=0.5),
    lambda: fastbp.Adam(0.01),
    lambda: fastbp.AdamW(0.01),
]


def make(dtype=np.float64):
    return fastbp.MLP([4, 9, 2], activation="tanh", dtype=dtype, rng=1)


def same(net, other):
    return repr(net) == repr(other) and net.parameters.tobytes() == other.parameters.tobytes()


# ---- what was saved comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_network_and_optimizer_go_on_to_the_same_bits(tmp_path, dtype, make_optimizer):
    net, optimizer = make(dtype), make_optimizer()
    net.fit(X, T, epochs=2, optimizer=optimizer, rng=0)
    net.save(tmp_path / "net", optimizer=optimizer)
    saved = fastbp.load_checkpoint(tmp_path / "net")
    assert same(saved.net, net)
    assert same(fastbp.load(tmp_path / "net"), net)
    assert same(fastbp.MLP.load(tmp_path / "net"), net)
    assert repr(saved.optimizer) == repr(optimizer)
    assert saved.history is None
    for n, o in ((net, optimizer), (saved.net, saved.optimizer)):
        n.fit(X, T, epochs=2, optimizer=o, rng=1)
    assert same(saved.net, net)


def test_a_network_alone(tmp_path):
    net = fastbp.MLP([4, 3, 5], activation=["gelu"], output_activation="softmax", loss="cross_entropy", clip=1e-5)
    net.save(tmp_path / "net")
    saved = fastbp.load_checkpoint(tmp_path / "net")
    assert same(saved.net, net)
    assert saved.optimizer is saved.history is None


def test_the_first_format_is_read(tmp_path):
    """What fastbp wrote before it had checkpoints, made by hand."""
    header = {"format": "fastbp.MLP", "version": 1, "sizes": [2, 1], "activation": [], "output_activation": "tanh",
              "loss": "squared_error", "reduction": "mean", "dtype": "float32", "clip": None}  # fmt: skip
    np.savez(tmp_path / "net.npz", header=np.array(json.dumps(header)), parameters=np.float32([1, 2, 3]))
    net = fastbp.load(tmp_path / "net.npz")
    assert (net.sizes, net.output_activation, net.parameters.tolist()) == ((2, 1), "tanh", [1, 2, 3])
    net.save(tmp_path / "again")  # and a network alone is still written so
    with np.load(tmp_path / "again") as archive:
        assert json.loads(str(archive["header"])) == header


def test_an_optimizer_that_cannot_be_saved_with_this_network(tmp_path):
    class Mine(fastbp.SGD):
        pass

    net, adam = make(), fastbp.Adam()
    make().fit(X, T, epochs=1, optimizer=adam)
    for optimizer, says in ((adam, "belongs to the network"), ("adam", "must be"), (Mine(), "own"),
                            (fastbp.LBFGS(), "must be")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=f"^optimizer.*{says}"):
            net.save(tmp_path / "net", optimizer=optimizer)
    assert os.listdir(tmp_path) == []


# ---- going on --------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt_after(epochs):
    def callback(epoch):
        if epoch.epoch == epochs:
            raise Interrupted

    return callback


def go_on(path, interrupted_at, make_optimizer, given, dtype=np.float64, data=(X, T), **options):
    """An uninterrupted fit, and one that was interrupted and goes on in a new network: both nets and histories."""
    options = {"epochs": 12, "batch_size": 16, "rng": 5, **options}
    whole = make(dtype)
    theirs = whole.fit(*data, optimizer=make_optimizer(), **options)
    with pytest.raises(Interrupted):
        make(dtype).fit(*data, optimizer=make_optimizer(), checkpoint=path, callbacks=interrupt_after(interrupted_at),
                        **options)  # fmt: skip
    again = fastbp.MLP([4, 9, 2], activation="tanh", dtype=dtype, rng=99)
    options["rng"] = 77  # the file knows
    own = again.fit(*data, optimizer=make_optimizer() if given else None, resume=path, **options)
    return whole, theirs, again, own


def assert_same_course(theirs, own):
    for name in ("losses", "validation_losses", "validation_scores", "learning_rates", "best_epoch", "n_steps",
                 "stopped"):  # fmt: skip
        assert getattr(own, name) == getattr(theirs, name), name
    assert len(own.seconds) == len(theirs.seconds)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_a_resumed_fit_has_the_same_bits(tmp_path, dtype, make_optimizer, given):
    whole, theirs, again, own = go_on(tmp_path / "fit", 4, make_optimizer, given, dtype)
    assert same(again, whole)
    assert_same_course(theirs, own)


@pytest.mark.parametrize("interrupted_at", [2, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"validation": 0.3, "patience": 9, "epochs": 100},
        {"validation": 0.3, "score": lambda y, p: -np.abs(y - p).max(), "patience": 30},
        {"schedule": schedules.Cosine()},
        {"schedule": schedules.Adaptive(patience=1, min_delta=0.02, factor=0.5)},
        {"schedule": lambda epoch: 0.1 / (1 + epoch)},
        {"sample_weight": np.arange(60.0) % 3, "max_norm": 0.5, "penalty": 0.1},
        {"checkpoint_every": 2},
        {"shuffle": False},
    ],
    ids=lambda o: "-".join(o),
)
def test_so_it_has_with(tmp_path, options, interrupted_at):
    whole, theirs, again, own = go_on(tmp_path / "fit", interrupted_at, lambda: fastbp.Adam(0.02), True, **options)
    assert len(theirs.losses) > interrupted_at
    assert same(again, whole)
    assert_same_course(theirs, own)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_so_it_has_with_any_generator_of_numpy(tmp_path, kind):
    def generator():
        rng = np.random.Generator(getattr(np.random, kind)(3))
        rng.integers(5, size=3, dtype=np.int32)
        return rng

    path, rng = tmp_path / "fit", generator()
    whole, again = make(), make()
    whole.fit(X, T, epochs=6, rng=rng)
    make().fit(X, T, epochs=3, rng=generator(), checkpoint=path)
    own = generator()
    again.fit(X, T, epochs=6, rng=own, resume=path)
    assert same(again, whole)
    assert own.integers(2**60) == rng.integers(2**60), "the user's generator is where it would be"


def test_more_epochs_and_batches(tmp_path):
    path = tmp_path / "fit"
    batches = [(X[:20], T[:20]), (X[20:], T[20:])]
    whole, part, again = make(), make(), make()
    theirs = whole.fit(batches, epochs=5)
    part.fit(batches, epochs=2, checkpoint=path)
    own = again.fit(batches, epochs=5, resume=path)
    assert same(again, whole)
    assert_same_course(theirs, own)
    done = make().fit(batches, epochs=2, resume=path)
    assert (len(done.losses), done.stopped) == (2, "epochs")


def test_what_a_callback_did_to_the_rate_goes_on(tmp_path):
    def halve(epoch):
        epoch.optimizer.learning_rate /= 2

    path, whole, again = tmp_path / "fit", make(), make()
    theirs = whole.fit(X, T, epochs=6, rng=0, optimizer=fastbp.SGD(0.1), callbacks=halve)
    make().fit(X, T, epochs=3, rng=0, optimizer=fastbp.SGD(0.1), callbacks=halve, checkpoint=path)
    own = again.fit(X, T, epochs=6, optimizer=fastbp.SGD(0.1), callbacks=halve, resume=path)
    assert same(again, whole)
    assert_same_course(theirs, own)
    changed = make().fit(X, T, epochs=4, optimizer=fastbp.SGD(0.7), resume=path)
    assert changed.learning_rates == [0.1, 0.05, 0.025, 0.7], "another rate takes its place"


def test_resume_true_begins_where_there_is_no_file(tmp_path):
    path, whole = tmp_path / "fit", make()
    whole.fit(X, T, epochs=4, rng=0)
    for epochs in (2, 4):  # a job that is started again and again
        net = make()
        net.fit(X, T, epochs=epochs, rng=0, checkpoint=path, resume=True)
    assert same(net, whole)
    saved = fastbp.load_checkpoint(path)
    assert same(saved.net, whole)
    assert len(saved.history.losses) == 4
    assert os.listdir(tmp_path) == ["fit"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": fastbp.SGD()}, r"resume: it was trained with Adam\(.*got optimizer=SGD"),
        ({"batch_size": 7}, "resume: it was trained with batch_size 16, got 7"),
        ({"shuffle": False}, "resume: it was trained with shuffle True, got False"),
        ({"dropout": 0.5}, "resume: it was trained with dropout None"),
    ],
)
def test_other_arguments_are_refused(tmp_path, options, says):
    path, net = tmp_path / "fit", make()
    make().fit(X, T, epochs=2, batch_size=16, checkpoint=path)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=says):
        net.fit(X, T, **{"epochs": 3, "batch_size": 16, "resume": path, **options})
    with pytest.raises(ValueError, match=r"resume: it was trained with rows 60, got 59"):
        net.fit(X[1:], T[1:], epochs=3, batch_size=16, resume=path)
    with pytest.raises(ValueError, match=r"resume: it was trained with sizes \[4, 9, 2\], got \[4, 2\]"):
        fastbp.MLP([4, 2]).fit(X, T, epochs=3, batch_size=16, resume=path)
    np.testing.assert_array_equal(net.parameters, before)


def test_what_was_not_written_by_fit_is_refused(tmp_path):
    net = make()
    net.save(tmp_path / "net")
    with pytest.raises(ValueError, match=r"resume: .* was not written by fit\(checkpoint=...\)"):
        net.fit(X, T, resume=tmp_path / "net")
    with pytest.raises(FileNotFoundError):
        net.fit(X, T, resume=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "stopped", "writes"),
    [
        ({"epochs": 4}, "epochs", 4),
        ({"epochs": 4, "checkpoint_every": 3}, "epochs", 2),
        ({"epochs": 9, "patience": 2, "min_delta": 10.0}, "patience", 3),
        ({"epochs": 9, "callbacks": lambda epoch: epoch.epoch == 2}, "callback", 3),
        ({"epochs": 9, "schedule": schedules.Adaptive(0.5, 1, min_delta=10, min_rate=6e-4)}, "learning rate", None),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_in_the_file_already_is_not_written_again(tmp_path, monkeypatch, options, stopped, writes):
    written, write = [], files.write
    monkeypatch.setattr(files, "write", lambda *arguments: (written.append(1), write(*arguments)))
    history = make().fit(X, T, rng=0, checkpoint=tmp_path / "fit", **options)
    assert history.stopped == stopped
    assert len(written) == (len(history.losses) + 1 if writes is None else writes)
    assert fastbp.load_checkpoint(tmp_path / "fit").history == history


# ---- writing and reading ---------------------------------------------------------------------------------------------


@pytest.fixture
def content(tmp_path):
    """The bytes of a file with everything in it."""
    make().fit(X, T, epochs=2, validation=0.2, patience=5, checkpoint=tmp_path / "made")
    data = (tmp_path / "made").read_bytes()
    (tmp_path / "made").unlink()
    return data


@pytest.mark.parametrize("broken", ["savez", "fsync", "replace"])
def test_an_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    net = make()
    net.save(tmp_path / "net")

    def fail(*arguments, **options):
        if broken == "savez":
            arguments[0].write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np if broken == "savez" else os, broken, fail)
    old = net.parameters.copy()
    net.parameters[:] = 0
    with pytest.raises(OSError, match="no space left"):
        net.save(tmp_path / "net")
    with pytest.raises(OSError, match="no space left"):
        net.fit(X, T, checkpoint=tmp_path / "fit")
    assert os.listdir(tmp_path) == ["net"]
    np.testing.assert_array_equal(fastbp.load(tmp_path / "net").parameters, old)


def file_of(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"path: '.*' is not a network saved by fastbp, or damaged: "):
        fastbp.load_checkpoint(path)
    net = make()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"is not a network saved by fastbp, or damaged: "):
        net.fit(X, T, resume=path)
    np.testing.assert_array_equal(net.parameters, before)
    return True


def test_truncated_files_are_refused(tmp_path, content):
    for length in [0, 1, 10, *range(100, len(content), 397), len(content) - 1]:
        assert refused(tmp_path / "cut", content[:length])


def test_changed_files_are_refused_or_the_same(tmp_path, content):
    """Every byte of numbers and text is under a checksum; what is not, does not matter."""
    whole = fastbp.load_checkpoint(file_of(tmp_path, content))
    refusals = 0
    for at in range(0, len(content), 61):
        changed = bytearray(content)
        changed[at] ^= 0x40
        path = file_of(tmp_path, bytes(changed))
        try:
            read = fastbp.load_checkpoint(path)
        except ValueError:
            refusals += 1
            continue
        assert same(read.net, whole.net)
        assert read.history == whole.history
        assert read.training == whole.training
    assert refusals > 0.6 * len(range(0, len(content), 61))


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a file ran code",))


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def with_header(content, change):
    """The file with another header, all its checksums right."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(str(arrays["header"]))
    change(header)
    arrays["header"] = np.array(json.dumps(header))
    return npz(**arrays)


def test_foreign_files_are_refused_and_run_no_code(tmp_path, content):
    header = np.array([Payload()], dtype=object)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("header.npy", pickle.dumps(Payload()))
    single = io.BytesIO()
    np.save(single, np.arange(3))
    for data in (b"", b"PK", b"not a network\n" * 99, pickle.dumps(Payload()), npz(header=header), npz(a=np.arange(3)),
                 npz(header=np.array("[]")), npz(header=np.array('{"format": "other"}')), single.getvalue(),
                 zipped.getvalue()):  # fmt: skip
        assert refused(tmp_path / "foreign", data)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(version=3),
        lambda h: h["network"].update(sizes=[4, 9, 3]),
        lambda h: h["network"].update(activation="__class__"),
        lambda h: h["network"].update(extra=1),
        lambda h: h["optimizer"].update(name="TYPE_CHECKING"),
        lambda h: h["optimizer"].update(name="np"),
        lambda h: h["optimizer"]["hyperparameters"].update(beta1=7),
        lambda h: h["history"].update(extra=1),
        lambda h: h.pop("history"),
    ],
)
def test_a_header_that_does_not_hold_together_is_refused(tmp_path, content, change):
    assert refused(tmp_path / "odd", with_header(content, change))


@pytest.mark.parametrize("path", [None, 0, True, 1.5, ["net.npz"]])
def test_what_is_no_path_is_refused(path):
    """0 would be standard input to open()."""
    net = fastbp.MLP([2, 1], rng=0)
    for function in (fastbp.load, fastbp.load_checkpoint, net.save):
        with pytest.raises(TypeError, match="path must be a path, got"):
            function(path)
