"""The examples run, reach what they are there to show, and draw their plot where they are told and nothing else."""

import os
import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import fastbp

matplotlib.use("Agg")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example with its plot, in an empty folder, and return its names."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "--plot", ".", *arguments])
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert os.listdir() == [f"{name}.png"]
        assert Path(f"{name}.png").stat().st_size > 10_000
        return names

    yield run
    plt.close("all")


def test_scipy_lbfgs(run):
    pytest.importorskip("scipy")
    names = run("scipy_lbfgs")
    assert len(names["losses"]) == names["found"].nfev
    assert names["error"] < 0.05


def test_online_learner_follows_the_drift(run):
    names = run("online_learner", "--rows", "8000")
    assert names["learner"] < 0.25 < 0.4 < names["copied"]


def test_policy_gradient_learns_to_balance(run):
    names = run("policy_gradient", "--iterations", "40")
    lengths = names["lengths"]
    assert lengths[0] < 30
    assert np.mean(lengths[-5:]) > 150

    # Newton's laws for a cart of 1 kg and a rod of 0.1 kg, 1 m: force is change of momentum, its power that of energy.
    state = np.random.default_rng(0).normal(size=(50, 4))
    right = np.arange(50) % 2 == 1
    force = np.where(right, 10.0, -10.0)
    _, v, angle, omega = state.T
    _, a, _, alpha = (names["move"](state, right) - state).T / 0.02
    sin, cos = np.sin(angle), np.cos(angle)
    momentum = 1.1 * a + 0.05 * (alpha * cos - omega**2 * sin)
    np.testing.assert_allclose(momentum, force, rtol=1e-9)
    turning = 0.05 * (a * omega * cos + v * alpha * cos - v * omega**2 * sin) + 0.1 / 3 * omega * alpha
    power = 1.1 * v * a + turning - 0.05 * 9.8 * omega * sin
    np.testing.assert_allclose(power, force * v, rtol=1e-9, atol=1e-9)


def test_physics_informed_solves_the_equation(run):
    pytest.importorskip("scipy")
    names = run("physics_informed")
    assert names["error"] < 1e-5
    w = names["net"].parameters + 0.1 * np.random.default_rng(0).normal(size=names["net"].n_parameters)
    report = fastbp.gradcheck(names["loss_and_gradient"], w, names["net"].layout)
    assert report.ok, report


def test_surrogate_memmap(run):
    names = run("surrogate_memmap", "--rows", "50_000")
    assert len(names["history"].losses) == 5
    assert names["error"] < 0.05


def test_custom_loss_ignores_the_outliers():
    names = runpy.run_path(str(EXAMPLES / "custom_loss.py"), run_name="__main__")
    assert np.median(abs(names["net"](names["X"]) - names["clean"])) < 0.05


def test_joblib_ensemble(run):
    joblib = pytest.importorskip("joblib")
    names = run("joblib_ensemble", "--networks", "6")
    assert names["errors"][-1] < names["single"]
    assert 2 * max(names["threads"]) <= max(2, joblib.cpu_count())
    alone, _ = names["train"](3, names["X"][names["learn"]], names["labels"][names["learn"]])
    np.testing.assert_array_equal(names["nets"][3].parameters, alone.parameters)
