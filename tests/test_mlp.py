"""The network's interface: results, shapes, out=, views, copies, files. Refusals: test_bad_input.py."""

import copy
import itertools
import pickle
import zipfile

import numpy as np
import pytest
import reference
from conftest import KINDS, LAYOUTS
from scipy import optimize

import fastbp

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}


def make(dtype, sizes=(5, 7, 6, 3), **options):
    options = {"activation": "tanh", "output_activation": "softmax", "loss": "cross_entropy"} | options
    net = fastbp.MLP(sizes, dtype=dtype, rng=3, **options)
    net.parameters[:] += 0.1 * np.random.default_rng(4).normal(size=net.n_parameters)
    return net


def data(dtype, m=9, n_in=5, n_out=3):
    rng = np.random.default_rng(5)
    return rng.normal(size=(m, n_in)).astype(dtype), rng.uniform(size=(m, n_out)).astype(dtype)


def agrees(net, X, Y, **call):
    loss, grad = net.value_and_grad(X, Y, **call)
    eps = float(np.finfo(net.dtype).eps)
    activations = (*net.activation, net.output_activation)
    want, want_grad = reference.value_and_grad(
        net.parameters, net.sizes, activations, net.loss, np.asarray(X, np.float64), Y,
        reduction=net.reduction, clip=net.clip, eps=eps, **call)  # fmt: skip
    tolerance = TOLERANCE[net.dtype.type]
    largest = np.abs(want_grad).max()
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=tolerance * largest)
    assert abs(loss - want) <= tolerance * max(abs(want), largest)
    return loss, grad


@pytest.mark.parametrize("extra_rows", [0, 20, 513])  # W is read in place both ways; forward only; or packed
@pytest.mark.parametrize("width", range(1, 71))
def test_gradient_is_that_of_plain_numpy_at_every_width(isa, dtype, width, extra_rows):
    names = itertools.cycle(("tanh", "gelu", "sigmoid", "silu", "softplus", "elu"))
    for sizes in ((width, 3, 2), (2, width, 2), (3, width, width, 1), (4, 5, width)):
        hidden = [next(names) for _ in sizes[2:]]
        net = make(dtype, sizes, activation=hidden, output_activation="identity", loss="squared_error")
        X, Y = data(dtype, m=1 + width % 7 + extra_rows, n_in=sizes[0], n_out=sizes[-1])
        agrees(net, X, Y)


@pytest.mark.parametrize("m", [1, 2, 5, 31, 64, 65, 200, 1000, 5000])
def test_gradient_is_that_of_plain_numpy_at_every_batch_size(isa, dtype, m):
    agrees(make(dtype), *data(dtype, m=m))


@pytest.mark.parametrize("sizes", [
    (300, 200, 150), (784, 128, 10), (1, 1), (1, 1, 1, 1, 1, 1, 1), (2, 500, 500, 1), (2000, 2), (10, 2000, 2),
])  # fmt: skip
def test_gradient_is_that_of_plain_numpy_at_large_and_small_sizes(isa, dtype, sizes):
    net = make(dtype, sizes, output_activation="tanh", loss="squared_error")
    net.parameters[:] *= 0.3
    agrees(net, *data(dtype, m=70, n_in=sizes[0], n_out=sizes[-1]))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clip", [None, 0.25])
@pytest.mark.parametrize(("output", "loss"), [(a,
                                               loss) for a in reference.OUTPUTS for loss in reference.LOSSES])
def test_gradient_is_that_of_plain_numpy_for_every_pair(isa, dtype, output, loss, clip, weighted, reduction):
    net = make(dtype, output_activation=output, loss=loss, clip=clip, reduction=reduction)
    X, Y = data(dtype)
    agrees(net, X, Y, sample_weight=np.arange(9.0) if weighted else None)


