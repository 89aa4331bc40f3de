"""Measure what training over MPI costs, the all-reduce beside the step, and work out where it pays.

    python bench/scaling_mpi.py             measure between two ranks on this machine and print
    python bench/scaling_mpi.py --save      keep the result in bench/results, renew the tables of docs/scaling.md
    python bench/scaling_mpi.py --tables    renew them from the result that is kept, timing nothing

Two processes with one thread each are timed on their own and together; one process with all threads stands for a
machine of a cluster. The cluster's network is not measured: what it takes is computed from the figures in `LINKS`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import run
import table

import fastbp
from fastbp import _mpi

HERE = Path(__file__).parent
RESULT = run.RESULTS / "scaling_mpi.json"
PAGE = HERE.parent / "docs" / "scaling.md"

SIZES = ((16, 64, 64, 4), (64, 256, 128, 10), (784, 128, 10), (784, 256, 256, 10), (1024, 1024, 1024, 1024))
ROWS = (32, 256)  # of each rank
MACHINE_ROWS = (8, 32, 128, 512, 2048)  # of a whole machine
NUMBERS = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # in a vector
# Assumed, not measured: seconds until a small message has arrived, through MPI; bytes per second of a large one.
LINKS = {
    "10 Gbit Ethernet": (30e-6, 1.1e9),
    "25 Gbit Ethernet": (20e-6, 2.8e9),
    "100 Gbit with RDMA": (2e-6, 11e9),
}
MACHINES = (2, 4, 8, 16, 32, 64)
EFFICIENT = 0.8
BATCHES = (256, 1024, 8192)  # rows of all machines together


# --- on every rank --------------------------------------------------------------------------------------


def clock(comm: Any, call: Callable[[], object], seconds: float) -> float:
    """Time a call that all ranks make together: microseconds of the rank that took longest, in the best round."""
    for _ in range(3):
        call()
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(3):
        call()
    repeat = comm.bcast(max(5, int(seconds * 3 / max(time.perf_counter() - start, 1e-7))))
    taken = np.empty(repeat)
    comm.Barrier()
    for i in range(repeat):
        start = time.perf_counter()
        call()
        taken[i] = time.perf_counter() - start
    return float(np.max(comm.allgather(taken), axis=0).min()) * 1e6


class Task:
    """One network and its data on this rank."""

    def __init__(self, sizes: tuple[int, ...], rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.net = fastbp.MLP(sizes, activation="relu", dtype=np.float32, rng=0)
        self.optimizer = fastbp.Adam(1e-4)
        self.steps = max(1, 2000 // rows)
        X = rng.normal(size=(rows * self.steps, sizes[0])).astype(np.float32)
        Y = rng.normal(size=(rows * self.steps, sizes[-1])).astype(np.float32)
        self.batch = (X, Y, None)
        self.rows = rows
        self.losses = np.zeros(self.steps)
        self.out = np.zeros(self.net.n_parameters, np.float32)

    def alone(self) -> None:
        """Take all steps without the others."""
        run = self.net._run_batches
        _, failure = run(*self.batch, self.optimizer, None, 0, self.rows, self.losses, seconds=math.inf)
        assert failure is None

    def together(self, group: _mpi.Group) -> None:
        """Take all steps with the others."""
        run = functools.partial(group.run, self.net)
        _, failure = run(*self.batch, self.optimizer, None, 0, self.rows, self.losses, seconds=math.inf)
        assert failure is None

    def gradient(self) -> None:
        """Compute one gradient."""
        self.net._batch_gradient(*self.batch, None, 0, self.rows, self.out)


def overlap(comm: Any, mpi: Any, task: Task, seconds: float) -> dict[str, float]:
    """Time the ways to let the gradient travel while something else is done.

    ``compute apart`` and ``compute meanwhile``: the all-reduce of a vector as long as the gradient, and the computation
    of another gradient, one after the other and at once: the most that an overlap with the backward pass could give.
    ``update apart`` and ``update in halves``: the all-reduce and then the update; and in two halves, each updated while
    the other travels, without the check that the whole gradient is finite.
    """
    net, vector = task.net, np.zeros(task.net.n_parameters, np.float32)
    half = len(vector) // 2
    parts = (slice(0, half), slice(half, None))
    whole = task.optimizer._state_for(net)
    states = [net._kernels.UpdateState(whole.owner, "adam", whole.first[part], whole.second[part]) for part in parts]
    for state in states:
        state.set(*task.optimizer._settings())

    def meanwhile() -> None:
        request = comm.Iallreduce(mpi.IN_PLACE, vector)
        task.gradient()
        request.Wait()

    def halves() -> None:
        requests = [comm.Iallreduce(mpi.IN_PLACE, vector[part]) for part in parts]
        for request, state, part in zip(requests, states, parts, strict=True):
            request.Wait()
            state.step(net._buffer[part], vector[part])

    def whole_update() -> None:
        comm.Allreduce(mpi.IN_PLACE, vector)
        whole.step(net._buffer, vector)

    def apart() -> None:
        comm.Allreduce(mpi.IN_PLACE, vector)
        task.gradient()

    calls = {
        "compute apart": apart,
        "compute meanwhile": meanwhile,
        "update apart": whole_update,
        "update in halves": halves,
    }
    return {name: clock(comm, call, seconds) for name, call in calls.items()}


def measure(seconds: float) -> None:
    """Measure as one of the ranks; rank 0 prints the result."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    found: dict[str, Any] = {"ranks": comm.size, "mpi": MPI.Get_library_version().split("\0")[0].split("\n")[0]}
    if comm.size == 1:
        found["machine"] = [
            {"sizes": sizes, "rows": rows, "step": clock(comm, task.alone, seconds) / task.steps}
            for sizes in SIZES
            for rows in MACHINE_ROWS
            for task in [Task(sizes, rows, 0)]
        ]
    else:
        found["all-reduce"] = {}
        for n in NUMBERS:
            call = functools.partial(comm.Allreduce, MPI.IN_PLACE, np.zeros(n, np.float32))
            found["all-reduce"][n] = clock(comm, call, seconds)
    found["steps"] = []
    for sizes in SIZES:
        for rows in ROWS:
            task = Task(sizes, rows, comm.rank)
            entry: dict[str, Any] = {"sizes": sizes, "rows": rows, "parameters": task.net.n_parameters}
            entry["alone"] = clock(comm, task.alone, seconds) / task.steps
            with _mpi.join(comm) as group:
                group.start(task.net, task.optimizer, rows * task.steps, rows * comm.size)
                entry["together"] = clock(comm, functools.partial(task.together, group), seconds) / task.steps
            if comm.size > 1:
                entry.update(overlap(comm, MPI, task, seconds))
            found["steps"].append(entry)
    if comm.rank == 0:
        print(json.dumps(found))


