"""Kinks at w0 beside mistakes in the same block, and scales and noise that came up with them."""

import numpy as np
import pytest
from scipy.optimize import linprog

from fastbp.checking import gradcheck

from .draws import draw_on_kink
from .zoo_networks import Net


def relu(x):
    return np.maximum(x, 0)


def group_lasso(seed):
    """Least squares with a penalty on the length of each row, two of the four rows zero."""
    rng = np.random.default_rng(seed)
    X, T, w0 = rng.normal(size=(20, 12)), rng.normal(size=20), rng.normal(size=(4, 3))
    w0[[1, 3]] = 0

    def f(w, factor=1.0):
        lengths = np.sqrt((w**2).sum(1, keepdims=True))
        off = X @ w.ravel() - T
        g = (2 / 20 * X.T @ off).reshape(4, 3) + 0.3 * w / np.where(lengths > 0, lengths, 1)
        return (off**2).mean() + 0.3 * lengths.sum(), g * factor

    return f, w0


class TestMistakeInABlockOnAKink:
    @pytest.mark.parametrize("seed", [5, 12, 16, 21, 46, 59, 217, 248, 251, 439, 753, 828, 932])
    def test_draws_that_once_failed(self, seed):
        case = draw_on_kink(seed)
        report = gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient)
        assert set(report.failed_blocks) == set(case.wrong), f"{case.text}\n{report}"

    def test_where_stairs_hide_it_there_is_no_pass(self):
        case = draw_on_kink(431)
        assert gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient).verdict != "correct"

    @pytest.mark.parametrize("share", [3e-4, 1e-3, 0.1])
    def test_a_point_beside_a_kink_acquits_nothing(self, share):
        b = np.array([-0.73, -0.54, -0.32, 0.41, 1.04])

        def f(w):
            inside = (np.abs(w) < 1) * np.where(np.arange(5) == 2, 1 + share, 1.0)
            return np.sum(np.clip(w, -1, 1) * b), inside * b

        report = gradcheck(f, np.array([1.0, -1.0, 0.5, 2.0, -1.0]))
        assert report.verdict == "wrong", str(report)
        assert gradcheck(lambda w: (f(w)[0], (np.abs(w) < 1) * b), np.array([1.0, -1.0, 0.5, 2.0, -1.0])).ok

    @pytest.mark.parametrize("seed", range(12))
    def test_a_smooth_entry_beside_kinks_in_many_dimensions(self, seed):
        f, w0 = group_lasso(seed)
        assert gradcheck(f, w0).ok
        g = f(w0)[1]
        for index in [(0, 0), (2, 0), (2, 2)]:
            factor = np.ones((4, 3))
            factor[index] += max(1e-3, 1e-4 * np.abs(g).max() / np.abs(g[index]))
            report = gradcheck(lambda w, factor=factor: f(w, factor), w0)
            assert report.verdict == "wrong", f"{index}: {report}"

    @pytest.mark.parametrize("seed", range(8))
    def test_slopes_of_two_blocks_that_do_not_go_together(self, seed):
        # The pinball loss of a line through 0, with ties: w and b are each within their range; both at once?
        rng = np.random.default_rng(seed)
        x, t = np.round(2 * rng.normal(size=15)), np.round(rng.normal(size=15))
        tie = t == 0
        columns = np.stack([x, np.ones(15)]) / 15
        base = columns[:, ~tie] @ np.where(t[~tie] > 0, -0.8, 0.2)
        ends = [base + np.minimum(-0.8 * columns[:, tie], 0.2 * columns[:, tie]).sum(1),
                base + np.maximum(-0.8 * columns[:, tie], 0.2 * columns[:, tie]).sum(1)]
        target = ends[0] + rng.uniform(0.02, 0.98, 2) * (ends[1] - ends[0])
        # One slope between -0.8 and 0.2 for each tie, so that they add up to the target but for a distance.
        k = int(tie.sum())
        rows = np.hstack([np.vstack([columns[:, tie], -columns[:, tie]]), -np.ones((4, 1))])
        answer = linprog(np.append(np.zeros(k), 1.0), A_ub=rows, b_ub=np.concatenate([target - base, base - target]),
                         bounds=[(-0.8, 0.2)] * k + [(0, None)])
        report = gradcheck(lambda p: np.maximum(0.8 * (r := t - x * p["w"] - p["b"]), -0.2 * r).mean(),
                           {"w": np.zeros(1), "b": np.zeros(1)}, grad={"w": target[:1], "b": target[1:]})
        assert report.verdict == ("correct" if answer.fun < 1e-9 else "wrong"), f"{answer.fun}\n{report}"


