"""Learn from a stream, one row at a time, while what it should learn drifts.

Each row is predicted first and learned from afterwards, so that every error is one on unseen data. The relation
between x and y drifts slowly, and jumps once, half-way. Beside the learner stands a copy that stopped learning after
a quarter of the stream. ``--plot FOLDER`` draws both errors over time (needs matplotlib).
"""

import argparse
import copy
import time

import numpy as np

import fastbp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=20_000, help="length of the stream (default 20,000)")
parser.add_argument("--plot", metavar="FOLDER", help="write online_learner.png there")
options = parser.parse_args()


def stream(rows, rng):
    """Yield (x, y) one by one: y = sin(a . x) + noise, where a makes a quarter turn, jumps back, and turns again."""
    for i in range(rows):
        angle = np.pi / 2 * (2 * i / rows % 1)
        x = rng.uniform(-1, 1, size=(1, 4))
        z = 2 * (np.cos(angle) * (x[0, 0] + x[0, 1]) + np.sin(angle) * (x[0, 2] - x[0, 3]))
        yield x, np.sin(z) + 0.05 * rng.normal()


net = fastbp.MLP([4, 32, 32, 1], activation="tanh", rng=0)
optimizer = fastbp.Adam(learning_rate=3e-3)
errors, seconds, stopped = np.full((options.rows, 2), np.nan), 0.0, None
for i, (x, y) in enumerate(stream(options.rows, np.random.default_rng(1))):
    errors[i, 0] = net(x)[0, 0] - y
    if stopped is not None:
        errors[i, 1] = stopped(x)[0, 0] - y
    start = time.perf_counter()
    net.train_step(x, [y], optimizer)
    seconds += time.perf_counter() - start
    if i == options.rows // 4:
        stopped = copy.deepcopy(net)

learner, copied = np.sqrt((errors[-(options.rows // 8) :] ** 2).mean(axis=0))
print(f"{seconds / options.rows * 1e6:.1f} microseconds per row; ", end="")
print(f"error over the last eighth: {learner:.3f}; of the copy that stopped learning: {copied:.3f}")

if options.plot:
    import matplotlib.pyplot as plt

    window = max(options.rows // 100, 1)
    blocks = errors[: options.rows // window * window].reshape(-1, window, 2)
    at = window * (np.arange(len(blocks)) + 0.5)
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axis.plot(at, np.sqrt((blocks**2).mean(axis=1)), label=["learns on", "stopped after a quarter"])
    axis.axhline(0.05, color="0.7", linestyle=":", label="noise")
    axis.set(xlabel="row", ylabel="error of the prediction", title="One row at a time, while the target drifts")
    axis.legend()
    figure.savefig(f"{options.plot}/online_learner.png")
