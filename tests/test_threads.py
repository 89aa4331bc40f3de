"""Same bits for any number of threads; one net from many threads; fork; who may limit the threads."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

import fastbp
from fastbp import _dispatch

SIZES = [((2, 8, 1), 4), ((20, 100, 10), 128), ((8, 64, 64, 4), 64), ((2, 64, 64, 64, 64, 1), 1024), ((784,
                                                                                                       128,
                                                                                                       10),
                                                                                                       128),
         ((784, 256, 256, 10), 256), ((4, 32, 16, 4), 10_000), ((3, 7, 5, 2), 4097), ((1024, 300, 1), 65),
         ((1, 1), 100_000), ((5, 1000, 3), 1), ((700, 700, 700), 33)]  # fmt: skip


@pytest.fixture(autouse=True)
def threads_restored():
    yield
    fastbp.set_num_threads(None)


def use_threads(n):
    """So many threads even where there are fewer cores, which set_num_threads would not give."""
    _dispatch.limit_threads(n, n)


def make(sizes, dtype, m):
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, rng=0)
    rng = np.random.default_rng(1)
    return net, rng.normal(size=(m, sizes[0])).astype(dtype), rng.normal(size=(m, sizes[-1])).astype(dtype)


@pytest.mark.parametrize(("sizes", "m"), SIZES)
def test_bits_are_the_same_for_1_2_3_and_4_threads_and_every_call(isa, dtype, sizes, m):
    net, X, Y = make(sizes, dtype, m)
    weight = np.linspace(0, 1, m) if m > 1 else None
    results = []
    for threads in (1, 2, 3, 4, 1):
        use_threads(threads)
        y = net.forward(X)
        dX, back = net.backward(np.ones_like(y))
        loss, grad = net.value_and_grad(X, Y, sample_weight=weight)
        results.append([np.array(loss), grad, net.predict(X), y, dX, back, np.array(net.value(X, Y))])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("m", [129, 260, 400, 530, 700, 800, 900, 1030, 2000])
def test_sums_of_any_number_of_chunks_are_the_same_however_many_threads_make_them(isa, dtype, m):
    net, X, Y = make((9, 33, 5), dtype, m)  # narrow: by chunks, one for each 64 rows, at most 16
    reference = 0
    for rows in np.array_split(np.arange(m), 5):
        reference += net.value_and_grad(X[rows], Y[rows])[1] * (len(rows) / m)
    use_threads(1)
    _, expected = net.value_and_grad(X, Y)
    np.testing.assert_allclose(expected, reference, rtol=0, atol=np.finfo(dtype).eps * 300 * abs(reference).max())
    for threads in (2, 3, 5, 16, 19):  # the last are more than a stage's tasks are shared out among
        use_threads(threads)
        for _ in range(5):
            np.testing.assert_array_equal(net.value_and_grad(X, Y)[1], expected)


@pytest.mark.parametrize(("sizes", "m"), [((20, 100, 10), 128), ((784, 256, 256, 10), 256)])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_training_gives_the_same_bits_for_any_number_of_threads(isa, dtype, sizes, m, name):
    trained = []
    for threads in (1, 2, 3, 4):
        use_threads(threads)
        net, X, Y = make(sizes, dtype, m)
        optimizer = getattr(fastbp, name)(1e-3)
        losses = [net.train_step(X, Y, optimizer) for _ in range(4)]
        trained.append((losses, net.parameters.copy()))
    for losses, parameters in trained[1:]:
        assert losses == trained[0][0]
        np.testing.assert_array_equal(parameters, trained[0][1])


@pytest.mark.parametrize(("sizes", "m"), [((8, 64, 64, 4), 64), ((784, 256, 256, 10), 64)])
def test_one_net_gives_right_results_from_many_python_threads(isa, dtype, sizes, m):
    net, _, _ = make(sizes, dtype, m)
    batches = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows = 1 + (m * (seed + 1)) // 8
        batches.append((rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))))

    def work(batch):
        X, Y = batch
        loss, grad = net.value_and_grad(X, Y)
        y = net.forward(X)
        dX, back = net.backward(np.ones_like(y))
        return np.array(loss), grad, net.predict(X), y, dX, back

    alone = [work(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, batches * 2))
    for i, results in enumerate(together):
        for mine, theirs in zip(alone[i % 8], results, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_backward_belongs_to_the_forward_of_its_own_thread(isa):
    net, X, _ = make((3, 4, 2), np.float64, 5)
    net.forward(X)
    seen = []

    def other():
        try:
            net.backward(np.ones((5, 2)))
        except (ValueError, RuntimeError) as error:
            seen.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert "forward" in seen[0]
    net.backward(np.ones((5, 2)))


def test_the_gil_is_released_during_a_long_call():
    """Another thread of Python goes on counting while a step of a second or so is under way."""
    net, X, Y = make((300, 600, 600, 10), np.float64, 3000)
    fastbp.set_num_threads(1)
    net.value_and_grad(X, Y)
    ticks, done = [0], threading.Event()

    def count():
        while not done.is_set():
            ticks[0] += 1
            done.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    while ticks[0] == 0:
        pass
    before = ticks[0]
    net.value_and_grad(X, Y)
    during = ticks[0] - before
    done.set()
    thread.join()
    assert during >= 3


def run(code, **environment):
    """Runs code in a Python of its own and returns what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "OPENBLAS_",
                                                                    "FASTBP_"))} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_the_same_and_does_not_hang():
    code = """
import os, warnings
warnings.simplefilter("ignore")
import numpy as np, fastbp
net = fastbp.MLP([784, 256, 256, 10], dtype=np.float32, rng=0)
X, Y = np.ones((256, 784), np.float32), np.ones((256, 10), np.float32)
fastbp.set_num_threads(2)
want = net.value_and_grad(X, Y)
for _ in range(3):
    child = os.fork()
    if child == 0:
        loss, grad = net.value_and_grad(X, Y)
        same = loss == want[0] and np.array_equal(grad, want[1])
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if net.value_and_grad(X, Y)[0] == want[0] else 4)
        _, status = os.waitpid(grandchild, 0)
        os._exit(0 if same and status == 0 else 3)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert net.value_and_grad(X, Y)[0] == want[0]
print("fine", fastbp.get_num_threads())
"""
    assert run(code) == ["fine", str(min(2, len(os.sched_getaffinity(0))))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_worker_processes_of_multiprocessing_compute_the_same():
    code = """
import multiprocessing, warnings
warnings.simplefilter("ignore")
import numpy as np, fastbp
net = fastbp.MLP([784, 128, 10], rng=0)
X, Y = np.ones((512, 784)), np.ones((512, 10))
want = net.value_and_grad(X, Y)[0]
def work(seed):
    return net.value_and_grad(X, Y)[0]
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(6)) == [want] * 6
    print("fine")
"""
    assert run(code) == ["fine"]


def test_set_num_threads_is_limited_by_the_cores_and_forgotten_by_none():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for n in range(1, cores + 3):
        fastbp.set_num_threads(n)
        assert fastbp.get_num_threads() == min(n, cores)
    fastbp.set_num_threads(None)
    given = {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]} if "OMP_NUM_THREADS" in os.environ else {}
    assert [str(fastbp.get_num_threads())] == run("import fastbp; print(fastbp.get_num_threads())", **given)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_OMP_NUM_THREADS_sets_the_number_of_threads(threads):
    assert run("import fastbp; print(fastbp.get_num_threads())", OMP_NUM_THREADS=threads) == [threads]


