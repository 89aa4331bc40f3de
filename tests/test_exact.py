"""Loss and gradient against 60 digits, over every output activation x loss pair and every variant.

The head gets its logits exactly: a one-layer net with identity weights, fed with the logits as X, or as
biases with X = 0, so that what is tested is the head and not the rounding of a product.
The bound is the promised one: within 1e-12 (float32: 2e-5) of the largest gradient entry of that call, which
is 1e-18 itself in many of these calls. Where a gradient is small because the inputs happen to cancel (y close
to a random t, say), one example alone can't be held to it and is tested in company only: see `settled`.
"""

import itertools
from functools import cache

import numpy as np
import pytest
import truth
from conftest import TOLERANCE

import fastbp

PAIRS = [(a, loss) for a in truth.OUTPUTS for loss in truth.LOSSES]
ELEMENTWISE_PAIRS = [p for p in PAIRS if p[0] != "softmax"]
CLIPS = {
    np.float64: (None, float(np.float32(0.1)), 1e-50),
    np.float32: (None, float(np.float32(0.1)), 2.0**-100),
}
HARD = (
    0.0,
    1e-8,
    0.25,
    1.0,
    3.0,
    17.0,
    20.0,
    36.0,
    37.0,
    41.5,
    60.0,
    88.0,
    104.0,
    300.0,
    709.5,
    745.0,
    750.0,
    1e4,
)
# Where an output saturates: targets there make the whole gradient as small as the distance from saturation.
LIMITS = {
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0,),
    "elu": (-1.0,),
    "softplus": (0.0, "z"),
    "gelu": (0.0, "z"),
    "silu": (0.0, "z"),
    "identity": (0.0,),
    "leaky_relu": (0.0,),
    "exp": (0.0, 1.0),
}

def logits(activation, clip, dtype):
    """Hard, random and clip-edge logits, rounded to the dtype; edges and four floats either side."""
    rng = np.random.default_rng(7)
    z = [s * v for v in HARD for s in (1.0, -1.0)]
    z += [np.nextafter(dtype(0), dtype(1)), -np.finfo(dtype).tiny, *rng.normal(scale=3, size=25)]
    z += [*rng.uniform(-40, 40, size=15)]
    for edge in truth.clip_edges(activation, float(np.finfo(dtype).eps) if clip is None else clip, dtype):
        for direction in (-np.inf, np.inf):
            near = edge
            for _ in range(5):
                z.append(near)
                near = np.nextafter(near, dtype(direction))
    if activation == "exp":  # whose squares shall be numbers of the dtype
        z = np.minimum(z, np.log(np.finfo(dtype).max) / 2.2)
    return np.array(z).astype(dtype)


