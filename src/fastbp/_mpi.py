"""Training over MPI: what `fit(comm=)` does together with the other ranks.

(a) Every rank steps with the rows it was given.  A step's gradient is that of the whole batch: the mean over all its
    rows, or its sum, so each rank's share counts by the weight of its rows.  Loss and weight travel behind the
    gradient.  Between `_exchange("pass")` and the last step of a pass the next operation is always a step's all-reduce
    (see _ranks.py).
(b) All ranks compute their steps from the same sum, hence the same parameters to the bit; `check` compares them.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, _dispatch
from ._ranks import TAIL, Ranks

if TYPE_CHECKING:
    from .mlp import MLP
    from .optim import Optimizer

Array = np.ndarray[Any, Any]


def join(comm: Any) -> Group:
    """The group of ranks that a communicator connects.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm

    Returns
    -------
    Group
        To be used in a with statement.

    Raises
    ------
    TypeError, ValueError
        If comm is something else.
    """
    MPI: Any = sys.modules.get("mpi4py.MPI")  # whoever has a communicator has imported it; importing it starts MPI
    if MPI is not None and isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
        raise ValueError("comm must be a communicator that this process is part of, got MPI.COMM_NULL")
    if MPI is None or not isinstance(comm, MPI.Intracomm):
        hint = "" if MPI else " (mpi4py comes with: pip install fastbp[mpi])"
        raise TypeError(
            f"comm must be a communicator such as mpi4py.MPI.COMM_WORLD, or None, got {_check.describe(comm)}{hint}"
        )
    return Group(comm, MPI)


class Group(Ranks):
    """The ranks that train one network."""

    def start(
        self, net: MLP, optimizer: Optimizer, rows: int, batch_size: int, settings: dict[str, Any] | None = None
    ) -> tuple[int, int]:
        """Make root's parameters and optimizer state everybody's, and share out the batches.

        Parameters
        ----------
        net, optimizer
            Of the same kind on every rank.
        rows : int
            Of this rank, at least 1.
        batch_size : int
            Of all ranks together, at least their number.
        settings : dict of str to plain values, optional
            Other arguments that have to be the same on every rank.

        Returns
        -------
        local_batch_size, n_batches : int
            Shares of a batch are in proportion to the rows; so many steps make a pass, the same on every rank.
        """
        if self._crowded and self.is_root:
            warnings.warn(self._crowded, RuntimeWarning, stacklevel=2)
        state = optimizer._state_for(net)
        net._writable()
        self._vector = np.zeros(net.n_parameters + TAIL, net.dtype)
        self._weight_views = net.views(self._vector[:-TAIL])[0]
        facts = {
            **(settings or {}),
            "batch_size": batch_size,
            "net": repr(net),
            "optimizer": repr(optimizer),
            "the instruction set (FASTBP_ISA)": _dispatch.isa,
        }
        everyone = self._exchange("start", (facts, rows, state.steps))
        for name, value in everyone[0][0].items():
            for rank, (others, _, _) in enumerate(everyone):
                if others.get(name) != value:
                    came = f"{value!r} on rank 0 and {others.get(name)!r} on rank {rank}"
                    self._refuse(ValueError(f"{name} must be the same on every rank, got {came}"))
        if batch_size < self.size:
            self._refuse(ValueError(f"batch_size must be at least the number of ranks, {self.size}, got {batch_size}"))
        try:
            for vector in (net._buffer, state.first, state.second):
                if vector is not None:
                    self._comm.Bcast(vector)
        except self._mpi.Exception as failure:
            self._abort(failure)
        state.steps = everyone[0][2]
        all_rows = [rows for _, rows, _ in everyone]
        shares = _shares(batch_size, all_rows)
        self._batch_size = batch_size
        self._n_batches = max(-(-n // share) for n, share in zip(all_rows, shares, strict=True))
        return shares[self.rank], self._n_batches

    def generator(self, generator: np.random.Generator) -> np.random.Generator:
        """Streams that differ from rank to rank, all made from root's generator as it is now.

        On root it is the generator itself: one rank shuffles as no comm does, and root's generator at the beginning of
        an epoch is all that a checkpoint needs to hold.
        """
        root = self._exchange("generator", generator if self.is_root else None)[0]
        if self.is_root:
            return generator
        return np.random.default_rng([self.rank, *root.integers(2**32, size=4)])

    def run(
        self,
        net: MLP,
        X: Array,
        Y: Array,
        sample_weight: Array | None,
        optimizer: Optimizer,
        order: Array | None,
        begin: int,
        batch_size: int,
        losses: Array,
        *,
        penalty: float = 0.0,
        max_norm: float = math.inf,
        dropout: Sequence[float] | None = None,
        key: int = 0,
        seconds: float = 0.1,
    ) -> tuple[int, str | None]:
        """Steps over the batches of one pass from `begin` on, as `MLP._run_batches`, together.

        Step s takes the rows ``order[s * batch_size : (s + 1) * batch_size]`` of every rank, which may be none where
        others have more.  ``losses[s]`` is the loss of them all.  The pass is over at ``n_batches * batch_size``, which
        may lie beyond this rank's rows; the others need not return from the same step before that.
        """
        rows, end = len(X) if order is None else len(order), self._n_batches * batch_size
        state, mean = optimizer._state_for(net), net._mean
        if not self._stepping and begin < end:
            weight = _batch_weight(sample_weight, order, 0, rows)
            everyone = self._exchange(f"pass from step {begin // batch_size}", (rows, weight))
            all_rows, all_weight = (sum(values) for values in zip(*everyone, strict=True))
            self._unit = self._batch_size * all_weight / all_rows  # an average batch's weight
            self._stepping = True
        key = (key + self.rank * 0x9E3779B97F4A7C15) % 2**64
        gradient, tail = self._vector[:-TAIL], self._vector[-TAIL:]
        largest = math.sqrt(np.finfo(net.dtype).max)  # whose square is finite
        deadline = time.perf_counter() + seconds
        while begin < end:
            weight = _batch_weight(sample_weight, order, begin, min(begin + batch_size, rows)) / self._unit
            loss = 0.0
            if weight > 0:
                loss = net._batch_gradient(
                    X, Y, sample_weight, order, begin, batch_size, gradient, dropout=dropout, key=key, step=state.steps
                )
                if mean and weight != 1:
                    gradient *= weight
                    loss *= weight
            else:
                gradient[:] = 0
            tail[:] = loss, weight, self._interrupted
            self._reduce()
            loss, weight, failed = tail.tolist()
            if failed:
                self._exchange("an error")  # raises it
            if mean and weight not in (0, 1):
                gradient *= 1 / weight
                loss /= weight
            if penalty and weight:
                loss += self._add_penalty(net, penalty / (weight * self._unit))
            losses[begin // batch_size] = loss
            norm = math.sqrt(_sum_of_squares(gradient)) if math.isfinite(loss) else math.nan
            if not math.isfinite(norm):
                self._stepping = False
                return begin, "gradient" if math.isfinite(loss) else "loss"
            if state.second is not None and min(norm, max_norm) > largest:
                self._stepping = False
                return begin, "squared gradient"
            if norm > max_norm:
                gradient *= max_norm / norm
            state.step(net._buffer, gradient)
            begin += batch_size
            if time.perf_counter() > deadline:
                break
        self._stepping = begin < end
        return begin, None

    def sum(self, vector: Sequence[float]) -> Array:
        """The sum of all ranks' vectors, added up in the order of ranks: the same bits everywhere."""
        total: Array = np.sum(self._exchange("sum", np.asarray(vector, np.float64)), axis=0)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        return self._exchange("gather", value)

    def agree(self, value: Any) -> Any:
        """Root's value (small and plain) on every rank."""
        return self._exchange("agree", value if self.is_root else None)[0]

    def check(self, net: MLP) -> None:
        """Refuse to go on unless the parameters have the same bits on every rank."""
        sums = self._exchange("check", zlib.crc32(net._buffer.data))
        if len(set(sums)) > 1:
            other = next(rank for rank, value in enumerate(sums) if value != sums[0])
            self._refuse(
                RuntimeError(
                    f"comm: the parameters on rank {other} are no longer those on rank 0; something changed them on "
                    "one rank alone (a callback?), or the ranks' processors or libraries round differently"
                )
            )

    def _add_penalty(self, net: MLP, penalty: float) -> float:
        """Add the gradient of 0.5 * penalty * sum(weights**2); returns that."""
        total = 0.0
        for W, g in zip(net.weights, self._weight_views, strict=True):
            g += penalty * W
            total += _sum_of_squares(W.reshape(-1))
        return 0.5 * penalty * total


