"""The batches of a pass in compiled code, beside the same steps one by one in NumPy."""

import math

import numpy as np
import pytest

import fastbp


def masks(key, n_steps, layer, rates, rows, units):
    """The dropout masks of a step, as src/fastbp/_dropout.pxd defines them, in Python's integers and NumPy's."""

    def mixed64(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def mixed32(x):
        x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & np.uint64(0xFFFFFFFF)
        x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & np.uint64(0xFFFFFFFF)
        return x ^ (x >> np.uint64(16))

    key = mixed64((mixed64(key) + n_steps * 0x100000001B3 + layer) % 2**64)
    low, high = np.uint64(key % 2**32), key >> 32
    row = mixed32(np.array([(r + high) % 2**32 for r in range(rows)], np.uint64))[:, None]
    bits = mixed32(mixed32(np.arange(units, dtype=np.uint64) ^ low) ^ row)
    keep = (bits >> np.uint64(8)) >= np.uint64(int(rates[layer] * 2**24 + 0.5))
    return keep / (1 - rates[layer])


def with_dropout(net, X, Y, rates, key, n_steps):
    """Loss and gradient of a tanh network with squared error, its masks applied, in NumPy."""
    a, inputs, kept = X, [], []
    for i, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        inputs.append(a)
        a = a @ W + b
        if i < len(net.weights) - 1:
            kept.append(masks(key, n_steps, i, rates, *a.shape))
            a = np.tanh(a) * kept[-1]
    delta = (a - Y) / len(X)
    blocks = []
    for i in reversed(range(len(net.weights))):
        blocks[:0] = [inputs[i].T @ delta, delta.sum(axis=0)]
        if i > 0:
            m = kept[i - 1]
            tanh = np.divide(inputs[i], m, out=np.zeros_like(m), where=m > 0)
            delta = (delta @ net.weights[i].T) * m * (1 - tanh**2)
    return 0.5 * ((a - Y) ** 2).sum() / len(X), np.concatenate([block.ravel() for block in blocks])


def one_by_one(net, X, Y, sample_weight, optimizer, order, batch_size, penalty, max_norm):
    losses = []
    for begin in range(0, len(order), batch_size):
        take = order[begin : begin + batch_size]
        w = None if sample_weight is None else sample_weight[take]
        total = len(take) if w is None else w.sum()
        loss, grad = net.value_and_grad(X[take], Y[take], w)
        for W, g in zip(net.weights, net.views(grad)[0], strict=True):
            loss += 0.5 * penalty / total * float((W.astype(float) ** 2).sum())
            g += (penalty / total) * W
        norm = math.sqrt(math.fsum(grad.astype(float) ** 2))
        optimizer.step(net, grad * min(1, max_norm / norm))
        losses.append(loss)
    return losses


SHAPES = {
    "by chunks": ([7, 33, 5, 3], 211, 50),
    "by phases": ([130, 270, 121, 3], 211, 100),
    "one row": ([5, 9, 2], 23, 1),
    "a few rows": ([5, 9, 2], 23, 7),
    "wide rows": ([512, 20, 3], 90, 40),
    "one number in a row": ([1, 9, 2], 211, 64),
    "four": ([4, 9, 5], 211, 64),
    "eleven": ([11, 9, 2], 211, 64),
    "sixteen": ([16, 9, 2], 211, 64),
    "sixty-five": ([65, 9, 70], 211, 64),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("isa")
def test_steps_are_those_taken_one_by_one(shape, dtype, shuffled, weighted):
    sizes, rows, batch_size = SHAPES[shape]
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.normal(size=(rows, sizes[-1])).astype(dtype)
    sample_weight = rng.uniform(0.5, 2, rows) if weighted else None
    order = rng.permutation(rows)[: rows - 3].astype(np.uint32) if shuffled else np.arange(rows)
    nets = [fastbp.MLP(sizes, activation="tanh", dtype=dtype, rng=1) for _ in range(2)]
    losses = np.full(math.ceil(len(order) / batch_size), np.nan)
    settings = {"penalty": 0.3, "max_norm": 1.5}
    end, failure = nets[0]._run_batches(
        X, Y, sample_weight, fastbp.SGD(0.1, momentum=0.9), order if shuffled else None, 0, batch_size, losses,
        seconds=100, **settings,
    )  # fmt: skip
    assert (end, failure) == (len(order), None)
    expected = one_by_one(
        nets[1], X, Y, sample_weight, fastbp.SGD(0.1, momentum=0.9), order, batch_size, **settings
    )
    accuracy = 1e-11 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(losses, expected, rtol=accuracy)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=accuracy, atol=accuracy)


@pytest.mark.usefixtures("isa")
def test_labels_and_targets_are_gathered():
    rng = np.random.default_rng(0)
    X, labels, order = rng.normal(size=(150, 6)), rng.integers(0, 4, 150), rng.permutation(150).astype(np.uint32)
    results = []
    for Y in (labels, labels.astype(np.uint8), np.eye(4)[labels]):
        net = fastbp.MLP([6, 10, 4], output_activation="softmax", loss="cross_entropy", rng=0)
        losses = np.zeros(3)
        net._run_batches(X, Y, None, fastbp.Adam(), order, 0, 64, losses, seconds=100)
        results.append((losses, net.parameters))
    for from_labels, from_bytes in zip(results[0], results[1], strict=True):
        np.testing.assert_array_equal(from_labels, from_bytes)
    np.testing.assert_allclose(results[0][0], results[2][0], rtol=1e-14)
    np.testing.assert_allclose(results[0][1], results[2][1], rtol=1e-12)


@pytest.mark.parametrize(("sizes", "rows"), [([6, 40, 17, 2], 70), ([40, 250, 190, 2], 230)])
@pytest.mark.usefixtures("isa")
def test_dropout_is_exact_for_its_mask(sizes, rows, dtype):
    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.normal(size=(rows, sizes[-1])).astype(dtype)
    order = rng.permutation(rows).astype(np.uint32)
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, rng=1)
    net.biases[0][:] = 0.1
    rates = (0.25, 0.6)
    grad = np.empty_like(net.parameters)
    loss = net._batch_gradient(X, Y, None, order, 10, 50, grad, dropout=rates, key=2**63 + 12345, step=7)
    take = order[10:60]
    expected = with_dropout(net, X[take].astype(float), Y[take].astype(float), rates, 2**63 + 12345, 7)
    accuracy = 1e-12 if dtype == np.float64 else 2e-5
    assert loss == pytest.approx(expected[0], rel=accuracy)
    np.testing.assert_allclose(grad, expected[1], rtol=accuracy, atol=accuracy * abs(expected[1]).max())


