"""Try a built wheel as a user would: is it small, quick to import, complete, and content with NumPy alone?

``python tools/check_wheel.py dist`` takes the one wheel in that folder, installs it into a new virtual
environment with NumPy and nothing else, and runs a gradient there, out of reach of the source tree.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

LARGEST = 1_500_000  # bytes
SLOWEST_IMPORT = 1.3  # times that of NumPy
UNWANTED = (".c", ".pyx", ".o", ".html")
TEST_ONLY = ("_wide_", "_scalar_", "tests/", "bench/")

TRIAL = """
import numpy as np, fastbp
net = fastbp.MLP([64, 32, 10], activation="relu", output_activation="softmax", loss="cross_entropy", rng=0)
X, Y = np.random.default_rng(0).normal(size=(20, 64)), np.arange(20) % 10
loss, gradient = net.value_and_grad(X, Y)
assert np.isfinite(loss) and gradient.shape == (net.n_parameters,)
first = net.train_step(X, Y, fastbp.Adam())
assert net.value(X, Y) < first
from fastbp.demo import load_digits
assert load_digits()[0].shape == (1797, 64)
import importlib.metadata, sys
assert not {"scipy", "sklearn", "matplotlib", "pytest"} & set(sys.modules)
print("fastbp", importlib.metadata.version("fastbp"), "from", fastbp.__file__)
fastbp.show_config()
"""


def import_ratio(python: str, rounds: int = 12) -> float:
    """How much longer fastbp takes to import than NumPy: best times of processes taken in turn, less an empty one's."""
    best = dict.fromkeys(("pass", "import numpy", "import fastbp"), float("inf"))
    for _ in range(rounds):
        for statement in best:
            start = time.perf_counter()
            subprocess.run([python, "-I", "-c", statement], check=True)
            best[statement] = min(best[statement], time.perf_counter() - start)
    empty, numpy_alone, fastbp_too = best.values()
    return (fastbp_too - empty) / (numpy_alone - empty)


def check(folder: Path) -> None:
    """Check the one wheel in `folder`; raise SystemExit with the reason where it fails."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1 or len(list(folder.glob("*.tar.gz"))) != 1:
        raise SystemExit(f"{folder}: one wheel and one sdist expected, got {sorted(map(str, wheels))}")
    wheel = wheels[0].resolve()
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size:,} bytes (at most {LARGEST:,})")
    if size > LARGEST:
        raise SystemExit("the wheel is too large")
    names = zipfile.ZipFile(wheel).namelist()
    unwanted = [name for name in names if name.endswith(UNWANTED) or any(word in name for word in TEST_ONLY)]
    if unwanted:
        raise SystemExit(f"the wheel holds what it should not: {unwanted}")
    with tempfile.TemporaryDirectory() as home:
        venv.create(home, with_pip=True)
        python = str(Path(home, "bin", "python"))
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", str(wheel)], check=True, cwd=home)
        listing = subprocess.check_output([*pip, "list", "--format=freeze"], cwd=home, text=True)
        installed = {line.split("=")[0].lower() for line in listing.split()} - {"pip", "setuptools", "wheel"}
        if installed != {"fastbp", "numpy"}:
            raise SystemExit(f"installed: {sorted(installed)}; fastbp and NumPy alone were expected")
        subprocess.run([*pip, "check"], check=True, cwd=home)
        subprocess.run([python, "-I", "-c", TRIAL], check=True, cwd=home)
        ratio = import_ratio(python)
    print(f"import: {ratio:.2f} times NumPy's (at most {SLOWEST_IMPORT})")
    if ratio > SLOWEST_IMPORT:
        raise SystemExit("the import is too slow")
    print("the wheel works")


if __name__ == "__main__":
    check(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