def _batch_weight(sample_weight: Array | None, order: Array | None, begin: int, end: int) -> float:
    """The total weight of the rows at these positions."""
    if end <= begin or sample_weight is None:
        return max(0, end - begin)
    return float(sample_weight[begin:end].sum() if order is None else sample_weight[order[begin:end]].sum())


def _sum_of_squares(vector: Array) -> float:
    """In blocks, so that single precision loses nothing, and BLAS starts no threads of its own."""
    whole = len(vector) // 4096 * 4096
    blocks, rest = vector[:whole].reshape(-1, 4096), vector[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.matmul(blocks[:, None, :], blocks[:, :, None])
        total = float(squares.sum(dtype=np.float64)) + float(np.dot(rest, rest))
    if math.isfinite(total) or vector.dtype == np.float64:
        return total
    return float(np.square(vector, dtype=np.float64).sum())  # the squares may be too large, not the numbers


def _shares(batch_size: int, rows: Sequence[int]) -> list[int]:
    """A batch shared out in proportion to the rows: integers >= 1 that add up to it."""
    total = sum(rows)
    parts = [divmod(batch_size * n, total) for n in rows]
    shares = [whole for whole, _ in parts]
    for rank in sorted(range(len(rows)), key=lambda r: -parts[r][1])[: batch_size - sum(shares)]:
        shares[rank] += 1
    while 0 in shares:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] += 1
    return shares
