"""Importing costs little more than NumPy, needs NumPy only, and does nothing that an import should not."""

import subprocess
import sys
import sysconfig
import time

import pytest
from conftest import SANITIZED

NOT_NEEDED = ("scipy", "matplotlib", "torch", "jax", "sklearn", "threadpoolctl", "mpmath", "hypothesis",
              "pandas", "numba", "tqdm", "mpi4py", "joblib",
              "Cython", "setuptools", "pytest")  # fmt: skip
BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_NEEDED!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def best_times(statements, rounds):
    """The best of `rounds` interleaved runs of each statement in a Python of its own, in seconds."""
    best = dict.fromkeys(statements, float("inf"))
    for _ in range(rounds):
        for statement in statements:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            best[statement] = min(best[statement], time.perf_counter() - start)
    return [best[s] for s in statements]


@pytest.mark.skipif(SANITIZED, reason="sanitizers slow the loader down")
def test_import_takes_at_most_1_3_times_as_long_as_numpy():
    """Whole processes less an empty one; three attempts, for the sake of busy machines."""
    ratios = []
    for _ in range(3):
        empty, numpy_only, fastbp_too = best_times(("pass", "import numpy", "import fastbp"), 12)
        ratios.append((fastbp_too - empty) / (numpy_only - empty))
        if ratios[-1] <= 1.3:
            break
    assert min(ratios) <= 1.3, ratios


def test_everything_but_plots_works_with_numpy_alone():
    run(
        BLOCK
        + """
import numpy as np, fastbp
net = fastbp.MLP([3, 4, 2], activation="gelu", output_activation="softmax", loss="cross_entropy", rng=0)
X, Y = np.ones((5, 3)), np.array([0, 1, 0, 1, 1])
loss, grad = net.value_and_grad(X, Y)
net.train_step(X, Y, fastbp.Adam())
net.fit(X, Y, validation=0.3, patience=3, schedule=fastbp.schedules.Cosine(), progress=True)
assert fastbp.gradcheck(net.objective(X, Y), net.parameters.copy(), net.layout).ok
fastbp.show_config()
"""
    )


def test_import_loads_numpy_and_itself_only():
    loaded = run("""
import sys, numpy
before = set(sys.modules)
import fastbp
print(*sorted({m.partition(".")[0] for m in set(sys.modules) - before}))
""").split()
    assert not set(loaded) & {
        *NOT_NEEDED,
        "inspect",
        "unittest",
        "doctest",
        "subprocess",
        "asyncio",
        "tempfile",
    }
    kernels = [m for m in run("import sys, fastbp; print(*sys.modules)").split() if "_kernels_" in m]
    assert len({m.removeprefix("fastbp._kernels_").rpartition("_")[0] for m in kernels}) <= 1


def test_import_prints_and_warns_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import fastbp"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_does_not_change_the_floating_point_state():
    """No flush-to-zero, as -ffast-math's start-up code would set it: subnormals survive."""
    assert run("""
import fastbp, numpy as np
tiny = np.float64(2.2250738585072014e-308)
print(tiny / 4 > 0, 5e-324 * 1.0 > 0)
""").split() == ["True", "True"]


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python")
def test_import_leaves_a_disabled_gil_disabled():
    assert run("import sys, fastbp; print(sys._is_gil_enabled())").split() == ["False"]


def test_star_import_gives_the_documented_names():
    names = set(run("from fastbp import *; print(*dir())").split())
    assert {"MLP", "Adam", "AdamW", "SGD", "gradcheck", "diagnose", "dense_forward", "dense_backward",
            "safe_log",
            "load", "show_config", "set_num_threads", "get_num_threads", "ACTIVATIONS",
            "LOSSES"} <= names  # fmt: skip
