"""The parts of the checker: noise, extrapolation, weighted means, the reference network, patterns."""

import numpy as np
import pytest

from fastbp.checking import diagnose, gradcheck
from fastbp.checking.differences import extrapolate
from fastbp.checking.network import CANONICAL, Network, activate, slope
from fastbp.checking.noise import level_from_differences
from fastbp.checking.simplex import mean_weights

from .zoo_models import as_model
from .zoo_networks import Net


@pytest.mark.parametrize("level", [1e-12, 1e-6, 1e-2])
def test_noise_level_of_a_smooth_function_with_noise(level):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        t = rng.normal() + 1e-9 * np.arange(7)
        found.append(level_from_differences(list(np.sin(t) + level * rng.normal(size=7))))
    found = [f for f in found if f is not None]
    assert len(found) > 30
    assert level / 2 < np.median(found) < 2 * level


def test_smooth_values_show_no_noise():
    assert level_from_differences(list(np.exp(np.linspace(0, 0.5, 7)))) is None


def test_noise_that_the_report_states():
    report = gradcheck(lambda w: (np.sum(w**2) + 1e-6 * np.sin(1e13 * w.sum()), 2 * w), np.array([1.0, 2.0]))
    assert 2e-7 < report.noise < 3e-6


def test_extrapolation_error_is_within_its_bar():
    rng = np.random.default_rng(1)
    for _ in range(200):
        x, noise = rng.uniform(0.5, 2), 10.0 ** rng.uniform(-16, -6)
        steps = 0.5 ** np.arange(1, rng.integers(4, 9))
        points = []
        for h in steps:
            value = (np.exp(x + h) - np.exp(x - h)) / (2 * h) + noise / h * rng.uniform(-1, 1)
            points.append((float(h), float(value), 2 * noise / h + 1e-15 / h * 8))
        best = extrapolate(points)
        assert abs(best.value - np.exp(x)) <= best.bar


def test_extrapolation_through_one_step_twice():
    twice = [(h, 1 + h**2 / 10, 1e-9) for h in (1.0, 0.5, 0.5 * (1 - 1e-15), 0.25, 0.125)]
    best = extrapolate(twice)
    assert abs(best.value - 1) <= best.bar < 1e-2


def test_weighted_mean_of_vectors():
    rng = np.random.default_rng(2)
    vectors = list(rng.normal(size=(6, 4)))
    weights = rng.dirichlet(np.ones(6))
    target = np.sum([w * v for w, v in zip(weights, vectors, strict=True)], axis=0)
    found, left = mean_weights(vectors, target, np.ones(4))
    assert np.abs(left).max() < 1e-10
    assert found.min() >= 0
    assert abs(found.sum() - 1) < 1e-12
    _, left = mean_weights(vectors, target + 100, np.ones(4))
    assert np.abs(left).max() > 10


NAMES = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "exp")


