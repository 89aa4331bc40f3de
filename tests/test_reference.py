"""The reference is itself checked: against 60 digits, and against differences of its own loss."""

import itertools

import mpmath
import numpy as np
import pytest
import reference
import truth

PAIRS = [(a, loss) for a in reference.OUTPUTS for loss in reference.LOSSES]


def random_targets(rng, loss, shape):
    return rng.normal(size=shape) if loss == "squared_error" else rng.uniform(size=shape)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_reference_head_agrees_with_60_digits(activation, loss, clip):
    rng = np.random.default_rng(1)
    z = 2.0 * rng.normal(size=(12, 3))
    t = random_targets(rng, loss, z.shape)
    value, grad = reference.head(activation, loss, z, t, clip)
    for i in range(len(z)):
        want, want_grad, scale = truth.head(activation, loss, z[i], t[i], clip, reference.EPS)
        size = float(max(scale))
        assert abs(value[i] - float(want)) <= 1e-12 * max(abs(float(want)), size)
        np.testing.assert_allclose(grad[i], [float(g) for g in want_grad], rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("hidden", reference.ELEMENTWISE)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reference_network_agrees_with_60_digits(hidden, reduction):
    rng = np.random.default_rng(2)
    sizes, activations, loss = (3, 4, 3, 2), (hidden, hidden, "tanh"), "binary_cross_entropy"
    p = rng.normal(size=sum((i + 1) * o for i, o in itertools.pairwise(sizes)))
    X, Y, w = rng.normal(size=(5, 3)), rng.uniform(size=(5, 2)), rng.uniform(size=5)
    how = {"sample_weight": w, "reduction": reduction, "clip": None, "eps": reference.EPS}
    value, grad = reference.value_and_grad(p, sizes, activations, loss, X, Y, **how)
    want, want_grad = truth.network(*reference.unflatten(p, sizes), activations, loss, X, Y, **how)
    assert value == pytest.approx(want, rel=1e-12)
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=1e-12 * np.abs(want_grad).max())


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
@pytest.mark.parametrize("hidden", ["tanh", "gelu", "relu"])
def test_reference_gradient_agrees_with_differences_of_its_loss(activation, loss, hidden):
    rng = np.random.default_rng(3)
    sizes, activations = (3, 5, 3), (hidden, activation)
    p, X = 0.7 * rng.normal(size=38), rng.normal(size=(4, 3))
    Y = random_targets(rng, loss, (4, 3))

    def value(p):
        return reference.value_and_grad(p, sizes, activations, loss, X, Y)[0]

    grad = reference.value_and_grad(p, sizes, activations, loss, X, Y)[1]
    step = 1e-6
    numeric = np.array([(value(p + step * e) - value(p - step * e)) / (2 * step) for e in np.eye(p.size)])
    np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-6 * np.abs(grad).max())


@pytest.mark.parametrize("activation", truth.ELEMENTWISE)
@pytest.mark.parametrize("z", [-30.0, -0.3, 0.7, 30.0])
def test_truth_slope_is_the_derivative_of_its_value(activation, z):
    z, step = truth.mp.mpf(z), truth.mp.mpf("1e-20")
    numeric = (truth.point(activation, z + step).y - truth.point(activation, z - step).y) / (2 * step)
    slope = truth.point(activation, z).slope
    assert abs(slope - numeric) <= truth.mp.mpf("1e-35") * max(1, abs(slope))


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
@pytest.mark.parametrize("clip", [None, 0.25])
def test_truth_gradient_is_the_derivative_of_its_loss(activation, loss, clip):
    z, t, step = [0.4, -0.3, 0.6], [0.7, 0.2, 0.4], truth.mp.mpf("1e-20")
    _, grad, scale = truth.head(activation, loss, z, t, clip, 2.0**-52)
    for k in range(3):
        ends = []
        for sign in (1, -1):
            moved = truth.exact(z)
            moved[k] += sign * step
            ends.append(truth.head(activation, loss, moved, t, clip, 2.0**-52)[0])
        assert abs((ends[0] - ends[1]) / (2 * step) - grad[k]) <= truth.mp.mpf("1e-30") * max(scale)


@pytest.mark.parametrize("activation", [a for a in truth.ELEMENTWISE if a != "identity"])
def test_truth_keeps_digits_where_the_value_has_saturated(activation):
    """At |z| = 750 the distance to the limit is e^-750 or e^-1500, beyond 60 digits of the value."""
    upper, lower = truth.point(activation, 750.0), truth.point(activation, -750.0)
    with mpmath.workdps(1500):
        z = mpmath.mpf(750)
        if activation == "sigmoid":
            assert abs(1 - mpmath.mpf(upper.one_minus_y) * (1 + mpmath.exp(z))) < 1e-50
        if activation == "tanh":
            assert abs(1 - mpmath.mpf(upper.one_minus_y) * (mpmath.exp(2 * z) + 1) / 2) < 1e-50
        if activation == "softplus":
            assert abs(1 - mpmath.mpf(upper.rest) / mpmath.log1p(mpmath.exp(-z))) < 1e-50
    assert lower.minus(truth.mp.mpf(-1 if activation in ("tanh", "elu") else 0)) != 0 or activation == "relu"
