"""The examples of the README and of the docstrings run as they stand and say what they print."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import matplotlib
import numpy as np
import pytest

import fastbp

matplotlib.use("Agg")
ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "training.md"]
COMPILED = re.compile(r"_kernels_|_cpu$")
MODULES = ["fastbp"] + [
    m.name for m in pkgutil.walk_packages(fastbp.__path__, "fastbp.")
    if not COMPILED.search(m.name) and not m.name.endswith("__main__")
]  # fmt: skip
PUBLIC = [getattr(fastbp, n) for n in fastbp.__all__ if callable(getattr(fastbp, n))]


def blocks(page):
    """(line number, source) of every ```python block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 1, match.group(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run_in_the_order_of_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__", "np": np}
    for line, source in blocks(page):
        if ">>>" in source:
            test = doctest.DocTestParser().get_doctest(source, names, page.name, str(page), line)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            assert runner.run(test, clear_globs=False).failed == 0
            names |= test.globs
        else:
            exec(compile("\n" * line + source, str(page), "exec"), names)


def test_the_readme_has_an_example():
    assert len(list(blocks(ROOT / "README.md"))) >= 1


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_say_what_they_print(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, extraglobs={"np": np, "fastbp": fastbp}, optionflags=flags).failed == 0


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda t: t.__name__)
def test_everything_public_is_documented_with_its_arguments(thing):
    text = inspect.getdoc(thing) or ""
    assert len(text) > 40
    if inspect.isclass(thing):
        assert ">>>" in text, "a class shows an example"
        for name, member in inspect.getmembers(thing, callable):
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{thing.__name__}.{name} has no docstring"


def test_the_kinks_are_documented():
    """Every activation documents its derivative where it has none."""
    everything = " ".join(p.read_text(encoding="utf-8") for p in PAGES) + (fastbp.MLP.__doc__ or "")
    for name in ("relu", "leaky_relu"):
        assert re.search(rf"{name}'\(0\)|{name}.{{0,80}}(kink|at (0|zero)|z <= 0)", everything, re.DOTALL)
