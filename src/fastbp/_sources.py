"""Where the rows of a fit come from: arrays in memory, arrays too large to be copied whole, batches from an iterator.

A large array is one on disk (np.memmap), or of another dtype than the network's, whose rows in that dtype take more
than LARGE bytes. It is shuffled in two stages, so that neither memory nor the disk sees single rows far apart:
stretches of neighbouring rows change places, then the rows of as many stretches as make up a piece. The order is the
same whether a piece must be converted or can be read in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _check
from .order import shuffled

if TYPE_CHECKING:
    from .mlp import MLP

Array = np.ndarray[Any, Any]

LARGE = 2**28  # bytes of rows
PIECE = 2**26
STRETCH = 2**20
MOST_ROWS = 2**32  # that the kernels' indices count; more are copied piece by piece
WORK = 2e9  # rows times parameters of one call: a fraction of a second, between which Ctrl-C is seen


class Part(NamedTuple):
    """Rows for one call or more of `_run_batches`, and where their batches are in the pass."""

    X: Array
    Y: Array
    weight: Array | None
    order: Array | None  # of the rows in X, Y and weight; None: as they stand
    rows: Array | None  # what they are to the user: their numbers in his arrays; None: as they stand

    @property
    def n(self) -> int:
        """The number of rows to step over."""
        return len(self.X) if self.order is None else len(self.order)


class Table:
    """Arrays of one length, checked once; converted at once, or piece by piece where they are large."""

    def __init__(self, net: MLP, X: Any, Y: Any, sample_weight: Any = None, pieces: bool = True) -> None:
        self._net = net
        large = [pieces and _is_large(array, net.dtype) for array in (X, Y)]
        if not any(large):
            self.X, self.Y, self.weight = net._batch(X, Y, sample_weight)
        else:
            # What need not be converted is read where it is, and what is small is converted now.
            self.X = np.asarray(X) if large[0] else _check.matrix("X", X, net.dtype, net.sizes[0])
            self.Y = np.asarray(Y) if large[1] else Y
            rows = len(self.X) if self.X.ndim else 0
            _check.matrix("X", self.X[:1] if self.X.ndim == 2 else self.X, net.dtype, net.sizes[0])
            if large[1]:
                self._check_targets(rows)
            else:
                self.Y = self._targets("Y", Y, rows)
            if self.Y.ndim == 1 and net.sizes[-1] == 1:
                self.Y = self.Y[:, None]
            self.weight = None if sample_weight is None else _check.weights("sample_weight", sample_weight, rows)
        self.rows = len(self.X)
        self._row_bytes = max(1, (self.X[0].size + self.Y[0].size) * net.dtype.itemsize)
        y_dtype = np.dtype(np.int64) if self.Y.ndim == 1 and net._softmax else net.dtype
        many = self.rows > MOST_ROWS
        if many and not pieces:
            raise ValueError(f"X must have at most {MOST_ROWS} rows on each rank, got {self.rows}")
        self._convert = many or _needs_copy(self.X, net.dtype) or _needs_copy(self.Y, y_dtype)
        self.in_pieces = many or any(large)
        # Rows of weight 0 add nothing; left out, no batch consists of them alone.
        positive = None if self.weight is None else self.weight > 0
        self.pool = None if positive is None or positive.all() else self._index(np.flatnonzero(positive))
        self._order: Array | None = None
        self._narrow_Y: Array | None = None

    def _index(self, rows: Array) -> Array:
        """Numbers of rows as the kernels take them, or where those cannot count them, as NumPy does."""
        return rows.astype(np.uint32 if self.rows <= MOST_ROWS else np.int64, copy=False)

    def _narrow(self) -> Array:
        """Y, with labels in a byte each where that can be: rows far apart are read faster from little memory."""
        if self._narrow_Y is None:
            bytewise = self.Y.ndim == 1 and self._net._softmax and self._net.sizes[-1] <= 256
            self._narrow_Y = self.Y.astype(np.uint8) if bytewise else self.Y
        return self._narrow_Y

    def _targets(self, name: str, Y: Any, rows: int) -> Array:
        net = self._net
        return _check.targets(name, Y, net.dtype, rows, net.sizes[-1], net.loss, net._softmax)

    def _check_targets(self, rows: int) -> None:
        if self.Y.ndim == 0 or len(self.Y) != rows:
            raise ValueError(f"Y must have one row for each of X's {rows}, got {_check.describe(self.Y)}")
        most = max(1, PIECE // max(1, self.Y[0].size * self._net.dtype.itemsize))
        for begin in range(0, rows, most):
            end = min(rows, begin + most)
            self._targets(f"Y[{begin}:{end}]", self.Y[begin:end], end - begin)

    def split(self, fraction: float, generator: np.random.Generator | None) -> Array:
        """Set a share of the rows aside, drawn at random or the last ones: the pool is the rest."""
        pool = self._index(np.arange(self.rows)) if self.pool is None else self.pool
        held = round(fraction * len(pool))
        if not 0 < held < len(pool):
            raise ValueError(
                f"validation must leave rows on both sides, got {fraction!r} of {len(pool)} rows, which is {held}"
            )
        if generator is None:
            self.pool, aside = pool[:-held], pool[-held:]
        else:
            shuffled = generator.permutation(pool)
            self.pool, aside = np.sort(shuffled[held:]), np.sort(shuffled[:held])
        return aside

    @property
    def n_pool(self) -> int:
        return self.rows if self.pool is None else len(self.pool)

    def parts(self, generator: np.random.Generator | None, batch_size: int) -> Iterator[Part]:
        """All rows of the pool once, shuffled by the generator if there is one; only the last batch of all is short."""
        n = self.n_pool
        if not self.in_pieces:
            order = self.pool
            if generator is not None:
                if self._order is None:  # of the epoch before: its memory is used again
                    self._order = np.empty(n, np.uint32)
                order = shuffled(self.pool, generator, self._order)
            yield Part(self.X, self.Y if order is None else self._narrow(), self.weight, order, order)
            return
        piece = max(1, PIECE // self._row_bytes // batch_size) * batch_size
        stretch = max(1, STRETCH // self._row_bytes)
        if generator is not None:
            places = np.arange(-(-n // stretch), dtype=np.uint32)
            shuffled(None, generator, places[:-1])  # the last stretch may be short, and stays last; it begins anywhere
            places = places.astype(np.int64)
            shift = int(generator.integers(n))
        for begin in range(0, n, piece):
            at = np.arange(begin, min(n, begin + piece), dtype=np.int64)
            if generator is not None:
                at = (places[at // stretch] * stretch + at % stretch + shift) % n
                at = at[shuffled(None, generator, np.empty(len(at), np.uint32))]
            yield self._part(at if self.pool is None else self.pool[at])

    def _part(self, rows: Array) -> Part:
        """Some rows, in this order, converted if they must be: then read in the order of the file."""
        if not self._convert:
            rows = self._index(rows)
            return Part(self.X, self.Y, self.weight, rows, rows)
        ascending, order = np.unique(rows, return_inverse=True)
        return Part(*self.take(ascending), order.astype(np.uint32).reshape(-1), rows)

    def take(self, rows: Array) -> tuple[Array, Array, Array | None]:
        """A converted copy of some rows."""
        X = np.require(self.X[rows], self._net.dtype, ["C", "A"])
        Y = self._targets("Y", self.Y[rows], len(rows))
        return X, Y, None if self.weight is None else self.weight[rows]

    def blocks(self, rows: Array | None = None) -> Iterator[tuple[Array, Array, Array | None]]:
        """These rows (None: those of the pool) one after the other, in blocks that take moderate time and memory."""
        rows = self.pool if rows is None else rows
        n = self.rows if rows is None else len(rows)
        most = max(1, int(WORK // self._net.n_parameters))
        if rows is not None or self._convert:
            most = min(most, max(1, PIECE // self._row_bytes))
        for begin in range(0, n, most):
            if rows is None and not self._convert:
                here = slice(begin, begin + most)
                yield self.X[here], self.Y[here], None if self.weight is None else self.weight[here]
            else:
                here_rows = np.arange(begin, min(n, begin + most)) if rows is None else rows[begin : begin + most]
                yield self.take(here_rows)

    def copy_of(self, rows: Array) -> Table | None:
        """A table of some rows alone, or None if that would be large."""
        if len(rows) * self._row_bytes > LARGE:
            return None
        return Table(self._net, *self.take(rows), pieces=False)


class Batches:
    """Batches as the user makes them: (X, Y) or (X, Y, sample_weight), each one a step."""

    def __init__(self, net: MLP, source: Any, epochs: int, steps_per_epoch: int | None) -> None:
        self._net = net
        self._steps = steps_per_epoch
        self._again: Callable[[], Iterator[Any]] | None = None
        self._iterator: Iterator[Any] | None = None
        self.exhausted = False
        if callable(source) and not isinstance(source, Iterable):
            self._again = lambda: _iterator_from(source)
        elif isinstance(source, Iterator):
            self._iterator = source
            if epochs > 1 and steps_per_epoch is None:
                raise ValueError(
                    f"X is an iterator, which gives its batches once, and epochs is {epochs}: give a list, a function "
                    "that returns an iterator, epochs=1, or steps_per_epoch"
                )
        elif isinstance(source, Iterable):
            self._again = lambda: iter(source)
        else:
            raise TypeError(f"X must be an array, or give batches (X, Y), got {_check.describe(source)}")

    def parts(self) -> Iterator[Part]:
        """The batches of one epoch. Where steps_per_epoch is given, the next goes on where this one ended."""
        if self._again is not None and (self._iterator is None or self._steps is None):
            self._iterator = self._again()
        assert self._iterator is not None
        done, begun_anew = 0, False
        while self._steps is None or done < self._steps:
            try:
                batch = next(self._iterator)
            except StopIteration:
                if self._again is None:
                    self.exhausted = True
                    return
                if self._steps is None or begun_anew:  # a second time in a row: it is empty
                    return
                self._iterator, begun_anew = self._again(), True
                continue
            yield self._part(batch)
            done, begun_anew = done + 1, False

    def _part(self, batch: Any) -> Part:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(f"X: a batch must be (X, Y) or (X, Y, sample_weight), got {_check.describe(batch)}")
        X, Y, weight = self._net._batch(batch[0], batch[1], batch[2] if len(batch) == 3 else None)
        return Part(X, Y, weight, None, None)


def _iterator_from(function: Callable[[], Any]) -> Iterator[Any]:
    batches = function()
    try:
        return iter(batches)
    except TypeError:
        raise TypeError(f"X: the function must return batches (X, Y), got {_check.describe(batches)}") from None


def is_batches(X: Any, Y: Any) -> bool:
    """Whether X gives batches rather than rows."""
    if Y is not None or isinstance(X, np.ndarray) or hasattr(X, "__array__"):
        return False
    return callable(X) or isinstance(X, Iterable)


def _is_large(array: Any, dtype: np.dtype[Any]) -> bool:
    if not isinstance(array, np.ndarray) or array.size * dtype.itemsize <= LARGE:
        return False
    return _on_disk(array) or _needs_copy(array, dtype)


def _on_disk(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _needs_copy(array: Array, dtype: np.dtype[Any]) -> bool:
    return array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned)
