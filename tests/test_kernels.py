"""The matrix products and single layers, variant x dtype x odd size x stride, against plain NumPy."""

import numpy as np
import pytest
import reference
from conftest import LAYOUTS, aligned

import fastbp

EPS = {np.float64: 2.3e-16, np.float32: 1.2e-7}
SHAPES = [
    (1, 1, 1),
    (2, 1, 3),
    (1, 70, 1),
    (3, 2, 70),
    (13, 17, 19),
    (64, 64, 64),
    (65, 63, 66),
    (7, 300, 5),
    (130, 33, 129),
    (1, 1000, 37),
    (200, 1, 200),
    (97, 260, 400),
]


def bound(A, B, dtype):
    """What adding up k products in any order may cost, entry by entry: k eps (|A| |B|) and a little."""
    A, B = np.abs(np.asarray(A, np.float64)), np.abs(np.asarray(B, np.float64))
    return EPS[dtype] * (A.shape[1] + 3) * (A @ B)


def numbers(rng, shape, dtype):
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, size=shape)).astype(dtype)


def guarded(shape, dtype, offset=0):
    """A C-ordered array amid 32 canaries on either side, and a check that they live."""
    size = int(np.prod(shape))
    room = aligned(np.full(size + 64, 77, dtype), offset)
    inside = room[32 : 32 + size].reshape(shape)
    inside[...] = np.nan

    def intact():
        return bool(np.all(room[:32] == 77) and np.all(room[32 + size :] == 77))

    return inside, intact


@pytest.mark.parametrize("n", range(1, 71))
def test_product_is_right_at_every_width_and_writes_nothing_else(kernels, dtype, n):
    rng = np.random.default_rng(n)
    for m, k in ((1, n), (5, 3), (n, 7), (13, n)):
        A, B = numbers(rng, (m, k), dtype), numbers(rng, (k, n), dtype)
        out, intact = guarded((m, n), dtype, offset=A.itemsize * (n % 5))
        kernels.matmul(A, B, out)
        want = A.astype(np.float64) @ B.astype(np.float64)
        assert np.all(np.abs(out - want) <= bound(A, B, dtype))
        assert intact()


@pytest.mark.parametrize("n", range(1, 71))
def test_product_with_a_transpose_is_right_at_every_width_and_writes_nothing_else(kernels, dtype, n):
    """A^T B, as in dW = X^T dZ."""
    rng = np.random.default_rng(n)
    for m, k in ((1, n), (5, 3), (n, 7), (13, n)):
        A, B = numbers(rng, (k, m), dtype), numbers(rng, (k, n), dtype)
        out, intact = guarded((m, n), dtype, offset=A.itemsize * (n % 5))
        kernels.matmul(A, B, out, True)
        assert np.all(np.abs(out - A.T.astype(np.float64) @ B.astype(np.float64)) <= bound(A.T, B, dtype))
        assert intact()


@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_right_at_odd_and_large_sizes(kernels, dtype, shape):
    m, k, n = shape
    rng = np.random.default_rng(sum(shape))
    A, B = numbers(rng, (m, k), dtype), numbers(rng, (k, n), dtype)
    out, intact = guarded((m, n), dtype)
    kernels.matmul(A, B, out)
    assert np.all(np.abs(out - A.astype(np.float64) @ B.astype(np.float64)) <= bound(A, B, dtype))
    assert intact()


def test_product_keeps_nan_and_inf_in_their_rows(kernels, dtype):
    A, B = np.ones((9, 5), dtype), np.ones((5, 23), dtype)
    A[4, 2], A[6, 0] = np.nan, np.inf
    out = np.empty((9, 23), dtype)
    kernels.matmul(A, B, out)
    assert np.isnan(out[4]).all()
    assert np.all(out[6] == np.inf)
    assert np.all(out[[0, 1, 2, 3, 5, 7, 8]] == 5)


def layer(rng, m, n_in, n_out, dtype):
    X, W, b = rng.normal(size=(m, n_in)), rng.normal(size=(n_in, n_out)), rng.normal(size=n_out)
    return X.astype(dtype), W.astype(dtype), b.astype(dtype)


