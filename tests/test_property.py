"""Random networks, batches, layouts, dtypes, threads: always NumPy's gradient and the same bits."""

import numpy as np
import reference
from conftest import ISAS, KINDS, LAYOUTS
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import _dispatch

TOLERANCE = {np.float64: 1e-11, np.float32: 1e-4}
common = settings(max_examples=150, derandomize=True, deadline=None,
                  suppress_health_check=[HealthCheck.too_slow])


@st.composite
def networks(draw):
    """A net, its inputs, targets or labels, and a sample_weight or None."""
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    hidden = [draw(st.sampled_from(reference.ELEMENTWISE)) for _ in sizes[2:]]
    output = draw(st.sampled_from(reference.OUTPUTS))
    assume((*hidden, output).count("exp") <= 1)  # exp of exp overflows
    loss = draw(st.sampled_from(reference.LOSSES))
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "clip": draw(st.sampled_from([None, 0.01])),
    }
    with _dispatch.using(draw(st.sampled_from(ISAS))):
        net = fastbp.MLP(sizes, activation=hidden, output_activation=output, loss=loss, dtype=dtype,
                         rng=draw(st.integers(0, 2**31)), **options)  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    for b in net.biases:
        b[...] = 0.3 * rng.normal(size=b.shape)
    m = draw(st.sampled_from([1, 2, 3, 7, 16, 63, 64, 65, 130, 300]))
    X = rng.normal(size=(m, sizes[0])).astype(dtype)
    Y = rng.uniform(size=(m, sizes[-1])).astype(dtype)
    if loss == "cross_entropy" and sizes[-1] > 1 and draw(st.booleans()):
        Y = rng.integers(0, sizes[-1], size=m)
    weight = rng.uniform(0.1, 2, size=m).astype(dtype) if draw(st.booleans()) else None
    return net, X, Y, weight


def expected(net, X, Y, weight):
    """(loss, gradient, what rounding may be magnified by), or None where rounding may decide the side of a kink."""
    activations = (*net.activation, net.output_activation)
    eps = float(np.finfo(net.dtype).eps)
    inputs, logits = reference.forward(net.parameters, net.sizes, activations, X)
    kinks = [z for z, name in zip(logits, activations, strict=True) if name in ("relu", "leaky_relu")]
    magnified = 1.0
    if net.loss != "squared_error":
        y, c = inputs[-1], eps if net.clip is None else net.clip
        kinks += [y - c, 1 - y - c] if net.loss == "binary_cross_entropy" else [y - c]
        if net.output_activation not in ("sigmoid", "softmax"):  # 1/y of a y that may be 0, of a rounded z
            near = np.minimum(np.abs(y), np.abs(1 - y)) if net.loss == "binary_cross_entropy" else np.abs(y)
            magnified = max(1.0, 0.1 / max(near.min(), c))
    if any(np.abs(k).min() < 100 * eps for k in kinks):
        return None
    loss, grad = reference.value_and_grad(
        net.parameters, net.sizes, activations, net.loss, X, Y,
        sample_weight=weight, reduction=net.reduction, clip=net.clip, eps=eps,
    )  # fmt: skip
    return loss, grad, magnified


@common
@given(networks())
def test_gradient_is_that_of_plain_numpy(case):
    net, X, Y, weight = case
    loss, grad = net.value_and_grad(X, Y, sample_weight=weight)
    want = expected(net, X.astype(np.float64), Y, weight)
    if want is None:
        return
    want_loss, want_grad, magnified = want
    tolerance, scale = TOLERANCE[net.dtype.type] * magnified, np.abs(want_grad).max()
    # Where y is close to t, gradients of 1e-3 are made of terms of about 1: hence the 0.1.
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=tolerance * max(scale, 0.1))
    assert abs(loss - want_loss) <= tolerance * max(abs(want_loss), scale, 0.1)


@common
@given(networks(), st.sampled_from(sorted(LAYOUTS)), st.integers(1, 4))
def test_bits_depend_neither_on_layout_nor_on_threads_nor_on_the_call(case, layout, threads):
    net, X, Y, weight = case
    loss, grad = net.value_and_grad(X, Y, sample_weight=weight)
    try:
        _dispatch.limit_threads(threads, threads)  # even where there are fewer cores
        awkward = LAYOUTS[layout]
        out = np.empty_like(grad)
        again, _ = net.value_and_grad(awkward(X), awkward(np.asarray(Y)), out=out,
                                      sample_weight=None if weight is None else awkward(weight))  # fmt: skip
    finally:
        fastbp.set_num_threads(None)
    assert loss == again
    np.testing.assert_array_equal(out, grad)


@common
@given(networks(), st.randoms(use_true_random=False))
def test_value_is_a_weighted_mean_or_sum_over_rows(case, random):
    """Any split of the batch adds up to the whole, loss and gradient alike."""
    net, X, Y, weight = case
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    loss, grad = net.value_and_grad(X, Y, sample_weight=weight)
    cut = random.randint(0, len(X))
    parts = [slice(a, b) for a, b in ((0, cut), (cut, len(X))) if a < b]
    shares = [weight[p].sum() / weight.sum() if net.reduction == "mean" else 1.0 for p in parts]
    results = [net.value_and_grad(X[p], Y[p], sample_weight=weight[p]) for p in parts]
    tolerance = TOLERANCE[net.dtype.type]
    want = sum(s * r[0] for s, r in zip(shares, results, strict=True))
    want_grad = sum(s * r[1].astype(np.float64) for s, r in zip(shares, results, strict=True))
    size = sum(s * np.abs(r[1]).max() for s, r in zip(shares, results, strict=True))
    assert abs(loss - want) <= tolerance * max(abs(want), size, 0.1)
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=tolerance * max(size, 0.1))


@common
@given(networks(), st.sampled_from(sorted(KINDS)))
def test_integers_are_taken_at_their_value(case, kind):
    net, X, Y, _ = case
    X = np.abs(np.round(X)).clip(0, 1)
    got = net.value_and_grad(X.astype(KINDS[kind]), Y)
    want = net.value_and_grad(X, Y)
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


@common
@given(networks())
def test_predict_forward_and_backward_agree_with_value_and_grad(case):
    """backward(dloss/dy) gives the gradient of value_and_grad, by the chain rule."""
    net, X, Y, _ = case
    y = net.forward(X)
    np.testing.assert_array_equal(y, net.predict(X))
    if net.loss != "squared_error" or net.output_activation == "softmax":
        return
    scale = len(X) if net.reduction == "mean" else 1
    dX, grad = net.backward((y - Y) / y.dtype.type(scale))
    want = net.value_and_grad(X, Y)[1]
    assert dX.shape == X.shape
    atol = TOLERANCE[net.dtype.type] * max(np.abs(want).max(), 0.1)
    np.testing.assert_allclose(grad, want, rtol=0, atol=atol)