def test_shapes_and_types_are_as_documented(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    loss, grad = net.value_and_grad(X, Y)
    assert type(loss) is float
    assert grad.shape == (net.n_parameters,) == (5 * 7 + 7 + 7 * 6 + 6 + 6 * 3 + 3,)
    assert grad.dtype == net.dtype == net.parameters.dtype == dtype
    assert net.sizes == (5, 7, 6, 3)
    assert net.activation == ("tanh", "tanh")
    assert (net.output_activation, net.loss, net.reduction, net.clip) == (
        "softmax",
        "cross_entropy",
        "mean",
        None,
    )
    assert [tuple(entry) for entry in net.layout] == [
        ("W0", (5, 7)), ("b0", (7,)), ("W1", (7, 6)), ("b1", (6,)), ("W2", (6, 3)), ("b2", (3,))]  # fmt: skip
    for outputs in (net(X), net.predict(X), net.forward(X)):
        assert outputs.shape == (9, 3)
        assert outputs.dtype == dtype
    assert type(net.value(X, Y)) is float


def test_weights_and_biases_are_views_into_parameters(isa, dtype):
    net = make(dtype)
    assert isinstance(net.weights, tuple)
    assert isinstance(net.biases, tuple)
    for part in (*net.weights, *net.biases):
        assert np.shares_memory(part, net.parameters)
        assert part.flags.writeable
    net.parameters[:] = np.arange(net.n_parameters)
    np.testing.assert_array_equal(net.weights[0], np.arange(35).reshape(5, 7))
    np.testing.assert_array_equal(net.biases[2], np.arange(net.n_parameters - 3, net.n_parameters))
    net.biases[0][2] = -1
    assert net.parameters[35 + 2] == -1


def test_views_of_a_gradient_share_its_memory(isa, dtype):
    net = make(dtype)
    _, grad = net.value_and_grad(*data(dtype))
    gW, gb = net.views(grad)
    assert [w.shape for w in gW] == [w.shape for w in net.weights]
    assert [b.shape for b in gb] == [b.shape for b in net.biases]
    np.testing.assert_array_equal(np.concatenate([p.ravel() for pair in zip(gW, gb,
                                                                            strict=True) for p in pair]),
                                                                            grad)
    gW[1][...] = 5
    assert np.all(grad[42 : 42 + 42] == 5)


def test_changed_parameters_change_the_next_result(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    before = net.value(X, Y)
    for change in (lambda: net.parameters.__iadd__(0.1), lambda: net.weights[1].__imul__(2.0)):
        change()
        assert agrees(net, X, Y)[0] != before
    net.parameters -= 0.1  # augmented assignment hands the same array back, which is fine
    agrees(net, X, Y)


def test_out_receives_the_gradient_and_is_returned(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    room = np.full(net.n_parameters + 40, 7, dtype)
    out = room[20:-20]
    out[...] = np.nan
    loss, grad = net.value_and_grad(X, Y, out=out)
    assert grad is out
    assert np.all(room[:20] == 7)
    assert np.all(room[-20:] == 7)
    again_loss, again = net.value_and_grad(X, Y)
    assert loss == again_loss
    np.testing.assert_array_equal(grad, again)
    predicted = np.full((9, 3), np.nan, dtype)
    assert net.predict(X, out=predicted) is predicted
    np.testing.assert_array_equal(predicted, net(X))


def test_results_are_fresh_arrays(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    first, second = net.value_and_grad(X, Y)[1], net.value_and_grad(X, Y)[1]
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, net.parameters)
    assert not np.shares_memory(net(X), net(X))


def test_value_and_outputs_are_those_of_value_and_grad_and_numpy(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    assert net.value(X, Y) == pytest.approx(net.value_and_grad(X, Y)[0], rel=TOLERANCE[dtype])
    inputs, _ = reference.forward(net.parameters.astype(np.float64), net.sizes, ("tanh", "tanh", "softmax"),
                                  X)
    for outputs in (net(X), net.predict(X), net.forward(X)):
        np.testing.assert_allclose(outputs, inputs[-1], rtol=0, atol=TOLERANCE[dtype])


def test_inputs_are_never_altered(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    w, p = np.arange(1.0, 10.0).astype(dtype), net.parameters.copy()
    before = [a.copy() for a in (X, Y, w)]
    net.value_and_grad(X, Y, sample_weight=w)
    net.predict(X)
    dY = np.ones_like(net.forward(X))
    net.backward(dY)
    net.train_step(X, Y, fastbp.SGD(0.0), sample_weight=w)
    for now, then in zip((X, Y, w, dY, net.parameters), (*before, np.ones_like(dY), p), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_inputs_does_not_matter(isa, dtype, layout):
    net = make(dtype)
    X, Y = data(dtype)
    w = np.arange(9.0).astype(dtype)
    loss, grad = net.value_and_grad(X, Y, sample_weight=w)
    awkward = LAYOUTS[layout]
    got, got_grad = net.value_and_grad(awkward(X), awkward(Y), sample_weight=awkward(w))
    assert got == loss
    np.testing.assert_array_equal(got_grad, grad)
    assert type(got_grad) is np.ndarray
    np.testing.assert_array_equal(net.predict(awkward(X)), net.predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_integers_booleans_and_half_floats_are_taken_at_their_value(isa, dtype, kind):
    net = make(dtype)
    rng = np.random.default_rng(6)
    X, Y = rng.integers(0, 2, size=(9, 5)), np.eye(3)[rng.integers(0, 3, size=9)]
    w = rng.integers(0, 2, size=9) | (np.arange(9) == 0)
    loss, grad = net.value_and_grad(X.astype(dtype), Y.astype(dtype), sample_weight=w.astype(dtype))
    got, got_grad = net.value_and_grad(*(v.astype(KINDS[kind]) for v in (X, Y)),
                                       sample_weight=w.astype(KINDS[kind]))
    assert got == loss
    np.testing.assert_array_equal(got_grad, grad)


def test_float64_input_is_rounded_to_a_float32_net(isa):
    net = make(np.float32)
    X, Y = data(np.float64)
    got = net.value_and_grad(X, Y)
    want = net.value_and_grad(X.astype(np.float32), Y.astype(np.float32))
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


LABEL_KINDS = [np.int64, np.int32, np.int8, np.uint8, np.uint64, np.float64, np.float32, ">i4", list, tuple]


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_class_labels_are_one_hot_rows(isa, dtype, kind):
    net = make(dtype)
    X, _ = data(dtype)
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2])
    loss, grad = net.value_and_grad(X, np.eye(3)[labels])
    got, got_grad = net.value_and_grad(X, kind(labels.tolist()) if kind in (list,
                                                                            tuple) else labels.astype(kind))
    assert got == pytest.approx(loss, rel=TOLERANCE[dtype])
    np.testing.assert_allclose(got_grad, grad, rtol=0, atol=TOLERANCE[dtype] * np.abs(grad).max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 9])
def test_layout_of_the_labels_does_not_matter(isa, dtype, layout, rows):
    net = make(dtype)
    X, labels = data(dtype)[0][:rows], np.array([0, 1, 2, 2, 1, 0, 0, 1, 2])[:rows]
    loss, grad = net.value_and_grad(X, labels)
    got, got_grad = net.value_and_grad(X, LAYOUTS[layout](labels))
    assert got == loss
    np.testing.assert_array_equal(got_grad, grad)


@pytest.mark.parametrize("loss", reference.LOSSES)
@pytest.mark.parametrize("output", ["identity", "sigmoid", "tanh"])
def test_one_output_takes_targets_as_a_row_or_a_column(isa, dtype, output, loss):
    net = make(dtype, (5, 4, 1), output_activation=output, loss=loss)
    X, Y = data(dtype, n_out=1)
    want, got = agrees(net, X, Y), net.value_and_grad(X, Y[:, 0])
    assert want[0] == got[0]
    np.testing.assert_array_equal(want[1], got[1])


def test_sample_weight_of_ones_changes_nothing_and_zero_removes_a_row(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    plain = net.value_and_grad(X, Y)
    ones = net.value_and_grad(X, Y, sample_weight=np.ones(9))
    assert plain[0] == pytest.approx(ones[0], rel=TOLERANCE[dtype])
    w = np.ones(9)
    w[[2, 5]] = 0
    dropped = net.value_and_grad(X, Y, sample_weight=w)
    kept = net.value_and_grad(X[w > 0], Y[w > 0])
    assert dropped[0] == pytest.approx(kept[0], rel=TOLERANCE[dtype])
    np.testing.assert_allclose(dropped[1], kept[1], rtol=0, atol=TOLERANCE[dtype] * np.abs(kept[1]).max())


@pytest.mark.parametrize("output", reference.OUTPUTS)
def test_backward_of_a_loss_of_ones_own_gives_both_gradients(isa, dtype, output):
    net = make(dtype, output_activation=output, loss="squared_error")
    X, _ = data(dtype)
    y = net.forward(X)
    dY = np.cos(np.arange(y.size)).reshape(y.shape).astype(dtype)
    dX, grad = net.backward(dY)
    p = net.parameters.astype(np.float64)
    want_dX, want = reference.backward(dY.astype(np.float64), p, net.sizes, (*net.activation, output), X)
    assert dX.dtype == grad.dtype == dtype
    np.testing.assert_allclose(dX, want_dX, rtol=0, atol=TOLERANCE[dtype] * np.abs(want_dX).max())
    np.testing.assert_allclose(grad, want, rtol=0, atol=TOLERANCE[dtype] * np.abs(want).max())


def test_backward_is_for_the_parameters_and_inputs_of_its_forward(isa, dtype):
    net = make(dtype)
    X, _Y = data(dtype)
    dY = np.ones_like(net.forward(X))
    want_dX, want = net.backward(dY)
    given = X.copy()
    net.forward(given)
    given[...] = 0
    net.parameters[:] = 0
    dX, grad = net.backward(dY)
    np.testing.assert_array_equal(grad, want)
    np.testing.assert_array_equal(dX, want_dX)


def test_objective_is_what_scipy_wants(isa, dtype):
    net = make(dtype, (5, 6, 3))
    X, Y = data(dtype)
    f = net.objective(X, Y)
    w0 = net.parameters.astype(np.float64)
    loss, grad = f(w0)
    assert grad.dtype == np.float64
    want = net.value_and_grad(X, Y)
    assert loss == want[0]
    np.testing.assert_array_equal(grad, want[1])
    assert f(w0)[1] is not grad
    f(w0 + 0.5)
    np.testing.assert_array_equal(net.parameters, (w0 + 0.5).astype(dtype))
    found = optimize.minimize(f, w0, jac=True, method="L-BFGS-B", options={"maxiter": 30})
    assert found.fun < loss - 0.01


def test_train_step_returns_the_loss_before_it_and_lowers_it(isa, dtype):
    net = make(dtype)
    X, Y = data(dtype)
    optimizer = fastbp.Adam(0.01)
    before = net.value_and_grad(X, Y)[0]
    losses = [net.train_step(X, Y, optimizer) for _ in range(50)]
    assert type(losses[0]) is float
    assert losses[0] == before
    assert net.value(X, Y) < losses[25] < losses[0]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_equal_and_independent(isa, dtype, clone):
    net = make(dtype, clip=0.01, reduction="sum")
    X, Y = data(dtype)
    other = clone(net)
    assert other is not net
    assert repr(other) == repr(net)
    for mine, theirs in zip(net.value_and_grad(X, Y), other.value_and_grad(X, Y), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    other.weights[0][...] = 0
    assert np.all(other.parameters[:35] == 0)
    assert not np.shares_memory(other.parameters, net.parameters)
    assert np.any(net.weights[0] != 0)
    agrees(other, X, Y)


@pytest.mark.parametrize("name", ["net.npz", "net", "net.model"])
def test_a_saved_net_is_loaded_as_it_was(isa, dtype, tmp_path, name):
    net = make(dtype, clip=0.01, reduction="sum", activation=["gelu", "relu"])
    net.save(tmp_path / name)
    X, Y = data(dtype)
    for other in (fastbp.load(tmp_path / name), fastbp.MLP.load(str(tmp_path / name))):
        for attribute in ("sizes", "activation", "output_activation", "loss", "reduction", "clip", "dtype"):
            assert getattr(other, attribute) == getattr(net, attribute)
        np.testing.assert_array_equal(other.parameters, net.parameters)
        for mine, theirs in zip(net.value_and_grad(X, Y), other.value_and_grad(X, Y), strict=True):
            np.testing.assert_array_equal(mine, theirs)


class Bomb:
    """Pickles to something that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_load_refuses_what_save_did_not_write(tmp_path):
    net = make(np.float64)
    path = tmp_path / "net.npz"
    net.save(path)
    whole = path.read_bytes()
    trap = tmp_path / "trap"
    foreign = {"empty": b"", "text": b"hello\n", "half": whole[: len(whole) // 2], "tail cut": whole[:-1],
               "pickle": pickle.dumps(net), "bomb": pickle.dumps(Bomb(trap))}  # fmt: skip
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "objects.npz", parameters=np.array([Bomb(trap)], dtype=object))
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in (*foreign, "other.npz", "objects.npz", "array.npy"):
        with pytest.raises(ValueError, match=r"path|file|fastbp"):
            fastbp.load(tmp_path / name)
    assert not trap.exists()
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "nowhere.npz")


def test_load_refuses_a_file_whose_parts_were_tampered_with(tmp_path):
    net = make(np.float64)
    net.save(tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as saved:
        parts = {k: saved[k] for k in saved.files}
    for key, value in parts.items():
        np.savez(tmp_path / "short.npz", **{k: v for k, v in parts.items() if k != key})
        with pytest.raises(ValueError, match=r"path|file|fastbp"):
            fastbp.load(tmp_path / "short.npz")
        if value.size > 1:
            np.savez(tmp_path / "cut.npz", **(parts | {key: value[:-1]}))
            with pytest.raises(ValueError, match=r"\w"):
                fastbp.load(tmp_path / "cut.npz")
    with zipfile.ZipFile(tmp_path / "net.npz") as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())


def test_a_failed_save_leaves_the_old_file(tmp_path):
    net = make(np.float64)
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        net.save(tmp_path / "no such folder" / "net.npz")


def test_repr_says_how_to_make_it(isa, dtype):
    net = make(dtype, activation=["tanh", "gelu"], clip=0.01)
    text = repr(net)
    for word in (
        "MLP",
        "5, 7, 6, 3",
        "tanh",
        "gelu",
        "softmax",
        "cross_entropy",
        np.dtype(dtype).name,
        "0.01",
    ):
        assert word in text
    assert (
        repr(
            eval(
                text,
                {"MLP": fastbp.MLP, "fastbp": fastbp, "np": np, "float32": np.float32, "float64": np.float64},
            )
        )
        == text
    )


def test_equality_is_identity():
    net, other = make(np.float64), make(np.float64)
    assert net == net
    assert net != other
    assert len({net, other}) == 2


def test_the_seed_decides_the_start():
    def start(rng):
        return fastbp.MLP([4, 8, 2], rng=rng).parameters

    np.testing.assert_array_equal(start(3), start(3))
    np.testing.assert_array_equal(start(3), start(np.random.default_rng(3)))
    assert np.any(start(3) != start(4))
    assert np.any(start(None) != start(None))


@pytest.mark.parametrize("activation", reference.ELEMENTWISE)
def test_the_start_suits_the_activation(activation):
    net = fastbp.MLP([400, 300, 3], activation=activation, rng=0)
    he, glorot = 2 / 400, 2 / (400 + 300)
    variance = np.var(net.weights[0])
    if activation not in ("identity", "sigmoid", "tanh", "exp"):
        assert variance == pytest.approx(he, rel=0.03)
    else:
        assert variance == pytest.approx(glorot, rel=0.03)
    assert np.var(net.weights[1]) == pytest.approx(2 / 303, rel=0.15)
    assert abs(np.mean(net.weights[0])) < 0.001
    assert all(np.all(b == 0) for b in net.biases)


def test_names_are_listed():
    assert set(fastbp.ACTIVATIONS) == set(reference.OUTPUTS)
    assert set(fastbp.LOSSES) == set(reference.LOSSES)