def launch(ranks: int, threads: int, seconds: float) -> dict[str, Any]:
    """Run `measure` on some ranks."""
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        raise SystemExit("mpiexec is missing: pip install fastbp[mpi]")
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--measure", "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


# --- on paper -------------------------------------------------------------------------------------------


def all_reduce(size: float, machines: int, link: tuple[float, float]) -> float:
    """Microseconds for so many bytes: the better of recursive doubling, and reduce-scatter with allgather."""
    latency, rate = link
    rounds = math.ceil(math.log2(machines))
    doubling = rounds * (latency + size / rate)
    scattered = 2 * rounds * latency + 2 * (1 - 1 / machines) * size / rate
    return min(doubling, scattered) * 1e6


class Model:
    """One network's step on a machine, and with others.

    Parameters
    ----------
    result : dict
        What was measured.
    sizes : list of int
        The network.
    """

    def __init__(self, result: dict[str, Any], sizes: list[int]) -> None:
        points = [entry for entry in result["one"]["machine"] if entry["sizes"] == sizes]
        self.rows, self.times = np.array([[entry["rows"], entry["step"]] for entry in points]).T
        single = [entry for entry in result["one"]["steps"] if entry["sizes"] == sizes]
        self.overhead = max(0.0, min(entry["together"] - entry["alone"] for entry in single))  # of Python and checks
        self.parameters = single[0]["parameters"]

    def alone(self, rows: float) -> float:
        """Microseconds of a step on one machine."""
        if rows > self.rows[-1]:
            return float(self.times[-1] * rows / self.rows[-1])
        return float(np.interp(rows, self.rows, self.times))

    def together(self, rows: float, machines: int, link: tuple[float, float]) -> float:
        """Microseconds of a step with others, each with so many rows."""
        return self.alone(rows) + self.overhead + all_reduce(4 * self.parameters, machines, link)

    def rows_needed(self, machines: int, link: tuple[float, float]) -> int:
        """Rows per machine from which a step takes at most 1 / EFFICIENT times as long as without the others."""
        rows = 1
        while self.alone(rows) < EFFICIENT * self.together(rows, machines, link):
            rows = max(rows + 1, round(rows * 1.05))
        return rows

    def best(self, batch: int, link: tuple[float, float]) -> tuple[float, int]:
        """How many times as fast a batch of so many rows is on the best number of machines, and that number."""
        one = self.alone(batch)
        factors = [(one / self.together(batch / machines, machines, link), machines) for machines in MACHINES]
        return max([(1.0, 1), *factors])


