"""What is to be checked: the user's function, made uniform.

Whatever the user hands over (a flat vector, one array, a list or dict of arrays, a network with data), the rest of
the checker sees one vector of float64 numbers cut into named blocks, and two questions: the loss at a point, and the
loss with its gradient at a point.  Every call gets a fresh copy of the parameters, every gradient is copied on
arrival, and every call is counted.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Layout = Sequence[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Block:
    """A named piece of the parameter vector, for instance the weights of one layer."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def size(self) -> int:
        return self.stop - self.start

    def index(self, flat: int) -> tuple[int, ...]:
        """The index inside the block's own shape of entry ``flat`` of the whole vector."""
        return tuple(int(i) for i in np.unravel_index(flat - self.start, self.shape)) if self.shape else ()


@dataclass(frozen=True)
class Finding:
    """Something that was noticed and is not an error in a formula."""

    code: str
    text: str


class BadGradient(Exception):
    """The gradient cannot be compared at all (wrong length, missing block, not numbers)."""

    def __init__(self, code: str, text: str, blocks: list[str] | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.blocks = code, text, blocks


def _as_loss(value: Any) -> float:
    """The loss as a float; an array holding one number is accepted, as frameworks return those."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise TypeError(
            f"f must return one real number as the loss, got {type(value).__name__} of shape {array.shape} "
            f"and dtype {array.dtype}"
        )
    return float(array.reshape(()))


def _as_array(value: Any) -> npt.NDArray[Any]:
    if hasattr(value, "detach"):  # a PyTorch tensor, perhaps one that still hangs in a graph
        value = value.detach().cpu().numpy()
    return np.asarray(value)


class Parameters:
    """How the parameters are stored: turns the user's structure into a vector and back."""

    def __init__(self, w0: Any, layout: Layout | None) -> None:
        self.keys: list[Any] = []
        self.kind = "array"
        if isinstance(w0, Mapping):
            self.kind, self.keys = "dict", list(w0)
            arrays = [_as_array(w0[k]) for k in self.keys]
            names = [str(k) for k in self.keys]
        elif isinstance(w0, (list, tuple)) and not all(isinstance(v, numbers.Real) for v in w0):
            self.kind = "tuple" if isinstance(w0, tuple) else "list"
            self.keys = list(range(len(w0)))
            arrays = [_as_array(v) for v in w0]
            names = [f"[{i}]" for i in self.keys]
        else:
            arrays, names = [_as_array(w0)], ["w"]
        for array, name in zip(arrays, names, strict=False):
            if array.dtype.kind not in "fiub":
                raise TypeError(f"w0 must hold real numbers, block {name!r} has dtype {array.dtype}")
            if array.size and not np.all(np.isfinite(array)):
                raise ValueError(f"w0 must be finite, block {name!r} holds nan or inf")
        self.shapes = [a.shape for a in arrays]
        self.dtypes = [a.dtype if a.dtype.kind == "f" else np.dtype(np.float64) for a in arrays]
        self.w0: Vector = np.concatenate([a.astype(np.float64).ravel() for a in arrays] or [np.zeros(0)])
        if self.w0.size == 0:
            raise ValueError("w0 must hold at least one parameter, got none")
        if layout is None:
            named = list(zip(names, self.shapes, strict=False))
        else:
            if self.kind != "array":
                raise ValueError("layout is for a flat w0; a dict or list of arrays names its own blocks")
            named = self._checked_layout(layout)
        self.blocks: list[Block] = []
        start = 0
        for name, shape in named:
            stop = start + math.prod(shape)
            if stop > start:
                self.blocks.append(Block(name, shape, start, stop))
            start = stop
        self.coarse = any(d.itemsize < 8 for d in self.dtypes)
        self.input_float32 = False

    @property
    def eps(self) -> float:
        """The rounding unit of the coarsest dtype that parameters are stored in."""
        return max(float(np.finfo(np.float32).eps) if self.input_float32 else 0.0,
                   *(float(np.finfo(d).eps) for d in self.dtypes))

    def _checked_layout(self, layout: Layout) -> list[tuple[str, tuple[int, ...]]]:
        named: list[tuple[str, tuple[int, ...]]] = []
        for item in layout:
            try:
                name, shape = item
                shape = (int(shape),) if isinstance(shape, numbers.Integral) else tuple(int(s) for s in shape)
            except (TypeError, ValueError):
                raise ValueError(f"layout must be a list of (name, shape) pairs, got the item {item!r}") from None
            if any(s < 0 for s in shape):
                raise ValueError(f"layout: the shape of {name!r} must not be negative, got {shape}")
            named.append((str(name), shape))
        names = [name for name, _ in named]
        if len(set(names)) != len(names):
            raise ValueError(f"layout: every block needs a name of its own, got {names}")
        total = sum(math.prod(shape) for _, shape in named)
        if total != self.w0.size:
            raise ValueError(f"layout describes {total} parameters, w0 holds {self.w0.size}")
        return named

    def pack(self, w: Vector) -> Any:
        """A fresh structure of the user's own kind that holds ``w``."""
        pieces, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=False):
            stop = start + math.prod(shape)
            pieces.append(w[start:stop].astype(dtype, copy=True).reshape(shape))
            start = stop
        if self.kind == "array":
            return pieces[0]
        if self.kind == "dict":
            return dict(zip(self.keys, pieces, strict=False))
        return tuple(pieces) if self.kind == "tuple" else pieces

    def unpack(self, packed: Any) -> Vector:
        """The vector inside a structure that ``pack`` made (used to see whether f changed it)."""
        pieces = [packed] if self.kind == "array" else [packed[k] for k in self.keys]
        return np.concatenate([np.asarray(p, dtype=np.float64).ravel() for p in pieces])

    def quantise(self, w: Vector) -> Vector:
        """``w`` as the function will see it: rounded to the precision the parameters are stored in."""
        if self.input_float32:
            return w.astype(np.float32).astype(np.float64)
        if not self.coarse:
            return w
        w, start = w.copy(), 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=False):
            stop = start + math.prod(shape)
            if dtype.itemsize < 8:
                w[start:stop] = w[start:stop].astype(dtype)
            start = stop
        return w

    def gradient_vector(self, grad: Any) -> tuple[Vector, float, list[Finding]]:
        """The user's gradient as a vector, the rounding unit of its dtype, and what was odd about it."""
        findings: list[Finding] = []
        if grad is None:
            raise BadGradient("none", "the gradient is None")
        if self.kind == "array":
            pieces, shapes, names = [_as_array(grad)], self.shapes, ["the gradient"]
        else:
            keys = self.keys
            if self.kind == "dict":
                if not isinstance(grad, Mapping):
                    raise BadGradient("structure", f"w0 is a dict, so the gradient must be one; got "
                                                   f"{type(grad).__name__}")
                missing = [str(k) for k in keys if k not in grad]
                if missing:
                    raise BadGradient("length", f"the gradient lacks the blocks {missing}", missing)
                extra = [str(k) for k in grad if k not in keys]
                if extra:
                    findings.append(Finding("extra", f"the gradient has blocks that w0 does not have: {extra}"))
            elif not isinstance(grad, (list, tuple)) or len(grad) != len(keys):
                got = f"{len(grad)} arrays" if isinstance(grad, (list, tuple)) else type(grad).__name__
                raise BadGradient("length", f"w0 is a list of {len(keys)} arrays, so the gradient must be one; "
                                            f"got {got}")
            absent = [str(k) for k in keys if grad[k] is None]
            if absent:
                raise BadGradient("none", f"the gradient is None in the blocks {absent}: the loss was computed without "
                                          "them (detached, frozen, or backward was not called?)", absent)
            pieces = [_as_array(grad[k]) for k in keys]
            shapes, names = self.shapes, [f"gradient block {k!r}" for k in keys]
        for piece, shape, name, key in zip(pieces, shapes, names, self.keys or [None], strict=False):
            if piece.dtype.kind not in "fiub":
                raise BadGradient("dtype", f"{name} must hold real numbers, got dtype {piece.dtype}")
            if piece.size != math.prod(shape):
                raise BadGradient(
                    "length", f"{name} has {piece.size} entries (shape {piece.shape}), but w0 has "
                              f"{math.prod(shape)} there (shape {shape})", None if key is None else [str(key)])
            if piece.shape != shape:
                text = f"{name} has shape {piece.shape} instead of {shape}; it was read in C order"
                findings.append(Finding("shape", text))
        unit = max([float(np.finfo(p.dtype).eps) for p in pieces if p.dtype.kind == "f"] or [0.0])
        unit = max(unit, float(np.finfo(np.float64).eps))
        return np.concatenate([p.astype(np.float64).ravel() for p in pieces]), unit, findings


