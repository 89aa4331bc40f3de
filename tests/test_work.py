"""What a step costs, counted instead of timed: instructions, allocations, calls of Python.

The bounds are what was counted and 5 per cent, as much as GCC 11 and 12 differ: whoever adds work sees it here, on a
machine of any speed; whoever saves some lowers them. Packing the weights twice is 16 per cent of the case of 17 rows.
"""

import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import SANITIZED
from work_program import CASES, STEPS

import fastbp
from fastbp import _dispatch

PROGRAM = Path(__file__).parent / "work_program.py"
ISA = "avx2"  # valgrind 3.19 knows no AVX-512

# Instructions of the kernels for each vector (32 bytes) of multiply-adds, which is one of them. A tile of 4 x 3 vectors
# takes 4 broadcasts, 3 loads, 12 multiply-adds and 2 to go on in a turn of its loop: 1.75. What is more are edges,
# packing, activations, the loss and the update.
BOUNDS = {
    "gradient 4 x 2-8-1 tanh identity float64": 98,
    "step 1 x 8-64-64-4 tanh identity float32": 19.6,
    "gradient 17 x 48-48-48-48 relu identity float32": 4.48,
    "gradient 128 x 10-128-128-10 relu identity float32": 2.72,
    "gradient 128 x 20-100-10 relu softmax float64": 3.51,
    "step 64 x 300-160-10 relu softmax float32": 2.73,
    "pass 300 x 4-32-16-4 tanh identity float32": 6.23,
}


class Count(NamedTuple):
    """Of one dump: instructions in fastbp's kernels and elsewhere, calls of the C library's allocator."""

    kernels: int
    others: int
    allocations: int


def read_dump(path):
    """Adds up what callgrind counted; a line of calls is followed by one with their cost, counted where it arises."""
    instructions, allocations, inclusive, called, where = Counter(), 0, False, "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        cost = re.fullmatch(r"[-+*\d]\S* (\d+)", line)
        if key == "ob":
            where = "kernels" if "_kernels_" in value else "others"
        elif key == "cfn":
            called = value
        elif key == "calls":
            inclusive = True
            if called in ("malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"):
                allocations += int(value.split()[0])
        elif cost:
            if not inclusive:
                instructions[where] += int(cost[1])
            inclusive = False
    return Count(instructions["kernels"], instructions["others"], allocations)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """For every case: the work, nothing, the same work again."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    if ISA not in _dispatch.available() or SANITIZED:
        pytest.skip(f"counts the {ISA} variant, without sanitizers")
    if not fastbp.get_config()["compiler"].startswith("gcc"):
        pytest.skip("the bounds are those of GCC's code")
    folder = tmp_path_factory.mktemp("counts")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder}/dump",
         "--compress-strings=no", "--compress-pos=no", sys.executable, str(PROGRAM)],
        env=os.environ | threads | {"FASTBP_ISA": ISA, "PYTHONHASHSEED": "0"},
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dumps = sorted(folder.glob("dump.*"), key=lambda path: int(path.suffix[1:]))
    assert len(dumps) == 4 * len(CASES)
    found = [read_dump(path) for path in dumps]
    return {case.name: found[4 * k + 1 : 4 * k + 4] for k, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name)
def test_instructions_of_the_kernels(counts, case):
    first, _, again = counts[case.name]
    assert first.kernels == again.kernels
    per_vector = first.kernels / STEPS / case.vectors
    assert per_vector <= BOUNDS[case.name], f"{per_vector:.3f} for a vector of multiply-adds"


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name)
def test_a_call_costs_little_beside_its_kernels(counts, case):
    """In units of ``np.add(a, b, out=c)`` for four numbers, so that Python's version does not matter."""
    nothing, unit = counts[CASES[0].name][1].others, counts[CASES[0].name][2].others
    calls = (counts[case.name][2].others - nothing) / (unit - nothing)
    assert calls < {"gradient": 1, "step": 1, "pass": 3.5}[case.call], f"{calls:.2f} calls of NumPy"


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name)
def test_steady_state_allocates_nothing(counts, case):
    _, _, again = counts[case.name]
    assert again.allocations <= (STEPS if case.call == "pass" else 0)  # a pass: the norms' partial sums, once


# ---- seen from Python --------------------------------------------------------------------------------------------


def calls(dtype):
    """name -> a call with everything given, and how many functions of Python it enters."""
    net = fastbp.MLP([8, 32, 4], output_activation="softmax", loss="cross_entropy", dtype=dtype, rng=0)
    X, labels, dY = np.ones((64, 8), dtype), np.zeros(64, np.int64), np.ones((64, 4), dtype)
    out, y, adam = np.empty_like(net.parameters), np.empty((64, 4), dtype), fastbp.Adam()
    return {
        "value_and_grad": (lambda: net.value_and_grad(X, labels, out=out), 1),
        "value_and_grad of rows": (lambda: net.value_and_grad(X, dY, out=out), 1),
        "value": (lambda: net.value(X, labels), 1),
        "predict": (lambda: net.predict(X, out=y), 1),
        "train_step": (lambda: net.train_step(X, labels, adam), 1),
    }


def functions_entered(call):
    """How many functions of Python a call enters, itself left out."""
    entered = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: entered.update([event]))
    try:
        call()
    finally:
        sys.setprofile(before)
    return entered["call"] - 1


@pytest.mark.parametrize("name", calls(np.float64))
def test_functions_of_python_that_a_call_enters(dtype, name):
    call, most = calls(dtype)[name]
    call()
    assert functions_entered(call) <= most


def test_an_epoch_enters_as_many_functions_for_a_thousand_batches_as_for_ten():
    def entered(rows, epochs):
        net = fastbp.MLP([2, 4, 1], rng=0)
        X, Y = np.ones((rows, 2)), np.ones((rows, 1))
        fit = lambda: net.fit(X, Y, epochs=epochs, batch_size=10, rng=0)  # noqa: E731
        fit()
        return min(functions_entered(fit) for _ in range(3))  # more where a pause lets a slice of time end early

    few, many = (entered(rows, 12) - entered(rows, 2) for rows in (100, 10_000))
    assert many == few <= 10 * 60


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has its own allocator")
@pytest.mark.parametrize("name", calls(np.float64))
def test_steady_state_allocates_no_memory_of_python(dtype, name):
    call, _ = calls(dtype)[name]
    call()
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            call()
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert most < 100, "bytes: the loss and a tuple, but no array"
