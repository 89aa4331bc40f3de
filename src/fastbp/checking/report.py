"""What the check found, as an object, as text and as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .problem import Finding
from .screen import Entry


@dataclass
class BlockReport:
    """The verdict on one block of parameters.

    ``visible`` is the error of a single entry that the check would have noticed, as a share of the block's
    largest gradient entry.
    """

    name: str
    shape: tuple[int, ...]
    verdict: str  # "correct", "wrong", "undecided"
    reason: str
    visible: float
    worst: Entry | None = None
    kinks: list[Entry] = field(default_factory=list)
    certified: bool = False  # on a kink, and the value belongs to the generalised derivative
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Report:
    """The result of `fastbp.gradcheck`.

    Attributes
    ----------
    verdict : str
        ``"correct"``, ``"wrong"`` or ``"undecided"``.
    ok : bool
        True if and only if the verdict is ``"correct"``.
    failed_blocks : list of str
        The names of the blocks whose gradient is wrong.
    blocks : list of BlockReport
        One verdict per block, with the worst entry looked at.
    findings : list of Finding
        What was noticed besides: randomness, state, a changed input, a loss that ignores w, ...
    evaluations : int
        How often the function was called.
    noise : float
        The estimated uncertainty of the loss.
    """

    verdict: str
    blocks: list[BlockReport]
    findings: list[Finding]
    loss: float
    evaluations: int
    noise: float
    noise_text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict == "correct"

    @property
    def failed_blocks(self) -> list[str]:
        return [b.name for b in self.blocks if b.verdict == "wrong"]

    @property
    def undecided_blocks(self) -> list[str]:
        return [b.name for b in self.blocks if b.verdict == "undecided"]

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return render(self)

    def plot(self, path: str | None = None) -> Any:
        """Draw the error against the step for the worst entries, and a map of the error over each block.

        Needs matplotlib.  With ``path`` the picture is also written there; the figure is returned.
        """
        from .plots import draw_report

        return draw_report(self, path)


def number(value: float) -> str:
    return f"{value:.8g}"


def describe_entry(entry: Entry) -> str:
    index = ", ".join(str(i) for i in entry.index)
    bar = f" +- {entry.bar:.1e}" if math.isfinite(entry.bar) else ""
    return (f"{entry.block}[{index}]: analytic {number(entry.analytic)}, "
            f"numerical {number(entry.numerical)}{bar}")


def render(report: Report) -> str:
    """The report as text."""
    headline = {
        "correct": "gradient CORRECT",
        "wrong": "gradient WRONG in " + ", ".join(report.failed_blocks),
        "undecided": "UNDECIDED",
    }[report.verdict]
    lines = [headline, f"loss {number(report.loss)}; {report.noise_text}; {report.evaluations} evaluations of f"]
    lines += [f"note: {f.text}" for f in report.findings]
    width = max([len(b.name) for b in report.blocks] or [0])
    for block in report.blocks:
        lines.append(f"  {block.name:{width}}  {block.shape!s:12}  {block.verdict:9}  {block.reason}")
        pad = " " * (width + 4)
        if block.worst is not None:
            label = "worst entry" if block.verdict == "wrong" else "entry looked at"
            lines.append(f"{pad}{label} {describe_entry(block.worst)}")
        for entry in block.kinks[:4]:
            index = ", ".join(str(i) for i in entry.index)
            lines.append(f"{pad}kink at [{index}]: slope {number(entry.behind)} below, {number(entry.ahead)} above, "
                         f"analytic {number(entry.analytic)}")
    if report.advice:
        lines.append(report.advice)
    return "\n".join(lines)


def relative_error_map(block: BlockReport) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The relative error of the entries that were looked at, nan elsewhere."""
    grid = np.full(block.shape or (1,), np.nan)
    for entry in block.entries:
        grid[entry.index or (0,)] = entry.relative
    return grid
