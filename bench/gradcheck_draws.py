"""Random networks, half with a random mistake, half right with kinks placed at w0: misses and false alarms.

    python bench/gradcheck_draws.py [--draws 10000] [--on-kink 1000] [--first 0] [--jobs 2] [--kinds "on a kink" ...]

The second number is of draws of each of four kinds, all with kinks at w0: a mistake in a block through which a kink
passes, in entries that it does not reach, or in entries that it does; right gradients with 0, 1/2 or 1 for relu'(0);
and right ones which are the mean of two sides.  Writes bench/results/gradcheck_draws.json and the lines about it in
docs/gradcheck.md.  Interrupted, it goes on where it was, as long as the commit is the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastbp.checking import gradcheck  # noqa: E402
from tests.checking.draws import draw, draw_in_reach, draw_mean_of_sides, draw_on_kink, draw_right_on_kink  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "gradcheck_draws.json"
KINDS = {"anywhere": draw, "on a kink": draw_on_kink, "in reach of a kink": draw_in_reach,
         "right on a kink": draw_right_on_kink, "mean of two sides": draw_mean_of_sides}
WORDS = {"anywhere": "",
         "on a kink": " with the mistake in a block through which a kink passes, in entries that it does not reach",
         "in reach of a kink": " with the mistake in entries that a kink reaches, too large to be a choice of sides",
         "right on a kink": " on a kink, with 0, 1/2 or 1 for relu'(0)",
         "mean of two sides": " on a kink, with the weighted mean of the gradients on two random sides of it"}


def check(task: tuple[str, int]) -> tuple[str, bool, int, str]:
    """What became of one draw: the outcome, whether it was wrong, the evaluations, and words if it needs any."""
    kind, seed = task
    case = KINDS[kind](seed)
    report = gradcheck(case.f.value, case.w0, case.layout, grad=case.f.gradient)
    failed = set(report.failed_blocks)
    if case.wrong and report.ok:
        outcome = "missed"
    elif case.wrong and not failed:
        outcome = "wrong but undecided"
    elif not case.wrong and failed:
        outcome = "false alarms"
    elif failed != set(case.wrong):
        outcome = "other blocks named"
    elif not case.wrong and not report.ok:
        outcome = "right but undecided"
    else:
        return "fine", bool(case.wrong), report.evaluations, ""
    words = f"{case.text}: {report.verdict}, failed {sorted(failed)}, undecided {report.undecided_blocks}"
    return outcome, bool(case.wrong), report.evaluations, words


def run(kind: str, seeds: range, pool: Any, diary: Path | None) -> dict[str, Any]:
    """All draws of one kind; those in the diary need no second look."""
    done: dict[int, list[Any]] = {}
    if diary and diary.exists():
        entries = [json.loads(line) for line in diary.read_text().splitlines()]
        done = {seed: outcome for what, seed, outcome in entries if what == kind and seed in seeds}
    start, left = time.perf_counter(), [seed for seed in seeds if seed not in done]
    for seed, outcome in zip(left, pool.imap(check, [(kind, seed) for seed in left], chunksize=10), strict=True):
        done[seed] = list(outcome)
        if diary:
            with diary.open("a") as file:
                file.write(json.dumps([kind, seed, outcome]) + "\n")
    counts = Counter(outcome for outcome, *_ in done.values())
    wrong = sum(is_wrong for _, is_wrong, *_ in done.values())
    result = {"draws": len(seeds), "first seed": seeds.start, "wrong": wrong, "right": len(seeds) - wrong}
    result |= {name: counts[name] for name in ("missed", "wrong but undecided", "false alarms", "other blocks named",
                                               "right but undecided")}
    result |= {"evaluations per check": round(sum(cost for _, _, cost, _ in done.values()) / max(len(seeds), 1), 1),
               "cases": [done[seed][3] for seed in seeds if done[seed][3]]}
    print(kind, json.dumps(result, indent=1), f"({len(left)} of them now, {time.perf_counter() - start:.0f} s)",
          flush=True)
    return result


def commit() -> str:
    """The commit that is checked out, if this is a checkout without changes to the package or its tests."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") if not git("status", "--porcelain", "src", "tests") else ""
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--draws", type=int, default=10_000)
    p.add_argument("--on-kink", type=int, default=1_000, help="draws of each of the kinds with kinks")
    p.add_argument("--first", type=int, default=0, help="number of the first draw; each number is its own seed")
    p.add_argument("--jobs", type=int, default=1, help="processes")
    p.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="only these; of the others the "
                                                                                   "results stay as they are")
    p.add_argument("--no-save", action="store_true", help="print only")
    arguments = p.parse_args()
    made_at = commit()
    diary = ROOT / "build" / f"gradcheck_draws-{made_at}.jsonl" if made_at else None
    if diary:
        diary.parent.mkdir(exist_ok=True)
    with multiprocessing.Pool(arguments.jobs) as pool:
        results = {}
        for kind in arguments.kinds:
            draws = arguments.draws if kind == "anywhere" else arguments.on_kink
            results[kind] = run(kind, range(arguments.first, arguments.first + draws), pool, diary)
    if not arguments.no_save:
        made_with = {"commit": made_at, "numpy": np.__version__, "python": platform.python_version(),
                     "machine": platform.machine()}
        data = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        data |= {kind: result | made_with for kind, result in results.items()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(data, indent=1) + "\n")
        render()
    return 0


def render() -> None:
    """Put the result into docs/gradcheck.md."""
    from gradcheck_zoo import replace_between

    data = json.loads(RESULTS.read_text())
    lines = []
    for kind, words in WORDS.items():
        if kind not in data:
            continue
        r = data[kind]
        commit = f" (Commit {r['commit']}.)" if r["commit"] else ""
        lines.append(f"{r['draws']:,} draws{words} (seeds {r['first seed']} to {r['first seed'] + r['draws'] - 1}), "
                     f"{r['wrong']:,} wrong and {r['right']:,} right: {r['missed']} wrong ones called correct, "
                     f"{r['wrong but undecided']} undecided; {r['false alarms']} right ones called wrong, "
                     f"{r['right but undecided']} undecided; {r['other blocks named']} with another set of blocks "
                     f"named; {r['evaluations per check']} evaluations a check on average.{commit}")
    replace_between("draws", "\n\n".join(lines))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "bench"))
    sys.exit(main())
