"""The examples that check other frameworks' gradients run and find them right."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(("package", "example"), [("torch", "check_pytorch.py"), ("jax", "check_jax.py")])
def test_example(package, example):
    pytest.importorskip(package)
    code = (EXAMPLES / example).read_text().split("# The check:")[1].split("if __name__")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    names = runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    assert names["report"].ok, str(names["report"])
