"""Every bad input is an error that names the argument, and alters nothing; every quiet one is right.

The layers' own are in test_kernels.py, the optimizers' in test_optim.py.
"""

import numpy as np
import pytest
import reference

import fastbp

NAN, INF = float("nan"), float("inf")
ERRORS = (ValueError, TypeError)


def not_numbers(*shape):
    """What is no array of real numbers, of that shape where it has one."""
    return ["abc", None, object(), {}, b"x", [[1.0, 2.0], [3.0]], 1j * np.ones(shape), np.full(shape, "a"),
            np.full(shape, None), np.ones(shape, "datetime64[s]"), np.ones(shape, "timedelta64[s]"),
            np.ones(shape, [("x", float)])]  # fmt: skip


def named(argument):
    return pytest.raises(ERRORS, match=rf"\b{argument}\b")


def good(loss="cross_entropy", dtype=np.float64):
    """A net (3, 5, 4) and arguments for its value_and_grad."""
    output = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp",
              "squared_error": "identity"}[loss]
    net = fastbp.MLP([3, 5, 4], output_activation=output, loss=loss, dtype=dtype, rng=0)
    rng = np.random.default_rng(1)
    Y = np.array([0, 3, 1, 2]) if loss == "cross_entropy" else rng.uniform(size=(4, 4))
    return net, {"X": rng.normal(size=(4, 3)), "Y": Y}


def refused(argument, change, loss="cross_entropy", dtype=np.float64):
    """The call with this change fails, names the argument, and leaves out and parameters as they were."""
    net, call = good(loss, dtype)
    call |= change
    out = call.setdefault("out", np.full(net.n_parameters, 7.0, dtype))
    before = net.parameters.copy()
    out_before = np.copy(out) if isinstance(out, np.ndarray) else None
    with named(argument):
        net.value_and_grad(**call)
    if out_before is not None:
        np.testing.assert_array_equal(out, out_before)
    if "out" not in change:
        optimizer = fastbp.Adam()
        del call["out"]
        for function in (net.value, lambda **k: net.train_step(optimizer=optimizer, **k), net.objective):
            with named(argument):
                function(**call)
    np.testing.assert_array_equal(net.parameters, before)
    call = good(loss, dtype)[1]
    assert np.isfinite(net.value(**call))


BAD_X = [np.ones(3), np.ones((4, 2)), np.ones((4, 4)), np.ones((4, 3, 1)), np.ones((0, 3)), 5.0, [], [[]],
         np.ones((4, 0)), np.ones(())]  # fmt: skip


@pytest.mark.parametrize("X", BAD_X + not_numbers(4, 3), ids=lambda v: repr(v)[:30])
def test_X_of_a_wrong_shape_or_kind_is_refused(X):
    refused("X", {"X": X})
    net, _ = good()
    for function in (net, net.predict, net.forward):
        with named("X"):
            function(X)


BAD_LABELS = [[0, 1, 2], [0, 1, 2, 3, 0], [0, 1, 2, 4], [0, 1, 2, -1], [0, 1, 2, 0.5], [0.0, 1.0, NAN, 2.0],
              [0, 1, 2, INF], [0, 1, 2, 1e300], [0, 1, 2, 2**62], np.array([0, 1, 2, 2**64 - 1], np.uint64),
              np.array([0, 1, 2, -128], np.int8), [0, 1, 2, 10**30], np.int64(1), 3, [[0], [1], [2], [3]],
              np.zeros((4, 4, 1)), np.zeros((4, 3)), np.zeros((4, 5)), np.zeros((3, 4)), np.zeros((0, 4)),
              np.zeros(0)]  # fmt: skip


@pytest.mark.parametrize("Y", BAD_LABELS + not_numbers(4) + not_numbers(4, 4), ids=lambda v: repr(v)[:30])
def test_labels_out_of_range_fractional_or_misshapen_are_refused(Y):
    refused("Y", {"Y": Y})


@pytest.mark.parametrize("labels", [[0, 1, 2, 4], [0, 1, 2, -1]])
def test_the_message_tells_the_label_and_the_valid_range(labels):
    net, call = good()
    with pytest.raises(ValueError, match=str(labels[3])) as caught:
        net.value_and_grad(call["X"], labels)
    assert "4" in str(caught.value) or "3" in str(caught.value)