class TestKinksCloseByInSinglePrecision:
    """Thousands of pre-activations: no step is short enough for their kinks and long enough for the noise."""

    net = Net((40, 90, 14), ("relu",), "softmax", "cross_entropy", N=32, dtype="f4", seed=1)

    @pytest.mark.parametrize("seed", range(6))
    def test_right_is_not_refused(self, seed):
        """Whether it is correct or undecided depends on how this machine's matrix products round."""
        net = Net((40, 90, 14), ("relu",), "softmax", "cross_entropy", N=32, dtype="f4", seed=seed)
        report = gradcheck(net, net.w0, net.layout)
        assert not report.failed_blocks, str(report)
        assert report.evaluations < 40_000

    @pytest.mark.parametrize("name", ["W0", "b0"])
    def test_one_wrong_entry(self, name):
        def f(w):
            loss, g = self.net(w)
            part = slice(0, 3600) if name == "W0" else slice(3600, 3690)
            g[part.start + 7] += 0.1 * np.abs(g[part]).max()
            return loss, g

        report = gradcheck(f, self.net.w0, self.net.layout)
        assert report.failed_blocks == [name], str(report)
        assert next(b.worst.index for b in report.blocks if b.name == name) == ((0, 7) if name == "W0" else (7,))
        assert report.evaluations < 20_000


class TestOneWrongEntryOfManyOnAKink:
    """Three of thirty units start at zero; a block of 600 entries is too large to look at each of them."""

    net = Net((20, 30, 5), ("relu",), "softmax", "cross_entropy", N=8, seed=3)
    weights, biases = net.split(net.w0)[:2]
    weights[:, :3] = biases[:3] = 0

    def spoiled(self, w, index, share):
        g = self.net.gradient(w)
        first = g[:600].reshape(20, 30)
        first[index] += share * np.abs(first).max()
        return g

    @pytest.mark.parametrize("tie", [0.0, 1.0])
    def test_right(self, tie):
        net = self.net
        net.ties = {0: tie}
        at_w0 = net.gradient(net.w0)
        report = gradcheck(net.value, net.w0, net.layout, grad=at_w0)
        net.ties = {}
        assert report.ok, str(report)
        assert gradcheck(net.value, net.w0, net.layout, grad=net.gradient).ok

    @pytest.mark.parametrize("share", [1e-3, 0.1])
    @pytest.mark.parametrize("index", [(3, 10), (7, 20), (3, 1)])
    def test_given_as_an_array(self, index, share):
        net = self.net
        report = gradcheck(net.value, net.w0, net.layout, grad=self.spoiled(net.w0, index, share))
        assert report.verdict == "wrong" if index[1] > 2 else not report.ok, str(report)
        assert set(report.failed_blocks) <= {"W0"}, str(report)

    @pytest.mark.parametrize("everywhere", [True, False])
    @pytest.mark.parametrize("index", [(3, 10), (3, 1)])
    def test_given_as_a_function(self, index, everywhere):
        net = self.net
        report = gradcheck(net.value, net.w0, net.layout, grad=lambda w: self.spoiled(
            w, index, 1e-3 if everywhere or np.array_equal(w, net.w0) else 0.0))
        assert report.verdict == "wrong" if index[1] > 2 else not report.ok, str(report)
        assert set(report.failed_blocks) <= {"W0"}, str(report)


def largest(at_tie):
    at_tie = np.array(at_tie, dtype=float)
    return lambda w: (w.max(), at_tie.copy() if np.ptp(w) == 0 else (w == w.max()) / np.sum(w == w.max()))


