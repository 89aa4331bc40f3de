"""How near a result of run.py comes to what the machine can do, and how time grows with threads and rows.

Every table is made once, as rows of cells, and shown either in the terminal or as Markdown. A figure that a result
does not hold is a dash: results of earlier versions lack some.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable
from typing import Any

from cases import SWEEPS

Result = dict[str, Any]
Table = tuple[str, list[list[str]]]  # what it says, rows of cells; the first holds the heads

CALLS = {"forward": "outputs", "value": "loss", "gradient": "gradient", "step": "Adam step"}
OURS, ALONE = "fastbp", "one thread"


def time_of(entry: Result, name: str, kind: str) -> float:
    """Return the best time in microseconds, nan where there is none."""
    return float(entry["peers"].get(name, {}).get(kind, {}).get("best", math.nan))


def _entries(result: Result, *groups: str) -> list[Result]:
    return [entry for entry in result["cases"] if entry["group"] in groups]


def _figure(value: float, form: str = "{:,.2f}") -> str:
    """Format a figure, a dash for nan."""
    return "-" if math.isnan(value) else form.format(value)


def _percent(value: float) -> str:
    return _figure(100 * value, "{:.0f} %")


def microseconds(value: float) -> str:
    """Format a time with three figures."""
    digits = 0 if math.isnan(value) else max(0, 2 - math.floor(math.log10(max(value, 1e-9))))
    return _figure(value, f"{{:,.{min(digits, 2)}f}}")


# --- what a case takes at least -------------------------------------------------------------------------


def parameters(entry: Result) -> int:
    """Return the number of weights and biases."""
    return sum((n + 1) * m for n, m in itertools.pairwise(entry["sizes"]))


def least_bytes(entry: Result, kind: str) -> int:
    """Count the bytes that pass at least: inputs, targets and parameters in, what is computed out.

    A step updates the parameters and Adam's two vectors, which are read and written; its gradient need not leave the
    cache.
    """
    size = 4 if entry["dtype"] == "f32" else 8
    targets = 8 if entry["head"] == "softmax" else entry["sizes"][-1] * size
    batch = entry["batch"] * (entry["sizes"][0] * size + targets)
    return batch + {"gradient": 2, "step": 6}[kind] * parameters(entry) * size


def limit(entry: Result, kind: str, peak: Result) -> tuple[float, str]:
    """Return the least time in microseconds that this machine's peaks allow, and which of them it is.

    Parameters
    ----------
    entry : dict
        A case.
    kind : {"gradient", "step"}
        What is computed.
    peak : dict
        What `peak.measure` found. Of the memory the rate is that of the least working set measured that is as large
        as the arrays of this case.
    """
    arithmetic = entry["flops"] / peak[entry["dtype"]]["all"] * 1e-3
    moved = least_bytes(entry, kind)
    rates = {int(size): rate for size, rate in peak["stream"].items()}
    memory = moved / rates[min((size for size in rates if size >= moved), default=max(rates))] * 1e-3
    return max((arithmetic, "arithmetic"), (memory, "memory"))


def share_of_peak(entry: Result, kind: str, peak: Result) -> float:
    """Return a step's matrix products over time and over the peak of all threads."""
    return entry["flops"] / time_of(entry, OURS, kind) / peak[entry["dtype"]]["all"] * 1e-3


def phases(entry: Result, peak: Result) -> dict[str, float]:
    """Tell the phases of a step apart, on one thread, where all calls cut their work alike.

    Returns
    -------
    dict
        Shares of one core's peak of ``forward`` (`net.value`: products, activations, loss), ``backward`` (what
        `net.value_and_grad` takes more), ``gradient`` and ``step``; and ``update``, what `net.train_step` takes more
        than the gradient, in nanoseconds per parameter.
    """
    times = {kind: time_of(entry, ALONE, kind) for kind in CALLS}
    rate = peak[entry["dtype"]]["one"] * 1e3  # flop per microsecond
    forward, whole = entry["forward_flops"], entry["flops"]
    return {
        "forward": forward / times["value"] / rate,
        "backward": (whole - forward) / (times["gradient"] - times["value"]) / rate,
        "gradient": whole / times["gradient"] / rate,
        "step": whole / times["step"] / rate,
        "update": (times["step"] - times["gradient"]) / parameters(entry) * 1e3,
    }


