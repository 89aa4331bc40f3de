"""Time fastbp beside its peers, on the same work, in one run.

    python bench/run.py                   the table and the extra shapes, beside what is installed
    python bench/run.py --quick           three of the cases
    python bench/run.py --sweep --save    all, also against width and batch; kept in bench/results
    FASTBP_ISA=avx2 python bench/run.py   as on a machine without AVX-512, with the peers that can be kept from it, too

Every peer runs in a process of its own, so that no library's threads spin while another is timed, and all
of them wait while one works. For each case, losses and gradients must first agree; then, round after round,
each peer in turn is timed for a moment, and the best of all rounds counts. Two figures say how quiet the
machine was meanwhile: how much longer than its best a control, fixed work that involves none of them,
usually took, and how much of a core the system's other processes used.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# Relative differences, in the Euclidean norm, up to which a gradient is the same. In single precision, rounding
# turns the sign of a few of a million relu inputs, and each of them shows.
AGREEMENT = {"f32": 2e-5, "f64": 1e-10}
AGREEMENT_RELU = {"f32": 2e-3, "f64": 1e-10}
KINDS = ("gradient", "step")  # what everyone does; two more tell fastbp's phases apart
PHASES = ("forward", "value")
OURS = ("fastbp", "one thread")
# What keeps the peers from more than AVX2. Those that compile for the processor they find cannot be kept from it.
AVX2_ONLY = {
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's products
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch, and the libraries that it calls
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
COMPILING = ("torch.compile", "jax")


def _tidy_environment(threads: int) -> None:
    """Set the threads of everything that is started from here; undo settings that favour or harm a peer."""
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Libraries that ask the system for the number of cores see as many as there are threads.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def answer(pipe: Connection, serve: Callable[[str, Any], Any]) -> None:
    """Serve requests that come through a pipe until it says "end"; an error is an answer, too."""
    while True:
        request, argument = pipe.recv()
        if request == "end":
            return
        try:
            pipe.send(("ok", serve(request, argument)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


def _work(pipe: Connection, name: str, threads: int) -> None:
    """Serve one peer: build it for a case, report its result, time its calls."""
    import peers

    calls: dict[str, Any] = {}

    def serve(request: str, argument: Any) -> Any:
        if request == "build":
            calls.clear()
            case, kinds = argument
            peer = peers.PEERS[name](case, threads)
            result = peer.result()
            calls.update({kind: getattr(peer, kind) for kind in kinds if hasattr(peer, kind)})
            for call in calls.values():
                call()
                call()
            return (*result, list(calls), getattr(peer, "working_memory", None))
        if request == "time":
            kind, seconds = argument
            calls[kind]()
            return peers.best_time(calls[kind], seconds)
        import peak

        return peak.measure(threads)

    answer(pipe, serve)


class Worker:
    """A peer in a process of its own.

    Parameters
    ----------
    name : str
        One of `peers.PEERS`.
    threads : int
        How many the peer may use.
    work : callable
        What the process runs: it serves the requests that come through the pipe.
    """

    def __init__(self, name: str, threads: int, work: Callable[[Connection, str, int], None] = _work) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, name, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, request: str, argument: Any = None) -> Any:
        """Send a request and return the answer; RuntimeError where the peer fails."""
        try:
            self.pipe.send((request, argument))
            state, answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process of {self.name} ended (exit code {self.process.exitcode})") from error
        if state != "ok":
            raise RuntimeError(answer)
        return answer

    def end(self) -> None:
        """Let the process go."""
        if self.process.is_alive():
            self.pipe.send(("end", None))
            self.process.join(5)


def _control() -> float:
    """Time fixed work in plain Python: how disturbed is the machine right now?"""
    start = time.perf_counter()
    total = 0
    for i in range(20_000):
        total += i * i
    return time.perf_counter() - start


def _others(workers: list[Worker]) -> float:
    """Return the processor seconds that everything but this comparison has used since the system started."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        total = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        busy = sum(map(int, total[:3])) + sum(map(int, total[5:8]))  # user, nice, system; interrupts, stolen
        for pid in ["self", *(worker.process.pid for worker in workers)]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            busy -= int(fields[11]) + int(fields[12])
        return busy / tick
    except (OSError, ValueError):  # no such files on this system, or a worker has ended
        return float("nan")