def test_labels_are_labels_even_where_there_is_one_class():
    net = fastbp.MLP([3, 1], output_activation="softmax", loss="cross_entropy", rng=0)
    assert net.value(np.ones((2, 3)), [0, 0]) == 0
    for labels in ([0, 1], [0.0, 0.5], [-1, 0]):
        with named("Y"):
            net.value_and_grad(np.ones((2, 3)), labels)


def with_entry(value):
    Y = np.full((4, 4), 0.5)
    Y[2, 1] = value
    return Y


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [-1e-9, -1.0, 1 + 1e-6, 2.0, NAN, INF, -INF])
def test_targets_of_binary_cross_entropy_lie_between_0_and_1(value, dtype):
    refused("Y", {"Y": with_entry(value)}, "binary_cross_entropy", dtype)


@pytest.mark.parametrize("loss", ["cross_entropy", "poisson"])
@pytest.mark.parametrize("value", [-1e-9, -1.0, NAN, INF])
def test_targets_of_cross_entropy_and_poisson_are_not_negative(value, loss):
    refused("Y", {"Y": with_entry(value)}, loss)


@pytest.mark.parametrize("Y", [np.ones(4), np.ones((4, 3)), np.ones((3, 4)), np.ones((4, 4, 1)), 1.0,
                               *not_numbers(4, 4)],
                         ids=lambda v: repr(v)[:30])  # fmt: skip
@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "poisson"])
def test_targets_of_a_wrong_shape_or_kind_are_refused(loss, Y):
    refused("Y", {"Y": Y}, loss)


def test_targets_at_the_borders_of_their_domain_are_welcome():
    for loss, value in (("binary_cross_entropy", 0.0), ("binary_cross_entropy", 1.0), ("cross_entropy", 0.0),
                        ("cross_entropy", 7.5), ("poisson", 0.0), ("poisson", 7.5),
                        ("squared_error", -1e6)):  # fmt: skip
        net, call = good(loss)
        assert np.isfinite(net.value(call["X"], with_entry(value)))


BAD_WEIGHTS = [[1, 1, 1], [1] * 5, [1, 1, 1, -1e-9], [1, 1, NAN, 1], [1, INF, 1, 1], [0, 0, 0, 0], 1.0,
               np.ones((4, 1)),
               [1, 1, 5e-324, 1], [1e-310] * 4, np.full(4, 1e-309), np.ones((4, 4)), [], "abcd",
               1j * np.ones(4), [None] * 4, object()]  # fmt: skip


@pytest.mark.parametrize("weight", BAD_WEIGHTS, ids=lambda v: repr(v)[:30])
def test_sample_weight_must_be_one_finite_number_per_row_not_all_zero(weight):
    refused("sample_weight", {"sample_weight": weight})


def read_only(n):
    a = np.zeros(n)
    a.flags.writeable = False
    return a


BAD_OUT = {
    "short": lambda n: np.zeros(n - 1), "long": lambda n: np.zeros(n + 1),
    "two-dimensional": lambda n: np.zeros((1, n)),
    "float32": lambda n: np.zeros(n, np.float32), "int": lambda n: np.zeros(n, np.int64),
    "byte-swapped": lambda n: np.zeros(n, ">f8"), "strided": lambda n: np.zeros(2 * n)[::2],
    "reversed": lambda n: np.zeros(n)[::-1], "read-only": read_only, "list": lambda n: [0.0] * n,
    "unaligned": lambda n: np.zeros(8 * n + 1, np.uint8)[1:].view(np.float64), "number": lambda n: 3.0,
    "string": lambda n: "out",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_OUT)
def test_out_of_wrong_size_dtype_or_layout_is_refused(kind):
    net, call = good()
    refused("out", {"out": BAD_OUT[kind](net.n_parameters)})
    wrong = BAD_OUT[kind](16)
    wrong = wrong.reshape(4, 4) if kind in ("float32", "int", "byte-swapped", "strided",
                                            "reversed") else wrong
    with named("out"):
        net.predict(call["X"], out=wrong)