class TestTies:
    @pytest.mark.parametrize("layout", [None, "entries"])
    @pytest.mark.parametrize(("at_tie", "right"), [
        ((1, 0), True), ((0.5, 0.5), True), ((0.25, 0.75), True), ((1, 1), False), ((0, 0), False),
        ((0.5, 1), False), ((0.5, 0), False), ((0.5, 0.5001), False),
        ((1, 0, 0), True), ((1 / 3, 1 / 3, 1 / 3), True), ((0.5, 0.25, 0.25), True),
        ((0.5, 0.5, 0.5), False), ((1, 1, 0), False), ((0.3, 0.3, 0.3), False), ((0.5, 0.5, 1), False)])
    def test_shares_of_a_maximum_add_up_to_one(self, at_tie, right, layout):
        # (1/2, 1/2, 1/2) is the middle of both slopes along each coordinate.
        layout = layout and [(f"w{i}", 1) for i in range(len(at_tie))]
        report = gradcheck(largest(at_tie), np.full(len(at_tie), 2.0), layout)
        assert report.verdict == ("correct" if right else "wrong")

    def test_ties_within_ties(self):
        # Every entry at a clip's edge, in four groups of four with their maxima tied: one side of everything.
        def f(w):
            groups = w.reshape(4, 4)
            winner = np.arange(4) == groups.argmax(1)[:, None]
            return (groups.max(1) ** 2).sum() + np.minimum(w, 1).sum(), (2 * groups * winner).ravel() + (w <= 1)

        assert gradcheck(f, np.ones(16)).ok
        assert gradcheck(lambda w: (f(w)[0], f(w)[1] + 0.5 * (np.ptp(w) == 0)), np.ones(16)).verdict == "wrong"


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-11, 1e-12])
def test_a_kink_close_by_is_stepped_under(distance):
    w0 = np.array([1 + distance, 1 - distance, 3.0])
    for sign, verdict in ((1, "correct"), (-1, "wrong"), (0, "wrong")):
        report = gradcheck(lambda w, s=sign: (np.abs(w - 1).sum() + w @ w, s * np.sign(w - 1) + 2 * w), w0)
        assert report.verdict == verdict, f"{sign}: {report}"


class TestScales:
    def test_zero_biases_beside_weights_of_1e10(self):
        rng = np.random.default_rng(1)
        X, T, V = rng.normal(size=(10, 3)), rng.normal(size=(10, 2)), 1e-10 * rng.normal(size=(5, 2))
        X[0] = 0

        def f(p, factor=1.0):
            z = X @ p["W"] + p["b"]
            off = relu(z) @ V - T
            d = off @ V.T * (z > 0) / 10
            return 0.5 * (off**2).sum() / 10, {"W": X.T @ d, "b": factor * d.sum(0)}

        p0 = {"W": 1e10 * rng.normal(size=(3, 5)), "b": np.zeros(5)}
        assert gradcheck(f, p0).ok
        assert gradcheck(lambda p: f(p, 2.0), p0).failed_blocks == ["b"]

    @pytest.mark.parametrize("off", [0.0, 1e-12, 1e-9, 1e-6])
    @pytest.mark.parametrize("noise", [0.0, 0.1])
    def test_least_squares_at_and_near_its_minimum(self, off, noise):
        rng = np.random.default_rng(2)
        X = rng.normal(size=(30, 5))
        T = X @ rng.normal(size=5) + noise * rng.normal(size=30)
        w0 = np.linalg.lstsq(X, T, rcond=None)[0] + off

        def f(w, factor=1.0):
            r = X @ w - T
            return float(r @ r) / 2, factor * (X.T @ r)

        assert gradcheck(f, w0).verdict == "correct" if off or noise else gradcheck(f, w0).verdict != "wrong"
        if off >= 1e-9:
            assert gradcheck(lambda w: f(w, 1.01), w0).verdict == "wrong"

    def test_a_fit_without_any_rest(self):
        X = np.round(4 * np.random.default_rng(3).normal(size=(9, 3)))
        w0 = np.array([1.0, -2.0, 0.5])
        report = gradcheck(lambda w: (np.mean((X @ w - X @ w0) ** 2), 2 / 9 * X.T @ (X @ w - X @ w0)), w0)
        assert report.ok, str(report)

    @pytest.mark.parametrize("seed", range(12))
    def test_float32_with_a_large_constant_is_undecided(self, seed):
        rng = np.random.default_rng(seed)
        X, T = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))

        def f(p):
            a = np.tanh(X @ p["W"].astype(float))
            off = a @ p["O"].astype(float) - T
            d = off / 20
            g = {"W": X.T @ (d @ p["O"].T.astype(float) * (1 - a * a)), "O": a.T @ d}
            return np.float32(1e6 + 0.5 * (off**2).sum() / 20), {k: v.astype(np.float32) for k, v in g.items()}

        p0 = {"W": rng.normal(size=(3, 6)).astype(np.float32), "O": rng.normal(size=(6, 2)).astype(np.float32)}
        assert gradcheck(f, p0).verdict == "undecided"
