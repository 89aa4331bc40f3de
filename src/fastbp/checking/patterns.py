"""What can be said about a wrong gradient from the loss alone, without knowing the network.

Each block's gradient is compared with its numerical derivative: is it that times a constant, its transpose, the same
numbers in another order, off by a multiple of w, right but for a row?
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .problem import Block, Vector
from .screen import check_entry
from .setting import Setting

MOST = 600  # entries of a block that are differentiated one by one


@dataclass(frozen=True)
class Cause:
    """One explanation that fits, with the evidence for it."""

    code: str
    blocks: tuple[str, ...]
    text: str
    evidence: str
    remedy: str = ""
    value: float = math.nan  # the factor or rate, where there is one

    def __str__(self) -> str:
        where = f"[{', '.join(self.blocks)}] " if self.blocks else ""
        remedy = f"\n    What should stand there: {self.remedy}" if self.remedy else ""
        return f"{where}{self.text}\n    Evidence: {self.evidence}.{remedy}"


@dataclass
class Measured:
    """A block's analytic gradient ``g`` beside numerical derivatives ``n`` at the entries ``where``."""

    block: Block
    g: Vector
    n: Vector
    w: Vector
    bars: Vector
    where: np.ndarray
    complete: bool

    @property
    def size(self) -> float:
        return float(max(np.abs(self.n).max(), 1e-300))

    def fits(self, candidate: Vector, loose: float = 1e-5) -> bool:
        """Does ``candidate`` equal the numerical derivative, entry by entry?"""
        limit = loose * np.abs(self.n) + 3 * self.bars + 1e-6 * self.size
        return bool(np.all(np.abs(candidate - self.n) <= limit))


