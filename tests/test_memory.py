"""Many thousand calls in constant memory, large batches in bounded memory, and no leak of references."""

import gc
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import SANITIZED

import fastbp

PAGE = resource.getpagesize()
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
unsanitized = pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory")


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * PAGE


def calls(dtype):
    """name -> a call of every public function, bad calls included."""
    net = fastbp.MLP([8, 32, 32, 4], output_activation="softmax", loss="cross_entropy", dtype=dtype, rng=0)
    X, labels = np.ones((64, 8), dtype), np.zeros(64, np.int64)
    rows, weight = np.ones((64, 4)), np.ones(64)
    optimizer, out, f = fastbp.Adam(), np.empty_like(net.parameters), net.objective(X, labels)
    a, z = fastbp.dense_forward(X, net.weights[0], net.biases[0], "tanh")

    def bad(*args, **kwargs):
        with pytest.raises((ValueError, TypeError)):
            net.value_and_grad(*args, **kwargs)

    return {
        "value_and_grad": lambda: net.value_and_grad(X, labels),
        "value_and_grad, converted": lambda: net.value_and_grad(X[:, ::-1], rows, sample_weight=weight,
                                                                out=out),
        "value": lambda: net.value(X, rows),
        "predict": lambda: net.predict(X),
        "forward and backward": lambda: net.backward(net.forward(X)),
        "train_step": lambda: net.train_step(X, labels, optimizer),
        "objective": lambda: f(net.parameters),
        "views": lambda: net.views(out),
        "dense_forward": lambda: fastbp.dense_forward(X, net.weights[0], net.biases[0], "gelu"),
        "dense_backward": lambda: fastbp.dense_backward(a, X, net.weights[0], z, "gelu"),
        "safe_log": lambda: fastbp.safe_log(rows, derivative=True),
        "a new net": lambda: fastbp.MLP([8, 32, 4], dtype=dtype, rng=0),
        "bad X": lambda: bad(X[:, 1:], labels),
        "bad label": lambda: bad(X, labels + 4),
        "bad out": lambda: bad(X, labels, out=out[1:]),
    }


@needs_proc
@unsanitized
@pytest.mark.parametrize("name", list(calls(np.float64)))
def test_memory_does_not_grow_with_calls(dtype, name):
    call = calls(dtype)[name]
    for _ in range(300):
        call()
    gc.collect()
    before = resident()
    for _ in range(3000):
        call()
    gc.collect()
    assert resident() - before < 3_000_000, "a kilobyte a call"


@needs_proc
@unsanitized
def test_thirty_thousand_calls_take_constant_memory():
    step, other = (calls(np.float32)[n] for n in ("train_step", "value_and_grad, converted"))
    for _ in range(1000):
        step()
        other()
    gc.collect()
    before = resident()
    for _ in range(30_000):
        step()
        other()
    gc.collect()
    assert resident() - before < 1_000_000


@needs_proc
@unsanitized
def test_batches_of_many_sizes_take_no_more_than_the_largest():
    net = fastbp.MLP([4, 64, 4], rng=0)
    X = np.ones((20_000, 4))
    net.value_and_grad(X, X)
    gc.collect()
    before = resident()
    rng = np.random.default_rng(0)
    for m in rng.integers(1, 20_000, size=60):
        net.value_and_grad(X[:m], X[:m])
        net.predict(X[:m])
    gc.collect()
    assert resident() - before < 8_000_000


@needs_proc
@unsanitized
def test_working_memory_of_a_huge_batch_is_bounded():
    """400,000 rows through 100 hidden units: the activations alone would be 320 MB a layer."""
    code = """
import resource, numpy as np, fastbp
net = fastbp.MLP([2, 100, 100, 1], rng=0)
X, Y = np.ones((400_000, 2)), np.ones((400_000, 1))
net.value_and_grad(X[:1000], Y[:1000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net.value_and_grad(X, Y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000, "kilobytes"


@needs_proc
@unsanitized
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 250_000), ("uint8", 300_000)])
def test_fit_reads_a_file_larger_than_the_memory_that_it_may_have(tmp_path, dtype, rows):
    """1 GB of float32, or 1.2 GB when it will be that, and 0.3 GB for all that is not the file."""
    code = f"""
import resource, numpy as np, fastbp
X = np.memmap({str(tmp_path / "rows")!r}, "{dtype}", "w+", shape=({rows}, 1000))    # holes, read as zeros
X[::100] = 1
Y = np.zeros(({rows}, 1), np.float32)
net = fastbp.MLP([1000, 4, 1], dtype=np.float32, rng=0)
net.fit(X[:1000], Y[:1000], epochs=1)
[data] = [line for line in open("/proc/self/status") if line.startswith("VmData")]
limit = 1000 * int(data.split()[1]) + 300_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(400_000_000, np.uint8)
except MemoryError:
    print("limited")
history = net.fit(X, Y, epochs=1, batch_size=1000, validation=0.1, rng=0)
print(history.n_steps)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["limited", str(rows * 9 // 10_000)]


@pytest.mark.parametrize("name", list(calls(np.float64)))
def test_no_call_keeps_references_to_what_it_was_given(name):
    """Objects alive after many calls are as many as before."""
    call = calls(np.float64)[name]
    for _ in range(20):
        call()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        call()
    gc.collect()
    assert len(gc.get_objects()) - before < 20


def test_value_and_grad_lets_its_arguments_go():
    net = fastbp.MLP([3, 4, 2], rng=0)
    X, Y, w = np.ones((5, 3)), np.ones((5, 2)), np.ones(5)
    net.value_and_grad(X, Y, sample_weight=w)
    counts = [sys.getrefcount(v) for v in (X, Y, w)]
    for _ in range(10):
        net.value_and_grad(X, Y, sample_weight=w)
        net.predict(X)
        net.value(X, Y)
    assert [sys.getrefcount(v) for v in (X, Y, w)] == counts
