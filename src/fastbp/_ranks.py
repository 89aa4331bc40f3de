"""Ranks that act together over MPI: two kinds of collective operation, and errors that are raised on all.

(a) One is an all-reduce of a vector, behind which a flag travels that says "I have failed", so that a step is a single
    message and learns of failures without another one.  The other, `_exchange`, gathers a small Python object from
    every rank.
(b) Which is next is known at any time: the all-reduce while `_stepping`, elsewhere an exchange.  So a rank that fails,
    wherever it is, knows what the others will wait in: it joins that with the flag set, all exchange what happened, and
    the error is raised on every rank.  If they do not come, it ends all processes.
(c) An exchange carries the name of what it is for: ranks that went different ways get an error, not a deadlock.
(d) Before the first operation some rank may never come: it has left the program, or failed without telling MPI.  Nobody
    can know, so there the wait has an end, at which all are ended.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np

from . import _cpu, _dispatch
from ._config import get_num_threads

Array = np.ndarray[Any, Any]
Self = TypeVar("Self", bound="Ranks")

GRACE = 60.0  # seconds that a failed rank waits for the others before it ends all
TIMEOUT = 600.0  # seconds that a rank waits for the others to come at all; FASTBP_COMM_TIMEOUT sets another number
NOTICE = 10.0  # seconds of that after which it says so
LOSS, WEIGHT, FAILED, TAIL = 0, 1, 2, 3  # behind the gradient


class RemoteError(Exception):
    """The traceback of an error on another rank; the cause of the error that is raised here."""


class Ranks:
    """The ranks of a communicator.  All methods are collective: every rank calls them in the same order.

    In a with statement; an exception inside it, on any rank, is raised on all of them.  An interrupt (Ctrl-C) waits
    for the next collective operation, so that all ranks stop after the same step.  Threads are limited to this rank's
    part of the cores, unless the user has set a number.

    Attributes
    ----------
    rank, size : int
    is_root : bool
        Of rank 0, which reports and writes files.
    """

    _vector: Array  # what the all-reduce adds up: a gradient and its tail

    def __init__(self, comm: Any, mpi: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.is_root = self.rank == 0
        self._over = False  # all ranks know of an error
        self._stepping = False  # the next collective operation is a step's all-reduce
        self._interrupted = False
        self._handler: Any = None
        self._threads_limited = False
        self._crowded = ""

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def __enter__(self: Self) -> Self:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._meet(_timeout())
        except BaseException as error:
            self._abort(error)
        self._comm = self._comm.Dup()  # messages of the user's own never meet these
        self._limit_threads()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._over:
                pass
            elif error is None:
                self._exchange("end")
            else:
                self._fail(error)
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGINT, self._handler)
            if self._threads_limited:
                _dispatch.limit_threads(0)
            self._comm.Free()
        if self._interrupted and not self._over:  # since then
            raise KeyboardInterrupt

    def _meet(self, timeout: float) -> None:
        """Wait until every rank is here."""
        everyone = self._comm.Ibarrier()
        begin = now = time.monotonic()
        told = False
        while not everyone.Test():
            time.sleep(min(0.01, 0.1 * (now - begin)))
            now = time.monotonic()
            if self._interrupted:
                raise KeyboardInterrupt
            if now > begin + timeout:
                raise TimeoutError(
                    f"comm: not all of its {self.size} ranks called fit within {timeout:g} s (FASTBP_COMM_TIMEOUT sets "
                    "how long to wait); has one of them ended, or failed before it?"
                )
            if now > begin + NOTICE and not told:
                told = True
                print(
                    f"fastbp: rank {self.rank} waits until all {self.size} ranks call fit, for {timeout:g} s at most",
                    file=sys.stderr,
                    flush=True,
                )

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted:  # the user insists
            raise KeyboardInterrupt
        self._interrupted = True

    def _limit_threads(self) -> None:
        """As many threads as this rank's part of the cores that it shares with others on its machine."""
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(_cpu.cores())
        masks = node.allgather(set(mine))
        node.Free()
        part = max(1, int(sum(1 / sum(core in mask for mask in masks) for core in mine) + 1e-9))
        wanted = get_num_threads()
        if wanted <= part:
            return
        if _dispatch.thread_limit() or os.environ.get("OMP_NUM_THREADS"):
            self._crowded = (
                f"comm: {len(masks)} ranks of {wanted} threads on {len(set().union(*masks))} cores: they will wait for "
                f"each other; OMP_NUM_THREADS={part} gives each rank cores of its own"
            )
        else:
            _dispatch.limit_threads(part)
            self._threads_limited = True

    # ---- errors ------------------------------------------------------------------------------------------------------

    def _exchange(self, purpose: str, value: Any = None) -> list[Any]:
        """The values of all ranks, by rank; raises what any rank has to report instead of one."""
        if self._interrupted:
            error = KeyboardInterrupt()
            self._gather(purpose, None, error)
            raise error
        everyone = self._gather(purpose, value, None)
        for rank, (_, _, report) in enumerate(everyone):
            if report is not None:
                _raise_report(rank, report)
        names = [name for name, _, _ in everyone]
        if len(set(names)) > 1:
            steps = ", ".join(f"{name!r} on rank {rank}" for rank, name in enumerate(names))
            self._refuse(RuntimeError(f"comm: the ranks do not go the same way: {steps}; pass fit the same arguments"))
        return [value for _, value, _ in everyone]

    def _gather(self, purpose: str, value: Any, error: BaseException | None) -> list[Any]:
        try:
            report = None if error is None else _report(error)
            everyone: list[Any] = self._comm.allgather((purpose, value, report))
        except self._mpi.Exception as failure:
            self._abort(failure)
        self._over = any(report is not None for _, _, report in everyone)
        return everyone

    def _refuse(self, error: BaseException) -> NoReturn:
        """Raise what every rank raises here and now."""
        self._over = True
        raise error

    def _fail(self, error: BaseException) -> None:
        """Tell the others, in the operation that they will wait in."""
        if isinstance(error, self._mpi.Exception):
            self._abort(error)
        watch = threading.Timer(GRACE, self._abort, [error])
        watch.daemon = True
        watch.start()
        try:
            if self._stepping:
                self._vector[:] = 0
                self._vector[-TAIL + FAILED] = 1
                self._reduce()
            self._gather("an error", None, error)
        finally:
            watch.cancel()

    def _abort(self, error: BaseException) -> NoReturn:
        """End all ranks: there is no way left to agree."""
        traceback.print_exception(type(error), error, error.__traceback__)
        print(f"fastbp: rank {self.rank} ends all ranks after this error", file=sys.stderr, flush=True)
        time.sleep(0.3)  # or mpiexec ends before it has passed this on
        self._comm.Abort(1)
        raise error

    def _reduce(self) -> None:
        """Add up gradient, loss, weight and flag over the ranks."""
        try:
            self._comm.Allreduce(self._mpi.IN_PLACE, self._vector)
        except self._mpi.Exception as failure:
            self._abort(failure)


def _timeout() -> float:
    text = os.environ.get("FASTBP_COMM_TIMEOUT") or str(TIMEOUT)
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not timeout > 0:
        raise ValueError(f"FASTBP_COMM_TIMEOUT must be a number of seconds above 0, got {text!r}")
    return timeout


def _report(error: BaseException) -> tuple[bytes | None, str, str]:
    """An error as it can be sent: pickled if that goes, its traceback and its last line."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    last = "".join(traceback.format_exception_only(type(error), error)).strip()
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        return None, text, last
    return packed, text, last


def _raise_report(rank: int, report: tuple[bytes | None, str, str]) -> NoReturn:
    """Raise here what was raised on another rank."""
    packed, text, last = report
    error: BaseException = RuntimeError(last)
    if packed is not None:
        try:
            error = pickle.loads(packed)
        except Exception:  # a class that only the other rank knows
            pass
    raise error from RemoteError(f"on rank {rank}\n\n{text}")
