"""Show results of run.py: in the terminal, as the tables of README.md, bench/README.md and docs, and as plots.

``python bench/table.py`` reads every bench/results/*.json, rewrites what stands between the markers in these
files and draws bench/results/*.svg. Nothing there is edited by hand, and a figure that no result holds
is not shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import limits
import peers
from limits import microseconds, time_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TITLES = {"gradient": "loss + gradient", "step": "training step with Adam"}
COLOURS = {
    "fastbp": "#d62728",
    "numpy": "#4c72b0",
    "torch": "#dd8452",
    "torch.compile": "#8c564b",
    "jax": "#55a868",
    "scikit-learn": "#8172b3",
}

Result = dict[str, Any]


def competitors(names: list[str]) -> list[str]:
    """Leave out fastbp and the yardsticks."""
    return [name for name in names if name != "fastbp" and not peers.PEERS[name].reference]


def best_peer(entry: Result, kind: str) -> tuple[str, float]:
    """Return the fastest competitor and its time; ("", nan) if there is none."""
    times = {name: time_of(entry, name, kind) for name in competitors(list(entry["peers"]))}
    times = {name: value for name, value in times.items() if not math.isnan(value)}
    name = min(times, key=lambda n: times[n], default="")
    return name, times.get(name, math.nan)


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean, nan of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def _all_names(result: Result) -> list[str]:
    """Return the peers that appear in a result, in the order of peers.PEERS."""
    found = {name for entry in result["cases"] for name in entry["peers"]}
    return [name for name in peers.PEERS if name in found]


# --- for the terminal -----------------------------------------------------------------------------------


def describe(result: Result) -> str:
    """Say on what and with what the times were taken."""
    m = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return f"{m['cpu']} ({m['kind']}), {m['threads']} threads, {m['system']}, {m['date']}; {versions}"


def title(result: Result) -> str:
    """Return the name of the kind of machine."""
    kind = str(result["machine"]["kind"]).upper().replace("AVX512", "AVX-512")
    return kind.replace("-INTEL", ", Intel").replace("-ZEN5", ", Zen 5").replace("-RUNNING-", ", running ")


def header(names: list[str]) -> str:
    """Return the terminal table's head."""
    return (
        f"best times in microseconds\n{'':58}" + "".join(f"{name:>15}" for name in names) + f"{'noise':>8}{'others':>8}"
    )


def line(entry: Result, names: list[str]) -> str:
    """Return a case's two lines."""
    lines = []
    for kind in TITLES:
        if kind not in entry["peers"]["fastbp"]:
            continue
        times = "".join(f"{microseconds(time_of(entry, name, kind)):>15}" for name in names)
        lines.append(f"{entry['name'] if kind == 'gradient' else '':48.48}{kind:10}{times}")
    lines[0] += f"{100 * entry['control_spread']:6.0f} %{100 * entry['others']:6.0f} %"
    return "\n".join(lines)


def summary(result: Result) -> str:
    """Return the factors against the best peer, by case and over the table."""
    lines = [f"{'times as fast as the best peer':58}{'gradient':>22}{'step':>22}"]
    factors: dict[str, list[float]] = {kind: [] for kind in TITLES}
    for entry in result["cases"]:
        if not competitors(list(entry["peers"])):
            continue
        cells = []
        for kind in TITLES:
            name, value = best_peer(entry, kind)
            factor = value / time_of(entry, "fastbp", kind)
            cells.append(f"{factor:6.2f} {name:>15}" if not math.isnan(factor) else f"{'-':>22}")
            if entry["group"] == "table" and not math.isnan(factor):
                factors[kind].append(factor)
        lines.append(f"{entry['name']:58.58}{''.join(cells)}")
    means = "".join(f"{geometric_mean(factors[kind]):6.2f} {'':>15}" for kind in TITLES)
    if any(factors.values()):
        lines.append(f"{'geometric mean over the table':58}{means}")
    return "\n".join(lines)


# --- for the files --------------------------------------------------------------------------------------


