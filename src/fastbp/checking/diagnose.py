"""What the mistake looks like, in words: with the network known, by comparison with the known mistakes; without, from
the pattern of the errors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .check import DEFAULT_BLOCK_RTOL, DEFAULT_RTOL, Check
from .mistakes import Mistake, known_mistakes, updated_weights
from .network import Network
from .patterns import Cause, Measured, exact, explain_arrangement, explain_block, measure, merge
from .problem import Layout, Problem, Vector
from .report import Report
from .setting import Setting


@dataclass
class Diagnosis:
    """The checker's report, with the causes that explain it.

    ``causes`` holds every explanation that fits, the most specific first; ``ruled_out`` what was tried and does not.
    """

    report: Report
    causes: list[Cause] = field(default_factory=list)
    ruled_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.report.ok

    @property
    def verdict(self) -> str:
        return self.report.verdict

    @property
    def failed_blocks(self) -> list[str]:
        return self.report.failed_blocks

    @property
    def codes(self) -> list[str]:
        """The short names of the causes."""
        return [c.code for c in self.causes]

    def __str__(self) -> str:
        lines = [str(self.report), ""]
        if self.report.verdict == "correct":
            lines.append("Diagnosis: nothing is wrong with this gradient.")
        elif self.report.verdict == "undecided":
            lines.append("Diagnosis: not possible while the check is undecided.")
        elif not self.causes:
            lines.append("Diagnosis: none of the known mistakes fits.")
        elif len(self.causes) == 1:
            lines.append("Diagnosis:")
        else:
            lines.append(f"Diagnosis: {len(self.causes)} explanations fit what was measured:")
        lines += [f"  - {c}" for c in self.causes]
        lines += [f"  ({r})" for r in self.remarks]
        if self.ruled_out and self.report.verdict == "wrong":
            lines.append("Ruled out: " + ", ".join(self.ruled_out) + ".")
        return "\n".join(lines)


def diagnose(
    f: Any,
    w0: Any = None,
    layout: Layout | None = None,
    *,
    grad: Any = None,
    model: Any = None,
    X: Any = None,
    Y: Any = None,
    sample_weight: Any = None,
    rtol: float = DEFAULT_RTOL,
    block_rtol: float = DEFAULT_BLOCK_RTOL,
    rng: int | np.random.Generator = 0,
) -> Diagnosis:
    """Check a gradient and, if it is wrong, say what the mistake looks like.

    Parameters
    ----------
    f, w0, layout, grad, rtol, block_rtol, rng
        As for `fastbp.gradcheck`.
    model, X, Y, sample_weight
        The network that ``f`` is meant to implement, and its data: anything with the attributes ``sizes``,
        ``activation``, ``output_activation``, ``loss``, ``reduction``, ``clip`` and ``dtype`` of a `fastbp.MLP`.
        With them the gradient is compared with that of every known mistake, and a match to six digits is named.

    Returns
    -------
    Diagnosis
        With ``causes``, ``codes``, ``ruled_out`` and the ``report``; ``print`` it to read it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.checking import diagnose
    >>> def f(w):
    ...     return 0.5 * np.sum(w**2), 2 * w
    >>> diagnose(f, np.array([1.0, -2.0, 3.0])).codes
    ['factor']
    """
    if model is not None and layout is None:
        layout = list(model.layout)
    if model is not None and (X is None or Y is None):
        raise ValueError("model is given, so X and Y are needed too: the data on which f computes its loss")
    if model is None and X is not None and not hasattr(f, "value_and_grad"):
        raise ValueError("X and Y are given without model; pass the network as model= to compare with known mistakes")
    data = {"X": X, "Y": Y, "sample_weight": sample_weight} if hasattr(f, "value_and_grad") else {}
    problem = Problem(f, w0, grad=grad, layout=layout, **data)
    check = Check(problem, rtol, block_rtol, False, np.random.default_rng(rng))
    report = check.run()
    result = Diagnosis(report)
    if report.verdict != "wrong" or check.setting is None:
        return result
    setting = check.setting
    right: Vector | None = None
    if model is not None:
        right = compare_with_mistakes(result, setting, Network.of(model, X, Y, sample_weight))
    rows = None if X is None else len(X)
    if not result.causes:
        find_patterns(result, setting, rows, right)
        named = {name for cause in result.causes for name in cause.blocks}
        left = [name for name in result.failed_blocks if name not in named]
        if result.causes and left:
            result.remarks.append(f"nothing that was tried explains what is wrong in {', '.join(left)}: a mistake of "
                                  "another kind, or several at once")
    result.ruled_out = [code for code in dict.fromkeys(result.ruled_out) if code not in result.codes]
    report.evaluations = problem.evaluations
    return result


def adapt(net: Network, setting: Setting) -> tuple[Network | None, str]:
    """Find out what the user's loss adds to the network's: weight decay, label smoothing, a constant factor."""
    problem = setting.problem
    w1 = problem.parameters.quantise(problem.w0 + 0.05 * setting.scale * setting.rng.uniform(-1, 1, setting.scale.size))
    points = [(problem.w0, problem.loss0), (w1, problem.loss(w1))]
    digits = 1e-5 if problem.gradient_unit > 1e-10 else 1e-9

    def explains(candidate: Network) -> bool:
        values = [candidate.value(w) for w, _ in points]
        return all(abs(v - loss) <= digits * max(abs(loss), abs(v)) + 10 * setting.noise
                   for v, (_, loss) in zip(values, points, strict=False))

    if explains(net):
        return net, ""
    plain = net.value(problem.w0)
    for on_biases in (False, True):
        penalty = replace(net, decay=1.0, decay_biases=on_biases).value(problem.w0) - plain
        if penalty:
            decayed = replace(net, decay=(problem.loss0 - plain) / penalty, decay_biases=on_biases)
            if explains(decayed):
                where = " on biases too" if on_biases else ""
                return decayed, f"the loss contains weight decay of {decayed.decay:.6g}{where}"
    if net.loss != "squared_error":
        smooth = replace(net, smoothing=1.0).value(problem.w0) - plain
        if smooth:
            smoothed = replace(net, smoothing=(problem.loss0 - plain) / smooth)
            if explains(smoothed):
                return smoothed, f"the loss smooths its labels by {smoothed.smoothing:.6g}"
    if plain:
        scaled = replace(net, factor=problem.loss0 / plain)
        if explains(scaled):
            return scaled, f"the loss is {scaled.factor:.6g} times the network's"
    return None, "the loss is not that of the network given as model, so its known mistakes do not apply"


def same(a: Vector, b: Vector, setting: Setting) -> tuple[bool, float]:
    """Do two gradients agree to six digits in every block?  And by how much they differ."""
    unit = setting.problem.gradient_unit
    digits = 1e-6 if unit < 1e-10 else 3000 * unit
    worst = 0.0
    for block in setting.problem.blocks:
        x, y = a[block.slice], b[block.slice]
        size = max(float(np.abs(x).max()), float(np.abs(y).max()))
        if size:
            worst = max(worst, float(np.abs(x - y).max()) / size)
    return worst <= digits, worst


def compare_with_mistakes(result: Diagnosis, setting: Setting, network: Network) -> Vector | None:
    """Name the known mistakes whose gradient equals the user's; returns the right gradient if it is known."""
    net, remark = adapt(network, setting)
    if remark:
        result.remarks.append(remark)
    if net is None:
        return None
    w, user = setting.problem.w0, setting.gradient
    right = net.gradient(w)
    if not np.all(np.isfinite(right)):
        result.remarks.append("the network's own gradient is not finite here")
        return None
    candidates = list(known_mistakes(net))
    late = updated_weights(net, w, user)
    if late is not None:
        candidates.append(late)
    tried = dict.fromkeys(m.code for m in candidates)
    matches: list[tuple[Mistake, float]] = []
    with np.errstate(all="ignore"):
        vectors = [(m, net.gradient(w, m.switches)) for m in candidates]
    vectors = [(m, v) for m, v in vectors if v.size == user.size and np.all(np.isfinite(v))
               and not same(v, right, setting)[0]]
    for mistake, vector in vectors:
        fits, distance = same(vector, user, setting)
        if fits:
            matches.append((mistake, distance))
    if not matches:
        matches = pairs_of_mistakes(net, w, user, right, vectors, setting)
    failed = tuple(result.failed_blocks)
    for mistake, distance in matches:
        result.causes.append(Cause(mistake.code, failed, mistake.text,
                                   f"the gradient of this mistake equals yours to {distance:.1e}", mistake.remedy))
    found = {m.code for m, _ in matches}
    result.ruled_out = [code for code in tried if code not in found]
    return right


