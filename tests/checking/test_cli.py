"""python -m fastbp check: exit codes and output."""

import numpy as np
import pytest

from fastbp.checking.cli import main

MODULE = '''
import numpy as np
w0 = np.array([1.0, 2.0, 3.0])
layout = [("a", (1,)), ("b", (2,))]
def right(w):
    return float(np.sum(w**2)), 2 * w
def wrong(w):
    return float(np.sum(w**2)), w
def noisy(w):
    return float(np.sum(w**2) + 5 * np.sin(1e9 * w.sum())), 2 * w
def loss(w):
    return float(np.sum(w**2))
def slope(w):
    return 2 * w
def point():
    return np.array([3.0, 4.0, 5.0])
'''
OTHER = '''
import numpy as np
def case():
    return lambda w: (float(w @ w), 2 * w), np.ones(3), [("only", (3,))]
def broken(w):
    return 1.0
def raises(w):
    raise RuntimeError("from inside f")
def leaves(w):
    raise SystemExit(0)
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_gradients.py").write_text(MODULE)
    (tmp_path / "my_cases.py").write_text(OTHER)
    (tmp_path / "no_syntax.py").write_text("def f(:")
    (tmp_path / "leaves_at_import.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("module")
class TestExitCode:
    @pytest.mark.parametrize(("arguments", "code", "words"), [
        (["my_gradients:right"], 0, "CORRECT"),
        (["my_gradients:wrong"], 1, "WRONG in a, b"),
        (["my_gradients:noisy"], 2, "UNDECIDED"),
        (["my_gradients:loss", "--grad", "my_gradients:slope"], 0, "CORRECT"),
        (["my_gradients:right", "--w0", "my_gradients:point"], 0, "loss 50"),
        (["my_gradients:right", "--exhaustive"], 0, "CORRECT"),
        (["my_gradients:wrong", "--diagnose"], 1, "half as large"),
        (["my_cases:case"], 0, "only"),
    ])
    def test_verdict(self, arguments, code, words, capsys):
        assert main(arguments) == code
        assert words in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [
        ["no_such_module:f"], ["my_gradients:no_such_function"], ["my_gradients"],
        ["my_gradients:right", "--size", "0"],
        ["my_cases:broken", "--size", "3"], ["my_cases:raises", "--size", "3"], ["my_cases:leaves", "--size", "3"],
        ["no_syntax:f"], ["leaves_at_import:f"], ["./my_cases.py:case"],
        ["my_gradients:right", "--plot", "no/such/folder/picture.svg"],
    ])
    def test_what_cannot_run_is_neither_wrong_nor_undecided(self, arguments, capsys):
        assert main(arguments) == 3
        assert "error: " in capsys.readouterr().err

    def test_wrong_usage(self):
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == 3

    def test_plot(self, module):
        pytest.importorskip("matplotlib")
        assert main(["my_gradients:right", "--plot", "picture.svg"]) == 0
        assert np.fromfile(module / "picture.svg", dtype=np.uint8).size > 1000