def measure(setting: Setting, block: Block) -> Measured:
    """Numerical derivatives of a block, of all entries or of a random choice."""
    complete = block.size <= MOST
    flat = np.arange(block.start, block.stop)
    if not complete:
        flat = np.sort(setting.rng.choice(flat, MOST // 3, replace=False))
    entries = [check_entry(setting, int(i), thorough=False) for i in flat]
    return Measured(block, setting.gradient[flat], np.array([e.numerical for e in entries]),
                    setting.problem.w0[flat], np.array([e.bar for e in entries]), flat - block.start, complete)


def number_in_words(c: float, rows: int | None, share: float = 1e-5) -> str:
    """The factor ``c``, known to ``share`` of itself, with what it probably is."""
    known = {-1.0: "the sign is wrong", 2.0: "twice too large", 0.5: "half as large as it should be",
             -2.0: "twice too large, with the wrong sign", -0.5: "half as large, with the wrong sign"}
    for value, words in known.items():
        if abs(c - value) < share * abs(value):
            return words
    for value, words in ((c, "times"), (1 / c if c else 0.0, "divided by")):
        whole = round(value)
        if whole > 1 and abs(value - whole) < share * whole:
            extra = ", the number of examples" if rows == whole else " (the number of examples?)"
            return f"{words} {whole}{extra}"
    return f"times {c:.6g}"


def explain_block(setting: Setting, m: Measured, rows: int | None) -> Iterator[Cause]:
    """All simple explanations of one wrong block."""
    name, shape, whole = m.block.name, m.block.shape, setting.gradient[m.block.slice]
    largest = float(np.abs(m.n).max())
    if not np.any(whole):
        yield Cause("zero block", (name,), "The gradient is zero throughout, the loss does depend on the block: the "
                    "gradient was forgotten or overwritten.", f"numerical entries up to {largest:.3g}")
        return
    gg = float(m.g @ m.g)
    c = float(m.g @ m.n) / gg if gg else 0.0
    if m.fits(m.g):
        yield Cause("entries", (name,), "Only a few entries are wrong: an index, a special case or a write to "
                                        "the wrong "
                    "place rather than a formula.", f"all of {m.g.size} entries chosen at random agree")
        return
    if c and m.fits(c * m.g):
        factor = 1 / c
        share = max(1e-5, 3 * float(np.linalg.norm(m.bars) / np.linalg.norm(m.n)))
        code = "sign" if abs(factor + 1) < share else "factor"
        yield Cause(code, (name,), f"Every entry is off by the same factor: {number_in_words(factor, rows, share)}.",
                    f"analytic = {factor:.8g} x numerical in all {m.g.size} entries compared", value=factor)
        return
    if len(shape) == 2:
        grid = whole.reshape(shape)
        index = np.array(np.unravel_index(m.where, shape))
        if shape[0] == shape[1] and m.fits(grid.T[index[0], index[1]]):
            yield Cause("transposed", (name,), "The block is transposed.", "its transpose agrees with the numerical "
                        "derivative", "grad W = a.T @ delta, not delta.T @ a")
        other = whole.reshape(shape, order="F")
        if min(shape) > 1 and shape[0] != shape[1] and m.fits(other[index[0], index[1]]):
            yield Cause("fortran", (name,), "The block is flattened column by column (Fortran, MATLAB) instead of row "
                            "by row; or it is a transposed matrix.", "read in Fortran order it agrees with the "
                                                                     "numerical "
                            "derivative")
    ww = float(m.w @ m.w)
    difference = m.g - m.n
    if ww:
        rate = float(m.w @ difference) / ww
        if rate and m.fits(m.g - rate * m.w) and np.abs(rate * m.w).max() > 1e-5 * largest:
            what = "is added to the gradient but not to the loss (or twice)" if rate > 0 else \
                "is in the loss but missing from the gradient"
            yield Cause("weight decay", (name,), f"The difference is proportional to w: weight decay of "
                                                 f"{abs(rate):.6g} * w "
                        f"{what}.", f"analytic - numerical = {rate:.8g} x w in all entries compared")
    if m.fits(m.g - float(np.mean(difference))) and m.g.size > 1:
        yield Cause("constant", (name,), f"A constant, {np.mean(difference):.6g}, is added to every entry.",
                    "analytic - numerical is the same in all entries compared")
    if m.complete and m.g.size > 2:
        order = np.argsort(m.g), np.argsort(m.n)
        allowed = 1e-5 * np.abs(m.n) + 3 * m.bars + 1e-6 * m.size
        same = np.abs(m.g[order[0]] - m.n[order[1]]) <= allowed[order[1]]
        if same.all():
            yield Cause("permuted", (name,), "The right numbers in another order: the entries are permuted.",
                        "sorted by size, analytic and numerical entries agree; " + describe_move(m, shape))
    yield from explain_part(m, shape)


def describe_move(m: Measured, shape: tuple[int, ...]) -> str:
    """In which way the entries were moved, if it is simple."""
    if m.g.size and len(shape) == 2:
        g, n = m.g.reshape(shape), m.n.reshape(shape)
        for axis, word in ((0, "rows"), (1, "columns")):
            for shift in range(1, shape[axis]):
                if np.allclose(np.roll(g, -shift, axis), n, rtol=1e-5, atol=1e-5 * m.size):
                    return f"its {word} are rotated by {shift}"
            if np.allclose(np.flip(g, axis), n, rtol=1e-5, atol=1e-5 * m.size):
                return f"its {word} are in reverse order"
    off = np.flatnonzero(np.abs(m.g - m.n) > 1e-5 * np.abs(m.n) + 3 * m.bars + 1e-6 * m.size)
    return f"{off.size} entries have moved"


def explain_part(m: Measured, shape: tuple[int, ...]) -> Iterator[Cause]:
    """Right but for some entries, a row or a column; or a factor of its own for each row or column."""
    off = np.abs(m.g - m.n) > 1e-5 * np.abs(m.n) + 3 * m.bars + 1e-6 * m.size
    name, count = m.block.name, int(off.sum())
    if 0 < count <= max(3, 0.02 * off.size) and count < off.size:
        places = ", ".join(str(m.block.index(m.block.start + int(i))) for i in m.where[off][:3])
        yield Cause("entries", (name,), f"Only {count} of {off.size} entries are wrong ({places}): an index, a special "
                    "case or a write to the wrong place rather than a formula.",
                    f"the other {off.size - count} entries agree")
        return
    if len(shape) != 2 or not m.complete:
        return
    grid = off.reshape(shape)
    for axis, word in ((1, "row"), (0, "column")):
        hit = np.flatnonzero(grid.any(axis=axis))
        if 0 < hit.size <= 2 and hit.size < grid.shape[1 - axis]:
            yield Cause("row or column", (name,), f"Only {word} {', '.join(map(str, hit))} is wrong.",
                        f"all other {word}s agree")
            return
    g, n = m.g.reshape(shape), m.n.reshape(shape)
    for axis, word in ((0, "column"), (1, "row")):
        with np.errstate(all="ignore"):
            share = (g * n).sum(axis, keepdims=True) / (n * n).sum(axis, keepdims=True)
        if shape[axis] > 1 and np.all(np.isfinite(share)) and np.allclose(share * n, g, rtol=1e-5, atol=1e-6 * m.size):
            low, high = float(share.min()), float(share.max())
            yield Cause(f"{word} factors", (name,), f"Each {word} is right but for a factor of its own.",
                        f"factors from {low:.4g} to {high:.4g}")
            return


def explain_arrangement(setting: Setting, blocks: list[Block], measured: dict[str, Measured],
                        failed: list[str]) -> Iterator[Cause]:
    """What the set of wrong blocks says: blocks in another order, or an error that entered at one layer."""
    names = [b.name for b in blocks]
    if all(b.name in measured and measured[b.name].complete for b in blocks if b.name in failed) and len(failed) > 1:
        spans = [b for b in blocks if b.name in failed]
        start, stop = spans[0].start, spans[-1].stop
        inside = [b for b in blocks if start <= b.start and b.stop <= stop]
        numerical = np.concatenate([measured[b.name].n if b.name in measured else setting.gradient[b.slice]
                                    for b in inside])
        bar = max(float(measured[b.name].bars.max()) for b in inside if b.name in measured)
        atol = 1e-6 * float(np.abs(numerical).max()) + 3 * bar
        analytic = setting.gradient[start:stop]
        if np.allclose(np.sort(analytic), np.sort(numerical), rtol=1e-5, atol=atol):
            how = "other"
            for text, order in arrangements(inside):
                pieces = np.concatenate([numerical[b.start - start:b.stop - start] for b in order])
                if np.allclose(pieces, analytic, rtol=1e-5, atol=atol):
                    how = text
                    break
            yield Cause("order", tuple(failed), f"The right numbers at the wrong places across blocks ({how} order).",
                        "all entries together, sorted, agree with the numerical ones",
                        "put the blocks of the gradient in the order of w")
    wrong = [n in failed for n in names]
    last = max((k for k, bad in enumerate(wrong) if bad), default=-1)
    first_right = next((k for k, bad in enumerate(wrong) if not bad), len(names))
    if 1 < last + 1 == first_right < len(names):
        yield Cause("from here down", tuple(failed), f"All blocks up to {names[last]} are wrong, all after it "
                                                     f"are right: "
                    f"the error that is passed down from {names[last + 1]} goes wrong on its way (the transposed "
                    f"weights, "
                    "or the derivative of the activation there).", "wrong blocks are exactly the first "
                    f"{last + 1} of {len(names)}")
    vectors = [b.name for b in blocks if len(b.shape) == 1]
    if len(failed) > 1 and vectors and sorted(failed) == sorted(vectors):
        yield Cause("biases only", tuple(failed), "Exactly the biases (vectors) are wrong, the weights are "
                                                  "right: the error "
                    "delta is right, its sum over the examples is not.", "weights agree in every block")


def arrangements(blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Orders in which people collect the blocks of a gradient."""
    yield "reverse", blocks[::-1]
    if len(blocks) % 2 == 0:
        pairs = [blocks[i:i + 2] for i in range(0, len(blocks), 2)]
        yield "bias first", [b for pair in pairs for b in pair[::-1]]
        yield "last layer first", [b for pair in pairs[::-1] for b in pair]
        yield "weights before biases", blocks[0::2] + blocks[1::2]


def merge(causes: list[Cause]) -> list[Cause]:
    """Explanations of the same kind, with the same factor, in several blocks become one."""
    merged: list[Cause] = []
    for cause in causes:
        for k, earlier in enumerate(merged):
            both_plain = math.isnan(cause.value) and math.isnan(earlier.value)
            if cause.code == earlier.code and (both_plain or math.isclose(cause.value, earlier.value, rel_tol=1e-2)):
                text = earlier.text
                if not both_plain and len(earlier.blocks) == 1:
                    text += " The same in all of them."
                merged[k] = replace(earlier, blocks=earlier.blocks + cause.blocks, text=text,
                                    evidence=f"{earlier.evidence}; {cause.blocks[0]}: {cause.evidence}"
                                    if len(earlier.blocks) < 3 else earlier.evidence)
                break
        else:
            merged.append(cause)
    return merged


def exact(setting: Setting, block: Block, right: Vector) -> Measured:
    """A block whose right gradient is known."""
    part = block.slice
    bars = np.full(block.size, 20 * setting.problem.gradient_unit * float(np.abs(right[part]).max()))
    return Measured(block, setting.gradient[part], right[part], setting.problem.w0[part], bars,
                    np.arange(block.size), True)