def targets(activation, loss, z, dtype):
    rng = np.random.default_rng(8)
    if loss == "squared_error":
        limits = [z if t == "z" else np.full_like(z, t) for t in LIMITS[activation]]
        choices = [*limits, np.full_like(z, 2.5), rng.normal(size=z.size)]
    else:
        soft = np.concatenate([rng.uniform(size=z.size - z.size // 3), 10.0 ** -rng.uniform(0, 18,
                                                                                            size=z.size // 3)])
        choices = [np.zeros_like(z), np.ones_like(z), rng.permutation(soft)]
        if loss != "binary_cross_entropy":
            choices.append(rng.uniform(0, 50, size=z.size))
    return [c.astype(dtype) for c in choices]


@cache
def elementwise_cases(activation, loss, clip, dtype):
    """Arrays z, t and the truth of each as a head of one unit: loss, dloss/dz, scale."""
    z = logits(activation, clip, dtype)
    ts = targets(activation, loss, z, dtype)
    z, t = np.tile(z, len(ts)), np.concatenate(ts)
    rows = [truth.head(activation, loss, [a], [b], clip, np.finfo(dtype).eps) for a, b in zip(z, t,
                                                                                              strict=True)]
    return (
        z,
        t,
        *(
            np.array([float(v) for v in column])
            for column in ([r[0] for r in rows], [r[1][0] for r in rows], [r[2][0] for r in rows])
        ),
    )


def settled(grad, scale, dtype):
    """Whether the inputs' own cancellation costs at most 7 of float64's 52 bits, 2 of float32's 23."""
    return scale <= (100 if dtype == np.float64 else 4) * np.abs(grad)


def net_of(n, dtype, activation, loss, **options):
    """A one-layer net with identity weights: its logits are X + b, exactly."""
    net = fastbp.MLP([n, n], output_activation=activation, loss=loss, dtype=dtype, rng=0, **options)
    net.weights[0][...] = np.eye(n)
    net.biases[0][...] = 0
    return net


def check(net, X, Y, want_loss, want_grad, **call):
    """The promise: all within the tolerance of the largest gradient entry (the loss: or of itself)."""
    tolerance, floor = TOLERANCE[net.dtype], 8 * np.finfo(net.dtype).tiny
    loss, grad = net.value_and_grad(X, Y, **call)
    largest = np.max(np.abs(want_grad))
    bound = tolerance * largest + floor
    if not np.max(np.abs(grad - want_grad)) <= bound:
        pytest.fail(f"{net!r} at {X} + {net.biases}, t {Y}: gradient {grad}, want {want_grad}")
    if not abs(loss - want_loss) <= max(bound, tolerance * abs(want_loss)):
        pytest.fail(f"{net!r} at {X} + {net.biases}, t {Y}: loss {loss}, want {want_loss}")


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE_PAIRS)
def test_one_unit_is_exact_even_where_the_whole_gradient_is_tail_sized(isa, dtype, activation, loss, clip):
    clip = CLIPS[dtype][clip]
    z, t, *want, scales = elementwise_cases(activation, loss, clip, dtype)
    alone = settled(want[1], scales, dtype)
    assert alone.sum() > z.size / 2
    net, X, Y = net_of(1, dtype, activation, loss, clip=clip), np.zeros((1, 1), dtype), t[:, None, None]
    for i in np.flatnonzero(alone):
        net.biases[0][0] = z[i]
        value, (_, grad) = net.value_and_grad(X, Y[i])
        bound = TOLERANCE[net.dtype] * abs(want[1][i]) + 8 * np.finfo(dtype).tiny
        if not abs(grad - want[1][i]) <= bound:
            pytest.fail(f"z {z[i]!r} t {t[i]!r}: gradient {grad!r}, want {want[1][i]!r}")
        if not abs(value - want[0][i]) <= max(bound, TOLERANCE[net.dtype] * abs(want[0][i])):
            pytest.fail(f"z {z[i]!r} t {t[i]!r}: loss {value!r}, want {want[0][i]!r}")


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE_PAIRS)
def test_every_unit_of_a_wide_row_is_as_exact_as_it_would_be_alone(isa, dtype, activation, loss, clip):
    clip = CLIPS[dtype][clip]
    z, t, values, grads, scales = elementwise_cases(activation, loss, clip, dtype)
    net = fastbp.MLP([1, z.size], output_activation=activation, loss=loss, dtype=dtype, clip=clip, rng=0)
    net.biases[0][...] = z
    loss, grad = net.value_and_grad(np.zeros((1, 1), dtype), t[None])
    tolerance, floor = TOLERANCE[net.dtype], 8 * np.finfo(dtype).tiny
    wrong = np.abs(grad[z.size :] - grads) > tolerance * scales + floor
    assert not wrong.any(), f"z {z[wrong][:4]} t {t[wrong][:4]}: {grad[z.size :][wrong][:4]}, want {grads[wrong][:4]}"
    assert np.all(grad[: z.size] == 0)
    assert abs(loss - values.sum()) <= tolerance * np.abs(values).sum()


def softmax_rows(loss, dtype, rng):
    """Logits with targets: random, tied, saturated the right way and the wrong way, huge, of odd widths."""
    rows = []
    for n in (2, 3, 4, 10, 17):
        one_hot = np.eye(n)[rng.integers(n)]
        soft = rng.uniform(size=n) * rng.choice([0.0, 1.0], size=n, p=[0.2, 0.8])
        for z in (
            rng.normal(size=n),
            5 * rng.normal(size=n),
            rng.uniform(-750, 750, size=n),
            np.full(n, 3.25),
            1e4 + rng.normal(size=n),
            -1e4 * rng.uniform(size=n),
            np.where(one_hot, 0.0, -rng.uniform(38, 45, n)),
            np.where(one_hot, 1e4, 0.0),
            np.where(one_hot, -750.0, rng.normal(size=n)),
            np.where(one_hot, 20.0, rng.normal(size=n)),
            np.where(one_hot, 0.0, -300.0),
        ):
            rows += [
                (z, one_hot),
                (z, soft),
                (z, 0.7 * one_hot),
                (z, np.zeros(n)),
                (z, soft / max(soft.sum(), 1)),
            ]
            if loss != "binary_cross_entropy":
                rows += [(z, 2.5 * one_hot), (z, 3 * rng.uniform(size=n))]
            if loss == "squared_error":
                rows.append((z, rng.normal(size=n)))
    return [(z.astype(dtype), t.astype(dtype)) for z, t in rows]


@cache
def softmax_cases(loss, clip, dtype):
    cases = []
    for z, t in softmax_rows(loss, dtype, np.random.default_rng(9)):
        value, grad, scale = truth.head("softmax", loss, z, t, clip, np.finfo(dtype).eps)
        cases.append((z, t, float(value), np.array([float(g) for g in grad]), float(max(scale))))
    return cases


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize("loss", truth.LOSSES)
def test_softmax_is_exact_even_where_the_whole_gradient_is_tail_sized(isa, dtype, loss, clip):
    clip = CLIPS[dtype][clip]
    nets = {n: net_of(n, dtype, "softmax", loss, clip=clip) for n in (2, 3, 4, 10, 17)}
    tails = 0
    for z, t, value, grad, scale in softmax_cases(loss, clip, dtype):
        n = z.size
        if settled(np.abs(grad).max(), scale, dtype):
            nets[n].biases[0][...] = z
            check(nets[n], np.zeros((1, n), dtype), t[None], value, np.concatenate([np.zeros(n * n), grad]))
            tails += 0 < np.abs(grad).max() < 1e-15
    assert tails >= 5


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "cross_entropy", "poisson"])
def test_softmax_clip_is_decided_exactly(isa, dtype, loss):
    """Ties decided by the exact quotient 1/n, and the neighbouring logits between which the clip sets in."""
    edges = []
    for n, clip in ((2, 0.25), (4, 0.25), (3, float(dtype(1) / dtype(3))), (5, float(dtype(0.2)))):
        edges.append((np.full(n, 1.5, dtype), clip))
    rng = np.random.default_rng(10)
    for others in ([0.0], [0.5, -0.25], 2 * rng.normal(size=4), rng.normal(size=9)):
        for clip in (0.25, float(np.float32(1e-3)), float(np.finfo(dtype).eps)):
            others = np.asarray(others, dtype)
            edges += [(np.append(z0, others).astype(dtype), clip) for z0 in truth.softmax_edge(others, clip,
                                                                                               dtype)]
    for z, clip in edges:
        t = np.eye(z.size, dtype=dtype)[0]
        value, grad, _ = truth.head("softmax", loss, z, t, clip, np.finfo(dtype).eps)
        net = net_of(z.size, dtype, "softmax", loss, clip=clip)
        net.biases[0][...] = z
        want = np.concatenate([np.zeros(z.size**2), [float(g) for g in grad]])
        check(net, np.zeros((1, z.size), dtype), t[None], float(value), want)