def test_out_overlapping_the_parameters_is_refused():
    net, call = good()
    before = net.parameters.copy()
    for out in (net.parameters, net.parameters[:]):
        with named("out"):
            net.value_and_grad(**call, out=out)
        y = net.forward(call["X"])
        with named("out"):
            net.backward(y, out=out)
    np.testing.assert_array_equal(net.parameters, before)
    square = fastbp.MLP([4, 4], rng=0)
    with named("out"):
        square.predict(np.ones((4, 4)), out=square.weights[0])
    np.testing.assert_array_equal(net.parameters, before)


def test_out_overlapping_an_input_is_refused_or_gives_the_right_result():
    net = fastbp.MLP([4, 4], rng=0)
    shared = np.linspace(-1, 1, 16).reshape(4, 4)
    want = net.predict(shared.copy())
    try:
        got = net.predict(shared, out=shared)
    except ValueError:
        got = net.predict(shared)
    np.testing.assert_array_equal(got, want)


def test_backward_wants_its_forward_and_its_batch():
    net, call = good()
    with pytest.raises((ValueError, RuntimeError), match="forward"):
        net.backward(np.ones((4, 4)))
    net.forward(call["X"])
    for dY in (np.ones((3, 4)), np.ones((5, 4)), np.ones((4, 3)), np.ones(4), *not_numbers(4, 4)):
        with named("dY"):
            net.backward(dY)
    dX, grad = net.backward(np.ones((4, 4)))
    assert dX.shape == (4, 3)
    assert np.isfinite(grad).all()


BAD_SIZES = [[], [3], [3, 0], [0, 3], [3, -1, 2], [3, 2.5], [3, "4"], [3, None], 5, None, "35", [3, NAN], [3,
                                                                                                           INF],
             [[3, 4]], [3, 2**31, 2**31], [2**62, 2**62], [10**30, 2], [True, False], [3, 1j],
             np.array([[2, 3]]), {3, 2}, {3: 4, 2: 1}]  # fmt: skip


@pytest.mark.parametrize("sizes", BAD_SIZES, ids=repr)
def test_sizes_empty_zero_negative_fractional_or_absurd_are_refused(sizes):
    with pytest.raises((ValueError, TypeError, MemoryError), match=r"\bsizes\b"):
        fastbp.MLP(sizes)


def test_sizes_of_integral_numpy_numbers_are_welcome():
    for sizes in ((3, 2), np.array([3, 2]), [np.int8(3), np.uint64(2)], range(3, 1, -1)):
        assert fastbp.MLP(sizes).sizes == (3, 2)


BAD_OPTIONS = [
    ("activation", ["rleu"]), ("activation", "rleu"), ("activation", "softmax"), ("activation", None),
    ("activation", ["relu"]), ("activation", ["relu"] * 3), ("activation", 3), ("activation", ["relu",
                                                                                               "softmax"]),
    ("activation", ["relu", None]), ("output_activation", "sigmod"), ("output_activation", None),
    ("output_activation", ["relu"]), ("loss", "mse"), ("loss", None), ("loss", 1), ("reduction", "average"),
    ("reduction", None), ("clip", 0.0), ("clip", 0.5), ("clip", -1e-3), ("clip", 1.0), ("clip", NAN),
    ("clip", INF),
    ("clip", "small"), ("clip", 1j), ("clip", [0.1]), ("dtype", np.float16), ("dtype", np.int64), ("dtype",
                                                                                                   complex),
    ("dtype", "float23"), ("dtype", np.longdouble), ("dtype", object), ("rng", "seed"),
    ("rng", -1),
    ("rng", 1.5), ("rng", [1j]),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS, ids=repr)
def test_a_wrong_option_is_refused(option, value):
    if option == "dtype" and np.dtype(np.longdouble) == np.float64:
        pytest.skip("long double is double here")
    with named(option):
        fastbp.MLP([3, 4, 4, 2], **{option: value})


