"""Fit a surrogate of a simulation from a file that is never read at once.

The simulation is the borehole function, an engineers' benchmark: the flow of water through a hole between two
aquifers, from eight quantities. Its runs go to a file, part by part, as a simulation would leave them; the network is
trained on `numpy.memmap` arrays, from which fastbp gathers each batch: the file may be larger than memory.
``--plot FOLDER`` draws the training curve, and the surrogate beside the simulation (needs matplotlib).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import fastbp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=200_000, help="runs of the simulation (default 200,000)")
parser.add_argument("--plot", metavar="FOLDER", help="write surrogate_memmap.png there")
options = parser.parse_args()

LOW = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
HIGH = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])


def simulate(u):
    """Return the flow, m3 per year; the columns of u, in [0, 1], are the quantities between LOW and HIGH."""
    rw, r, Tu, Hu, Tl, Hl, L, K = (LOW + u * (HIGH - LOW)).T
    log = np.log(r / rw)
    return 2 * np.pi * Tu * (Hu - Hl) / (log * (1 + 2 * L * Tu / (log * rw**2 * K) + Tu / Tl))


rng = np.random.default_rng(0)
test = rng.random((2000, 8), dtype=np.float32)
mean, scale = simulate(test).mean(), simulate(test).std()

with tempfile.TemporaryDirectory() as folder:
    X = np.memmap(Path(folder, "inputs"), np.float32, "w+", shape=(options.rows, 8))
    Y = np.memmap(Path(folder, "flows"), np.float32, "w+", shape=(options.rows, 1))
    for start in range(0, options.rows, 10_000):
        part = slice(start, min(start + 10_000, options.rows))
        X[part] = rng.random(X[part].shape, dtype=np.float32)
        Y[part, 0] = (simulate(X[part]) - mean) / scale
    net = fastbp.MLP([8, 64, 64, 1], activation="silu", dtype=np.float32, rng=0)
    start = time.perf_counter()
    history = net.fit(X, Y, epochs=5, batch_size=128, optimizer=fastbp.Adam(learning_rate=2e-3), rng=0)
    seconds = time.perf_counter() - start
    del X, Y  # closes the files

predicted, true = mean + scale * net(test)[:, 0], simulate(test)
error = np.sqrt(np.mean((predicted - true) ** 2)) / scale
print(f"{options.rows * 5 / seconds:,.0f} rows per second; error {100 * error:.2f} % of the flow's standard deviation")

if options.plot:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    epochs = range(1, len(history.losses) + 1)
    left.semilogy(epochs, history.losses, marker="o")
    left.set(xticks=epochs, xlabel="epoch", ylabel="loss", title="Training from a memmap")
    right.plot(true, predicted, ".", markersize=2)
    right.axline((0, 0), slope=1, color="0.7", zorder=0)
    right.set(xlabel="simulation, m³ per year", ylabel="surrogate", title=f"error {100 * error:.2f} %")
    figure.savefig(f"{options.plot}/surrogate_memmap.png")
