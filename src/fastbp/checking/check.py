"""The public function `gradcheck`: sanity, noise, screening, kinks, verdict, in that order."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .differences import Estimate, Line
from .jumps import hidden_in_jumps
from .kinks import certify, is_smooth, middles_fit_together, out_of_reach, same_error_nearby, sides_fit_together
from .noise import Noise
from .problem import BadGradient, Block, Finding, Layout, Problem
from .report import BlockReport, Report
from .sanity import FirstLook, Stop, first_look
from .screen import (
    DECISIVE,
    RESOLUTION,
    Entry,
    Screened,
    bisect,
    check_entry,
    locate_kinks,
    screen_block,
    screen_entries,
)
from .setting import Setting, prepare, typical_move

DEFAULT_RTOL = 1e-5
DEFAULT_BLOCK_RTOL = 1e-6
CERTIFIED = "on a kink; the value is a valid subgradient (certified)"
CERTAIN = 3.0  # a random direction may move an entry less than the typical one, and the error bar be used up
SHOWN = "; an error of {:.1e} of the largest entry in one entry would have shown"
SHOWN_AROUND = "; an error of {:.1e} of the largest slope around it would have shown"
LIKE_A_STAIR = ("; but the loss moves in jumps of about {:.1e} (the logarithm of a rounded 1 - y?), and between two of "
                "them its slope is another one")
KINKS_CANCEL = (
    ". Close by, on every side, the gradient is right; only the values chosen at w0 itself do not fit together. That "
    "happens where kinks cancel (relu(x) - relu(-x) is x, but relu'(0) = 0 in both terms, as automatic differentiation "
    "takes it, gives 0 instead of 1) and where a tie passes its full gradient to both sides")


def gradcheck(
    f: Any,
    w0: Any = None,
    layout: Layout | None = None,
    *,
    grad: Any = None,
    X: Any = None,
    Y: Any = None,
    sample_weight: Any = None,
    rtol: float = DEFAULT_RTOL,
    block_rtol: float = DEFAULT_BLOCK_RTOL,
    exhaustive: bool = False,
    rng: int | np.random.Generator = 0,
) -> Report:
    """Check whether a gradient is right, by comparing it with what the loss itself does.

    Parameters
    ----------
    f : callable or network
        ``f(w) -> (loss, grad)``, or ``f(w) -> loss`` together with ``grad``.  A network such as `fastbp.MLP` can
        stand in its place; then pass ``X`` and ``Y``.
    w0 : array, list of arrays or dict of arrays
        The point at which to check.  ``f`` is called with fresh arrays of the same structure and dtype.
    layout : list of (name, shape), optional
        How a flat ``w0`` is divided into blocks, in order.  Without it a flat vector is one block.
    grad : callable or array, optional
        ``grad(w)``, or the gradient at ``w0`` itself, if ``f`` returns the loss alone.
    X, Y, sample_weight : arrays, optional
        The data, if ``f`` is a network.
    rtol, block_rtol : float
        An entry is right if it is off by at most ``rtol`` of itself plus ``block_rtol`` of the largest entry of its
        block (or by what rounding in the gradient's own dtype explains).
    exhaustive : bool
        Look at every entry by itself instead of at random directions; two evaluations or more for each.
    rng : int or numpy.random.Generator
        Chooses the random directions.  The same seed gives the same report.

    Returns
    -------
    Report
        With ``ok``, ``verdict``, ``failed_blocks``, ``evaluations``; ``print`` it to read it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.checking import gradcheck
    >>> def f(w):
    ...     return 0.5 * np.sum(w**2), w.copy()
    >>> gradcheck(f, np.array([1.0, -2.0, 3.0])).verdict
    'correct'
    >>> def g(w):
    ...     return 0.5 * np.sum(w**2), 2 * w                         # twice too large
    >>> gradcheck(g, [1.0, -2.0, 3.0]).failed_blocks
    ['w']
    """
    for name, value in (("rtol", rtol), ("block_rtol", block_rtol)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
    problem = Problem(f, w0, grad=grad, layout=layout, X=X, Y=Y, sample_weight=sample_weight)
    return Check(problem, rtol, block_rtol, exhaustive, np.random.default_rng(rng)).run()


def stated(setting: Setting, block: Block, share: float) -> float:
    """The error that is stated to show for certain, if one of ``share`` of the largest entry did.

    What is within the tolerance is not called an error, and what is just beyond it not always.
    """
    largest = float(np.max(np.abs(setting.gradient[block.slice])))
    tolerated = float(np.max(setting.tolerance[block.slice])) / largest if largest else 0.0
    return share * CERTAIN + 2 * tolerated


class Check:
    """One run of the checker."""

    def __init__(self, problem: Problem, rtol: float, block_rtol: float, exhaustive: bool,
                 rng: np.random.Generator) -> None:
        self.problem = problem
        self.rtol, self.block_rtol, self.exhaustive = rtol, block_rtol, exhaustive
        self.rng = rng
        self.look = FirstLook()
        self.setting: Setting | None = None
        self.noise = Noise(0.0, 0.0, 0.0, False, "noise not estimated")

    def run(self) -> Report:
        self.look, stop = first_look(self.problem, self.rng)
        if stop is not None:
            return self.stop(stop)
        setting, self.noise = prepare(self.problem, self.look, self.rtol, self.block_rtol, self.rng)
        self.setting = setting
        nonfinite = self.nonfinite_blocks()
        screened = [screen_block(setting, b, RESOLUTION) for b in self.problem.blocks if b.name not in nonfinite]
        if self.ignores_w(screened):
            self.look.findings.append(Finding("ignores w", "the loss was the same number at every point tried: it does "
                                              "not depend on w; perhaps f reads its parameters from somewhere else"))
            if not np.any(self.look.gradient):
                return self.stop(Stop("undecided", "the loss never moved; a gradient of zero fits, but nothing was "
                                                   "tested",
                                      advice="To decide: make f use its argument, or choose a w0 where the loss "
                                             "changes."))
        return self.judge(setting, screened, nonfinite)

    def stop(self, stop: Stop) -> Report:
        """A report without a look at the numbers: blocks that the verdict is not about are undecided."""
        reports = []
        for b in self.problem.blocks:
            hit = stop.blocks is None or b.name in stop.blocks
            reports.append(BlockReport(b.name, b.shape, stop.verdict if hit else "undecided",
                                       stop.reason if hit else "not looked at", math.inf))
        return self.report(stop.verdict, reports, stop.advice)

    def report(self, verdict: str, blocks: list[BlockReport], advice: str = "") -> Report:
        return Report(verdict, blocks, self.look.findings, self.problem.loss0,
                      self.problem.evaluations, self.noise.level, self.noise.text, advice)

    def nonfinite_blocks(self) -> dict[str, Entry]:
        bad: dict[str, Entry] = {}
        for block in self.problem.blocks:
            where = np.flatnonzero(~np.isfinite(self.look.gradient[block.slice]))
            if where.size:
                flat = block.start + int(where[0])
                value = float(self.look.gradient[flat])
                bad[block.name] = Entry(flat, block.name, block.index(flat), value, math.nan, math.inf, True,
                                        0.0, math.nan, math.nan)
        return bad

    def ignores_w(self, screened: list[Screened]) -> bool:
        lines = [line for s in screened for line in s.lines]
        return bool(lines) and all(sample.flat for line in lines for sample in line.ladder())

    def judge(self, setting: Setting, screened: list[Screened], nonfinite: dict[str, Entry]) -> Report:
        """From what the directions said to a verdict for each block."""
        reports: dict[str, BlockReport] = {}
        for name, entry in nonfinite.items():
            block = next(b for b in self.problem.blocks if b.name == name)
            reports[name] = BlockReport(name, block.shape, "wrong", "holds nan or inf", math.inf, entry)
        kinky: dict[str, Screened] = {}
        agreeing = [s for s in screened if s.state != "conflict"]
        sided, middles = [pair for s in agreeing for pair in s.sided], [line for s in agreeing for line in s.middles]
        doubtful: set[str] = set()
        if sided and not sides_fit_together(setting, sided):
            for s in agreeing:
                if s.sided:
                    s.state, s.conflict = "conflict", (s.sided[0][0], s.sided[0][0].estimate())
        if middles and (sided or not middles_fit_together(setting, middles)):
            doubtful = {s.block.name for s in agreeing if s.state != "conflict" and (s.middles or s.sided)}
        for s in screened:
            largest = float(np.max(np.abs(setting.gradient[s.block.slice])))
            share = s.visible / largest if largest else math.inf
            report = BlockReport(s.block.name, s.block.shape, "correct", "", stated(setting, s.block, share))
            reports[s.block.name] = report
            if s.state == "conflict":
                assert s.conflict is not None
                if setting.jumps and not s.by_path and hidden_in_jumps(s.conflict[0], setting.jumps):
                    report.verdict = "undecided"
                    report.reason = (f"the slope seems off by {s.conflict[1].value:.2e} along a direction"
                                     + LIKE_A_STAIR.format(setting.jumps))
                elif s.by_path or is_smooth(setting, *s.conflict):
                    self.settle_smooth(setting, s, report)
                else:
                    kinky[s.block.name] = s
            elif s.state == "unclear":
                report.verdict = "undecided"
                factor, error = s.common_factor()
                factor = max(abs(factor), DECISIVE * error)
                if not math.isfinite(share):
                    report.reason = "noise hides the derivative"
                elif share > RESOLUTION:
                    report.reason = f"noise hides errors below {share:.1e} of the largest entry"
                else:
                    report.reason = f"the block as a whole may be off by {100 * factor:.2g} %"
                report.reason += self.about_jumps(s)
                if s.stopped:
                    report.reason += "; to look at smaller pieces would take too long with so many parameters"
            else:
                self.describe_agreement(setting, s, report)
            if self.exhaustive and report.verdict != "wrong":
                self.look_at_each(setting, s, report)
        unsettled = self.settle_out_of_reach(setting, kinky, reports)
        if kinky or doubtful:
            self.settle_kinks(setting, kinky, doubtful, reports)
        for name, estimate in unsettled.items():
            if reports[name].verdict == "correct":
                reports[name].verdict, reports[name].certified = "undecided", False
                reports[name].reason = (f"along a direction no kink reaches the slope is off by {estimate.value:.2e} "
                                        f"(+- {estimate.bar:.1e}), and noise hides whether it is close by")
        ordered = [reports[b.name] for b in self.problem.blocks]
        for report in ordered:
            if report.verdict == "correct" and report.worst is None:
                block = next(b for b in self.problem.blocks if b.name == report.name)
                flat = block.start + int(np.argmax(np.abs(setting.gradient[block.slice])))
                noise = max([line.noise for s in screened if s.block is block for line in s.lines], default=0.0)
                report.worst = None if report.certified else check_entry(setting, flat, thorough=False, noise=noise)
        verdicts = {r.verdict for r in ordered}
        verdict = "wrong" if "wrong" in verdicts else "undecided" if "undecided" in verdicts else "correct"
        advice = ""
        if verdict == "undecided":
            advice = ("To decide: compute the loss in float64, or with less noise; or choose a w0 at which the "
                      "undecided blocks matter more to the loss.")
        return self.report(verdict, ordered, advice)

    def about_jumps(self, s: Screened) -> str:
        """Words on the stairs that the loss was found to have, if it has."""
        height = 2 * max([line.noise for line in s.lines], default=0.0)
        if height <= 20 * self.noise.level:
            return ""
        return (f"; here the loss moves in jumps of about {height:.1e} (the logarithm of a rounded 1 - y? Compute it "
                "from what goes into the activation)")

    def describe_agreement(self, setting: Setting, s: Screened, report: BlockReport) -> None:
        share = report.visible
        if s.invariant:
            report.reason = "the loss does not depend on this block, to rounding, and the gradient says so"
        elif math.isinf(share):
            report.reason = "zero, and so is the slope of the loss"
        else:
            report.reason = f"{len(s.lines)} directions agree" + SHOWN.format(share)
        if s.middles or s.sided:
            line = (s.middles or [s.sided[0][0]])[0]
            report.kinks = locate_kinks(setting, line, s.block.slice)
            report.certified = True
            if math.isinf(share):  # zero is claimed: the jump of the slope says what is large
                jump = line.kink() or abs(line.estimate().value)
                share = report.visible = CERTAIN * s.visible * typical_move(line.direction, s.block.slice) / abs(jump)
            report.reason = CERTIFIED + SHOWN.format(share)

    def settle_smooth(self, setting: Setting, s: Screened, report: BlockReport) -> None:
        """A conflict where the loss is smooth: an error, if some entry is beyond its tolerance."""
        assert s.conflict is not None
        line, estimate = s.conflict
        entries, finished = bisect(setting, line, estimate, s.block.slice, by_path=s.by_path)
        report.entries = entries
        wrong = [e for e in entries if e.wrong]
        if wrong:
            report.worst = wrong[0]
            report.verdict = "wrong"
            off = abs(wrong[0].analytic - wrong[0].numerical)
            report.reason = f"off by {off:.2e} ({100 * wrong[0].relative:.3g} %)"
            if self.right_close_by(setting, line, estimate.value):
                report.reason += KINKS_CANCEL
        elif finished:
            part = s.block.slice
            within = float(np.sum(setting.tolerance[part] * np.abs(line.direction[part])))
            report.reason = "differences found, all within the tolerance"
            if abs(estimate.value) > DECISIVE * estimate.bar + within:
                report.verdict = "undecided"
                report.reason = (f"along a direction the slope is off by {estimate.value:.2e} (+- {estimate.bar:.1e}), "
                                 "but no entry of the block is, by itself")
        else:
            report.verdict = "wrong"
            report.reason = (f"along a direction the slope is off by {estimate.value:.2e} "
                             f"(+- {estimate.bar:.1e}); no single entry stands out")

    def right_close_by(self, setting: Setting, line: Line, conflict: float) -> bool:
        """Is the user's gradient right at points next to w0, although it is wrong at w0 itself?"""
        if self.problem.fixed_gradient:
            return False
        for _ in range(2):
            offset = setting.random_direction(slice(0, setting.scale.size))
            point = self.problem.parameters.quantise(self.problem.w0 + 1e-6 * offset)
            try:
                _, near = self.problem.loss_and_gradient(point)
            except BadGradient:
                return False
            slope = float(near[line.support] @ line.direction[line.support])
            if not abs(slope - (line.slope + conflict)) <= 1e-3 * abs(conflict):
                return False
        return True

    def settle_out_of_reach(self, setting: Setting, kinky: dict[str, Screened],
                            reports: dict[str, BlockReport]) -> dict[str, Estimate]:
        """Look for errors in entries that the kinks of their block do not reach; blocks with one are settled.

        Returns the blocks in which there seems to be one, though points close by, for noise, do not confirm it.
        """
        unsettled: dict[str, Estimate] = {}
        if not kinky:
            return unsettled
        smooth = out_of_reach(setting, [s.conflict[0] for s in kinky.values() if s.conflict])
        for name, s in list(kinky.items()):
            entries = s.block.start + np.flatnonzero(smooth[s.block.slice])
            found = screen_entries(setting, s.block, entries) if entries.size else s
            if found is s or not found.conflict:
                continue
            same = same_error_nearby(setting, *found.conflict)
            if same or is_smooth(setting, *found.conflict):
                trial = replace(reports[name])
                self.settle_smooth(setting, found, trial)
                if trial.verdict == "wrong":
                    reports[name] = trial
                    del kinky[name]
            elif same is None and not found.conflict[0].kink():
                unsettled[name] = found.conflict[1]
        return unsettled

    def settle_kinks(self, setting: Setting, kinky: dict[str, Screened], doubtful: set[str],
                     reports: dict[str, BlockReport]) -> None:
        """The blocks in conflict, and ``doubtful`` ones, which agree entry by entry but perhaps not together."""
        excluded = {name for name, r in reports.items() if r.verdict == "wrong"}
        kinked = {name for name, r in reports.items() if r.certified}
        conflicts = {name: s.conflict[0] for name, s in kinky.items() if s.conflict is not None}
        hazy = {name for name, r in reports.items() if r.verdict == "undecided"}
        noisiest = max([setting.noise] + [line.noise for s in kinky.values()
                                          for line in (*s.lines, conflicts[s.block.name])])
        setting = replace(setting, noise=noisiest)
        outcome = certify(setting, conflicts, hazy | doubtful, self.problem.blocks, excluded, kinked)
        if outcome.wrong:  # unless only the points around w0 were unlucky: then others vouch for it
            again = certify(setting, conflicts, hazy | doubtful, self.problem.blocks, excluded, kinked)
            for name in set(outcome.wrong) & set(again.certified):
                outcome.wrong.remove(name)
                outcome.unclear.append(name)
        for block in self.problem.blocks:
            if block.name in outcome.certified and (block.name in hazy or block.name in kinky):
                report, (share, around) = reports[block.name], outcome.visible[block.name]
                report.visible = stated(setting, block, share)
                report.certified = around <= RESOLUTION
                report.verdict = "correct" if report.certified else "undecided"
                report.reason = CERTIFIED + SHOWN.format(report.visible)
                if share > RESOLUTION:  # leaky_relu, for instance, has much larger slopes on the other side
                    report.reason = CERTIFIED + SHOWN_AROUND.format(CERTAIN * around)
                if not report.certified:
                    report.reason = f"on a kink; noise hides errors below {around:.1e} of the largest slope around it"
        for name in doubtful:
            if name in outcome.wrong:
                reports[name].verdict, reports[name].certified = "wrong", False
                reports[name].reason = outcome.reasons[name]
            elif name not in outcome.certified:
                reports[name].verdict, reports[name].certified = "undecided", False
                reports[name].reason = "on a kink, and the noise hides the slopes around it"
        for name, s in kinky.items():
            report, line = reports[name], conflicts[name]
            if name in outcome.certified:
                report.kinks = locate_kinks(setting, line, s.block.slice)
            elif name in outcome.unclear:
                report.verdict = "undecided"
                report.reason = "on a kink, and the noise hides the slopes around it" + self.about_jumps(s)
            else:
                report.verdict = "wrong"
                report.reason = outcome.reasons.get(name, "on a kink, and not a slope found around it")
                entries, _ = bisect(setting, line, line.estimate(), s.block.slice)
                report.entries = entries
                report.worst = next((e for e in entries if e.wrong), None)
                if outcome.right_nearby:
                    report.reason += KINKS_CANCEL

    def look_at_each(self, setting: Setting, s: Screened, report: BlockReport) -> None:
        """Every entry on its own (``exhaustive=True``)."""
        entries = [check_entry(setting, i, thorough=False) for i in range(s.block.start, s.block.stop)]
        report.entries = entries
        wrong = [e for e in entries if e.wrong and not e.jump]
        if wrong:
            report.worst = max(wrong, key=lambda e: abs(e.analytic - e.numerical))
            report.verdict = "wrong"
            report.reason = f"{len(wrong)} of {len(entries)} entries are wrong"
        elif entries:
            report.worst = max(entries, key=lambda e: e.relative)