@pytest.mark.parametrize("name", NAMES)
def test_slopes_of_the_reference_network(name):
    z = np.linspace(-3, 3, 40)[None]
    h = 1e-6
    numerical = (activate(name, z + h) - activate(name, z - h)) / (2 * h)
    assert np.allclose(slope(name, z), numerical, atol=1e-8)


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "cross_entropy", "poisson"])
@pytest.mark.parametrize("output", ["identity", "sigmoid", "tanh", "relu", "exp", "softmax"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_reference_gradient_against_the_checker(output, loss, clip):
    rng = np.random.default_rng(3)
    k = 3
    T = np.eye(k)[rng.integers(0, k, 10)] if loss != "squared_error" else rng.normal(size=(10, k))
    net = Network((4, 5, k), ("gelu",), output, loss, "mean", clip, 2.2e-16, rng.normal(size=(10, 4)), T,
                  rng.uniform(0.5, 2, 10))
    w0 = 0.5 * rng.normal(size=4 * 5 + 5 + 5 * k + k)
    report = gradcheck(lambda w: (net.value(w), net.gradient(w)), w0,
                       [("W0", (4, 5)), ("b0", (5,)), ("W1", (5, k)), ("b1", (k,))])
    assert report.verdict != "wrong", str(report)
    if (output, loss) in CANONICAL:
        assert report.ok, str(report)


def scaled(c):
    return lambda w: (np.sum(np.sin(w) * np.arange(1.0, w.size + 1)), c * np.cos(w) * np.arange(1.0, w.size + 1))


class TestDiagnosisWithoutNetwork:
    W = np.random.default_rng(4).normal(size=24)

    @pytest.mark.parametrize(("change", "shape", "code"), [
        (lambda g, w: -g, (24,), "sign"),
        (lambda g, w: 128 * g, (24,), "factor"),
        (lambda g, w: 0 * g, (24,), "zero block"),
        (lambda g, w: g + 0.01 * w, (24,), "weight decay"),
        (lambda g, w: g + 0.3, (24,), "constant"),
        (lambda g, w: g[::-1], (24,), "permuted"),
        (lambda g, w: g.reshape(4, 6).T.ravel(), (4, 6), "fortran"),
        (lambda g, w: g * (1 + (np.arange(24) == 7)), (24,), "entries"),
        (lambda g, w: (g.reshape(4, 6) * np.array([1, 1, 3, 1, 1, 1])).ravel(), (4, 6), "row or column"),
        (lambda g, w: (g.reshape(4, 6) * np.array([1, 2, 3, 4, 5, 6])).ravel(), (4, 6), "column factors"),
    ])
    def test_pattern(self, change, shape, code):
        right = scaled(1.0)
        diagnosis = diagnose(lambda w: (right(w)[0], change(right(w)[1], w)), self.W, [("W", shape)])
        assert code in diagnosis.codes, str(diagnosis)

    def test_square_transposed(self):
        right = scaled(1.0)
        diagnosis = diagnose(lambda w: (right(w)[0], right(w)[1].reshape(4, 4).T.ravel()), self.W[:16], [("W", (4, 4))])
        assert "transposed" in diagnosis.codes

    def test_number_of_examples_is_recognised(self):
        assert "128" in str(diagnose(scaled(128.0), self.W))

    def test_nothing_wrong(self):
        diagnosis = diagnose(scaled(1.0), self.W)
        assert diagnosis.ok
        assert diagnosis.causes == []
        assert "nothing is wrong" in str(diagnosis)

    def test_nothing_known_fits(self):
        right = scaled(1.0)
        odd = np.random.default_rng(5).uniform(0.5, 2, 24)
        diagnosis = diagnose(lambda w: (right(w)[0], right(w)[1] * odd), self.W)
        assert diagnosis.causes == []
        assert "none of the known mistakes fits" in str(diagnosis)
        assert "factor" in diagnosis.ruled_out


NAMES_OF_BLOCKS = ("W0", "b0", "W1", "b1", "W2", "b2")


class TestDiagnosisInFloat32:
    """The same words as in float64, with the loss and the gradient in single precision."""

    def net(self, mistakes):
        return Net((4, 5, 5, 3), ("tanh", "sigmoid"), "identity", "squared_error", seed=3, dtype="f4",
                   mistakes=mistakes)

    @pytest.mark.parametrize(("mistakes", "named", "alone"), [
        ({"blocks": {n: (lambda g: -g) for n in NAMES_OF_BLOCKS}}, ["sign"], ["sign"]),
        ({"blocks": {n: (lambda g: 2 * g) for n in NAMES_OF_BLOCKS}}, ["factor"], ["factor"]),
        ({"no 1/N": True}, ["1/N missing"], ["factor"]),
        ({"bias mean": True}, ["bias mean for sum"], ["factor", "biases only"]),
        ({"bias first": True}, ["order: bias first"], ["order"]),
        ({"no derivative": 2}, ["act' missing"], ["from here down"]),
        ({"stale": 1}, ["rows out of step"], ["wrong activations"]),
    ])
    def test_named(self, mistakes, named, alone):
        net = self.net(mistakes)
        assert diagnose(net, net.w0, model=as_model(net), X=net.X, Y=net.T).codes == named
        assert diagnose(net, net.w0, net.layout).codes == alone

    @pytest.mark.parametrize("first", [True, False])
    def test_bias_as_a_column(self, first):
        net = self.net({})

        def f(w):
            blocks = net.split(net.gradient(w))
            parts = [[b[:, None], W.T] if first else [W.T, b[:, None]]
                     for W, b in zip(blocks[0::2], blocks[1::2], strict=True)]
            return net.value(w), np.concatenate([np.hstack(pair).ravel() for pair in parts])

        where = "first" if first else "last"
        assert diagnose(f, net.w0, model=as_model(net), X=net.X, Y=net.T).codes == [f"order: bias as {where} column"]
        assert "order" in diagnose(f, net.w0, net.layout).codes


def test_two_mistakes_at_once():
    net = Net((3, 4, 4, 2), ("tanh", "tanh"), "sigmoid", "squared_error", mistakes={"delta": True, "no derivative": 1})
    diagnosis = diagnose(net, net.w0, model=as_model(net), X=net.X, Y=net.T)
    assert any("delta = y - t" in c and "act' missing" in c for c in diagnosis.codes), str(diagnosis)


@pytest.mark.parametrize(("switches", "codes"), [
    ({"slope": {0: "missing", 1: "at a"}}, ["act' missing", "act' at a"]),
    ({"scaled": {0: 2.0, 1: 2.0, 4: -1.0, 5: -1.0}}, ["factor", "sign"]),
    ({"input": {1: "z", 2: "rolled"}}, ["z for a", "rows out of step"]),
])
def test_two_mistakes_of_one_kind_in_two_layers(switches, codes):
    net = Net((3, 4, 5, 2), ("tanh", "sigmoid"), "sigmoid", "squared_error")
    right = Network.of(as_model(net), net.X, net.T, None)
    diagnosis = diagnose(lambda w: (right.value(w), right.gradient(w, switches)), net.w0, model=as_model(net), X=net.X,
                         Y=net.T)
    assert any(all(code in c for code in codes) for c in diagnosis.codes), str(diagnosis)


def test_what_no_cause_explains_is_said():
    net = Net((3, 4, 5, 2), ("tanh", "sigmoid"), "sigmoid", "squared_error")
    right = Network.of(as_model(net), net.X, net.T, None)

    def f(w):
        gradient = right.gradient(w, {"slope": {0: "missing"}})
        gradient[-2] *= 1.3
        return right.value(w), gradient

    diagnosis = diagnose(f, net.w0, model=as_model(net), X=net.X, Y=net.T)
    assert diagnosis.codes == ["entries"], str(diagnosis)
    assert any("W0, b0" in remark for remark in diagnosis.remarks), str(diagnosis)
    assert len(set(diagnosis.ruled_out)) == len(diagnosis.ruled_out)
    assert "entries" not in diagnosis.ruled_out


def test_another_loss_than_the_model_s():
    net = Net((3, 4, 2), ("tanh",), "identity", "squared_error", mistakes={"no derivative": 1})
    other = as_model(net)
    other.activation = ("relu",)
    diagnosis = diagnose(net, net.w0, model=other, X=net.X, Y=net.T)
    assert any("not that of the network" in r for r in diagnosis.remarks)