COUNT = """
import os, numpy as np, fastbp
net = fastbp.MLP([784, 256, 256, 10], rng=0)
X, Y = np.ones((2000, 784)), np.ones((2000, 10))
{before}
for _ in range(3):
    net.value_and_grad(X, Y)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.parametrize(
    "before", ["", "fastbp.set_num_threads(1)", "__import__('threadpoolctl').threadpool_limits(1)"]
)
def test_no_thread_is_started_when_one_is_asked_for(before):
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    if not before:
        environment["OMP_NUM_THREADS"] = "1"
    assert run(COUNT.format(before=before), **environment) == ["1"]


SHORT_TRAINING = """
import numpy as np, fastbp
from fastbp import _dispatch
trained = []
for threads in (2, 1):
    _dispatch.limit_threads(threads, threads)
    net = fastbp.MLP([64, 200, 10], output_activation="softmax", loss="cross_entropy", rng=0)
    rng = np.random.default_rng(0)
    X, Y, optimizer = rng.normal(size=(256, 64)), rng.integers(0, 10, 256), fastbp.Adam()
    for _ in range(3):
        net.train_step(X, Y, optimizer)
    trained.append(net.parameters)
np.testing.assert_array_equal(*trained)
print("ok")
"""


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}])
def test_openmp_may_give_fewer_threads_than_asked_for(limit):
    assert run(SHORT_TRAINING, **limit) == ["ok"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_threads_are_used_where_there_are_cores():
    assert run(COUNT.format(before=""), OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1") == ["2"]


SMALL = """
import os, sys, time, numpy as np, fastbp
def work(sizes, rows, dtype, calls):
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, rng=0)
    X, Y, adam = np.ones((rows, sizes[0]), dtype), np.ones((rows, sizes[-1]), dtype), fastbp.Adam()
    for _ in range(calls):
        net.value_and_grad(X, Y), net.train_step(X, Y, adam), net.value(X, Y), net.predict(X)
        net.backward(net.forward(X))
    net.fit(X, Y, epochs=5, rng=0)
def small_ones():
    shapes = [(4, [2, 8, 1]), (1, [8, 64, 64, 4]), (32, [16, 32, 32, 4]), (1, [200, 100, 10]), (500, [3, 8, 1])]
    for rows, sizes in shapes:
        work(sizes, rows, np.float32, calls=50)
        work(sizes, rows, np.float64, calls=50)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_small_nets_start_no_thread():
    code = SMALL + "small_ones()\nprint(len(os.listdir('/proc/self/task')))"
    assert run(code, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1") == ["1"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_small_nets_do_not_wake_a_thread_that_a_large_one_started():
    """Each time a thread is woken it goes to sleep again, which the kernel counts."""
    code = (
        SMALL
        + """
work([784, 256, 256, 10], 2000, np.float32, calls=2)
(other,) = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
def slept():
    with open(f"/proc/self/task/{other}/status") as status:
        return [line for line in status if line.startswith(("State", "voluntary_ctxt"))]
while "sleeping" not in slept()[0]:
    time.sleep(0.01)
before = slept()
small_ones()
print(slept() == before)
work([784, 256, 256, 10], 2000, np.float32, calls=1)
print(slept() == before)
"""
    )
    spins_little = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive"}
    assert run(code, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1", **spins_little) == ["True", "False"]


def test_threadpoolctl_sees_and_limits_the_threads():
    net, X, Y = make((784, 128, 10), np.float64, 256)
    net.value_and_grad(X, Y)
    assert "openmp" in {library["user_api"] for library in threadpoolctl.threadpool_info()}
    with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
        limited = fastbp.get_num_threads()
        inside = net.value_and_grad(X, Y)
    outside = net.value_and_grad(X, Y)
    assert limited == 1
    assert inside[0] == outside[0]
    np.testing.assert_array_equal(inside[1], outside[1])
