"""One function per rule for arguments.  Each returns the argument ready for the kernels, or raises an error that names
the argument, what came and what is valid."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np

MAX_WIDTH = 2**24  # labels are compared as float32 numbers
MAX_PARAMETERS = 2**40
SMALLEST_WEIGHT = float(np.finfo(np.float64).tiny)  # 1 / weight is finite


def describe(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def choice(name: str, value: Any, valid: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(valid)}, got {describe(value)}")
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
    return value


def activations(name: str, value: Any, valid: Sequence[str], hidden: int) -> tuple[str, ...]:
    """One name for each hidden layer, from one for all or one for each."""
    if isinstance(value, str):
        return (choice(name, value, valid),) * hidden
    try:
        names = tuple(value)
    except TypeError:
        raise TypeError(
            f"{name} must be one of {', '.join(valid)}, or one of them per hidden layer, got {describe(value)}"
        ) from None
    for item in names:
        choice(name, item, valid)
    if len(names) != hidden:
        raise ValueError(f"{name} must be one name, or one per hidden layer ({hidden}), got {len(names)}: {names!r}")
    return names


def generator(name: str, value: Any) -> np.random.Generator:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return np.random.default_rng(value)
    except (TypeError, ValueError):
        message = f"{name} must be None, a nonnegative integer or a numpy.random.Generator, got {describe(value)}"
        raise ValueError(message) from None


def number(name: str, value: Any, low: float, high: float, valid: str) -> float:
    """A real number in [low, high); `valid` says so in words."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)) or value is np.ma.masked:
            raise TypeError
        if np.ndim(value) != 0 or np.iscomplexobj(value):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {valid}, got {describe(value)}") from None
    except OverflowError:  # an integer that no float can hold
        raise ValueError(f"{name} must be {valid}, got {describe(value)}") from None
    if not low <= result < high:
        raise ValueError(f"{name} must be {valid}, got {value!r}")
    return result


def integer(name: str, value: Any, low: int, high: float = math.inf) -> int:
    """An integer, at least `low`, at most `high`."""
    valid = "a positive integer" if low == 1 else f"an integer >= {low}"
    if high < math.inf:
        valid = f"an integer in [{low}, {high}]"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {valid}, got {describe(value)}") from None
    if not low <= result <= high:
        raise ValueError(f"{name} must be {valid}, got {describe(result)}")
    return result


def flag(name: str, value: Any) -> bool:
    """True or False, not whatever counts as true: "no" does."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def functions(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """One function or more."""
    try:
        items = (value,) if callable(value) else tuple(value)
    except TypeError:
        items = (None,)
    if not all(callable(item) for item in items):
        raise TypeError(f"{name} must be a function or a sequence of functions, got {describe(value)}")
    return items


def is_true(answer: Any) -> bool:
    """Whether a callback's answer is True, or NumPy's: not whatever else counts as true, which may be an accident."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def dtype(name: str, value: Any) -> np.dtype[Any]:
    try:
        result = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {describe(value)}") from None
    if value is None or result.newbyteorder("=") not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"{name} must be float32 or float64, got {describe(value)}")
    native: np.dtype[Any] = result.newbyteorder("=")
    return native


def sizes(name: str, value: Any) -> tuple[int, ...]:
    valid = "the widths of the layers: at least two positive integers"
    if isinstance(value, (str, bytes, Set, Mapping)):  # a set would give them in an order of its own
        raise TypeError(f"{name} must be {valid}, got {describe(value)}")
    try:
        items = list(value)
    except TypeError:
        raise TypeError(f"{name} must be {valid}, got {describe(value)}") from None
    result = []
    for item in items:
        try:
            if isinstance(item, (bool, np.bool_)):
                raise TypeError
            result.append(operator.index(item))
        except TypeError:
            raise TypeError(f"{name} must be {valid}, got {describe(item)} among {describe(value)}") from None
    if len(result) < 2 or min(result) < 1:
        raise ValueError(f"{name} must be {valid}, got {describe(value)}")
    if max(result) > MAX_WIDTH:
        raise ValueError(f"{name} must be at most {MAX_WIDTH} each, got {max(result)}")
    total = sum((a + 1) * b for a, b in pairwise(result))
    if total > MAX_PARAMETERS:
        raise ValueError(f"{name}: {total} parameters are more than fit in memory (at most {MAX_PARAMETERS})")
    return tuple(result)