def test_masks_drop_as_many_as_they_should_and_differ_from_step_to_step():
    kept = [masks(1, step, layer, (0.3, 0.3), 400, 100) > 0 for step in (0, 1) for layer in (0, 1)]
    for k in kept:
        assert k.mean() == pytest.approx(0.7, abs=0.01)
        np.testing.assert_allclose(k.mean(axis=0), 0.7, atol=0.12)
        np.testing.assert_allclose(k.mean(axis=1), 0.7, atol=0.23)
    for i in range(4):
        for j in range(i):
            assert (kept[i] == kept[j]).mean() == pytest.approx(0.58, abs=0.01)


@pytest.mark.parametrize("sizes", [[3, 5, 2], [100, 250, 2]])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.usefixtures("isa")
def test_what_is_not_finite_changes_nothing(sizes, where):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(100, sizes[0])), rng.normal(size=(100, sizes[-1]))
    X[70, 0] = np.nan if where == "loss" else 1e200  # times weights of 1e-60: a finite loss, its derivative is not

    def start():
        net = fastbp.MLP(sizes, activation="identity", rng=0)
        net.weights[0][:] = 1e-60
        net.weights[1][:] = 1
        return net, fastbp.SGD(1e-63, momentum=0.9)

    net, sgd = start()
    losses = np.zeros(5)
    assert net._run_batches(X, Y, None, sgd, None, 0, 20, losses, seconds=100) == (60, where)
    assert sgd._state.steps == 3
    assert math.isfinite(losses[3]) == (where == "gradient")
    expected, sgd = start()
    expected._run_batches(X[:60], Y[:60], None, sgd, None, 0, 20, np.zeros(3), seconds=100)
    np.testing.assert_array_equal(net.parameters, expected.parameters)
    assert (net.weights[0] != 1e-60).any()


