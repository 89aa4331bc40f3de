"""Where a step's time goes, by sampling: shares of the kernels' functions, and what the products reach of the peak.

    python bench/where.py            the table's cases, training steps with Adam on one thread
    python bench/where.py --save     kept in bench/results

Needs Linux's perf and a build that kept its symbols (FASTBP_SYMBOLS=1); `make bench-profile` makes one in build/profile
and runs this on it. The clock of the system is sampled, so that it works where a virtual machine hides the counters.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import limits
from cases import EXTRA, TABLE, Case
from run import RESULTS, _tidy_environment, machine, save

CASES = (*TABLE, EXTRA[3], EXTRA[7], EXTRA[12])
# Functions that the compiler does not take apart, by what they do; the first that fits counts.
PHASES = {
    "forward, dX": r"_gemm_(panel_\d_rows|inner_products)",
    "dW, db": r"_gemm_panel_\d_columns|_layers_bias_gradient",
    "packing": r"_gemm_pack|_blocks_copy_rows",
    "activations": r"_table_|_activations_|_through_activation",
    "loss": r"_losses_",
    "update": r"_update_|_add_gradients",
    "between them": r"_kernels_",
    "elsewhere": r"",
}
PRODUCTS = ("forward, dX", "dW, db")


def work(index: int) -> None:
    """Print what a step takes while nobody samples it, then take steps until there is something to read."""
    import peers

    import fastbp

    case = CASES[index]
    net = peers.OneThread(case, 1)
    kernels = fastbp._dispatch.load(fastbp.get_config()["isa"], case.numpy_dtype)
    peak = max(kernels.peak(0.2) for _ in range(3))
    net.step()
    best, _ = peers.best_time(net.step, 0.4)
    print(json.dumps({"us": 1e6 * best, "peak": peak}), flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(max(1, round(1e-3 / best))):
            net.step()


def samples(data: Path) -> Counter[str]:
    """Count a recording's samples by phase."""
    text = subprocess.run(
        ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in text.splitlines() if line.strip()]
    return Counter(next(phase for phase, names in PHASES.items() if re.search(names, line)) for line in lines)


def profile(index: int, seconds: float) -> dict[str, Any]:
    """Sample one case; shares by phase, and for products the share of one core's peak."""
    case: Case = CASES[index]
    child = subprocess.Popen(
        [sys.executable, __file__, "--work", str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    told = json.loads(child.stdout.readline())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "perf.data")
        command = ["perf", "record", "-e", "cpu-clock", "-F", "999", "-o", str(data), "-p", str(child.pid)]
        subprocess.run([*command, "--", "sleep", str(seconds)], capture_output=True, check=True)
        found = samples(data)
    child.communicate("end\n")
    shares = {phase: found[phase] / found.total() for phase in PHASES}
    flops = dict(zip(PRODUCTS, (case.flops() - case.flops("forward"), case.flops("forward")), strict=True))
    rates = {phase: 1e-3 * work / (shares[phase] * told["us"]) for phase, work in flops.items() if shares[phase] > 0.05}
    return {
        "name": case.name, "us": told["us"], "shares": shares, "samples": found.total(),
        "of_peak": {phase: rate / told["peak"] for phase, rate in rates.items()},
    }  # fmt: skip


def table(result: dict[str, Any]) -> limits.Table:
    """Return what is shown: a sentence, and rows of cells."""
    heads = []
    for phase in PHASES:
        heads += [phase, "of the peak"] if phase in PRODUCTS else [phase]
    rows = [["batch x network", "step, µs", *heads]]
    for entry in result["profile"]:
        cells = []
        for phase, share in entry["shares"].items():
            cells.append(f"{100 * share:.0f} %")
            if phase in PRODUCTS:
                rate = entry["of_peak"].get(phase)
                cells.append("-" if rate is None else f"{100 * rate:.0f} %")
        rows.append([entry["name"], limits.microseconds(entry["us"]), *cells])
    return "Training steps with Adam on one thread: shares of their time, and of one core's peak.", rows


def main() -> None:
    """Sample all cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each case (default 3)")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _tidy_environment(1)
    if options.work is not None:
        work(options.work)
        return
    about = machine(1)
    result = {"machine": about, "profile": [profile(k, options.seconds) for k in range(len(CASES))]}
    print(limits.in_terminal(table(result)))
    if options.save:
        save(result, RESULTS / f"profile-{about['kind']}.json")


if __name__ == "__main__":
    main()
