"""Training over MPI: one, two and three ranks on this machine. The checks themselves are in mpi_program.py."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SANITIZED

import fastbp
from fastbp import _mpi, _ranks

PROGRAM = Path(__file__).with_name("mpi_program.py")
SEARCHED = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MPIEXEC = shutil.which("mpiexec", path=SEARCHED)
needs_mpi = pytest.mark.skipif(SANITIZED, reason="the sanitizers' libraries are not for mpiexec")


def start(ranks, *arguments, through=(), **variables):
    pytest.importorskip("mpi4py", reason="the extra fastbp[mpi] is not installed")
    if MPIEXEC is None:
        pytest.skip("mpiexec is missing: the extra fastbp[mpi] is not installed")
    path = os.pathsep.join([str(Path(fastbp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    environment.pop("OMP_NUM_THREADS", None)
    command = [MPIEXEC, "-n", str(ranks), sys.executable, *through, str(PROGRAM), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process, seconds=120):
    """Exit code and output; what hangs is killed, and fails."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the ranks hang:\n{process.communicate()[0]}")
    return process.returncode, output


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks(ranks, tmp_path):
    code, output = finish(start(ranks, "all", str(tmp_path), through=("-m", "mpi4py")))
    assert code == 0, output
    source = PROGRAM.read_text(encoding="utf-8")
    assert output.count("passed check_") == source.count("\ndef check_")


@needs_mpi
@pytest.mark.parametrize("name", ["end_with_an_error", "end_where_nobody_comes"])
def test_an_error_ends_all(name):
    begin = time.monotonic()
    code, output = finish(start(2, name))
    assert code != 0
    assert "ZeroDivisionError: planted" in output
    assert time.monotonic() - begin < 30


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_that_has_left_ends_all(ranks):
    begin = time.monotonic()
    code, output = finish(start(ranks, "end_where_one_has_left", FASTBP_COMM_TIMEOUT="1.5"))
    assert code != 0
    assert f"fastbp: rank 0 waits until all {ranks} ranks call fit, for 1.5 s at most" in output
    assert f"TimeoutError: comm: not all of its {ranks} ranks called fit within 1.5 s" in output
    assert time.monotonic() - begin < 30


@needs_mpi
def test_an_interrupt_ends_those_that_wait():
    process = start(2, "end_by_interrupt_before_all_are_there")
    assert process.stdout.readline().startswith("fastbp: rank 0 waits")
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code != 0
    assert "KeyboardInterrupt" in output
    assert time.monotonic() - begin < 5


@needs_mpi
@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_the_time_to_wait_must_be_a_number(text):
    code, output = finish(start(1, "end_with_an_error", FASTBP_COMM_TIMEOUT=text))
    assert code != 0
    assert f"ValueError: FASTBP_COMM_TIMEOUT must be a number of seconds above 0, got '{text}'" in output


@needs_mpi
def test_an_interrupt_ends_all():
    process = start(2, "end_by_interrupt")
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code != 0
    assert "KeyboardInterrupt" in output


@pytest.mark.parametrize("comm", ["world", 0, True, object()])
def test_comm_must_be_a_communicator(comm):
    net = fastbp.MLP([2, 1], rng=0)
    with pytest.raises(TypeError, match=r"comm must be a communicator such as mpi4py\.MPI\.COMM_WORLD, or None"):
        net.fit(np.ones((3, 2)), np.ones((3, 1)), comm=comm)


@pytest.mark.parametrize(
    ("batch", "rows", "shares"),
    [
        (32, [100], [32]),
        (32, [50, 50], [16, 16]),
        (32, [100, 60], [20, 12]),
        (160, [100, 60], [100, 60]),
        (1010, [1000, 10], [1000, 10]),
        (32, [1000, 10], [31, 1]),
        (3, [1, 1, 1000], [1, 1, 1]),
        (7, [5, 5, 5], [3, 2, 2]),
    ],
)
def test_a_batch_is_shared_out_in_proportion(batch, rows, shares):
    assert _mpi._shares(batch, rows) == shares


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_squares(dtype):
    for n in (0, 1, 4095, 4096, 20_000):
        vector = np.random.default_rng(n).normal(size=n).astype(dtype)
        np.testing.assert_allclose(_mpi._sum_of_squares(vector), (vector.astype(float) ** 2).sum(), rtol=1e-6)
    assert np.isfinite(_mpi._sum_of_squares(np.full(5000, 1e30, dtype)))
    assert not np.isfinite(_mpi._sum_of_squares(np.array([1, np.inf], dtype)))
    assert not np.isfinite(_mpi._sum_of_squares(np.array([1, np.nan], dtype)))


def test_an_error_that_cannot_be_sent_is_told():
    class Local(Exception):
        pass

    with pytest.raises(RuntimeError, match="Local: what happened") as found:
        _ranks._raise_report(2, _ranks._report(Local("what happened")))
    assert "on rank 2" in str(found.value.__cause__)