def close(got, want, dtype, scale):
    """Within a few hundred eps of the scale: what one product of these sizes and an activation may cost."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=300 * EPS[dtype] * max(1.0, scale))


def check_layer(X, W, b, dtype, activation, **how):
    X64, W64, b64 = (np.asarray(v, np.float64) for v in (X, W, b))
    a, z = fastbp.dense_forward(X, W, b, activation, **how)
    want_a, want_z = reference.dense_forward(X64, W64, b64, activation)
    close(z, want_z, dtype, np.abs(want_z).max())
    close(a, want_a, dtype, np.abs(want_z).max() * (want_a.max() if activation == "exp" else 1))
    dA = np.random.default_rng(1).normal(size=a.shape).astype(dtype)
    safe = np.where(np.abs(z) < 1e-3, dtype(0.5), z)  # no entry so near a kink that rounding decides its side
    got = fastbp.dense_backward(dA, X, W, safe, activation)
    want = reference.dense_backward(dA.astype(np.float64), X64, W64, safe.astype(np.float64), activation)
    for one, other in zip(got, want, strict=True):
        close(one, other, dtype, np.abs(other).max())


@pytest.mark.parametrize("width", range(1, 71))
def test_a_layer_is_right_at_every_width(isa, dtype, width):
    rng = np.random.default_rng(width)
    activation = reference.ELEMENTWISE[width % len(reference.ELEMENTWISE)]
    for m, n_in, n_out in ((5, 3, width), (4, width, 6), (width, 9, 2), (3, width, width)):
        check_layer(*layer(rng, m, n_in, n_out, dtype), dtype, activation)


@pytest.mark.parametrize("activation", reference.ELEMENTWISE)
def test_a_layer_is_right_for_every_activation(isa, dtype, activation):
    for m, n_in, n_out in ((1, 1, 1), (33, 20, 45), (150, 70, 129)):
        check_layer(*layer(np.random.default_rng(m), m, n_in, n_out, dtype), dtype, activation)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_is_the_same_whatever_the_layout_of_its_inputs(isa, dtype, layout):
    X, W, b = layer(np.random.default_rng(2), 11, 6, 13, dtype)
    dA = np.random.default_rng(3).normal(size=(11, 13)).astype(dtype)
    awkward = LAYOUTS[layout]
    a, z = fastbp.dense_forward(X, W, b, "tanh")
    d = fastbp.dense_backward(dA, X, W, z, "tanh")
    if layout == "list" and dtype == np.float32:
        pytest.skip("a list of Python floats is float64")
    got = fastbp.dense_forward(awkward(X), awkward(W), awkward(b), "tanh")
    got_d = fastbp.dense_backward(awkward(dA), awkward(X), awkward(W), awkward(z), "tanh")
    for one, other in zip((*got, *got_d), (a, z, *d), strict=True):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other)


def test_a_layer_writes_into_out_and_nowhere_else(isa, dtype):
    for n_out in (1, 3, 8, 31, 70):
        X, W, b = layer(np.random.default_rng(n_out), 7, 5, n_out, dtype)
        (a, a_intact), (z, z_intact) = guarded((7, n_out), dtype, 8), guarded((7, n_out), dtype)
        returned = fastbp.dense_forward(X, W, b, "gelu", out=(a, z))
        assert returned[0] is a
        assert returned[1] is z
        for one, other in zip((a, z), fastbp.dense_forward(X, W, b, "gelu"), strict=True):
            np.testing.assert_array_equal(one, other)
        grads = [guarded(s, dtype, i * X.itemsize) for i, s in enumerate((X.shape, W.shape, b.shape))]
        dA = np.ones((7, n_out), dtype)
        fastbp.dense_backward(dA, X, W, z, "gelu", out=tuple(g for g, _ in grads))
        for (one, _), other in zip(grads, fastbp.dense_backward(dA, X, W, z, "gelu"), strict=True):
            np.testing.assert_array_equal(one, other)
        assert all(check() for check in (a_intact, z_intact, *(c for _, c in grads)))


def test_a_layer_leaves_its_inputs_alone(isa, dtype):
    X, W, b = layer(np.random.default_rng(5), 9, 4, 10, dtype)
    before = [v.copy() for v in (X, W, b)]
    a, z = fastbp.dense_forward(X, W, b, "silu")
    z_before, dA = z.copy(), np.ones_like(a)
    fastbp.dense_backward(dA, X, W, z, "silu")
    for now, then in zip((X, W, b, z, dA), (*before, z_before, np.ones_like(a)), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("activation", reference.ELEMENTWISE)
def test_a_layer_passes_nan_on(isa, dtype, activation):
    X, W, b = layer(np.random.default_rng(6), 5, 3, 9, dtype)
    X[2, 1] = np.nan
    a, z = fastbp.dense_forward(X, W, b, activation)
    assert np.isnan(z[2]).all()
    assert np.isnan(a[2]).all()
    assert np.isfinite(np.delete(a, 2, axis=0)).all()


@pytest.mark.parametrize("n_out", [1, 2, 9, 40])
def test_a_layer_may_end_in_a_softmax_over_each_row(isa, dtype, n_out):
    X, W, b = layer(np.random.default_rng(7), 8, 5, n_out, dtype)
    a, z = fastbp.dense_forward(X, 100 * W, b, "softmax")
    close(a, reference.softmax(z.astype(np.float64)), dtype, 1.0)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=50 * EPS[dtype])


BAD_LAYERS = [
    ("X", {"X": np.ones(3)}),
    ("X", {"X": np.ones((2, 4))}),
    ("X", {"X": None}),
    ("X", {"X": "abc"}),
    ("X", {"X": np.ones((2, 3), complex)}),
    ("W", {"W": np.ones(3)}),
    ("W", {"W": np.ones((3, 2, 2))}),
    ("W", {"W": [["a", "b"]] * 3}),
    ("b", {"b": np.ones(3)}),
    ("b", {"b": np.ones((2, 2))}),
    ("b", {"b": None}),
    ("activation", {"activation": "rleu"}),
    ("activation", {"activation": None}),
    ("out", {"out": np.ones((2, 2))}),
    ("out", {"out": (np.ones((2, 2)), np.ones((2, 3)))}),
    ("out", {"out": (np.ones((2, 2), np.float32),) * 2}),
    ("out", {"out": (np.ones((2, 2)), np.ones((2, 2)).T[::-1])}),
    ("out", {"out": (np.ones((2, 2)), None, None)}),
]


@pytest.mark.parametrize(("argument", "change"), BAD_LAYERS)
def test_a_layer_names_the_argument_that_is_wrong(argument, change):
    call = {"X": np.ones((2, 3)), "W": np.ones((3, 2)), "b": np.ones(2), "activation": "relu"} | change
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        fastbp.dense_forward(**call)


BAD_BACKWARD = [
    ("dA", {"dA": np.ones((3, 2))}),
    ("dA", {"dA": np.ones((2, 3))}),
    ("dA", {"dA": None}),
    ("dA", {"dA": "abc"}),
    ("X", {"X": np.ones((2, 4))}),
    ("W", {"W": np.ones(3)}),
    ("z", {"z": np.ones((2, 3))}),
    ("z", {"z": np.ones(2)}),
    ("z", {"z": 1j * np.ones((2, 2))}),
    ("activation", {"activation": "nope"}),
    ("activation", {"activation": "softmax"}),
    ("out", {"out": (np.ones((2, 3)), np.ones((3, 2)))}),
    ("out", {"out": (np.ones((2, 3)), np.ones((3, 2)), np.ones(3))}),
]


@pytest.mark.parametrize(("argument", "change"), BAD_BACKWARD)
def test_a_layer_names_the_argument_that_is_wrong_on_the_way_back(argument, change):
    call = {"dA": np.ones((2, 2)), "X": np.ones((2, 3)), "W": np.ones((3, 2)), "z": np.ones((2, 2))} | change
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        fastbp.dense_backward(**call)


def test_a_wrong_activation_is_answered_with_the_list_of_right_ones():
    with pytest.raises(ValueError, match=r"leaky_relu.*softplus"):
        fastbp.dense_forward(np.ones((2, 3)), np.ones((3, 2)), np.ones(2), "rleu")