def pairs_of_mistakes(net: Network, w: Vector, user: Vector, right: Vector, vectors: list[tuple[Mistake, Vector]],
                      setting: Setting) -> list[tuple[Mistake, float]]:
    """Two mistakes at once, if no single one explains the gradient and the network is small."""
    if user.size * len(net.X) > 3e6:
        return []
    found: list[tuple[Mistake, float]] = []
    for i, (first, _) in enumerate(vectors):
        for second, _ in vectors[i + 1:]:
            switches = combined(first.switches, second.switches)
            if switches is None:
                continue
            with np.errstate(all="ignore"):
                both = net.gradient(w, switches)
            if both.size != user.size or not np.all(np.isfinite(both)):
                continue
            fits, distance = same(both, user, setting)
            if fits:
                found.append((Mistake(f"{first.code} + {second.code}", f"Two mistakes at once. {first.text} "
                                                                       f"{second.text}",
                                      f"{first.remedy}; {second.remedy}"), distance))
                if len(found) >= 3:
                    return found
    return found


def combined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """The switches of two mistakes at once; None if they contradict each other."""
    result = {**first, **second}
    for key in set(first) & set(second):
        if not isinstance(first[key], dict) or set(first[key]) & set(second[key]):
            return None
        result[key] = {**first[key], **second[key]}  # in different layers or blocks
    return result


def find_patterns(result: Diagnosis, setting: Setting, rows: int | None, right: Vector | None) -> None:
    """Explain the wrong blocks one by one, from the loss alone or from the right gradient where it is known."""
    blocks = [b for b in setting.problem.blocks if b.name in result.failed_blocks]
    measured: dict[str, Measured] = {b.name: measure(setting, b) if right is None else exact(setting, b, right)
                                     for b in blocks}
    single: list[Cause] = []
    for block in blocks:
        single += list(explain_block(setting, measured[block.name], rows))
    arrangement = list(explain_arrangement(setting, setting.problem.blocks, measured, result.failed_blocks))
    result.causes += [c for c in arrangement if c.code == "order"] + merge(single)
    result.causes += [c for c in arrangement if c.code != "order"]
    if not result.causes and len(blocks) == 1 and len(blocks[0].shape) == 2:
        name = blocks[0].name
        result.causes.append(Cause(
            "wrong activations", (name,), f"Only {name} is wrong; the bias beside it, which needs delta alone, and all "
            "other blocks are right. So delta is right and the activations it is multiplied with are not: stale ones "
            "(from another batch, from before an update), or another layer's.", "all other blocks agree",
            f"grad {name} = a.T @ delta with a from this forward pass"))
    found = {c.code for c in result.causes}
    known = ("zero block", "factor", "sign", "transposed", "fortran", "permuted", "weight decay", "constant", "entries",
             "order", "from here down")
    result.ruled_out += [code for code in known if code not in found]
