"""Which variant runs: FASTBP_ISA, unknown and impossible values, and what the CPU can do."""

import contextlib
import io
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
import pytest
from conftest import ISAS

import fastbp
from fastbp import _dispatch

FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}}
ORDINARY = [isa for isa in ISAS if isa in ("baseline", "avx2", "avx512")]


def run(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "FASTBP_ISA"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


def cpu_flags():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":")[1].split())
    return None


WHICH = "import fastbp; print(fastbp.get_config()['isa'])"


@pytest.mark.parametrize("isa", ORDINARY)
def test_FASTBP_ISA_chooses_the_variant(isa):
    done = run(WHICH, FASTBP_ISA=isa)
    assert (done.returncode, done.stdout.strip()) == (0, isa), done.stderr


@pytest.mark.parametrize("value", ["", None])
def test_without_it_the_best_variant_is_chosen(value):
    best = next(isa for isa in ("avx512", "avx2", "baseline") if isa in ORDINARY)
    done = run(WHICH, **({} if value is None else {"FASTBP_ISA": value}))
    assert done.stdout.strip() == best


@pytest.mark.parametrize("value", ["avx3", "sse9", "AVX 2", "avx2,avx512", "0", "../x", "f64"])
def test_an_unknown_value_is_an_import_error_that_lists_the_valid_ones(value):
    done = run(WHICH, FASTBP_ISA=value)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    for word in ("FASTBP_ISA", value, "baseline"):
        assert word.lower() in last.lower()


@pytest.mark.parametrize("value", [isa for isa in FLAGS if isa not in ISAS])
def test_a_value_that_this_cpu_cannot_run_is_an_import_error_and_no_crash(value):
    done = run(WHICH, FASTBP_ISA=value)
    assert done.returncode == 1, "killed by a signal" if done.returncode < 0 else done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert value in last


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")
def test_what_can_run_agrees_with_proc_cpuinfo():
    flags = cpu_flags()
    if flags is None:
        pytest.skip("no /proc/cpuinfo")
    for isa, needed in FLAGS.items():
        if isa in ISAS:
            assert needed <= flags
        if not needed <= flags:
            assert isa not in ISAS
    assert "baseline" in ISAS


def test_every_variant_says_which_it_is_and_computes():
    for isa in ISAS:
        with _dispatch.using(isa):
            net = fastbp.MLP([2, 3, 1], rng=0)
        assert np.isfinite(net.value(np.ones((2, 2)), np.ones((2, 1))))


def test_variants_agree_to_rounding():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(50, 20)), rng.normal(size=(50, 5))
    grads = []
    for isa in ISAS:
        with _dispatch.using(isa):
            net = fastbp.MLP([20, 33, 5], activation="gelu", rng=0)
        grads.append(net.value_and_grad(X, Y)[1])
    for other in grads[1:]:
        np.testing.assert_allclose(other, grads[0], rtol=0, atol=1e-14 * np.abs(grads[0]).max())


def test_using_puts_back_what_was_there_even_after_an_error():
    before = _dispatch.isa
    with pytest.raises(ZeroDivisionError), _dispatch.using("baseline"):
        raise ZeroDivisionError
    assert _dispatch.isa == before


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises((ImportError, ValueError), match=r"baseline"):
        _dispatch.load("avx3", np.dtype(np.float64))


def test_show_config_prints_what_get_config_knows():
    config = fastbp.get_config()
    assert {"version", "isa", "openmp", "threads", "compiler"} <= set(config)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert fastbp.show_config() is None
    for key in ("isa", "openmp", "threads", "compiler"):
        assert key in printed.getvalue().lower()
    assert str(config["version"]) in printed.getvalue()
    assert config["version"] == fastbp.__version__
    assert config["threads"] == fastbp.get_num_threads()
