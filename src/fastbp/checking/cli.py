"""``python -m fastbp check MODULE:FUNCTION``: the gradient checker from a shell or in continuous integration."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .check import gradcheck
from .diagnose import diagnose

EXIT = {"correct": 0, "wrong": 1, "undecided": 2}
NOT_RUN = 3

DESCRIPTION = """\
Check a gradient.  FUNCTION takes the parameters and returns (loss, gradient).

Where the parameters come from, first match wins:
  --w0 MODULE:NAME      an array, a list or dict of arrays, or a function that makes one
  --size N              N random numbers
  an attribute of the module named w0
  otherwise FUNCTION is called without arguments and must return (f, w0) or (f, w0, layout)
"""


def load(spec: str) -> Any:
    """The object that ``MODULE:NAME`` stands for; modules are also looked for in the current directory."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name or "/" in module_name or module_name.startswith("."):
        raise ValueError(f"expected MODULE:NAME, a module as in an import statement, got {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module_name)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class Parser(argparse.ArgumentParser):
    """A parser whose own errors do not exit with 2, which stands for "undecided"."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(NOT_RUN, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="python -m fastbp check", description=DESCRIPTION,
                                formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog="Exit code: 0 correct, 1 wrong, 2 undecided, 3 the check could not run.")
    p.add_argument("function", metavar="MODULE:FUNCTION", help="the function to check")
    p.add_argument("--grad", metavar="MODULE:NAME", help="the gradient, if FUNCTION returns the loss alone")
    p.add_argument("--w0", metavar="MODULE:NAME", help="the point at which to check")
    p.add_argument("--size", type=int, metavar="N", help="check at N random numbers")
    p.add_argument("--layout", metavar="MODULE:NAME", help="a list of (name, shape) that divides w0 into blocks")
    p.add_argument("--rtol", type=float, default=1e-5, help="tolerated share of an entry (default 1e-5)")
    p.add_argument("--exhaustive", action="store_true", help="look at every entry by itself")
    p.add_argument("--diagnose", action="store_true", help="if it is wrong, say what the mistake looks like")
    p.add_argument("--seed", type=int, default=0, help="of the random directions, and of --size (default 0)")
    p.add_argument("--plot", metavar="FILE", help="write the report's picture to FILE (needs matplotlib)")
    return p


def gather(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The function, the point and the layout that the command line asks for."""
    f = load(arguments.function)
    module = sys.modules[arguments.function.partition(":")[0]]
    layout = load(arguments.layout) if arguments.layout else getattr(module, "layout", None)
    if arguments.w0:
        w0 = load(arguments.w0)
        w0 = w0() if callable(w0) else w0
    elif arguments.size is not None:
        if arguments.size < 1:
            raise ValueError(f"--size must be at least 1, got {arguments.size}")
        w0 = np.random.default_rng(arguments.seed).standard_normal(arguments.size)
    elif hasattr(module, "w0"):
        w0 = module.w0() if callable(module.w0) else module.w0
    else:
        made = f()
        if not isinstance(made, tuple) or len(made) not in (2, 3):
            raise ValueError(f"{arguments.function} was called without arguments, as no w0 was given, and must then "
                             "return (f, w0) or (f, w0, layout)")
        f, w0, layout = (*made, layout)[:3]
    return f, w0, layout


def run(arguments: argparse.Namespace) -> int:
    """Check, print the report; returns the exit code."""
    f, w0, layout = gather(arguments)
    options = {"grad": load(arguments.grad) if arguments.grad else None, "rtol": arguments.rtol, "rng": arguments.seed}
    if arguments.diagnose:
        diagnosis = diagnose(f, w0, layout, **options)
        report, text = diagnosis.report, str(diagnosis)
    else:
        report = gradcheck(f, w0, layout, exhaustive=arguments.exhaustive, **options)
        text = str(report)
    print(text)
    if arguments.plot:
        report.plot(arguments.plot)
    return EXIT[report.verdict]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return run(arguments)
    except (Exception, SystemExit) as error:  # whatever the user's module does is not a verdict on the gradient
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if not where.startswith((str(Path(__file__).parents[1]), "<frozen importlib", importlib.__file__)):
            traceback.print_exception(error)
        print(f"error: {f'{type(error).__name__}: ' if isinstance(error, SystemExit) else ''}{error}", file=sys.stderr)
        return NOT_RUN
