"""The public behaviour of gradcheck: inputs, sanity findings, cost, report."""

import time

import numpy as np
import pytest

import fastbp
from fastbp.checking import gradcheck
from fastbp.testing import assert_gradient

from .zoo_networks import Net


def quadratic(w):
    return 0.5 * np.sum(w**2), w.copy()


def findings(report):
    return {f.code for f in report.findings}


class TestInputs:
    def test_flat_vector_is_one_block(self):
        report = gradcheck(quadratic, np.arange(1.0, 6.0))
        assert report.ok
        assert [b.name for b in report.blocks] == ["w"]

    def test_dict_of_arrays(self):
        def f(p):
            return np.sum(p["a"] ** 2) + np.sum(p["b"] ** 3), {"b": 3 * p["b"] ** 2, "a": 2.1 * p["a"]}

        report = gradcheck(f, {"a": np.ones((2, 3)), "b": np.array([2.0, 1.0])})
        assert report.failed_blocks == ["a"]

    def test_list_of_arrays(self):
        def f(p):
            return np.sum(p[0] ** 2) * np.sum(p[1]), [2 * p[0] * p[1].sum(), np.sum(p[0] ** 2) * np.ones(3)]

        assert gradcheck(f, [np.ones((2, 2)), np.arange(1.0, 4.0)]).ok

    def test_matrix_is_handed_over_as_a_matrix(self):
        def f(W):
            assert W.shape == (2, 3)
            return np.sum(W**2), 2 * W

        assert gradcheck(f, np.ones((2, 3))).ok

    def test_loss_and_gradient_apart(self):
        assert gradcheck(lambda w: np.sum(w**3), [1.0, 2.0], grad=lambda w: 3 * w**2).ok
        assert not gradcheck(lambda w: np.sum(w**3), [1.0, 2.0], grad=lambda w: 3 * w).ok

    def test_gradient_as_an_array(self):
        assert gradcheck(lambda w: np.sum(w**3), np.array([1.0, 2.0]), grad=np.array([3.0, 12.0])).ok
        assert not gradcheck(lambda w: np.sum(w**3), np.array([1.0, 2.0]), grad=np.array([3.0, 13.0])).ok

    def test_float32_stays_float32(self):
        def f(w):
            assert w.dtype == np.float32
            return quadratic(w)

        assert gradcheck(f, np.array([1, 2, 3], dtype=np.float32)).ok

    def test_float32_inside_is_noticed(self):
        def f(w):
            w = w.astype(np.float32)
            return np.sum(np.sin(w)), np.cos(w).astype(float)

        report = gradcheck(f, np.linspace(0.1, 2, 5))
        assert report.ok, str(report)
        assert "float32" in findings(report)

    def test_network(self):
        net = Net((3, 4, 2), ("tanh",), "identity", "squared_error")

        class Model:
            parameters, layout, sizes = net.w0, net.layout, net.sizes

            def value_and_grad(self, X, Y, sample_weight=None):
                raise AssertionError("only marks the object as a network")

            def objective(self, X, Y, sample_weight=None):
                return net

        assert gradcheck(Model(), X=net.X, Y=net.T).ok

    @pytest.mark.parametrize(("call", "error", "words"), [
        (lambda: gradcheck(3, [1.0]), TypeError, "f must be callable"),
        (lambda: gradcheck(quadratic), ValueError, "w0 is missing"),
        (lambda: gradcheck(quadratic, []), ValueError, "at least one parameter"),
        (lambda: gradcheck(quadratic, [np.nan]), ValueError, "w0 must be finite"),
        (lambda: gradcheck(quadratic, np.array(["a"])), TypeError, "real numbers"),
        (lambda: gradcheck(quadratic, [1j]), TypeError, "real numbers"),
        (lambda: gradcheck(quadratic, [1.0, 2.0], [("a", (3,))]), ValueError, "layout describes 3"),
        (lambda: gradcheck(quadratic, [1.0, 2.0], [("a", (1,)), ("a", (1,))]), ValueError, "name of its own"),
        (lambda: gradcheck(quadratic, [1.0, 2.0], ["ab"]), ValueError, "pairs"),
        (lambda: gradcheck(lambda w: 1.0, [1.0]), TypeError, "pair"),
        (lambda: gradcheck(lambda w: (w, w), [1.0, 2.0]), TypeError, "one real number"),
        (lambda: gradcheck(quadratic, [1.0], rtol=-1), ValueError, "rtol"),
        (lambda: gradcheck(quadratic, [1.0], X=1), ValueError, "X, Y"),
        (lambda: gradcheck(quadratic, {"a": np.ones(2)}, [("a", (2,))]), ValueError, "names its own blocks"),
    ])
    def test_bad_arguments(self, call, error, words):
        with pytest.raises(error, match=words):
            call()


