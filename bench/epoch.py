"""What an epoch of `fit` costs beside its steps: run `python bench/epoch.py`, times are microseconds of CPU.

Steps alone: the same number of compiled steps over the rows as they lie. In order: the rows of each batch are taken
from all over, always the same ones. fit: all that, with a new order for each epoch, and its bookkeeping. One thread,
the best of interleaved runs.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import numpy as np

import fastbp

CASES = [  # rows, batch, sizes, dtype
    (442, 32, (10, 100, 1), np.float64),
    (1797, 32, (64, 100, 10), np.float64),
    (1797, 200, (64, 100, 10), np.float32),
    (60_000, 128, (784, 128, 10), np.float32),
    (100_000, 32, (8, 64, 64, 4), np.float32),
    (1_000_000, 1000, (4, 32, 16, 4), np.float32),
]


def passes(net, data, optimizer, order, batch, losses, epochs):
    for _ in range(epochs):
        end = 0
        while end < len(data[0]):
            end, _ = net._run_batches(*data, None, optimizer, order, end, batch, losses)


def times(rows, batch, sizes, dtype, rounds=5):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.normal(size=(rows, sizes[-1])).astype(dtype)
    net, optimizer = fastbp.MLP(sizes, dtype=dtype, rng=0), fastbp.Adam(1e-5)
    losses, order = np.empty(-(-rows // batch)), rng.permutation(rows)
    epochs = max(1, min(200, 400_000 // rows))
    runs = (
        lambda: passes(net, data, optimizer, None, batch, losses, epochs),
        lambda: passes(net, data, optimizer, order, batch, losses, epochs),
        lambda: net.fit(*data, epochs=epochs, batch_size=batch, optimizer=optimizer, rng=0),
    )
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        for k, run in enumerate(runs):
            start = time.process_time()
            run()
            best[k] = min(best[k], (time.process_time() - start) / epochs)
    return [1e6 * seconds for seconds in best]


def main():
    print(f"{'rows x batch, network':40}{'steps alone':>12}{'in order':>12}{'fit':>12}{'fit / alone':>12}")
    for rows, batch, sizes, dtype in CASES:
        alone, ordered, fit = times(rows, batch, sizes, dtype)
        name = f"{rows} x {batch}, {'-'.join(map(str, sizes))} {np.dtype(dtype).name}"
        print(f"{name:40}{alone:12,.0f}{ordered:12,.0f}{fit:12,.0f}{fit / alone:12.2f}", flush=True)


if __name__ == "__main__":
    main()