def compare(case: Any, workers: list[Worker], kinds: tuple[str, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """Time one case.

    Parameters
    ----------
    case : cases.Case
        What to compute.
    workers : list of Worker
        The peers; the first is fastbp, whose result the others must agree with.
    kinds : tuple of str
        What to time, where a peer does it.
    rounds : int
        How often each is visited.
    seconds : float
        How long a visit lasts.

    Returns
    -------
    dict
        For each peer its best and median time of each kind in microseconds, or why there is none.
    """
    import numpy as np
    import peers

    found: dict[str, Any] = {}
    loss0, gradient0, running = 0.0, np.zeros(0), []
    for worker in workers:
        if not peers.PEERS[worker.name].fits(case):
            found[worker.name] = {"missing": "this peer has no such network"}
            continue
        try:
            loss, gradient, offered, memory = worker.ask("build", (case, kinds))
        except RuntimeError as error:
            found[worker.name] = {"missing": str(error)}
            print(f"    {worker.name}: {error}", file=sys.stderr)
            continue
        if not running:
            loss0, gradient0 = loss, gradient.astype(float)
        apart = float(np.linalg.norm(gradient - gradient0) / np.linalg.norm(gradient0))
        loss_apart = abs(loss - loss0) / abs(loss0)
        found[worker.name] = {"gradient_apart": apart, "loss_apart": loss_apart}
        if memory is not None:
            found[worker.name]["working_memory"] = memory
        allowed = (AGREEMENT_RELU if case.activation == "relu" else AGREEMENT)[case.dtype]
        if not (apart <= allowed and loss_apart <= AGREEMENT[case.dtype]):
            found[worker.name]["missing"] = f"disagrees: loss by {loss_apart:.0e}, gradient by {apart:.0e}"
            print(f"    {worker.name} {found[worker.name]['missing']}", file=sys.stderr)
            continue
        running.append((worker, offered))
    control = []
    start, others = time.perf_counter(), _others(workers)
    for _ in range(rounds):
        for worker, offered in running:
            time.sleep(0.1)  # threads of the one before stop spinning: OpenBLAS's take 2^26 ticks of the clock
            for kind in offered:
                control.append(_control())
                best, median = worker.ask("time", (kind, seconds))
                times = found[worker.name].setdefault(kind, {"best": float("inf"), "median": []})
                times["best"] = min(times["best"], 1e6 * best)
                times["median"].append(1e6 * median)
    others = (_others(workers) - others) / (time.perf_counter() - start)
    for entry in found.values():
        for kind in (*KINDS, *PHASES):
            if kind in entry:
                entry[kind]["median"] = float(np.median(entry[kind]["median"]))
    return {
        "name": case.name,
        "batch": case.batch,
        "sizes": list(case.sizes),
        "activation": case.activation,
        "head": case.head,
        "dtype": case.dtype,
        "flops": case.flops(),
        "forward_flops": case.flops("forward"),
        "control_spread": float(np.median(control) / min(control) - 1),
        "others": round(others, 3),
        "peers": found,
    }


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine and what is installed."""
    import fastbp

    model, flags = platform.processor() or platform.machine(), ""
    entries: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        entries = dict(line.split(":", 1) for line in lines if ":" in line)
        entries = {key.strip(): value.strip() for key, value in entries.items()}
        model, flags = entries.get("model name", model), entries.get("flags", "")
    isa = "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else platform.machine()
    # Intel's server cores and AMD's Zen 5 have two multiply-add units of 64 bytes, Zen 4 two of 32: other machines.
    kind = isa
    if isa == "avx512" and entries.get("vendor_id") == "GenuineIntel":
        kind += "-intel"
    elif isa == "avx512" and int(entries.get("cpu family", 0)) >= 26:
        kind += "-zen5"
    wanted = os.environ.get("FASTBP_ISA", isa)
    if wanted != isa:  # not what such a machine does: a result of its own
        kind += f"-running-{wanted}"
    packages = ("fastbp", "numpy", "torch", "jax", "jaxlib", "scikit-learn", "scipy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "kind": kind,
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "fastbp": {key: str(value) for key, value in fastbp.get_config().items()},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def save(result: dict[str, Any], target: Path) -> None:
    """Write a result to a file."""
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {target}")


def main() -> int:
    """Run the comparison; 1 if fastbp itself failed somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="for every peer (default 2)")
    parser.add_argument("--rounds", type=int, default=7, help="visits to each peer (default 7)")
    parser.add_argument("--seconds", type=float, default=0.06, help="of each visit (default 0.06)")
    parser.add_argument("--peers", help="comma-separated names; all by default")
    parser.add_argument("--case", action="append", help="only those whose name contains this")
    parser.add_argument("--quick", action="store_true", help="three cases only")
    parser.add_argument("--sweep", action="store_true", help="also time against width and against batch")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--output", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.save and (options.case or options.quick or options.peers):
        parser.error("--save keeps whole results only: without --case, --quick and --peers")
    _tidy_environment(options.threads)

    import limits
    import peers
    import table
    from cases import GROUPS, SWEEPS

    wanted = options.peers.split(",") if options.peers else list(peers.PEERS)
    for name in wanted:
        if name not in peers.PEERS:
            parser.error(f"no peer {name!r}; there are {', '.join(peers.PEERS)}")
    wanted = [*OURS, *(name for name in wanted if name not in OURS)]
    missing = [name for name in wanted if not peers.installed(name)]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)}  (`make bench-compare` installs all)\n")
    groups = ["quick"] if options.quick else ["table", "extra", "rows"]
    groups += ["widths", "batches"] if options.sweep else []

    about = machine(options.threads)
    if about["kind"].endswith("-running-avx2"):
        os.environ.update(AVX2_ONLY)
        wanted = [name for name in wanted if name not in COMPILING]
    workers = [Worker(name, options.threads) for name in wanted if name not in missing]
    result: dict[str, Any] = {"machine": about, "cases": []}
    try:
        result["peak"] = workers[0].ask("peak")
    except RuntimeError as error:
        result["peak"] = {}
        print(f"the machine's peak could not be measured: {error}", file=sys.stderr)
    print(table.describe(result), "\n")
    print(table.header([worker.name for worker in workers]), flush=True)
    for group in groups:
        for case in GROUPS[group]:
            if options.case and not any(part in case.name for part in options.case):
                continue
            kinds = KINDS[:1] if group in SWEEPS else (*KINDS, *PHASES)
            crew = workers[: len(OURS)] if group == "rows" else workers
            rounds = options.rounds
            if group in ("widths", "batches"):  # enough for a plot
                rounds = (rounds + 1) // 2
            entry = compare(case, crew, kinds, rounds, options.seconds)
            entry["group"] = group
            result["cases"].append(entry)
            print(table.line(entry, [worker.name for worker in workers]), flush=True)
    for worker in workers:
        worker.end()
    print("\n" + table.summary(result))
    print("\n" + limits.report(result))
    if options.save or options.output:
        save(result, options.output or RESULTS / f"{about['kind']}.json")
    return int(any("missing" in entry["peers"]["fastbp"] for entry in result["cases"]))


if __name__ == "__main__":
    sys.exit(main())