@cache
def batch_case(activation, loss, reduction, weighted, dtype):
    """A batch of logits as X for identity weights, soft targets, and its truth."""
    rng = np.random.default_rng(11)
    X = np.concatenate(
        [3 * rng.normal(size=(4, 3)), rng.uniform(-40, 40, size=(2, 3)), [[750, -750, 0]], [[1e4, -1e4, 20]]]
    ).astype(dtype)
    if activation == "exp":
        X = np.minimum(X, 20)
    scale = 50.0 if loss in ("cross_entropy", "poisson") else 1.0
    Y = (scale * rng.uniform(size=X.shape) * rng.choice([0, 1], size=X.shape, p=[0.2, 0.8])).astype(dtype)
    w = rng.uniform(size=len(X)).astype(dtype) if weighted else None
    want = truth.network(
        [np.eye(3)],
        [np.zeros(3)],
        [activation],
        loss,
        X,
        Y,
        clip=None,
        eps=np.finfo(dtype).eps,
        reduction=reduction,
        sample_weight=w,
    )
    return X, Y, w, want


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_batches_are_exact_with_and_without_sample_weight(isa, dtype, activation, loss):
    for reduction, weighted in itertools.product(("mean", "sum"), (False, True)):
        X, Y, w, (want_loss, want_grad) = batch_case(activation, loss, reduction, weighted, dtype)
        net = net_of(3, dtype, activation, loss, reduction=reduction)
        check(net, X, Y, want_loss, want_grad, sample_weight=w)