class TestNotAnErrorInAFormula:
    def test_random(self):
        rng = np.random.default_rng(0)
        report = gradcheck(lambda w: (np.sum(w**2) * (1 + 0.1 * rng.normal()), 2 * w), [1.0, 2.0])
        assert report.verdict == "undecided"
        assert "not deterministic" in findings(report)

    def test_state(self):
        seen = []

        def f(w):
            if not seen or np.any(seen[-1] != w):
                seen.append(w.copy())
            return np.sum(w**2) + 0.1 * len(seen), 2 * w

        report = gradcheck(f, [1.0, 2.0])
        assert report.verdict == "undecided"
        assert "state" in findings(report)

    def test_gradient_that_accumulates(self):
        total = np.zeros(2)

        def f(w):
            total[...] += 2 * w
            return np.sum(w**2), total.copy()

        report = gradcheck(f, [1.0, 2.0])
        assert report.verdict == "wrong"
        assert "added up" in str(report)

    def test_changed_input(self):
        def f(w):
            loss = np.sum(w**2)
            w *= 2
            return loss, w

        report = gradcheck(f, [1.0, 2.0])
        assert report.ok
        assert "changes its input" in findings(report)

    def test_same_buffer(self):
        buffer = np.empty(2)

        def f(w):
            buffer[...] = 2 * w
            return np.sum(w**2), buffer

        report = gradcheck(f, [1.0, 2.0])
        assert report.ok
        assert "same buffer" in findings(report)

    @pytest.mark.parametrize("kind", [dict, list])
    def test_same_buffer_in_a_structure(self, kind):
        buffer = np.zeros(2)

        def f(p):
            w = p["a"] if kind is dict else p[0]
            buffer[:] = 2 * w
            return w @ w, {"a": buffer} if kind is dict else [buffer]

        w0 = np.array([1.0, 2.0])
        assert "same buffer" in findings(gradcheck(f, {"a": w0} if kind is dict else [w0]))

    def test_a_clean_function_has_no_findings(self):
        assert gradcheck(quadratic, [1.0, 2.0]).findings == []

    def test_wrong_length(self):
        report = gradcheck(lambda w: (np.sum(w**2), np.append(2 * w, 0.0)), [1.0, 2.0])
        assert report.verdict == "wrong"
        assert "3 entries" in str(report)

    def test_missing_block(self):
        report = gradcheck(lambda p: (np.sum(p["a"]) + np.sum(p["b"]), {"a": np.ones(2)}),
                           {"a": np.ones(2), "b": np.ones(3)})
        assert report.failed_blocks == ["b"]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_gradient_not_finite(self, bad):
        report = gradcheck(lambda w: (np.sum(w**2), 2 * w * np.array([1, bad, 1])), [1.0, 2.0, 3.0],
                           [("a", (1,)), ("b", (1,)), ("c", (1,))])
        assert report.failed_blocks == ["b"]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_loss_not_finite(self, bad):
        assert gradcheck(lambda w: (bad, w), [1.0]).verdict == "undecided"

    def test_loss_that_ignores_w(self):
        report = gradcheck(lambda w: (3.0, 2 * w), [1.0, 2.0])
        assert report.verdict == "wrong"
        assert "ignores w" in findings(report)
        assert gradcheck(lambda w: (3.0, 0 * w), [1.0, 2.0]).verdict == "undecided"

    def test_noise_that_hides_the_answer_is_undecided(self):
        def noisy(factor):
            return lambda w: (np.sum(w**2) + 0.05 * np.sin(1e9 * w.sum()), 2 * factor * w)

        for factor in (1.0, 1.02):
            assert gradcheck(noisy(factor), [1.0, 0.7]).verdict == "undecided"
        assert gradcheck(noisy(10.0), [1.0, 0.7]).verdict == "wrong"


