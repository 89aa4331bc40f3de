"""10,000 random networks, half with a random mistake, half right with kinks placed at w0: misses and false alarms.

    python bench/gradcheck_draws.py [--draws 10000] [--first 0]

Writes bench/results/gradcheck_draws.json and the line about it in docs/gradcheck.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastbp.checking import gradcheck  # noqa: E402
from tests.checking.draws import draw  # noqa: E402


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--draws", type=int, default=10_000)
    p.add_argument("--first", type=int, default=0, help="number of the first draw; each number is its own seed")
    p.add_argument("--no-save", action="store_true", help="print only")
    arguments = p.parse_args()
    wrong = missed = unseen = alarms = misnamed = undecided = evaluations = 0
    troubles: list[str] = []
    start = time.perf_counter()
    for seed in range(arguments.first, arguments.first + arguments.draws):
        case = draw(seed)
        report = gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient)
        evaluations += report.evaluations
        wrong += bool(case.wrong)
        failed = set(report.failed_blocks)
        if case.wrong and report.ok:
            missed += 1
        elif case.wrong and not failed:
            unseen += 1
        elif not case.wrong and failed:
            alarms += 1
        elif failed != set(case.wrong):
            misnamed += 1
        elif not case.wrong and not report.ok:
            undecided += 1
        else:
            continue
        troubles.append(f"{case.text}: {report.verdict}, failed {sorted(failed)}, undecided {report.undecided_blocks}")
        print(troubles[-1], flush=True)
    result = {
        "draws": arguments.draws, "first seed": arguments.first, "wrong": wrong, "right": arguments.draws - wrong,
        "missed": missed, "wrong but undecided": unseen, "false alarms": alarms, "other blocks named": misnamed,
        "right but undecided": undecided, "evaluations per check": round(evaluations / arguments.draws, 1),
        "seconds": round(time.perf_counter() - start, 1), "cases": troubles,
        "numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine(),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "cases"}))
    if not arguments.no_save:
        (ROOT / "bench" / "results").mkdir(exist_ok=True)
        (ROOT / "bench" / "results" / "gradcheck_draws.json").write_text(json.dumps(result, indent=1) + "\n")
        render()
    return 0


def render() -> None:
    """Put the result into docs/gradcheck.md."""
    from gradcheck_zoo import replace_between

    r = json.loads((ROOT / "bench" / "results" / "gradcheck_draws.json").read_text())
    text = (f"{r['draws']:,} draws (seeds {r['first seed']} to {r['first seed'] + r['draws'] - 1}), "
            f"{r['wrong']:,} wrong and {r['right']:,} right: {r['missed']} wrong ones called correct, "
            f"{r['wrong but undecided']} undecided; {r['false alarms']} right ones called wrong, "
            f"{r['right but undecided']} undecided; {r['other blocks named']} with another set of blocks named; "
            f"{r['evaluations per check']} evaluations a check on average.")
    if "commit" in r:
        text += f" Made at commit {r['commit']}."
    replace_between("draws", text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "bench"))
    sys.exit(main())