# --- tables ---------------------------------------------------------------------------------------------


def peak_table(result: Result) -> Table:
    """Show the peaks themselves."""
    peak = result["peak"]
    rates = ", ".join(
        f"{dtype} {peak[dtype]['one']:.0f} GFLOP/s one core, {peak[dtype]['all']:.0f} all threads"
        for dtype in ("f32", "f64")
    )
    said = f"Peak of multiply-adds, operands in registers ({peak['isa']}): {rates}."
    if "stream" in peak:
        said += " Memory, `a += b` by all threads: " + ", ".join(
            f"{int(size) / 2**20:g} MB {rate:.0f} GB/s" for size, rate in peak["stream"].items()
        )
        said += "."
    sizes = list(peak["f32"]["matmul"])
    return said, [
        ["square matrix product, one core", *sizes],
        *(
            [dtype, *(_percent(peak[dtype]["matmul"][size] / peak[dtype]["one"]) for size in sizes)]
            for dtype in ("f32", "f64")
        ),
    ]


def roofline_table(result: Result) -> Table:
    """Show the shares of the peak of all threads, and of the least time where memory decides it."""
    peak = result["peak"]
    rows = [["batch x network", "MFLOP", "MB", "gradient", "Adam step", "limit of the step, µs", "by", "share of it"]]
    for entry in _entries(result, "table", "extra", "quick"):
        least, reason = limit(entry, "step", peak) if "stream" in peak else (math.nan, "-")
        rows.append(
            [
                entry["name"],
                f"{entry['flops'] / 1e6:,.2f}",
                f"{least_bytes(entry, 'step') / 1e6:,.2f}",
                _percent(share_of_peak(entry, "gradient", peak)),
                _percent(share_of_peak(entry, "step", peak)),
                microseconds(least),
                reason,
                _percent(least / time_of(entry, OURS, "step")),
            ]
        )
    said = (
        "Roofline, all threads: products of a step over its time, as a share of the peak of multiply-adds. The limit "
        "is the longer of two times: of the products at that peak, and of the least bytes of a step with Adam at the "
        "memory's rate for so many."
    )
    return said, rows


def phase_table(result: Result) -> Table:
    """Show the shares of one core's peak by phase."""
    rows = [["batch x network", "forward, loss", "backward", "gradient", "Adam step", "update, ns per parameter"]]
    for entry in _entries(result, "table", "extra", "quick"):
        found = phases(entry, result["peak"])
        cells = [_percent(found[phase]) for phase in ("forward", "backward", "gradient", "step")]
        rows.append([entry["name"], *cells, _figure(found["update"])])
    said = (
        "Phases, on one thread: share of one core's peak, of the loss alone, of what the gradient takes more, of both "
        "together and of a step; and what the step takes more than the gradient."
    )
    return said, rows


def thread_table(result: Result) -> Table:
    """Show how many times as fast all threads are as one, for every call; the least also over the sweeps."""
    rows = [["batch x network", "MFLOP", *CALLS.values()]]
    slowest: list[tuple[float, str]] = []
    large: list[tuple[float, str]] = []
    for entry in result["cases"]:
        ratios = {kind: time_of(entry, ALONE, kind) / time_of(entry, OURS, kind) for kind in CALLS}
        timed = [(ratio, f"{CALLS[kind]} of {entry['name']}") for kind, ratio in ratios.items() if ratio > 0]
        slowest += timed
        if entry["group"] not in SWEEPS:
            rows.append([entry["name"], f"{entry['flops'] / 1e6:,.2f}", *map(_figure, ratios.values())])
            large += timed[-2:] if entry["flops"] > 20e6 else []
    said = f"Times as fast with {result['machine']['threads']} threads as with one, in the same run."
    if slowest:
        said += " Least of all, the sweeps' gradients included: {:.2f} ({}).".format(*min(slowest))
    if large:
        said += " Least gradient or step over 20 MFLOP: {:.2f} ({}).".format(*min(large))
    return said, rows


