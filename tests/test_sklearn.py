"""MLPClassifier and MLPRegressor beside scikit-learn's own: the same numbers, and what only fastbp's do."""

import copy
import inspect
import pickle
import signal
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
import scipy.sparse as sp
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import fastbp.sklearn as ours
from fastbp import MLP
from fastbp.sklearn import MLPClassifier, MLPRegressor, _rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = ["MLPClassifier", "MLPRegressor"]


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return np.random.default_rng(0).normal(size=X[:300].shape) * 0.1 + X[:300] / 16, y[:300]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[:200], (y[:200] - y.mean()) / y.std()
    return X, np.c_[y, np.roll(y, 1)]


def data(name, digits, diabetes):
    return digits if name == "MLPClassifier" else diabetes


def both(name, X, y, sample_weight=None, **parameters):
    """scikit-learn's estimator and ours, fitted alike."""
    models = [getattr(package, name)(**{"random_state": 0, **parameters}) for package in (theirs, ours)]
    return [model.fit(X, y, sample_weight=sample_weight) for model in models]


def assert_same(theirs, ours, rtol=1e-6, atol=1e-9):
    for a, b in zip(theirs.coefs_ + theirs.intercepts_, ours.coefs_ + ours.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol)
    for name, value in vars(theirs).items():
        if name.endswith("_") and name not in ("coefs_", "intercepts_") and not name.startswith("_"):
            mine = getattr(ours, name)
            if isinstance(value, (float, list)):
                np.testing.assert_allclose(mine, value, rtol=rtol, err_msg=name)
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(mine, value, err_msg=name)
            else:
                assert mine == value, name


# ---- the same interface ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_defaults_are_scikit_learns_and_then_the_extensions(name):
    mine, other = (inspect.signature(getattr(package, name)).parameters for package in (ours, theirs))
    assert list(mine)[: len(other)] == list(other)
    for parameter in other.values():
        assert mine[parameter.name].default == parameter.default
        assert mine[parameter.name].kind == parameter.kind


