"""What other gradient checkers make of the zoo in tests/checking.

    python bench/gradcheck_zoo.py

Each checker gets every case with its documented defaults, and a dtype that it accepts.  Packages that are not
installed are skipped by name.  Writes bench/results/gradcheck_zoo.json and the table in docs/gradcheck.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastbp.checking import gradcheck  # noqa: E402
from tests.checking.zoo import RIGHT, WRONG  # noqa: E402

Accepts = Callable[[Any], bool]


def loss_of(case: Any) -> Callable[[np.ndarray], float]:
    return lambda w: float(case.f(np.asarray(w, dtype=case.w0.dtype))[0])


def gradient_of(case: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda w: np.asarray(case.f(np.asarray(w, dtype=case.w0.dtype))[1], dtype=float)


def central(case: Any, h: float) -> np.ndarray:
    f, w = loss_of(case), case.w0.astype(float)
    numerical = np.zeros(w.size)
    for i in range(w.size):
        e = np.zeros(w.size)
        e[i] = h
        numerical[i] = (f(w + e) - f(w - e)) / (2 * h)
    return numerical


UNDECIDED: list[str] = []  # cases that fastbp neither accepted nor called wrong


def ours(case: Any) -> bool:
    report = gradcheck(case.f, case.w0, case.layout)
    if report.verdict == "undecided":
        UNDECIDED.append(case.name)
    return report.ok


def textbook(case: Any) -> bool:
    """Central differences with h = 1e-4 and |a - n| / (|a| + |n|) < 1e-7 over the whole vector, as courses teach it."""
    analytic, numerical = gradient_of(case)(case.w0), central(case, 1e-4)
    size = np.linalg.norm(analytic) + np.linalg.norm(numerical)
    return bool(size == 0 or np.linalg.norm(analytic - numerical) / size < 1e-7)


def relaxed(case: Any) -> bool:
    """Central differences with h = 1e-5 and a relative error below 1e-4 in every entry."""
    analytic, numerical = gradient_of(case)(case.w0), central(case, 1e-5)
    size = np.maximum(np.abs(analytic) + np.abs(numerical), 1e-8)
    return bool(np.all(np.abs(analytic - numerical) / size < 1e-4))


def scipy_check(case: Any) -> bool:
    """scipy.optimize.check_grad; its result is a distance, taken relative to the gradient with 1e-6."""
    from scipy.optimize import check_grad

    w = case.w0.astype(float)
    distance = check_grad(loss_of(case), gradient_of(case), w)
    return bool(distance <= 1e-6 * max(1.0, float(np.linalg.norm(gradient_of(case)(w)))))


def torch_check(case: Any) -> bool:
    """torch.autograd.gradcheck on a custom function, defaults, double precision inputs."""
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, w: Any) -> Any:
            ctx.save_for_backward(w)
            return torch.tensor(loss_of(case)(w.detach().numpy()), dtype=torch.float64)

        @staticmethod
        def backward(ctx: Any, up: Any) -> Any:
            (w,) = ctx.saved_tensors
            return up * torch.from_numpy(gradient_of(case)(w.detach().numpy()).copy())

    w = torch.tensor(case.w0.astype(float), requires_grad=True)
    return bool(torch.autograd.gradcheck(Function.apply, (w,), raise_exception=False))


def jax_check(case: Any) -> bool:
    """jax.test_util.check_grads in reverse mode, order 1, 64-bit, on a function with a custom derivative."""
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)

    @jax.custom_vjp
    def f(w: Any) -> Any:
        return jax.pure_callback(lambda v: np.float64(loss_of(case)(np.asarray(v))),
                                 jax.ShapeDtypeStruct((), np.float64), w)

    def backward(w: Any, up: Any) -> Any:
        g = jax.pure_callback(lambda v: gradient_of(case)(np.asarray(v)), jax.ShapeDtypeStruct(w.shape, np.float64), w)
        return (up * g,)

    f.defvjp(lambda w: (f(w), w), backward)
    try:
        check_grads(f, (jax.numpy.asarray(case.w0.astype(float)),), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


def autograd_check(case: Any) -> bool:
    """autograd.test_util.check_grads in reverse mode, order 1, on a primitive with its derivative given."""
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    f = primitive(loss_of(case))
    defvjp(f, lambda ans, w: lambda up: up * gradient_of(case)(w))
    try:
        check_grads(f, modes=["rev"], order=1)(case.w0.astype(float))
    except AssertionError:
        return False
    return True


CHECKERS: list[tuple[str, str, Accepts]] = [
    ("fastbp.gradcheck", "numpy", ours),
    ("torch.autograd.gradcheck", "torch", torch_check),
    ("jax check_grads", "jax", jax_check),
    ("autograd check_grads", "autograd", autograd_check),
    ("scipy check_grad", "scipy", scipy_check),
    ("textbook, h = 1e-4, 1e-7", "numpy", textbook),
    ("central, h = 1e-5, 1e-4 per entry", "numpy", relaxed),
]


def run(checker: Accepts, most: int | None) -> dict[str, Any]:
    found = refused = wrong = right = broken = 0
    start = time.perf_counter()
    for cases, is_wrong in ((WRONG, True), (RIGHT, False)):
        for case in cases:
            if most is not None and case.w0.size > most:
                continue
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    accepted = checker(case)
            except Exception:  # a checker that cannot run has not accepted
                accepted, broken = False, broken + 1
            if is_wrong:
                wrong, found = wrong + 1, found + (not accepted)
            else:
                right, refused = right + 1, refused + (not accepted)
    return {"wrong": wrong, "found": found, "right": right, "refused": refused, "could not run": broken,
            "seconds": round(time.perf_counter() - start, 1)}


def replace_between(name: str, text: str, file: Path = ROOT / "docs" / "gradcheck.md") -> None:
    """Put ``text`` between the markers ``<!-- name -->`` and ``<!-- /name -->`` of a document."""
    document = file.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = document.split(begin, 1)
    file.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--most", type=int, help="leave out cases of more parameters")
    p.add_argument("--no-save", action="store_true", help="print only")
    p.add_argument("--only", help="run the checkers whose name contains this, keep the stored results of the others")
    arguments = p.parse_args()
    results, skipped = {}, []
    stored = ROOT / "bench" / "results" / "gradcheck_zoo.json"
    if arguments.only and stored.exists():
        results = json.loads(stored.read_text())["results"]
    for name, package, checker in CHECKERS:
        if arguments.only and arguments.only not in name:
            continue
        try:
            found_version = version(package)
        except PackageNotFoundError:
            skipped.append(name)
            print(f"{name}: skipped, {package} is not installed")
            continue
        results[name] = {"version": f"{package} {found_version}", **run(checker, arguments.most)}
        if checker is ours:
            results[name]["undecided"] = UNDECIDED
        print(name, results[name], flush=True)
    if not arguments.no_save:
        data = {"results": results, "skipped": skipped,
                "python": platform.python_version(), "machine": platform.machine()}
        (ROOT / "bench" / "results").mkdir(exist_ok=True)
        (ROOT / "bench" / "results" / "gradcheck_zoo.json").write_text(json.dumps(data, indent=1) + "\n")
        render()
    return 0


def render() -> None:
    """Put the table into docs/gradcheck.md."""
    data = json.loads((ROOT / "bench" / "results" / "gradcheck_zoo.json").read_text())
    rows = ["| checker | version | wrong ones found | right ones not accepted |", "|---|---|---|---|"]
    for name, r in data["results"].items():
        undecided = f" ({len(r['undecided'])} undecided)" if r.get("undecided") else ""
        rows.append(f"| {name} | {r['version']} | {r['found']} of {r['wrong']} | {r['refused']} of {r['right']}"
                    f"{undecided} |")
    if data["skipped"]:
        rows.append("")
        rows.append("Not installed when this was made: " + ", ".join(data["skipped"]) + ".")
    replace_between("zoo", "\n".join(rows))


if __name__ == "__main__":
    sys.exit(main())
