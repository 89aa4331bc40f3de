"""Pictures of a report; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from .report import Report, relative_error_map


def draw_report(report: Report, path: str | None = None) -> Any:
    """The error against the step for the worst entries, and a map of the error over each block."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, NullFormatter
    except ImportError as error:  # pragma: no cover
        raise ImportError("report.plot() needs matplotlib: pip install matplotlib") from error
    worst = [b.worst for b in report.blocks if b.worst is not None and b.worst.steps]
    worst = sorted(worst, key=lambda e: -e.relative)[:6]
    maps = [b for b in report.blocks if b.entries][:4]
    figure = Figure(figsize=(5 + 3.2 * max(1, len(maps)), 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + max(1, len(maps)), squeeze=False)[0]
    left = axes[0]
    for entry in worst:
        steps = np.array(entry.steps)
        size = max(abs(entry.analytic), abs(entry.numerical)) or 1.0
        index = ",".join(map(str, entry.index))
        line = left.loglog(steps[:, 0], np.maximum(np.abs(steps[:, 1]) / size, 1e-17), "o-", markersize=3,
                           label=f"{entry.block}[{index}]")[0]
        left.loglog(steps[:, 0], steps[:, 2] / size, ":", linewidth=1, color=line.get_color())
    left.set_xlabel("step h")
    left.set_ylabel("|numerical - analytic| / size")
    left.set_title("error against step (dotted: noise / h)", fontsize=10)
    if worst:
        left.legend(fontsize=7)
        low, high = left.get_xlim()
        if high < 100 * low:  # so that two powers of ten are among the ticks
            left.set_xlim(low / 10, high * 10)
        left.xaxis.set_minor_formatter(NullFormatter())
    else:
        left.text(0.5, 0.5, "no entry was followed\nover several steps", ha="center", transform=left.transAxes)
    verdicts = {"correct": 0.0, "undecided": 0.5, "wrong": 1.0}
    for axis, block in zip(axes[1:], maps, strict=False):
        grid = np.atleast_2d(relative_error_map(block))
        grid = grid.reshape(grid.shape[0], -1)
        image = axis.imshow(np.log10(np.maximum(grid, 1e-12)), vmin=-12, vmax=0, cmap="viridis", aspect="auto")
        axis.set_title(f"{block.name}: {block.verdict} (white: not looked at)", fontsize=10)
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if block.worst is not None:
            flat = int(np.ravel_multi_index(block.worst.index, block.shape)) if block.shape else 0
            row, column = divmod(flat, grid.shape[1])
            axis.plot(column, row, "o", markersize=14, markerfacecolor="none", markeredgecolor="tab:red")
        figure.colorbar(image, ax=axis, label="log10 of the relative error")
    if not maps:
        names = [b.name for b in report.blocks]
        axes[1].barh(range(len(names)), [max(verdicts[b.verdict], 0.02) for b in report.blocks],
                     color=[{"correct": "tab:green", "wrong": "tab:red"}.get(b.verdict, "tab:orange")
                            for b in report.blocks])
        axes[1].set_yticks(range(len(names)), names)
        axes[1].set_xticks([])
        axes[1].invert_yaxis()
        axes[1].set_title("green: correct, orange: undecided, red: wrong", fontsize=10)
    if path is not None:
        figure.savefig(path)
    return figure