# --- tables ---------------------------------------------------------------------------------------------


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Render a table."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def name(sizes: list[int]) -> str:
    """Name of a network."""
    return "-".join(map(str, sizes))


def two_digits(value: float) -> str:
    """Round a count to two digits."""
    digits = max(0, math.floor(math.log10(value)) - 1)
    return f"{round(value, -digits):,.0f}"


def measured_tables(result: dict[str, Any]) -> str:
    """Render what was measured."""
    us, two = table.microseconds, result["two"]
    machine = result["machine"]
    times = two["all-reduce"].items()
    reduce = grid(
        ["numbers (float32)", *(f"{int(n):,}" for n, _ in times)],
        [
            ["all-reduce, µs", *(us(t) for _, t in times)],
            ["GB/s", *(f"{4e-3 * int(n) / t:.2g}" for n, t in times)],
        ],
    )
    steps, overlaps = [], []
    for entry, single in zip(two["steps"], result["one"]["steps"], strict=True):
        alone, together = entry["alone"], entry["together"]
        row = [name(entry["sizes"]), f"{entry['parameters']:,}", str(entry["rows"]), us(alone)]
        more = max(0.0, single["together"] - single["alone"])
        steps.append([*row, us(more), us(together), f"{100 * alone / together:.0f} %"])
        kinds = ("compute apart", "compute meanwhile", "update apart", "update in halves")
        overlaps.append([row[0], row[2], *(us(entry[kind]) for kind in kinds)])
    head = ["network", "parameters", "rows per rank", "step alone, µs", "one rank with `comm`: more", "two ranks, µs"]
    return "\n\n".join(
        [
            f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['date']}; {two['mpi']}.",
            reduce,
            grid([*head, "of alone"], steps),
            "<!-- -->",
            grid(["network", "rows", "apart, µs", "meanwhile", "update apart, µs", "in halves"], overlaps),
        ]
    )


def model_tables(result: dict[str, Any]) -> str:
    """Render what follows for clusters."""
    models = [(sizes, Model(result, sizes)) for sizes in dict.fromkeys(map(tuple, SIZES)) for sizes in [list(sizes)]]
    needed, batches = [], []
    for sizes, model in models:
        cells = [two_digits(model.rows_needed(m, link)) for link in LINKS.values() for m in (2, 8, 32)]
        needed.append([name(sizes), *cells])
        for batch in BATCHES:
            best = [model.best(batch, link) for link in LINKS.values()]
            cells = ["1" if n == 1 else f"{factor:.1f} on {n}" for factor, n in best]
            batches.append([name(sizes), f"{batch:,}", f"{model.alone(batch):,.0f}", *cells])
    head = [f"{link.replace(' Ethernet', '').replace(' with', ',')}: {m}" for link in LINKS for m in (2, 8, 32)]
    return "\n\n".join(
        [
            f"Rows per machine from which a step is {EFFICIENT:.0%} of the time that it takes, by link and machines:",
            grid(["network", *head], needed),
            "A batch of fixed size, shared out: how many times as fast, on the best number of machines:",
            grid(["network", "rows in all", "one machine, µs", *LINKS], batches),
        ]
    )


def renew(result: dict[str, Any]) -> None:
    """Write the tables into the page."""
    table.renew(PAGE, "measured", measured_tables(result))
    table.renew(PAGE, "paper", model_tables(result))


def main() -> None:
    """Measure and show, or what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the result and renew docs/scaling.md")
    parser.add_argument("--tables", action="store_true", help="renew docs/scaling.md from the result that is kept")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure (default 0.3)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.seconds)
        return
    if options.tables:
        renew(json.loads(RESULT.read_text(encoding="utf-8")))
        return
    threads = fastbp.get_num_threads()
    result = {"machine": run.machine(threads)}
    result["one"] = launch(1, threads, options.seconds)
    result["two"] = launch(2, 1, options.seconds)
    print(measured_tables(result), model_tables(result), sep="\n\n")
    if options.save:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        renew(result)


if __name__ == "__main__":
    main()