@pytest.mark.parametrize(
    ("option", "names"),
    [("activation", [a for a in reference.OUTPUTS if a != "softmax"]), ("output_activation",
                                                                        reference.OUTPUTS),
     ("loss", reference.LOSSES), ("reduction", ("mean", "sum"))],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_valid_ones(option, names):
    with pytest.raises(ValueError, match="rleu") as caught:
        fastbp.MLP([3, 4, 2], **{option: "rleu"})
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize("value", [np.zeros(44), None, 0.0, [0.0] * 44], ids=repr)
def test_parameters_are_assigned_into_not_replaced(value):
    net, call = good()
    before, loss = net.parameters.copy(), net.value(**call)
    with pytest.raises((ValueError, TypeError, AttributeError),
                       match=r"parameters\[:\]|parameters\[\.\.\.\]"):
        net.parameters = value
    np.testing.assert_array_equal(net.parameters, before)
    assert net.value(**call) == loss


@pytest.mark.parametrize("make", [fastbp.SGD, fastbp.Adam, fastbp.AdamW])
def test_an_optimizer_stays_with_its_net(make):
    (net, call), (other, _) = good(), good()
    optimizer = make(0.01)
    net.train_step(**call, optimizer=optimizer)
    before = other.parameters.copy()
    with pytest.raises(ValueError, match="optimizer"):
        other.train_step(**call, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"optimizer|net"):
        optimizer.step(other, np.zeros(other.n_parameters))
    np.testing.assert_array_equal(other.parameters, before)


@pytest.mark.parametrize("optimizer", [None, "adam", 0.1, fastbp.Adam])
def test_train_step_wants_an_optimizer(optimizer):
    net, call = good()
    with named("optimizer"):
        net.train_step(**call, optimizer=optimizer)


BAD_VECTORS = [np.zeros(3), np.zeros((1, 44)), "abc", None, 1j * np.zeros(44), 0.0]


@pytest.mark.parametrize("vector", BAD_VECTORS, ids=lambda v: repr(v)[:20])
def test_views_and_objective_want_a_vector_of_all_parameters(vector):
    net, call = good()
    assert net.n_parameters == 44
    before = net.parameters.copy()
    with named("vector"):
        net.views(vector)
    with named("w"):
        net.objective(**call)(vector)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("n", [0, -1, 1.5, "two", NAN, True, [2]])
def test_a_number_of_threads_is_a_positive_integer(n):
    before = fastbp.get_num_threads()
    with pytest.raises(ERRORS, match=r"\bn\b|threads"):
        fastbp.set_num_threads(n)
    assert fastbp.get_num_threads() == before


def test_too_many_or_too_few_arguments_are_a_type_error():
    net, call = good()
    for wrong in (lambda: net.value_and_grad(), lambda: net.value_and_grad(call["X"]),
                  lambda: net.value_and_grad(**call, weights=[1]), lambda: fastbp.MLP(),
                  lambda: fastbp.MLP([2, 2], "relu"), lambda: fastbp.MLP([2, 2],
                                                                         activations="relu")):  # fmt: skip
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("output", reference.OUTPUTS)
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_nan_in_X_gives_a_nan_loss(isa, dtype, output, loss):
    X, Y = np.ones((5, 3), dtype), np.full((5, 4), 0.5, dtype)
    dirty = X.copy()
    dirty[3, 1] = np.nan
    for hidden in reference.ELEMENTWISE:
        net = fastbp.MLP([3, 9, 4], activation=hidden, output_activation=output, loss=loss, dtype=dtype,
                         rng=0)
        assert np.isfinite(net.value(X, Y))
        value, grad = net.value_and_grad(dirty, Y)
        assert np.isnan(value), hidden
        assert np.isnan(net.value(dirty, Y)), hidden
        assert np.isnan(grad).any(), hidden


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("output", reference.OUTPUTS)
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_huge_logits_give_a_finite_loss_and_gradient(isa, dtype, output, loss, clip):
    net = fastbp.MLP([4, 4], output_activation=output, loss=loss, dtype=dtype, clip=clip, rng=0)
    net.weights[0][...] = np.eye(4)
    X = np.array([[1e4, -1e4, 3e4, 0.0], [-5e4, 5e4, 5e4, -750.0], [1e8, -1e8, 1e8, 1e8]], dtype)
    if output == "exp":  # out of range for these: test_losses.py
        X = np.minimum(X, 20)
    for Y in (np.zeros((3, 4)), np.ones((3, 4)), np.full((3, 4), 0.3)):
        value, grad = net.value_and_grad(X, Y)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()


def test_a_weight_of_zero_keeps_even_a_bad_row_out_of_range_checks_only(isa, dtype):
    """A row of weight 0 may hold any finite numbers, but its label is checked like every other."""
    net, call = good(dtype=dtype)
    with named("Y"):
        net.value_and_grad(call["X"], [0, 1, 2, 9], sample_weight=[1, 1, 1, 0])