def width_table(result: Result) -> Table:
    """Show what widths around a multiple of the vector's length cost."""
    widths = (45, 46, 47, 48)
    found = [e for width in widths for e in _entries(result, "extra") if e["sizes"] == [width] * 4]
    rows = [["128 rows, w-w-w-w relu f32, µs", *(str(entry["sizes"][0]) for entry in found), "dearest / cheapest"]]
    for name, kind in itertools.product((OURS, ALONE), ("gradient", "step")):
        times = [time_of(entry, name, kind) for entry in found]
        title = f"{CALLS[kind]}, {'one thread' if name == ALONE else 'all threads'}"
        rows.append([title, *map(microseconds, times), _figure(max(times) / min(times)) if times else "-"])
    return "Widths around a whole number of vectors.", rows


def row_table(result: Result) -> Table:
    """Show time per row and working memory against the number of rows."""
    rows = [["network", "rows", "ns per row", "one thread", "memory of a first call, MB"]]
    flat: list[str] = []
    entries = _entries(result, "rows")
    for sizes, group in itertools.groupby(entries, key=lambda entry: entry["sizes"]):
        taken: dict[str, list[float]] = {OURS: [], ALONE: []}
        for entry in group:
            name = entry["name"].partition(" x ")[2]
            for peer, times in taken.items():
                times.append(1e3 * time_of(entry, peer, "gradient") / entry["batch"])
            memory = entry["peers"][OURS].get("working_memory", math.nan)
            cells = [_figure(times[-1], "{:,.1f}") for times in taken.values()]
            rows.append([name, f"{entry['batch']:,}", *cells, _figure(memory / 1e6)])
        spread = [max(times) / min(times) for times in taken.values()]
        flat.append(f"{'-'.join(map(str, sizes))} {spread[0]:.2f} with all threads and {spread[1]:.2f} with one")
    return "Loss + gradient on ever more rows; dearest row over cheapest: " + "; ".join(flat) + ".", rows


def _of_shares(result: Result) -> Iterable[Table]:
    """Yield the tables of what the machine could do."""
    if result.get("peak"):
        yield peak_table(result)
        yield roofline_table(result)


def _of_growth(result: Result) -> Iterable[Table]:
    """Yield the tables of phases, threads, widths and rows, for which fastbp was timed on one thread, too."""
    if any(ALONE in entry["peers"] for entry in result["cases"]):
        if result.get("peak"):
            yield phase_table(result)
        yield thread_table(result)
        if _entries(result, "extra"):
            yield width_table(result)
        if _entries(result, "rows"):
            yield row_table(result)


def in_terminal(table: Table) -> str:
    """Return a table for the terminal."""
    said, rows = table
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*textwrap.wrap(said, 120), *lines])


def in_markdown(table: Table) -> str:
    """Return a table in Markdown."""
    said, (head, *rows) = table
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([said, "", lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]])


def report(result: Result) -> str:
    """Return all tables for the terminal."""
    return "\n\n".join(map(in_terminal, itertools.chain(_of_shares(result), _of_growth(result))))


def shares(result: Result) -> str:
    """Return peaks and roofline in Markdown."""
    return "\n\n".join(map(in_markdown, _of_shares(result)))


def growth(result: Result) -> str:
    """Return what phases, threads, widths and rows do, in Markdown; nothing for results that do not hold it."""
    return "\n\n".join(map(in_markdown, _of_growth(result)))