def short_table(result: Result) -> str:
    """Render the README's table: fastbp beside the best peer of each row."""
    lines = [
        f"**{title(result)}**: {describe(result)}.",
        "",
        "| batch x network | gradient, µs | best peer | ratio | Adam step, µs | best peer | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    factors: dict[str, list[float]] = {kind: [] for kind in TITLES}
    for entry in result["cases"]:
        if entry["group"] != "table":
            continue
        cells = [entry["name"]]
        for kind in TITLES:
            name, value = best_peer(entry, kind)
            ours = time_of(entry, "fastbp", kind)
            factors[kind].append(value / ours)
            cells += [microseconds(ours), f"{microseconds(value)} {name}", f"**{value / ours:.2f}**"]
        lines.append("| " + " | ".join(cells) + " |")
    means = [f"**{geometric_mean(factors[kind]):.2f}**" for kind in TITLES]
    lines.append(f"| geometric mean | | | {means[0]} | | | {means[1]} |")
    return "\n".join(lines)


def full_table(result: Result) -> str:
    """Render all cases and all peers, and the roofline."""
    names = _all_names(result)
    lines = [f"## {title(result)}", "", describe(result) + ".", ""]
    for kind, heading in TITLES.items():
        shown = [name for name in names if kind == "gradient" or not peers.PEERS[name].reference]
        lines += [f"### {heading}, microseconds", "", "| batch x network | " + " | ".join(shown) + " |"]
        lines.append("|---|" + "---:|" * len(shown))
        for entry in result["cases"]:
            if entry["group"] in ("table", "extra"):
                fastest = min(
                    (time_of(entry, n, kind) for n in ["fastbp", *competitors(shown)]),
                    key=lambda t: math.inf if math.isnan(t) else t,
                )
                cells = []
                for name in shown:
                    value = time_of(entry, name, kind)
                    cells.append(f"**{microseconds(value)}**" if value == fastest else microseconds(value))
                lines.append(f"| {entry['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    if result.get("peak"):
        lines += ["### Share of what the machine can do", "", limits.shares(result)]
    return "\n".join(lines)


def plot(result: Result, target: Path) -> None:
    """Draw time against width and against batch, one line per peer."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fastbp", "font.size": 10, "font.family": "sans-serif"}
    )
    names = [name for name in _all_names(result) if name in COLOURS]
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    panels: tuple[tuple[str, str, str, str, Callable[[Result], float], float], ...] = (
        (
            "widths",
            "width w",
            "µs per loss + gradient",
            "128 rows, 32-w-w-8 relu, float32",
            lambda entry: entry["sizes"][1],
            1.0,
        ),
        (
            "batches",
            "rows in the batch",
            "ns per row",
            "16-64-64-4 tanh, float32",
            lambda entry: entry["batch"],
            1e3,
        ),
    )
    for axis, (group, label, unit, title_of_panel, size, scale) in zip(axes, panels, strict=True):
        entries = [entry for entry in result["cases"] if entry["group"] == group]
        for name in names:
            points = [
                (size(e), time_of(e, name, "gradient") * scale / (e["batch"] if group == "batches" else 1))
                for e in entries
                if not math.isnan(time_of(e, name, "gradient"))
            ]
            if points:
                ours = name == "fastbp"
                axis.plot(
                    *zip(*points, strict=True),
                    label=name,
                    color=COLOURS[name],
                    linewidth=2.6 if ours else 1.4,
                    marker="o",
                    markersize=4 if ours else 2.5,
                    zorder=3 if ours else 2,
                )
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel=unit)
        axis.set_title(title_of_panel, fontsize=10)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        ticks = [size(entry) for entry in entries][1::2]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:,g}")
    axes[1].legend(frameon=False, fontsize=9)
    m = result["machine"]
    figure.suptitle(f"{m['cpu']} ({title(result)}), {m['threads']} threads, {m['date']}", fontsize=9, color="#555555")
    figure.savefig(target, metadata={"Date": None, "Creator": "bench/table.py"})
    plt.close(figure)


def renew(file: Path, marker: str, text: str) -> None:
    """Replace what stands between ``<!-- marker:begin -->`` and ``<!-- marker:end -->``."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    whole = file.read_text(encoding="utf-8")
    if begin not in whole or end not in whole:
        raise SystemExit(f"{file}: the markers {begin} and {end} are missing")
    before, _, rest = whole.partition(begin)
    file.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Renew the files and the plots."""
    import training_table
    import where

    short, full, growth, profiles = [], [], [], []
    trainings: list[Result] = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "training" in result:
            trainings.append(result)
        if "profile" in result:
            profiles.append(f"{describe(result)}.\n\n{limits.in_markdown(where.table(result))}")
        if "peak" not in result:  # of another bench
            continue
        full.append(full_table(result))
        short.append(short_table(result))
        if "-running-" in result["machine"]["kind"]:  # kernels that the machine would not choose
            continue
        if any(entry["group"] in ("widths", "batches") for entry in result["cases"]):
            picture = path.with_name(f"{path.stem}-time.svg")
            plot(result, picture)
            short.append(f"![Time against width and against batch](bench/results/{picture.name})")
        if tables := limits.growth(result):
            growth.append(f"### {title(result)}\n\n{describe(result)}.\n\n{tables}")
    if not short:
        raise SystemExit("bench/results holds no result: run bench/run.py --save first")
    renew(HERE.parent / "README.md", "bench", "\n\n".join(short))
    renew(HERE / "README.md", "bench", "\n\n".join(full))
    page = HERE.parent / "docs" / "performance.md"
    for marker, parts in (("bench", growth), ("profile", profiles)):
        if parts:
            renew(page, marker, "\n\n".join(parts))
    if trainings:
        renew(HERE.parent / "README.md", "training", "\n\n".join(map(training_table.short_table, trainings)))
        renew(HERE / "README.md", "training", "\n\n".join(map(training_table.full_table, trainings)))


if __name__ == "__main__":
    main()