@cache
def deep_case(hidden, activation, loss, dtype):
    """A net (2, 4, 3) with saturated hidden units; its products are exact where the units are saturated."""
    rng = np.random.default_rng(12)
    X = np.array([[1.0, 0.0], [-1.0, 2.0]], dtype)
    W0 = np.array([[20.0, -40.0, 750.0, -20.0], [-20.0, 30.0, -5.0, 750.0]], dtype)
    W1 = (rng.integers(-8, 9, size=(4, 3)) / 4).astype(dtype)
    if hidden not in ("sigmoid", "tanh"):
        W1 /= 16
    if hidden == "exp":
        W0 /= 512
    if activation == "exp":
        W1 /= 64
    b0, b1 = np.zeros(4, dtype), ((2 * rng.integers(-64, 64, size=3) + 1) / 128).astype(dtype)
    Y = rng.uniform(size=(2, 3)).astype(dtype)
    want = truth.network([W0, W1], [b0, b1], [hidden, activation], loss, X, Y, clip=None,
                         eps=np.finfo(dtype).eps)
    return X, Y, (W0, W1), (b0, b1), want


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_saturated_hidden_layers_keep_the_gradient_exact(isa, dtype, activation, loss):
    for hidden in truth.ELEMENTWISE:
        X, Y, weights, biases, (want_loss, want_grad) = deep_case(hidden, activation, loss, dtype)
        options = {"activation": hidden, "output_activation": activation, "loss": loss, "dtype": dtype}
        net = fastbp.MLP([2, 4, 3], rng=0, **options)
        for into, values in zip((*net.weights, *net.biases), (*weights, *biases), strict=True):
            into[...] = values
        check(net, X, Y, want_loss, want_grad)


@pytest.mark.parametrize("hidden", truth.ELEMENTWISE)
def test_a_label_won_by_1e_18_gives_a_gradient_of_1e_18_through_a_hidden_layer(isa, dtype, hidden):
    net = fastbp.MLP(
        [2, 4, 3], activation=hidden, output_activation="softmax", loss="cross_entropy", dtype=dtype, rng=1
    )
    net.weights[1][...] = np.round(4 * net.weights[1]) / 4
    net.biases[1][...] = [41.5, 0.0, -0.5]
    X = np.array([[0.5, -0.25]], dtype)
    want = truth.network(
        net.weights,
        net.biases,
        [hidden, "softmax"],
        "cross_entropy",
        X,
        [[1.0, 0.0, 0.0]],
        clip=None,
        eps=np.finfo(dtype).eps,
    )
    assert 0 < np.abs(want[1]).max() < 1e-15
    check(net, X, np.array([0]), *want)
