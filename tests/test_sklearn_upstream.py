"""scikit-learn's own tests of its two estimators, as installed, with fastbp's in their place.

The file is read from the installed scikit-learn and run with its import of the estimators replaced; nothing else of it
is changed.  What is skipped stands in SKIPPED, with the reason.
"""

import importlib.util
import pathlib
import types

import pytest

sklearn = pytest.importorskip("sklearn", minversion="1.7")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
SKIPPED = {
    "test_gradient": "calls _loss_grad_lbfgs, a private method of scikit-learn's class",
}


def upstream():
    """The module of tests, with the import replaced."""
    package = pathlib.Path(importlib.util.find_spec("sklearn.neural_network").origin).parent
    path = package / "tests" / "test_mlp.py"
    source = path.read_text(encoding="utf-8")
    assert source.count(IMPORT) == 1
    module = types.ModuleType("upstream_test_mlp")
    module.__file__ = str(path)
    exec(compile(source.replace(IMPORT, IMPORT.replace("sklearn.neural_network", "fastbp.sklearn")), path, "exec"),
         module.__dict__)  # fmt: skip
    return module


TESTS = {name: test for name, test in vars(upstream()).items() if name.startswith("test_")}
for name, test in TESTS.items():
    globals()[name] = pytest.mark.skip(reason=SKIPPED[name])(test) if name in SKIPPED else test


@pytest.fixture
def global_random_seed():
    return 42


def test_what_is_skipped_exists_and_the_rest_runs():
    assert set(SKIPPED) <= set(TESTS)
    assert len(TESTS) > 40