@pytest.mark.parametrize(
    ("exponent", "dtype"), [(160, np.float64), (-170, np.float64), (25, np.float32), (-25, np.float32)]
)
def test_gradients_whose_squares_leave_the_range_are_clipped(exponent, dtype):
    net, size = fastbp.MLP([1, 1], dtype=dtype, rng=0), 10.0**exponent
    net.parameters[:] = 0
    X, Y = np.array([[max(size, 1)]], dtype), np.array([[-min(size, 1)]], dtype)  # dE/dz = -Y, dE/dW = X dE/dz
    max_norm = min(size, 1) / 2
    result = net._run_batches(X, Y, None, fastbp.SGD(1.0), None, 0, 1, np.zeros(1), max_norm=max_norm)
    assert result == (1, None)
    assert math.hypot(*net.parameters.astype(float)) == pytest.approx(max_norm, rel=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(threads, monkeypatch):
    rng = np.random.default_rng(0)
    for sizes in ([20, 100, 10], [200, 256, 10]):
        X, Y = rng.normal(size=(700, sizes[0])), rng.normal(size=(700, 10))
        order = rng.permutation(700).astype(np.uint32)
        results = []
        for n in (1, threads):
            fastbp.set_num_threads(n)
            net = fastbp.MLP(sizes, rng=0)
            net._run_batches(X, Y, None, fastbp.Adam(), order, 0, 256, np.zeros(3), dropout=[0.5], seconds=100)
            results.append(net.parameters)
        fastbp.set_num_threads(None)
        np.testing.assert_array_equal(*results)


def test_returns_after_some_time_and_goes_on():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(5000, 50)), rng.normal(size=(5000, 1))
    net, whole = fastbp.MLP([50, 100, 1], rng=0), fastbp.MLP([50, 100, 1], rng=0)
    losses, adam, begin, calls = np.zeros(500), fastbp.Adam(), 0, 0
    while begin < 5000:
        begin, _ = net._run_batches(X, Y, None, adam, None, begin, 10, losses, seconds=0.0005)
        calls += 1
    assert calls > 2
    expected = np.zeros(500)
    whole._run_batches(X, Y, None, fastbp.Adam(), None, 0, 10, expected, seconds=100)
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(net.parameters, whole.parameters)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [fastbp.Adam, fastbp.AdamW, fastbp.RMSprop])
@pytest.mark.usefixtures("isa")
def test_squares_that_overflow_in_the_optimizer_are_no_step(dtype, optimizer):
    root = math.sqrt(float(np.finfo(dtype).max))

    def run(gradient, rule, **options):
        net = fastbp.MLP([1, 1], dtype=dtype, rng=0)
        net.parameters[:] = 0
        X, Y = np.array([[gradient]], dtype), np.array([[-1]], dtype)  # dE/dW = X
        state = rule._state_for(net)
        result = net._run_batches(X, Y, None, rule, None, 0, 1, np.zeros(1), **options)
        return result, state.steps, net.parameters.tolist()

    assert run(2 * root, optimizer()) == ((0, "squared gradient"), 0, [0, 0])
    assert run(0.9 * root, optimizer())[:2] == ((1, None), 1)
    assert run(2 * root, optimizer(), max_norm=1.0)[:2] == ((1, None), 1)
    assert run(2 * root, fastbp.SGD())[:2] == ((1, None), 1)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("sizes", [[3, 8, 3], [130, 270, 3]])
@pytest.mark.usefixtures("isa")
def test_labels_that_are_no_longer_classes_are_no_step(shuffled, sizes):
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(90, sizes[0])), rng.integers(3, size=90)
    order = rng.permutation(90).astype(np.uint32) if shuffled else None
    net = fastbp.MLP(sizes, output_activation="softmax", loss="cross_entropy", rng=0)
    labels[order[50] if shuffled else 50] = 2**40
    assert net._run_batches(X, labels, None, fastbp.SGD(), order, 0, 20, np.zeros(5), seconds=100) == (40, "loss")
    assert not np.isfinite(net._batch_gradient(X, labels, None, order, 45, 20, np.empty(net.n_parameters)))
    labels[order[50] if shuffled else 50] = -1
    assert net._run_batches(X, labels, None, fastbp.SGD(), order, 0, 20, np.zeros(5), seconds=100) == (40, "loss")
    if shuffled:
        few = rng.integers(3, size=90).astype(np.uint8)
        few[order[50]] = 3
        assert net._run_batches(X, few, None, fastbp.SGD(), order, 0, 20, np.zeros(5), seconds=100) == (40, "loss")


@pytest.mark.parametrize("bad", [1000, 2**31, 2**32 - 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [[3, 1], [3, 8, 1], [20, 250, 240, 1]])
@pytest.mark.usefixtures("isa")
def test_an_order_is_refused_before_it_leads_out_of_x(sizes, weighted, bad):
    rng = np.random.default_rng(0)
    X, Y, order = rng.normal(size=(1000, sizes[0])), rng.normal(size=(1000, 1)), rng.permutation(1000).astype(np.uint32)
    sample_weight = rng.uniform(0.5, 2, 1000) if weighted else None
    order[777] = bad
    net, sgd = fastbp.MLP(sizes, rng=0), fastbp.SGD()
    with pytest.raises(ValueError, match="order"):
        net._run_batches(X, Y, sample_weight, sgd, order, 0, 100, np.zeros(10), seconds=100)
    assert sgd._state.steps == 7, "the batch that it is in is no step"
    expected = fastbp.MLP(sizes, rng=0)
    expected._run_batches(X, Y, sample_weight, fastbp.SGD(), order[:700], 0, 100, np.zeros(7), seconds=100)
    np.testing.assert_array_equal(net.parameters, expected.parameters)
    grad = np.empty(net.n_parameters)
    with pytest.raises(ValueError, match="order"):
        net._batch_gradient(X, Y, sample_weight, order, 700, 100, grad)
    assert np.isfinite(net._batch_gradient(X, Y, sample_weight, order, 800, 100, grad))


@pytest.mark.parametrize("order", [np.uint32([0, 5]), np.uint32([]), [0, 1], [0.0, 1.0]])
def test_an_order_out_of_range_or_of_another_dtype_is_refused(order):
    net = fastbp.MLP([2, 1], rng=0)
    with pytest.raises(ValueError, match="order"):
        net._run_batches(np.ones((5, 2)), np.ones((5, 1)), None, fastbp.SGD(), np.array(order), 0, 2, np.zeros(3))
