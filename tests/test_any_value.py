"""Whatever value an argument is given: it is taken, or refused by an error that names it and leaves all as it was."""

import inspect
import math
import os

import numpy as np
import pytest

import fastbp

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
Y = X.sum(axis=1)


class Odd:
    pass


VALUES = [
    None, True, np.True_, 0, -1, 3, 2**31, 2**63, 10**30, -(10**30), 10**400, np.int64(3), np.uint64(2**63), 0.5, -1e-9,
    1e308, 5e-324, math.nan, math.inf, -math.inf, np.float32(0.3), 1j, np.complex128(1), "", "3", "auto", b"x",
    np.str_("a"),
    "a\0b", np.array(3), np.array(0.3), np.array([0.3]), np.array([]), np.ma.masked, np.datetime64("2020"), [], (), {},
    set(), [0.1, 0.2], [None], ["a"], [[1.0], [2.0, 3.0]], {1: 2}, Odd(), object, Ellipsis,
]  # fmt: skip


def name_of(value):
    return f"{type(value).__name__} {str(value)[:12]!r}"


# What needs another argument to be given, and what would go on for ever.
ALONG = {
    "score": {"validation": 0.2}, "min_delta": {"patience": 1}, "restore_best": {"patience": 1},
    "epochs": {"callbacks": lambda epoch: epoch.epoch == 1},
}  # fmt: skip
FIT = [name for name in inspect.signature(fastbp.MLP.fit).parameters if name not in ("self", "X", "Y")]


@pytest.mark.parametrize("name", ["X", "Y", *FIT])
@pytest.mark.parametrize("value", VALUES, ids=name_of)
def test_fit(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # to which a checkpoint may go
    net = fastbp.MLP([3, 4, 1], rng=0)
    before = net.parameters.copy()
    arguments = {"X": X, "Y": Y, "epochs": 2, "batch_size": 8, "rng": 0, **ALONG.get(name, {}), name: value}
    try:
        net.fit(**arguments)
    except (TypeError, ValueError, FileNotFoundError, fastbp.TrainingDiverged) as caught:
        error = caught
    else:
        return
    if isinstance(error, fastbp.TrainingDiverged):
        assert name in ("penalty", "Y")
        assert name == "penalty" or not np.isfinite(value)
    elif isinstance(error, FileNotFoundError):
        assert name == "resume"
        assert error.filename == os.fsdecode(value)
    elif not (name in ("score", "callbacks") and value is object):  # a function, but not of these arguments
        assert name in str(error).partition(" got ")[0]
        np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("value", [*VALUES, X, (X,), (X, None), (X, Y, None, None), {"X": X, "Y": Y}], ids=name_of)
def test_batches(value):
    """What a function of batches returns, and what comes as a batch."""
    net = fastbp.MLP([3, 4, 1], rng=0)
    before = net.parameters.copy()
    for X in (lambda: value, [value], lambda: [value], iter([value])):
        with pytest.raises((TypeError, ValueError), match=r"^[XY]\b"):
            net.fit(X, epochs=1)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_an_estimator(kind, solver, recwarn):
    cls = getattr(pytest.importorskip("fastbp.sklearn", exc_type=ImportError), kind)
    along = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0, "solver": solver}
    for name in inspect.signature(cls).parameters:
        for value in VALUES:
            if name == "max_iter" and isinstance(value, (int, np.integer)) and value > 3:
                continue  # for ever
            try:
                cls(**{**along, name: value}).fit(X, Y > 0)
            except (TypeError, ValueError) as error:
                if not (name == "callbacks" and value is object) and "non-finite" not in str(error):
                    assert name in str(error).replace(" Got ", " got ").partition(" got ")[0]  # noqa: PT017


SETTINGS = [
    (cls, name)
    for cls in (
        fastbp.SGD, fastbp.Adam, fastbp.AdamW, fastbp.RMSprop, fastbp.LBFGS, fastbp.schedules.InverseScaling,
        fastbp.schedules.Step, fastbp.schedules.Cosine, fastbp.schedules.Adaptive,
    )
    for name in inspect.signature(cls).parameters
]  # fmt: skip


@pytest.mark.parametrize(("cls", "name"), SETTINGS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_an_optimizer_or_schedule(cls, name):
    for value in VALUES:
        along = {"every": 2} if cls is fastbp.schedules.Step else {}
        along |= {"momentum": 0.5} if name == "nesterov" else {}
        try:
            setting = cls(**{**along, name: value})
        except (TypeError, ValueError) as error:
            assert name in str(error).partition(" got ")[0]  # noqa: PT017
            continue
        kind = "schedule" if isinstance(setting, fastbp.schedules.Schedule) else "optimizer"
        try:
            fastbp.MLP([3, 4, 1], rng=0).fit(X, Y, epochs=3, rng=0, **{kind: setting})
        except fastbp.TrainingDiverged:
            assert name in ("learning_rate", "weight_decay", "last")