def test_a_gradient_of_none_is_named_by_its_blocks():
    w0 = {"a": np.ones(2), "b": np.ones(3)}
    report = gradcheck(lambda p: (np.sum(p["a"] ** 2), {"a": 2 * p["a"], "b": None}), w0)
    assert report.failed_blocks == ["b"], str(report)
    assert [finding.code for finding in report.findings] == ["none"]
    assert gradcheck(lambda w: (np.sum(w**2), None), [1.0, 2.0]).failed_blocks == ["w"]


class TestCost:
    def net(self, sizes=(20, 100, 25, 10), **options):
        return Net(sizes, ("tanh",) * (len(sizes) - 2), "softmax", "cross_entropy", N=64, **options)

    def test_correct_network_of_5000_parameters(self):
        net = self.net()
        assert 4500 < net.w0.size < 5500
        start = time.process_time()
        report = gradcheck(net, net.w0, net.layout)
        assert time.process_time() - start < 1
        assert report.ok, str(report)
        assert report.evaluations <= 60 + 25 * len(net.layout)
        assert all(b.visible < 1e-4 for b in report.blocks)

    def single(self, sizes, activation, rows, seed):
        """A network in single precision whose loss is added up in double: its function, its parameters and layout."""
        rng = np.random.default_rng(seed)
        net = fastbp.MLP(sizes, activation=activation, output_activation="softmax", loss="cross_entropy",
                         dtype=np.float32, rng=seed)
        f = net.objective(rng.normal(size=(rows, sizes[0])), rng.integers(0, sizes[-1], rows))
        return f, np.array(net.parameters), net.layout

    @pytest.mark.parametrize("seed", range(4))
    def test_in_single_precision(self, seed):
        f, w0, layout = self.single([40, 90, 14], "tanh", 32, seed)
        report = gradcheck(f, w0, layout)
        assert report.ok, str(report)
        assert report.evaluations <= 60 + 25 * len(layout)

    @pytest.mark.parametrize("seed", range(4))
    def test_kinks_everywhere_in_single_precision(self, seed):
        f, w0, layout = self.single([40, 90, 14], "relu", 32, seed)
        report = gradcheck(f, w0, layout)
        assert not report.failed_blocks, str(report)
        assert "W0" not in report.undecided_blocks, str(report)
        assert report.evaluations < 10_000
        error = np.zeros_like(w0)
        error[1234] = 0.03 * np.abs(f(w0)[1][:3600]).max()
        report = gradcheck(lambda w: (f(w)[0], f(w)[1] + error), w0, layout)
        assert report.failed_blocks == ["W0"], str(report)
        assert report.blocks[0].worst.flat == 1234

    def test_kinks_everywhere_among_a_million_parameters_in_single_precision(self):
        f, w0, layout = self.single([784, 1000, 200, 10], "relu", 8, 0)
        report = gradcheck(f, w0, layout)
        assert not report.failed_blocks, str(report)
        assert report.evaluations < 2000
        assert "too long" in str(report)

    @pytest.mark.parametrize("seed", range(4))
    def test_an_error_as_large_as_the_report_says_shows(self, seed):
        net, rng = self.net((6, 8, 4, 3)), np.random.default_rng(seed)
        start = 0
        for block in gradcheck(net, net.w0, net.layout).blocks:
            size = int(np.prod(block.shape))
            g, error = net.gradient(net.w0), np.zeros(net.w0.size)
            error[start + rng.integers(size)] = 1.05 * block.visible * np.abs(g[start:start + size]).max()
            report = gradcheck(lambda w, e=error: (net.value(w), net.gradient(w) + e), net.w0, net.layout, rng=seed)
            assert report.failed_blocks == [block.name], str(report)
            start += size

    @pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-12, 1e8, 1e100, 1e200])
    def test_losses_of_any_size(self, size):
        net = self.net((4, 5, 3))
        for factor, others in ((1.0, "wrong"), (1.01, "correct")):
            report = gradcheck(lambda w, f=factor: (size * net.value(w), f * size * net.gradient(w)), net.w0,
                               net.layout)
            assert report.verdict != others, str(report)
            if 1e-100 < size <= 1e100:
                assert report.verdict != "undecided", str(report)

    @pytest.mark.parametrize("seed", range(6))
    def test_one_entry_in_5000_off_by_1_in_1000(self, seed):
        net = self.net()
        g = net.gradient(net.w0)
        largest = np.argsort(-np.abs(g[:2000]))[:200]
        index = np.random.default_rng(seed).choice(largest)
        error = np.zeros_like(g)
        error[index] = 1e-3 * g[index]
        report = gradcheck(lambda w: (net(w)[0], net(w)[1] + error), net.w0, net.layout)
        assert report.failed_blocks == ["W0"]
        worst = report.blocks[0].worst
        assert worst.flat == index
        assert abs(worst.numerical - g[index]) < 1e-2 * abs(error[index])
        assert report.evaluations < 700

    def test_exhaustive(self):
        net = self.net((3, 4, 2))
        report = gradcheck(net, net.w0, net.layout, exhaustive=True)
        assert report.ok
        assert sum(len(b.entries) for b in report.blocks) == net.w0.size

    def test_a_million_parameters(self):
        rng = np.random.default_rng(0)
        a = rng.normal(size=1_000_000)

        def f(w):
            s = np.sin(w)
            return float(a @ s) / 1000, a * np.cos(w) / 1000

        def wrong(w):
            loss, g = f(w)
            g[123_456] *= 1.01
            g[123_456] += 1e-4
            return loss, g

        w0 = rng.normal(size=a.size)
        start = time.process_time()
        assert gradcheck(f, w0).ok
        report = gradcheck(wrong, w0)
        assert report.blocks[0].worst.flat == 123_456
        assert time.process_time() - start < 60  # seconds each

    def test_same_seed_same_report(self):
        net = self.net((3, 4, 2))
        assert str(gradcheck(net, net.w0, net.layout)) == str(gradcheck(net, net.w0, net.layout))


