"""The public function `gradcheck`: sanity, noise, screening, kinks, verdict, in that order."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .differences import Line
from .kinks import certify, is_smooth, sides_fit_together
from .noise import Noise, estimate_noise
from .problem import BadGradient, Finding, Layout, Problem, Vector
from .report import BlockReport, Report
from .screen import DECISIVE, Entry, Screened, Setting, bisect, check_entry, locate_kinks, screen_block

DEFAULT_RTOL = 1e-5
DEFAULT_BLOCK_RTOL = 1e-6
RESOLUTION = 1e-2  # the check must be able to see an error of this share of a block's largest entry
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


class Check:
    """One run of the checker."""

    def __init__(self, problem: Problem, rtol: float, block_rtol: float, exhaustive: bool,
                 rng: np.random.Generator) -> None:
        self.problem = problem
        self.rtol, self.block_rtol, self.exhaustive = rtol, block_rtol, exhaustive
        self.rng = rng
        self.findings: list[Finding] = []
        self.setting: Setting | None = None
        self.noise = Noise(0.0, 0.0, 0.0, False, "noise not estimated")

    def stop(self, verdict: str, reason: str, blocks: list[str] | None = None, advice: str = "") -> Report:
        """A report without a look at the numbers: the verdict holds for ``blocks``, the others are undecided."""
        reports = []
        for b in self.problem.blocks:
            hit = blocks is None or b.name in blocks
            reports.append(BlockReport(b.name, b.shape, verdict if hit else "undecided",
                                       reason if hit else "not looked at", math.inf))
        return self.report(verdict, reports, advice)

    def report(self, verdict: str, blocks: list[BlockReport], advice: str = "") -> Report:
        return Report(verdict, blocks, self.findings, self.problem.loss0,
                      self.problem.evaluations, self.noise.level, self.noise.text, advice)

    def run(self) -> Report:
        early = self.sanity()
        if early is not None:
            return early
        setting = self.setting = self.prepare()
        nonfinite = self.nonfinite_blocks()
        screened = [screen_block(setting, b, RESOLUTION) for b in self.problem.blocks if b.name not in nonfinite]
        if self.ignores_w(screened):
            text = "the loss was the same number at every point tried: it does not depend on w"
            self.findings.append(Finding("ignores w", text + "; perhaps f reads its parameters from somewhere else"))
            if not np.any(self.gradient):
                return self.stop("undecided", "the loss never moved; a gradient of zero fits, but nothing was tested",
                                 advice="To decide: make f use its argument, or choose a w0 where the loss changes.")
        return self.judge(setting, screened, nonfinite)

    def sanity(self) -> Report | None:
        """Call f a few times and look for everything that is not an error in a formula."""
        problem = self.problem
        w0 = problem.w0
        add = self.findings.append
        try:
            problem.loss0, self.gradient = problem.loss_and_gradient(w0)
            first_raw, packed = problem.last_raw_grad, problem.last_packed
        except BadGradient as error:
            add(Finding(error.code, error.text))
            return self.stop("wrong", error.text, error.blocks)
        self.findings += problem.gradient_findings
        after = problem.parameters.unpack(packed)
        if not np.array_equal(after, problem.parameters.quantise(w0), equal_nan=True):
            add(Finding("changes its input", "f changes the array that it is given; every call got a copy of its own"))
        if not math.isfinite(problem.loss0):
            add(Finding("not finite", f"the loss at w0 is {problem.loss0}: there is no derivative there"))
            return self.stop("undecided", f"the loss at w0 is {problem.loss0}",
                             advice="To decide: choose a w0 at which the loss is finite.")
        again, gradient_again = problem.loss_and_gradient(w0)
        sides = [a for a in (first_raw, problem.last_raw_grad) if isinstance(a, np.ndarray)]
        if not problem.fixed_gradient and len(sides) == 2 and np.shares_memory(sides[0], sides[1]):
            add(Finding("same buffer", "f returns the same array each time, so an earlier gradient changes under the "
                                       "caller's hands; here every gradient was copied"))
        elsewhere = w0 + 1e-3 * self.plain_scale() * self.rng.uniform(-1, 1, w0.size)
        self.loss_elsewhere, _ = problem.loss_and_gradient(problem.parameters.quantise(elsewhere))
        third, gradient_third = problem.loss_and_gradient(w0)
        losses = [problem.loss0, again, third]
        limit = 1e3 * problem.loss_unit * max(abs(v) for v in losses)
        self.jitter = max(losses) - min(losses) if np.all(np.isfinite(losses)) else math.inf
        if self.jitter > limit:
            random = abs(again - problem.loss0) > limit
            if random:
                add(Finding("not deterministic", f"f(w0) gave {losses[0]:.10g} and then {losses[1]:.10g}: f is random "
                                                 "(dropout, shuffled batches?); fix its seed inside f"))
            else:
                add(Finding("state", f"f(w0) gave {losses[0]:.10g}, and after a call elsewhere {losses[2]:.10g}: f "
                                     "remembers its earlier calls"))
            return self.stop("undecided", "the loss at w0 is not one number",
                             advice="To decide: make f return the same loss each time it is given the same w.")
        changed = []
        for block in problem.blocks:
            parts = [g[block.slice] for g in (self.gradient, gradient_again, gradient_third)]
            size = np.max(np.abs(parts))
            spread = np.max(np.abs(np.stack(parts) - parts[0])) if np.all(np.isfinite(parts)) else 0.0
            if spread > 1e4 * problem.gradient_unit * size:
                changed.append(block.name)
        if changed:
            doubled = np.allclose(gradient_again, 2 * self.gradient, rtol=1e-6) and np.any(self.gradient)
            why = "; the second is twice the first: it is being added up from call to call" if doubled else ""
            add(Finding("gradient changes", f"the loss at w0 is the same in every call, its gradient is not{why}"))
            return self.stop("wrong", "the gradient at w0 changes from call to call", changed)
        return None

    def plain_scale(self) -> Vector:
        """How far a parameter may sensibly be moved: max(|w|, rms of its block), 1 for a block of zeros."""
        w0 = self.problem.w0
        scale = np.empty_like(w0)
        for block in self.problem.blocks:
            w = w0[block.slice]
            largest = float(np.abs(w).max())
            rms = largest * math.sqrt(float(np.mean((w / largest) ** 2))) if largest > 0 else 1.0
            scale[block.slice] = np.maximum(np.abs(w), rms)
        return scale

    def prepare(self) -> Setting:
        """Noise, scales, tolerances."""
        problem, gradient = self.problem, self.gradient
        scale = self.plain_scale()
        self.detect_float32(scale)
        size = np.where(np.isfinite(gradient), np.abs(gradient), 0.0)
        steep = float(np.max(size * scale, initial=0.0))
        shrink = np.ones_like(scale)
        loss = abs(problem.loss0)
        if loss > 0 and steep > loss:
            with np.errstate(divide="ignore", over="ignore"):
                shrink = np.minimum(1.0, loss / np.maximum(size * scale, 1e-300))
            if loss < 1e-9 * abs(self.loss_elsewhere):  # the loss is zero by accident, and says nothing about scales
                shrink = np.maximum(shrink, 1e-12)
        self.noise = estimate_noise(problem, problem.loss0, scale * shrink, self.rng)
        level = max(self.noise.level, self.jitter)
        cap = max(loss, 1e8 * level) if loss > 0 else math.inf
        with np.errstate(divide="ignore", over="ignore"):
            scale = np.minimum(scale, np.where(size > 0, cap / np.maximum(size, 1e-300), np.inf))
        unit = problem.gradient_unit
        tolerance = np.empty_like(scale)
        for block in problem.blocks:
            part = size[block.slice]
            tolerance[block.slice] = max(self.rtol, 100 * unit) * part
            tolerance[block.slice] += max(self.block_rtol, 100 * unit) * float(part.max())
        step = min(max((level / max(loss, level)) ** 0.25, 1e-5), 0.03)
        finite = np.where(np.isfinite(gradient), gradient, 0.0)
        return Setting(problem, finite, scale, tolerance, level, self.rng, step)

    def detect_float32(self, scale: Vector) -> None:
        """See whether f rounds its float64 argument to float32 by itself (as JAX does by default)."""
        problem = self.problem
        if problem.parameters.coarse:
            return
        point = problem.w0 + 1e-4 * scale * self.rng.uniform(-1, 1, scale.size)
        with np.errstate(over="ignore"):
            rounded = point.astype(np.float32).astype(np.float64)
        if not np.all(np.isfinite(rounded)) or np.array_equal(point, rounded):
            return
        (loss, gradient), (loss_rounded, gradient_rounded) = map(problem.loss_and_gradient, (point, rounded))
        if loss == loss_rounded and np.array_equal(gradient, gradient_rounded) and np.any(gradient):
            w0_rounded = problem.w0.astype(np.float32).astype(np.float64)
            nudged = problem.w0 + 1e-2 * scale
            if problem.loss(nudged) != loss or problem.loss(w0_rounded) != loss:
                problem.parameters.input_float32 = True
                problem.w0 = problem.parameters.w0 = w0_rounded
                eps = float(np.finfo(np.float32).eps)
                problem.gradient_unit = max(problem.gradient_unit, eps)
                self.findings.append(Finding("float32", "f rounds its float64 argument to float32"))

    def nonfinite_blocks(self) -> dict[str, Entry]:
        bad: dict[str, Entry] = {}
        for block in self.problem.blocks:
            where = np.flatnonzero(~np.isfinite(self.gradient[block.slice]))
            if where.size:
                flat = block.start + int(where[0])
                value = float(self.gradient[flat])
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
        sided = [pair for s in screened if s.state != "conflict" for pair in s.sided]
        if sided and not sides_fit_together(setting, sided):
            for s in screened:
                if s.sided and s.state != "conflict":
                    s.state, s.conflict = "conflict", (s.sided[0][0], s.sided[0][0].estimate())
        for s in screened:
            largest = float(np.max(np.abs(setting.gradient[s.block.slice])))
            share = s.visible / largest if largest else math.inf
            report = BlockReport(s.block.name, s.block.shape, "correct", "", share)
            reports[s.block.name] = report
            if s.state == "conflict":
                assert s.conflict is not None
                if is_smooth(setting, *s.conflict):
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
            else:
                self.describe_agreement(setting, s, report, share)
            if self.exhaustive and report.verdict != "wrong":
                self.look_at_each(setting, s, report)
        if kinky:
            self.settle_kinks(setting, kinky, reports)
        ordered = [reports[b.name] for b in self.problem.blocks]
        for report in ordered:
            if report.verdict == "correct" and report.worst is None:
                block = next(b for b in self.problem.blocks if b.name == report.name)
                flat = block.start + int(np.argmax(np.abs(setting.gradient[block.slice])))
                report.worst = check_entry(setting, flat, thorough=False) if not report.certified else None
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

    def describe_agreement(self, setting: Setting, s: Screened, report: BlockReport, share: float) -> None:
        if s.invariant:
            report.reason = "the loss does not depend on this block, to rounding, and the gradient says so"
        elif math.isinf(share):
            report.reason = "zero, and the loss does not move"
        else:
            report.reason = (f"{len(s.lines)} directions agree; an error of {share:.1e} of the largest entry in one "
                             "entry would have shown")
        if s.kinked or s.sided:
            line = next((line for line in s.lines if line.kink()), s.lines[0])
            report.kinks = locate_kinks(setting, line, s.block.slice)
            report.certified = True
            report.reason = "on a kink; the value is a valid subgradient (certified)"

    def settle_smooth(self, setting: Setting, s: Screened, report: BlockReport) -> None:
        """A conflict where the loss is smooth: an error, if some entry is beyond its tolerance."""
        assert s.conflict is not None
        line, estimate = s.conflict
        entries, finished = bisect(setting, line, estimate, s.block.slice)
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

    def settle_kinks(self, setting: Setting, kinky: dict[str, Screened], reports: dict[str, BlockReport]) -> None:
        excluded = {name for name, r in reports.items() if r.verdict != "correct"}
        kinked = {name for name, r in reports.items() if r.certified}
        conflicts = {name: s.conflict[0] for name, s in kinky.items() if s.conflict is not None}
        setting = replace(setting, noise=max(line.noise for s in kinky.values() for line in s.lines))
        outcome = certify(setting, conflicts, self.problem.blocks, excluded, kinked)
        for name, s in kinky.items():
            report, line = reports[name], conflicts[name]
            if name in outcome.certified:
                report.certified = True
                report.reason = "on a kink; the value is a valid subgradient (certified)"
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