@pytest.mark.parametrize("name", NAMES)
def test_public_methods_take_the_same_arguments(name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    for method, function in inspect.getmembers(other, inspect.isfunction):
        if not method.startswith("_"):
            expected = list(inspect.signature(function).parameters)
            assert list(inspect.signature(getattr(mine, method)).parameters)[: len(expected)] == expected, method


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_fitted_attributes_are_there(name, solver, digits, diabetes):
    X, y = data(name, digits, diabetes)
    a, b = both(name, X[:50], y[:50], solver=solver, max_iter=2)
    assert {n for n in vars(a) if n.endswith("_")} <= {n for n in vars(b) if n.endswith("_")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "wrong",
    [
        dict(activation="cube"), dict(alpha=-1), dict(hidden_layer_sizes=-1), dict(batch_size=0), dict(solver="newton"),
        dict(learning_rate="fast"), dict(momentum=2), dict(max_iter=-1), dict(shuffle="yes"), dict(beta_1=1),
        dict(epsilon=-1), dict(n_iter_no_change=-1), dict(validation_fraction=1), dict(learning_rate_init=0),
        dict(hidden_layer_sizes=(3, 0)), dict(loss="hinge"), dict(early_stopping="no"), dict(tol=-1),
        dict(validation_fraction=0, early_stopping=True),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_parameters_raise_errors_that_name_them(name, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        getattr(ours, name)(**wrong).fit(np.eye(4), [0, 1, 0, 1])


# ---- the same numbers -----------------------------------------------------------------------------------------------

SGD = dict(solver="sgd", max_iter=8, learning_rate_init=0.05, hidden_layer_sizes=(16, 8))
CASES = {
    "constant": {},
    "no momentum": dict(momentum=0),
    "plain momentum": dict(nesterovs_momentum=False),
    "invscaling": dict(learning_rate="invscaling", power_t=0.2),
    "adaptive": dict(learning_rate="adaptive", tol=0.1, n_iter_no_change=1, max_iter=20),
    "logistic": dict(activation="logistic", hidden_layer_sizes=12),
    "tanh, penalty": dict(activation="tanh", alpha=1.0),
    "identity, no hidden layer": dict(activation="identity", hidden_layer_sizes=()),
    "logistic, no hidden layer": dict(activation="logistic", hidden_layer_sizes=()),
    "in order": dict(shuffle=False, batch_size=64),
    "one batch": dict(batch_size=150),
    "held out": dict(early_stopping=True, validation_fraction=0.2, max_iter=12),
    "stops": dict(tol=0.5, n_iter_no_change=2, max_iter=200),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_sgd_takes_the_same_path(name, case, weighted, digits, diabetes):
    X, y = data(name, digits, diabetes)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
    a, b = both(name, X[:150], y[:150], weights if weights is None else weights[:150], **{**SGD, **CASES[case]})
    assert_same(a, b)
    np.testing.assert_allclose(b.predict(X), a.predict(X), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_all_the_way(name, digits, diabetes):
    X, y = data(name, digits, diabetes)
    a, b = both(name, X[:150].astype(np.float32), y[:150], **SGD)
    assert_same(a, b, rtol=1e-3, atol=1e-5)
    assert all(p.dtype == np.float32 for p in b.coefs_ + b.intercepts_)
    assert (b.predict_proba if name == "MLPClassifier" else b.predict)(X[:2].astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_adam_takes_the_same_path(name, digits, diabetes):
    X, y = data(name, digits, diabetes)
    a, b = both(name, X[:150], y[:150], max_iter=10, hidden_layer_sizes=16, activation="tanh")
    assert_same(a, b)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_lbfgs_takes_the_same_path(weighted, digits, diabetes):
    for name, (X, y) in (("MLPClassifier", digits), ("MLPRegressor", (diabetes[0], diabetes[1][:, 0]))):
        weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
        a, b = both(name, X, y, weights, solver="lbfgs", max_iter=6, activation="tanh", hidden_layer_sizes=8)
        assert_same(a, b)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_penalty_is_not_divided_by_the_number_of_outputs(solver, weighted, diabetes):
    """scikit-learn's reported loss is a mean over outputs and, whole, the penalty of each step's weights."""
    X, y = diabetes
    sample_weight = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    models = both("MLPRegressor", X, y, sample_weight, solver=solver, alpha=3.0, batch_size=7, max_iter=5,
                  learning_rate_init=0.01)  # fmt: skip
    for model in models:
        for row in range(3):
            model.partial_fit(X[row : row + 1], y[row : row + 1])
    np.testing.assert_allclose(models[1].loss_curve_, models[0].loss_curve_, rtol=1e-9)


def test_multilabel_and_binary_take_the_same_path(digits):
    X, Y = make_multilabel_classification(n_samples=80, random_state=0)
    assert_same(*both("MLPClassifier", X, Y, **SGD))
    X, y = digits
    assert_same(*both("MLPClassifier", X, np.where(y > 4, "high", "low"), **SGD))
    assert_same(*both("MLPClassifier", X, (y > 4).astype(int), early_stopping=True, **SGD))


@pytest.mark.parametrize("name", NAMES)
def test_partial_fit_and_warm_start_go_on_alike(name, digits, diabetes):
    X, y = data(name, digits, diabetes)
    models = []
    for package in (theirs, ours):
        model = getattr(package, name)(random_state=0, warm_start=True, **{**SGD, "learning_rate": "invscaling"})
        model.fit(X, y)
        model.set_params(max_iter=3).fit(X, y)
        model.set_params(warm_start=False)
        for begin in range(0, 200, 25):
            model.partial_fit(X[begin : begin + 25], y[begin : begin + 25])
        models.append(model)
    assert_same(*models)


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_start_that_is_no_better_leaves_the_best_parameters(name, digits, diabetes):
    """scikit-learn's are overwritten, for coefs_ are the same arrays as its best ones: here it gets copies."""
    X, y = data(name, digits, diabetes)
    models, best = [], []
    for package in (theirs, ours):
        model = getattr(package, name)(random_state=0, warm_start=True, early_stopping=True, n_iter_no_change=2, **SGD)
        model.fit(X, y)
        if package is theirs:
            model.coefs_, model.intercepts_ = ([p.copy() for p in ps] for ps in (model.coefs_, model.intercepts_))
        best.append(model.coefs_[0].copy())
        model.fit(np.roll(X, 1, axis=0), y)  # what was learnt is of no use here
        models.append(model)
    assert_same(*models)
    np.testing.assert_array_equal(models[1].coefs_[0], best[1])
    np.testing.assert_array_equal(models[0].coefs_[0], best[0])


@pytest.mark.parametrize("name", NAMES)
def test_verbose_prints_the_same(name, digits, diabetes, capsys):
    X, y = data(name, digits, diabetes)
    printed = []
    for early in (False, True):
        parameters = dict(verbose=True, learning_rate="adaptive", tol=0.05, n_iter_no_change=1, early_stopping=early)
        for package in (theirs, ours):
            getattr(package, name)(random_state=0, **{**SGD, **parameters}).fit(X[:150], y[:150])
            printed.append(capsys.readouterr().out)
        assert printed[-1] == printed[-2] != ""


def test_outputs_agree_with_scikit_learns_metrics(digits, diabetes):
    """Scores and losses of the rows held out: the whole data here, as a subset would need the split."""
    X, y = digits
    model = MLPClassifier((16,), early_stopping=True, max_iter=3, random_state=0).fit(X, y)
    weights = np.random.default_rng(0).uniform(size=len(X))
    score = model._outputs_score(model.predict_proba(X), model._encode(y, X.dtype), weights)
    assert score == pytest.approx(accuracy_score(y, model.predict(X), sample_weight=weights))
    loss = _rows.mean_loss(model._network(), X, model._encode(y, X.dtype), weights)
    assert loss == pytest.approx(log_loss(y, model.predict_proba(X), sample_weight=weights))
    assert len(model.validation_losses_) == len(model.validation_scores_) == 3
    X, Y = diabetes
    weights = weights[: len(X)]
    model = MLPRegressor(hidden_layer_sizes=16, max_iter=3, random_state=0).fit(X, Y)
    Y = np.c_[Y[:, 0], np.ones(len(Y))]
    for outputs in (model.predict(X), np.c_[model.predict(X)[:, 0], Y[:, 1]]):
        assert model._outputs_score(outputs, Y, weights) == pytest.approx(r2_score(Y, outputs, sample_weight=weights))


# ---- data of all kinds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_matrix])
def test_large_sparse_input_goes_by_slabs_and_gives_the_same(solver, container, digits, monkeypatch):
    X, y = digits
    X = np.where(X > 0.3, X, 0)
    weights = np.random.default_rng(0).uniform(size=len(X))
    parameters = {**SGD, "solver": solver, "early_stopping": solver == "sgd", "random_state": 0, "batch_size": 32}
    dense = MLPClassifier(**parameters).fit(X, y, weights)
    monkeypatch.setattr(_rows, "DENSE_BYTES", 1000)
    monkeypatch.setattr(_rows, "SLAB_BYTES", 40 * X.shape[1] * 8)
    sparse = MLPClassifier(**parameters).fit(container(X), y, weights)
    assert_same(dense, sparse, rtol=1e-9)
    np.testing.assert_allclose(sparse.predict_proba(container(X)), dense.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_calls_that_would_take_long_are_cut_and_give_the_same(solver, digits, monkeypatch):
    """Ctrl-C is seen between two of them."""
    X, y = digits
    weights = np.random.default_rng(0).uniform(size=len(X))
    parameters = {**SGD, "solver": solver, "early_stopping": solver == "sgd", "random_state": 0}
    whole = MLPClassifier(**parameters).fit(X, y, weights)
    outputs = whole.predict_proba(X)
    monkeypatch.setattr(_rows, "WORK", 70 * whole._network().n_parameters)
    calls = []
    predict = whole._network().predict
    monkeypatch.setattr(whole._network(), "predict", lambda X, out: calls.append(len(X)) or predict(X, out=out))
    np.testing.assert_array_equal(whole.predict_proba(X), outputs)
    assert calls == [70, 70, 70, 70, 20]
    cut = MLPClassifier(**parameters).fit(X, y, weights)
    assert_same(whole, cut, rtol=1e-9)


def test_rows_of_no_weight_are_as_if_not_there(digits):
    X, y = digits
    weights = np.ones(len(X))
    weights[::3] = 0
    a = MLPClassifier(random_state=0, **SGD).fit(X, y, weights)
    b = MLPClassifier(random_state=0, **SGD).fit(X[weights > 0], y[weights > 0])
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_bad_values_are_errors_that_name_the_argument(solver):
    X, y = np.ones((4, 2)), [0, 1, 0, 1]
    bad = np.array([[1, 1], [np.nan, 1], [1, 1], [1, 1]])
    for X_, y_, weights, message in [
        (bad, y, None, "X contains NaN"), (X, y[:3], None, "inconsistent"), (X, y, [1, 1, 1, -1], "sample_weight"),
        (X, y, [0, 0, 0, 0], "weight"), (X, y, [1, 1], "sample_weight"), (X, [0, 1, 2, np.nan], None, "y contains NaN"),
    ]:  # fmt: skip
        for Model in (MLPClassifier, MLPRegressor):
            with pytest.raises(ValueError, match=message):
                Model(solver=solver).fit(X_, y_, weights)


def test_a_memmap_is_read_in_place(tmp_path, diabetes):
    X, y = diabetes
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape)
    a, b = (MLPRegressor(random_state=0, **SGD).fit(x, y) for x in (X, mapped))
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_feature_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(load_iris().data, columns=list("abcd"))
    model = MLPClassifier(max_iter=2).fit(frame, load_iris().target)
    assert list(model.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("dcba")])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.partial_fit(frame.to_numpy()[:1], [0])


# ---- parameters that may be changed, copies -------------------------------------------------------------------------


@pytest.fixture
def fitted(digits):
    return MLPClassifier(random_state=0, **SGD).partial_fit(*digits, classes=np.arange(10))


def test_coefs_may_be_changed_in_place_and_replaced(fitted, digits):
    X, y = digits
    before = fitted.predict_proba(X)
    fitted.coefs_[0][...] *= 2
    changed = fitted.predict_proba(X)
    assert not np.allclose(before, changed)
    fitted.coefs_[0] = fitted.coefs_[0] / 2
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    fitted.intercepts_ = [b.copy() for b in fitted.intercepts_]
    fitted.coefs_[-1] = np.zeros_like(fitted.coefs_[-1])
    fitted.intercepts_[-1] = np.zeros(10)
    np.testing.assert_allclose(fitted.predict_proba(X), 0.1)
    fitted.partial_fit(X[:1], y[:1])
    assert fitted.predict_proba(X[:1])[0, y[0]] > 0.1
    assert isinstance(fitted.coefs_, list)


def test_layers_may_be_replaced_by_ones_of_other_widths(fitted, digits):
    fitted.coefs_[1], fitted.coefs_[2] = np.zeros((16, 5)), np.zeros((5, 10))
    fitted.intercepts_[1] = np.zeros(5)
    fitted.intercepts_[2] = np.arange(10.0)
    assert (fitted.predict(digits[0]) == 9).all()


@pytest.mark.parametrize("by", ["pickle", "joblib", "deepcopy", "copy"])
def test_a_copy_goes_on_as_the_original_would(by, fitted, digits, tmp_path):
    X, y = digits
    if by == "pickle":
        twin = pickle.loads(pickle.dumps(fitted))
    elif by == "joblib":
        joblib.dump(fitted, tmp_path / "model")
        twin = joblib.load(tmp_path / "model", mmap_mode="r")
    else:
        twin = getattr(copy, by)(fitted)
    before = fitted.predict_proba(X)
    for _ in range(3):
        twin.partial_fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    for _ in range(3):
        fitted.partial_fit(X, y)
    assert_same(fitted, twin, rtol=0, atol=0)


def test_a_pickle_holds_the_parameters_once(digits):
    model = MLPClassifier((400,), solver="lbfgs", max_iter=1).fit(*digits)
    size = sum(p.nbytes for p in model.coefs_ + model.intercepts_)
    assert len(pickle.dumps(model)) < 1.1 * size + 5000


def test_grid_search_in_a_pipeline_with_two_processes(digits):
    X, y = digits
    pipeline = make_pipeline(MinMaxScaler(), MLPClassifier(random_state=0, **SGD))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 100.0]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_ == {"mlpclassifier__alpha": 1e-4}
    alone = cross_val_score(clone(search.best_estimator_), X, y, cv=2)
    np.testing.assert_array_equal(alone.mean(), search.best_score_)


# ---- one row at a time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_row_by_the_short_way_is_one_row(name, solver, dtype, digits, diabetes):
    """A list takes the ordinary way, an array the short one."""
    X, y = data(name, digits, diabetes)
    X = X.astype(dtype)
    parameters = dict(solver=solver, random_state=0, hidden_layer_sizes=8, learning_rate="adaptive", tol=10.0)
    short, ordinary = (getattr(ours, name)(**parameters) for _ in range(2))
    first = dict(classes=np.arange(10)) if name == "MLPClassifier" else {}
    for model in (short, ordinary):
        model.partial_fit(X[:1], y[:1], **first)
    for i in range(1, 30):
        short.partial_fit(X[i : i + 1], y[i : i + 1])
        ordinary._one_row = None
        ordinary.partial_fit(X[i : i + 1], y[i : i + 1])
    assert_same(ordinary, short, rtol=0, atol=0)
    assert short._no_improvement_count == ordinary._no_improvement_count
    assert short._optimizer.learning_rate == ordinary._optimizer.learning_rate


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_outputs_of_one_row(name, dtype, digits, diabetes):
    X, y = data(name, digits, diabetes)
    X = (X[:40] * 4).round().astype(dtype)
    model = getattr(ours, name)(random_state=0, **SGD).fit(X, y[:40])
    outputs = model.predict_proba if name == "MLPClassifier" else model.predict
    for row, expected in zip(X, outputs(X), strict=True):
        for x in (row[None], row[None].astype(int), row[None].tolist(), np.repeat(row, 2)[None, ::2]):
            np.testing.assert_allclose(outputs(x)[0], expected, rtol=1e-5)
    for bad, message in ((X[:1, 1:], "features"), (X[0], "2D"), (X[:1] * np.nan, "NaN"), (X[:1] + np.inf, "infinity")):
        with pytest.raises(ValueError, match=message):
            model.predict(bad)


def test_which_rows_go_the_short_way(monkeypatch):
    clf = MLPClassifier(hidden_layer_sizes=3).partial_fit(np.ones((1, 2)), ["a"], classes=["a", "b"])
    reg = MLPRegressor(hidden_layer_sizes=3).partial_fit(np.ones((1, 2)), [1.0])
    monkeypatch.setattr(MLPClassifier, "_fit", None)
    monkeypatch.setattr(MLPRegressor, "_fit", None)
    frozen = np.ones((1, 2))
    frozen.flags.writeable = False
    for X in (np.ones((1, 2)), np.ones((1, 2), np.float32), np.ones((1, 4))[:, ::2], np.ones((1, 2), int), frozen):
        clf.partial_fit(X, np.array(["b"]))
        clf.partial_fit(X, ["a"], classes=["a", "b"])
        for y in ([1], [1.5], np.array([1.5], np.float32), np.array([[2]])):
            reg.partial_fit(X, y)


def test_bad_rows_are_errors_on_the_short_way_too():
    clf = MLPClassifier(hidden_layer_sizes=3).partial_fit(np.ones((1, 2)), ["a"], classes=["a", "b"])
    numbers = MLPClassifier(hidden_layer_sizes=3).partial_fit(np.ones((1, 2)), [0], classes=[0, 1])
    reg = MLPRegressor(hidden_layer_sizes=3).partial_fit(np.ones((1, 2)), [1.0])
    row = np.ones((1, 2))
    for model, X, y, message in [
        (clf, row * np.nan, ["a"], "NaN"), (clf, row * np.inf, ["a"], "infinity"),
        (reg, np.ones((1, 3)), [1.0], "features"), (clf, np.ones(2), ["a"], "2D array"),
        (clf, row, ["c"], "classes"), (clf, row, ["a", "b"], "inconsistent"),
        (clf, row, [["a"], ["b"]], "inconsistent"), (clf, row, [1], "classes|mix"), (clf, row, [], "sample"),
        (reg, row, [np.nan], "NaN"), (reg, row, np.array([np.inf]), "infinity"), (reg, row, ["x"], "real numbers"),
        (reg, row, [1.0, 2.0], "inconsistent"), (reg, row * np.nan, [1.0], "NaN"), (reg, row, None, "y"),
        (reg, np.array([["x", "y"]]), [1.0], "numeric|convert"), (reg, row, [[1.0, 2.0]], "y must have shape"),
        (numbers, row, np.array([1], object), "Unknown label type"), (numbers, row, [0.5], "Unknown label|classes"),
    ]:  # fmt: skip
        before = [p.copy() for p in model.coefs_]
        with pytest.raises((ValueError, TypeError), match=message):
            model.partial_fit(X, y)
        for a, b in zip(before, model.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="classes"):
        clf.partial_fit(row, ["a"], classes=["a", "c"])
    with pytest.raises(ValueError, match="alpha"):
        reg.set_params(alpha=-1).partial_fit(row, [1.0])


def test_parameters_set_between_rows_are_obeyed():
    model = MLPRegressor(hidden_layer_sizes=3, random_state=0).partial_fit(np.ones((1, 2)), [1.0])
    twin = copy.deepcopy(model).set_params(alpha=10.0)
    for m in (model, twin):
        m.partial_fit(np.ones((1, 2)), [1.0])
    assert not np.array_equal(model.coefs_[0], twin.coefs_[0])
    with pytest.raises(AttributeError):
        model.set_params(solver="lbfgs").partial_fit(np.ones((1, 2)), [1.0])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_diverges_is_an_error_and_changes_nothing(name):
    model = getattr(ours, name)(hidden_layer_sizes=3, activation="identity", random_state=0)
    first = dict(classes=[0, 1]) if name == "MLPClassifier" else {}
    model.partial_fit(np.ones((1, 2)), [0], **first)
    model.coefs_[0][...] = 10
    before = model.coefs_[0].copy()
    with pytest.raises(ValueError, match="non-finite"):
        model.partial_fit(np.full((1, 2), 1e308), [1])
    np.testing.assert_array_equal(model.coefs_[0], before)


# ---- what only these do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_class_weight_is_sample_weight_by_class(solver, digits):
    X, y = digits
    y = (y > 7).astype(int)
    parameters = {**SGD, "solver": solver, "random_state": 0}
    counts = np.bincount(y)
    balanced = len(y) / (2 * counts)
    by_rows = MLPClassifier(**parameters).fit(X, y, balanced[y])
    for class_weight in ("balanced", dict(enumerate(balanced))):
        model = MLPClassifier(class_weight=class_weight, **parameters).fit(X, y)
        np.testing.assert_allclose(model.coefs_[0], by_rows.coefs_[0])
    with pytest.raises(ValueError, match="balanced"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_class_weight_in_partial_fit_and_for_multilabel_targets(digits):
    X, y = digits
    y = (y > 7).astype(int)
    model, by_rows = MLPClassifier(class_weight={0: 3.0}, random_state=0, **SGD), MLPClassifier(random_state=0, **SGD)
    for label in (0, 1):  # the second call has no row of the class that has a weight
        X_, y_ = X[y == label], y[y == label]
        model.partial_fit(X_, y_, classes=[0, 1])
        by_rows.partial_fit(X_, y_, classes=[0, 1], sample_weight=np.full(len(y_), 3.0 if label == 0 else 1.0))
    np.testing.assert_array_equal(model.coefs_[0], by_rows.coefs_[0])
    Y = np.c_[y, 1 - y]
    model = MLPClassifier(class_weight=[{0: 1, 1: 5}, {0: 1, 1: 1}], random_state=0, **SGD).fit(X, Y)
    by_rows = MLPClassifier(random_state=0, **SGD).fit(X, Y, np.where(y == 1, 5.0, 1.0))
    np.testing.assert_array_equal(model.coefs_[0], by_rows.coefs_[0])


def test_one_activation_per_layer(digits):
    X, y = digits
    model = MLPClassifier((12, 8), activation=["gelu", "tanh"], solver="lbfgs", random_state=0, tol=1e-3).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model._network().activation == ("gelu", "tanh")
    with pytest.raises(ValueError, match="activation must be one name, or one per hidden layer"):
        MLPClassifier((12, 8), activation=["gelu"]).fit(X, y)


def test_other_losses_and_outputs(digits, diabetes):
    X, y = digits
    for parameters in (dict(loss="squared_error"), dict(output_activation="logistic")):
        model = MLPClassifier((32,), solver="lbfgs", tol=1e-3, random_state=0, **parameters).fit(X, y)
        assert model.score(X, y) > 0.95
        np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.out_activation_ == "logistic"
    with pytest.raises(ValueError, match="output_activation"):
        MLPClassifier(output_activation="softmax").fit(X, y > 4)
    X, Y = diabetes
    low, high = 1 / (1 + np.exp(-Y)), np.exp(Y) / np.exp(Y).sum(axis=1, keepdims=True)
    for loss, target in (("binary_cross_entropy", low), ("cross_entropy", high)):
        model = MLPRegressor(loss, solver="lbfgs", max_iter=50, random_state=0).fit(X, target)
        assert model.score(X, target) > 0.5
        assert ((model.predict(X) >= 0) & (model.predict(X) <= 1)).all()
        with pytest.raises(ValueError, match="y must be"):
            model.fit(X, target - 10)
    model = MLPRegressor(output_activation="softplus", max_iter=20, random_state=0).fit(X, np.exp(Y))
    assert (model.predict(X) > 0).all()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_each_epoch_and_may_stop(solver, digits):
    X, y = digits
    seen = []

    def callback(model):
        seen.append((model.n_iter_, model.loss_, model.score(X, y)))
        return np.int64(model.n_iter_) == 4  # NumPy's True is as good as Python's

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MLPClassifier((8,), solver=solver, random_state=0, callbacks=callback).fit(X, y)
    assert [n for n, _, _ in seen] == [1, 2, 3, 4]
    assert model.n_iter_ == 4
    assert seen[-1][1:] == (model.loss_, model.score(X, y))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_keeps_what_was_learnt(solver, digits):
    X, y = digits

    def callback(model):
        if model.n_iter_ == 3:
            signal.raise_signal(signal.SIGINT)

    model = MLPClassifier((8,), solver=solver, random_state=0, callbacks=[callback])
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, y)
    assert model.n_iter_ == 3
    assert np.isfinite(model.coefs_[0]).all()
    assert model.predict(X).shape == y.shape


def test_ctrl_c_inside_an_epoch_keeps_its_whole_steps(digits, monkeypatch):
    """The steps come back from compiled code every tenth of a second; here after each, and the third is interrupted."""
    X, y = digits
    run, steps = MLP._run_batches, []

    def one_step(self, *args, **kwargs):
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        steps.append(run(self, *args, **kwargs, seconds=0.0))
        return steps[-1]

    monkeypatch.setattr(MLP, "_run_batches", one_step)
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier((8,), batch_size=10, random_state=0).fit(X, y)
    assert steps == [(10, None), (20, None)]
    assert model.n_iter_ == 0
    assert model._optimizer._state_for(model._network()).steps == 2


def test_a_fit_that_diverges_is_an_error_with_early_stopping_a_warning(diabetes):
    X, Y = diabetes
    parameters = dict(solver="sgd", activation="identity", learning_rate_init=100.0, random_state=0)
    with pytest.raises(ValueError, match=r"non-finite .* epoch \d+; learning_rate_init=100.0"):
        MLPRegressor(**parameters).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="not finite"):
        model = MLPRegressor(early_stopping=True, **parameters).fit(X, Y)
    assert np.isfinite(model.predict(X)).all()
    assert np.isnan([model.loss_, model.validation_losses_[-1], model.validation_scores_[-1]]).all()
    assert len(model.validation_losses_) == len(model.validation_scores_) == model.n_iter_


def test_poisson_takes_the_same_path(diabetes):
    X, Y = diabetes
    counts = np.random.default_rng(0).poisson(np.exp(Y))
    for y in (counts, counts[:, 0]):
        a, b = both("MLPRegressor", X, y, loss="poisson", **{**SGD, "learning_rate_init": 0.01})
        assert_same(a, b)
    assert b.out_activation_ == "exp"
    with pytest.raises(ValueError, match="y must be"):
        b.fit(X, y - 10)