class Problem:
    """The user's loss and gradient behind one interface, with a count of the calls."""

    def __init__(
        self,
        f: Any,
        w0: Any = None,
        grad: Any = None,
        layout: Layout | None = None,
        X: Any = None,
        Y: Any = None,
        sample_weight: Any = None,
    ) -> None:
        if hasattr(f, "value_and_grad") and hasattr(f, "parameters") and not isinstance(f, type):
            if X is None or Y is None:
                raise ValueError("a network needs data: call gradcheck(net, X=X, Y=Y)")
            net = f
            if w0 is None:
                w0 = np.array(net.parameters)
            if layout is None:
                layout = list(net.layout)
            f = net.objective(X, Y) if sample_weight is None else net.objective(X, Y, sample_weight=sample_weight)
        elif X is not None or Y is not None or sample_weight is not None:
            raise ValueError("X, Y and sample_weight are for a network in place of f; f itself takes only w")
        if not callable(f):
            raise TypeError(f"f must be callable, f(w) -> (loss, grad), got {type(f).__name__}")
        if w0 is None:
            raise ValueError("w0 is missing: the point at which to check the gradient")
        self.parameters = Parameters(w0, layout)
        self.f: Callable[[Any], Any] = f
        self.grad_function = grad
        self.w0 = self.parameters.w0
        self.blocks = self.parameters.blocks
        self.evaluations = 0
        self.loss0 = math.nan  # the loss at w0, once it has been asked for
        self.gradient_unit = float(np.finfo(np.float64).eps)
        self.loss_unit = float(np.finfo(np.float64).eps)
        self.last_raw_grad: Any = None
        self.last_packed: Any = None
        self.gradient_findings: list[Finding] = []
        self.fixed_gradient = grad is not None and not callable(grad)

    def call(self, w: Vector, need_gradient: bool) -> tuple[float, Any]:
        """One evaluation of the user's function, with a copy of ``w`` in the user's own structure."""
        self.evaluations += 1
        packed = self.parameters.pack(w)
        self.last_packed = packed
        with np.errstate(all="ignore"):
            result = self.f(packed)
        if self.grad_function is None:
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise TypeError(
                    "f(w) must return the pair (loss, grad), or pass the gradient separately as grad=; "
                    f"got {type(result).__name__}"
                )
            loss, gradient = result
        else:
            if isinstance(result, (tuple, list)) and len(result) == 2:
                result = result[0]
            loss, gradient = result, None
            if need_gradient:
                with np.errstate(all="ignore"):
                    gradient = self.grad_function(self.parameters.pack(w)) if callable(self.grad_function) \
                        else self.grad_function
        array = _as_array(loss)
        if array.dtype.kind == "f":
            self.loss_unit = max(self.loss_unit, float(np.finfo(array.dtype).eps))
        self.last_raw_grad = gradient
        return _as_loss(array), gradient

    def loss(self, w: Vector) -> float:
        return self.call(w, need_gradient=False)[0]

    def loss_and_gradient(self, w: Vector) -> tuple[float, Vector]:
        loss, raw = self.call(w, need_gradient=True)
        vector, unit, findings = self.parameters.gradient_vector(raw)
        self.gradient_unit = max(self.gradient_unit, unit)
        self.gradient_findings = findings
        return loss, vector

    def block_of(self, flat: int) -> Block:
        return next(b for b in self.blocks if b.start <= flat < b.stop)