def real_array(name: str, value: Any, target: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Any array-like of real numbers, as a C-ordered array of the dtype; what is ready is not copied."""
    return np.require(_real(name, value), dtype=target, requirements=["C", "A"])


def _real(name: str, value: Any) -> np.ndarray[Any, Any]:
    """An array of floats, integers or bools, as they are."""
    if value is None:
        raise TypeError(f"{name} must be an array of real numbers, got None")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} must not be masked: fill or drop its missing entries first")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of real numbers, got {describe(value)}: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got {describe(array)}")
    return array


def matrix(name: str, value: Any, target: np.dtype[Any], columns: int, rows: int | None = None) -> np.ndarray[Any, Any]:
    """[rows, columns] (any number of rows from 1 on where rows is None)."""
    array = real_array(name, value, target)
    valid = f"({'rows' if rows is None else rows}, {columns})"
    if array.ndim != 2:
        single = array.ndim == 1 and array.size == columns and rows is None
        hint = f"; a single example is {name}[None, :]" if single else ""
        raise ValueError(f"{name} must have shape {valid}, got {array.ndim} dimensions, shape {array.shape}{hint}")
    if array.shape[1] != columns or (rows is not None and array.shape[0] != rows):
        raise ValueError(f"{name} must have shape {valid}, got {array.shape}")
    if array.shape[0] < 1:
        raise ValueError(f"{name} must have at least one row, got shape {array.shape}")
    return array


def vector(name: str, value: Any, target: np.dtype[Any], length: int) -> np.ndarray[Any, Any]:
    array = real_array(name, value, target)
    if array.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {array.shape}")
    return array


def labels(name: str, value: np.ndarray[Any, Any], rows: int, classes: int) -> np.ndarray[Any, Any]:
    """Class labels as int64, all in 0..classes - 1."""
    if value.shape != (rows,):
        raise ValueError(f"{name} must have one label per row, shape ({rows},), got {value.shape}")
    if value.dtype.kind == "f":
        bad = ~(np.isfinite(value) & (value == np.floor(value)))
        if bad.any():
            raise ValueError(
                f"{name} must hold integer class labels, got {value[bad][0]} at index {int(np.argmax(bad))}"
            )
    if value.size and not (value.min() >= 0 and value.max() < classes):
        bad = (value < 0) | (value >= classes)
        raise ValueError(
            f"{name} must hold labels from 0 to {classes - 1}, got {value[bad][0]} at index {int(np.argmax(bad))}"
        )
    return np.require(value, dtype=np.int64, requirements=["C", "A"])


def targets(
    name: str, value: Any, target: np.dtype[Any], rows: int, outputs: int, loss: str, softmax: bool
) -> np.ndarray[Any, Any]:
    """What a loss compares with: [rows, outputs], or labels for cross-entropy."""
    array = _real(name, value)
    if array.ndim == 1 and loss == "cross_entropy" and (softmax or outputs > 1):
        array = labels(name, array, rows, outputs)
        if softmax:
            return array
        one_hot = np.zeros((rows, outputs), target)
        one_hot[np.arange(rows), array] = 1
        return one_hot
    if array.ndim == 1 and outputs == 1 and array.shape == (rows,):
        array = array[:, None]
    result = matrix(name, array, target, outputs, rows)
    if loss != "squared_error":
        shares = loss == "binary_cross_entropy"
        bad = ~((result >= 0) & (result <= (1 if shares else np.finfo(target).max)))
        if bad.any():
            valid = "in [0, 1]" if shares else "finite and >= 0"
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name} must be {valid} for {loss}, got {result[where]} at index {where}")
    return result


def weights(name: str, value: Any, rows: int) -> np.ndarray[Any, Any]:
    array = vector(name, value, np.dtype(np.float64), rows)
    bad = ~(np.isfinite(array) & ((array == 0) | (array >= SMALLEST_WEIGHT)))
    if bad.any():
        valid = f"finite and not negative, 0 or at least {SMALLEST_WEIGHT:.2g}"
        raise ValueError(f"{name} must be {valid}, got {array[bad][0]} at index {int(np.argmax(bad))}")
    with np.errstate(over="ignore"):
        total = array.sum()
    if not 0 < total < np.inf:
        raise ValueError(f"{name} must have a positive, finite sum, got {total}")
    return array


def output(name: str, value: Any, target: np.dtype[Any], shape: tuple[int, ...], **others: Any) -> np.ndarray[Any, Any]:
    """An array to write results into, as it is; `others` are arrays that it must not share memory with."""
    valid = f"a writable C-ordered array of shape {shape} and dtype {target}"
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be {valid}, got {describe(value)}")
    if value.shape != shape or value.dtype != target:
        raise ValueError(f"{name} must be {valid}, got {describe(value)}")
    if not value.flags.writeable:
        raise ValueError(f"{name} must be {valid}, got a read-only array")
    if not value.flags.carray:
        raise ValueError(f"{name} must be {valid}, got one that is not C-ordered and aligned")
    for other, array in others.items():
        if array is not None and np.may_share_memory(value, array):
            raise ValueError(f"{name} must not share memory with {other}")
    return np.asarray(value)


def path(name: str, value: Any) -> str:
    if not isinstance(value, (str, bytes, os.PathLike)):  # not an integer, which open() takes for a descriptor
        raise TypeError(f"{name} must be a path, got {describe(value)}")
    result = os.fsdecode(value)
    if not result or "\0" in result:
        raise ValueError(f"{name} must be a path, got {value!r}")
    return result


def clip(name: str, value: Any) -> float:
    return number(name, value, np.nextafter(0, 1), 0.5, "a number in (0, 0.5), or None")
