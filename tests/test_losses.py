"""Losses at the ends of their domain, against others' formulas, and against differences of themselves."""

import numpy as np
import pytest
import reference
import truth
from conftest import LAYOUTS
from scipy import special

import fastbp
from fastbp import _clip

EPS = {np.float64: 2.0**-52, np.float32: 2.0**-23}
PAIRS = [(a, loss) for a in reference.OUTPUTS for loss in reference.LOSSES]


def safe_log(y, **options):
    return fastbp.safe_log(y, derivative=True, **options)


@pytest.mark.parametrize("clip", [None, 0.25, 1e-30])
def test_safe_log_is_clipped_and_its_derivative_is_zero_where_it_is(isa, dtype, clip):
    c = dtype(EPS[dtype] if clip is None else clip)
    tiny = np.finfo(dtype).smallest_subnormal
    below = np.array([0.0, -0.0, tiny, -tiny, -1.0, -1e30, -np.inf, np.nextafter(c, dtype(0)), c], dtype)
    value, slope = safe_log(below, clip=clip)
    assert value.dtype == slope.dtype == dtype
    np.testing.assert_allclose(value, np.log(c), rtol=2 * EPS[dtype])
    assert len(set(value.tolist())) == 1
    np.testing.assert_array_equal(slope, 0)
    above = np.array([np.nextafter(c, dtype(1)), 2 * c, 0.3, 1.0, 1.0 + EPS[dtype], 7.0, 1e30], dtype)
    value, slope = safe_log(above, clip=clip)
    np.testing.assert_allclose(value, np.log(above.astype(np.float64)), rtol=3 * EPS[dtype])
    np.testing.assert_allclose(slope, 1 / above.astype(np.float64), rtol=2 * EPS[dtype])
    assert value[3] == 0