class TestReport:
    def wrong(self):
        return gradcheck(lambda w: (np.sum(w**2), 2 * w * np.array([1, 1.5, 1])), [1.0, 2.0, 3.0],
                         [("a", (1,)), ("b", (2,))])

    def test_text_names_block_entry_and_both_values(self):
        text = str(self.wrong())
        assert "WRONG in b" in text
        assert "b[0]: analytic 6, numerical 4 +- " in text
        assert "evaluations" in text

    def test_kink_is_reported(self):
        report = gradcheck(lambda w: (np.abs(w).sum(), np.sign(w)), [0.0, 2.0])
        assert report.ok
        assert report.blocks[0].certified
        assert [e.index for e in report.blocks[0].kinks] == [(0,)]
        assert "slope -1 below, 1 above" in str(report)

    def test_cancelling_kinks_are_explained(self):
        report = gradcheck(lambda w: (np.sum(np.maximum(w, 0) - np.maximum(-w, 0)), (w != 0) * 1.0), [0.0])
        assert report.verdict == "wrong"
        assert "relu(x) - relu(-x)" in str(report)

    def test_assert_gradient_carries_the_report(self):
        assert assert_gradient(quadratic, [1.0, 2.0]).ok
        with pytest.raises(AssertionError, match="gradient WRONG in w"):
            assert_gradient(lambda w: (np.sum(w**2), w), [1.0, 2.0])

    def test_plot(self, tmp_path):
        pytest.importorskip("matplotlib")
        for report, name in ((self.wrong(), "wrong.svg"), (gradcheck(quadratic, [1.0]), "right.svg")):
            figure = report.plot(tmp_path / name)
            assert (tmp_path / name).stat().st_size > 1000
            assert len(figure.axes) >= 2