def test_safe_log_of_nan_is_nan_and_of_inf_inf(isa, dtype):
    value, slope = safe_log(np.array([np.nan, np.inf], dtype))
    assert np.isnan(value[0])
    assert np.isnan(slope[0])
    assert value[1] == np.inf
    assert slope[1] == 0


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (130,)])
def test_safe_log_keeps_the_shape_and_fills_out(isa, dtype, shape):
    y = np.random.default_rng(0).uniform(-0.2, 1, size=shape).astype(dtype)
    y = np.asarray(y, dtype)
    want, want_slope = reference.safe_log(y, EPS[dtype])
    value, slope = safe_log(y)
    assert np.shape(value) == np.shape(slope) == shape
    np.testing.assert_allclose(value, want, rtol=3 * EPS[dtype])
    np.testing.assert_allclose(slope, want_slope, rtol=3 * EPS[dtype])
    np.testing.assert_array_equal(fastbp.safe_log(y), value)
    if shape:
        out = np.full(shape, 9, dtype)
        assert fastbp.safe_log(y, out=out) is out
        np.testing.assert_array_equal(out, value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_safe_log_takes_every_layout(isa, layout):
    y = np.random.default_rng(1).uniform(-0.2, 1, size=(5, 7))
    np.testing.assert_array_equal(fastbp.safe_log(LAYOUTS[layout](y)), fastbp.safe_log(y))


@pytest.mark.parametrize(
    ("argument", "call"),
    [("y", {"y": "abc"}), ("y", {"y": None}), ("y", {"y": np.ones(3, complex)}), ("clip", {"clip": 0.0}),
     ("clip", {"clip": 0.5}), ("clip", {"clip": -1.0}), ("clip", {"clip": float("nan")}), ("clip",
                                                                                           {"clip": "x"}),
     ("out", {"out": np.ones(4)}), ("out", {"out": np.ones(3, np.float32)}), ("out", {"out": [0.0, 0.0,
                                                                                              0.0]})],
)  # fmt: skip
def test_safe_log_names_the_argument_that_is_wrong(argument, call):
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        fastbp.safe_log(**({"y": np.ones(3)} | call))


def logit_net(n, dtype, output, loss, **options):
    """Identity weights: the logits are X."""
    net = fastbp.MLP([n, n], output_activation=output, loss=loss, dtype=dtype, rng=0, **options)
    net.weights[0][...] = np.eye(n)
    return net


def scipy_loss(output, loss, Z, T):
    """The canonical losses as SciPy writes them."""
    if loss == "squared_error":
        return 0.5 * np.sum((Z - T) ** 2)
    if loss == "binary_cross_entropy":
        return -np.sum(T * special.log_expit(Z) + (1 - T) * special.log_expit(-Z))
    if loss == "poisson":
        return np.sum(special.kl_div(T, np.exp(Z)))
    return -np.sum(T * special.log_softmax(Z, axis=1))


@pytest.mark.parametrize(
    ("output", "loss"),
    [("identity", "squared_error"), ("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy"),
     ("exp", "poisson")],
)
def test_canonical_losses_are_those_of_scipy(isa, dtype, output, loss):
    rng = np.random.default_rng(2)
    Z, T = (20 * rng.normal(size=(50, 6))).astype(dtype), rng.uniform(size=(50, 6)).astype(dtype)
    want = scipy_loss(output, loss, Z.astype(np.float64), T.astype(np.float64))
    assert logit_net(6, dtype, output, loss, reduction="sum").value(Z, T) == pytest.approx(want,
                                                                                           rel=30 * EPS[dtype])
    assert logit_net(6, dtype, output, loss).value(Z, T) == pytest.approx(want / 50, rel=30 * EPS[dtype])


def test_canonical_losses_and_gradients_are_those_of_torch(isa, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    Z, T = (5 * rng.normal(size=(8, 4))).astype(dtype), rng.uniform(size=(8, 4)).astype(dtype)
    functional = torch.nn.functional
    labels = np.array([0, 1, 2, 3, 3, 2, 1, 0])
    cases = [
        ("sigmoid", "binary_cross_entropy", T,
         lambda z: functional.binary_cross_entropy_with_logits(z, torch.tensor(T), reduction="sum") / 8),
        ("softmax", "cross_entropy", T, lambda z: functional.cross_entropy(z, torch.tensor(T))),
        ("softmax", "cross_entropy", labels, lambda z: functional.cross_entropy(z, torch.tensor(labels))),
        ("identity", "squared_error", T, lambda z: 0.5 * ((z - torch.tensor(T)) ** 2).sum() / 8),
        ("exp", "poisson", T, lambda z: functional.poisson_nll_loss(z, torch.tensor(T), reduction="sum") / 8
                                        + np.sum(T * np.log(T) - T) / 8),
    ]  # fmt: skip
    for output, loss, Y, theirs in cases:
        z = torch.tensor(Z, requires_grad=True)
        value = theirs(z)
        value.backward()
        net = logit_net(4, dtype, output, loss)
        assert net.value(Z, Y) == pytest.approx(value.item(), rel=100 * EPS[dtype])
        y = net.forward(Z)
        want = z.grad.numpy()
        bias = net.value_and_grad(Z, Y)[1][-4:]
        np.testing.assert_allclose(bias, want.sum(axis=0), rtol=0, atol=100 * EPS[dtype] * np.abs(want).max())
        assert y.shape == want.shape


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("output", "loss"), PAIRS)
@pytest.mark.parametrize("hidden", ["sigmoid", "tanh", "relu", "gelu"])
def test_the_gradient_is_that_of_the_loss_reported(isa, hidden, output, loss, clip):
    """Central differences of fastbp's own loss, for every pair: the question that it started with."""
    net = fastbp.MLP([3, 5, 3], activation=hidden, output_activation=output, loss=loss, clip=clip, rng=4)
    net.parameters[:] += 0.3 * np.random.default_rng(5).normal(size=net.n_parameters)
    rng = np.random.default_rng(6)
    X, Y = rng.normal(size=(5, 3)), rng.uniform(size=(5, 3))
    _, grad = net.value_and_grad(X, Y)
    f, w = net.objective(X, Y), net.parameters.copy()
    step = 1e-6
    numeric = np.array([(f(w + step * e)[0] - f(w - step * e)[0]) / (2 * step) for e in np.eye(w.size)])
    np.testing.assert_allclose(grad, numeric, rtol=0, atol=2e-7 * max(1, np.abs(grad).max()))


@pytest.mark.parametrize(("output", "shortcut_is_right"), [("sigmoid", True), ("tanh", False), ("relu",
                                                                                                False)])
def test_the_shortcut_y_minus_t_is_right_for_sigmoid_only(isa, output, shortcut_is_right):
    net = logit_net(3, np.float64, output, "binary_cross_entropy", reduction="sum")
    z, t = np.array([[0.3, 0.5, 0.7]]), np.array([[0.2, 0.9, 0.4]])
    delta = net.value_and_grad(z, t)[1][-3:]
    assert np.allclose(delta, (net(z) - t)[0], rtol=1e-6) == shortcut_is_right


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("output", reference.OUTPUTS)
def test_a_target_of_weight_zero_adds_exactly_nothing(isa, dtype, output, loss):
    """t = 0 beside log 0, and t = 1 beside log(1 - 1): neither nan nor a constant, if logits are saturated."""
    z = np.array([[-800.0, 800.0, -1e30]], dtype)
    net = logit_net(3, dtype, output, loss)
    value, grad = net.value_and_grad(z, np.zeros((1, 3)))
    assert np.isfinite(value)
    assert np.isfinite(grad[-3:]).all()
    if loss == "cross_entropy":
        assert value == 0
        assert np.all(grad == 0)
    if loss == "binary_cross_entropy" and output == "sigmoid":
        value, grad = net.value_and_grad(z, [[0.0, 1.0, 0.0]])
        assert 0 <= value < 1e-80
        assert np.all(np.abs(grad[-3:]) <= 1e-80)


def test_many_small_losses_are_added_up_in_double(isa, dtype):
    """A million rows of 0.1: float32 sums lose the fourth digit of this."""
    net = logit_net(1, dtype, "identity", "squared_error", reduction="sum")
    X = np.full((1_000_000, 1), np.sqrt(dtype(0.2)), dtype)
    want = 0.5 * float(X[0, 0]) ** 2 * 1_000_000
    assert net.value(X, np.zeros_like(X)) == pytest.approx(want, rel=max(2 * EPS[dtype], 1e-11))


def test_cross_entropy_of_soft_rows_is_exact_whatever_they_sum_to(isa, dtype):
    """dloss/dz = y sum(t) - t."""
    net = logit_net(3, dtype, "softmax", "cross_entropy")
    z = np.array([[0.3, -1.0, 2.0]], dtype)
    for t in ([0.2, 0.3, 0.5], [2.0, 0.0, 3.5], [0.1, 0.1, 0.0], [0.0, 0.0, 0.0]):
        delta = net.value_and_grad(z, [t])[1][-3:]
        y = special.softmax(z.astype(np.float64)[0])
        np.testing.assert_allclose(delta, y * np.sum(t) - t, rtol=0, atol=4 * EPS[dtype] * max(np.max(t),
                                                                                               1e-30))


@pytest.mark.parametrize("distance", [3.0, 0.4, 0.1, 1e-3, 1e-6, 0.0])
def test_poisson_keeps_its_digits_where_y_is_close_to_t(isa, dtype, distance):
    """y - t log y + t log t - t, as it stands, is rounding errors of t log t alone there."""
    y = np.exp(np.random.default_rng(7).uniform(-20, 20, size=200)).astype(dtype)
    t = (y * (1 + distance) ** np.resize([1, -1], 200)).astype(dtype)
    net = logit_net(1, dtype, "identity", "poisson", clip=1e-30)
    for y_k, t_k in zip(y, t, strict=True):
        want = truth.half_deviance(truth.point("identity", float(y_k)), truth.mp.mpf(float(t_k)))
        assert net.value([[y_k]], [t_k]) == pytest.approx(float(want), rel=8 * EPS[dtype], abs=0)


def test_poisson_of_a_clipped_output_still_feels_y_itself(isa, dtype):
    """y is not clipped, log y is: dloss/dy = 1."""
    net = logit_net(2, dtype, "identity", "poisson", clip=0.1)
    value, grad = net.value_and_grad([[-3.0, -0.5]], [[2.0, 0.0]])
    assert value == pytest.approx(-3.5 - 2 * np.log(0.1) + 2 * np.log(2) - 2, rel=4 * EPS[dtype])
    np.testing.assert_array_equal(grad[-2:], 1)


@pytest.mark.parametrize("target", [0.0, 0.5, 3e5])
def test_an_exp_out_of_range_is_inf_and_so_is_its_loss(isa, dtype, target):
    z = np.array([[0.5, 800.0, -800.0], [0.25, 1e30, -1e30]], dtype)
    Y = np.full((2, 3), target, dtype)
    for loss in ("poisson", "squared_error"):
        net = logit_net(3, dtype, "exp", loss, reduction="sum")
        value, grad = net.value_and_grad(z, Y)
        assert value == np.inf
        assert grad[-2] == np.inf
        assert np.isfinite(grad[[-3, -1]]).all()
        np.testing.assert_array_equal(net(z)[:, 1:], [[np.inf, 0]] * 2)
        net.biases[0][...] = [0.5, np.nan, -800.0]
        value, grad = net.value_and_grad(np.zeros((1, 3)), Y[:1])
        assert np.isnan(value)
        assert np.isnan(grad[-2])
        assert np.isfinite(grad[[-3, -1]]).all()


def test_an_activation_without_an_inverse_is_told_what_it_lacks():
    with pytest.raises(NotImplementedError, match="_INVERSES"):
        _clip.clip_edges("cube", 0.1, np.float64)
