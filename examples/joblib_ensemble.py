"""Train an ensemble in parallel with joblib: networks pickle, and workers share the cores instead of fighting for them.

Each worker trains networks of its own, from other parameters, on rows drawn with replacement, and sends them back.
joblib's workers start with OMP_NUM_THREADS set to their part of the cores, and fastbp keeps to that; with Dask or Ray,
set it for the workers, or call fastbp.set_num_threads(1) in what they run. ``--plot FOLDER`` draws the error of one,
two, ... networks together (needs matplotlib).
"""

import argparse

import joblib
import numpy as np

import fastbp
from fastbp.demo import load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--networks", type=int, default=16, help="how many (default 16)")
parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
parser.add_argument("--plot", metavar="FOLDER", help="write joblib_ensemble.png there")
options = parser.parse_args()


def train(seed, X, labels):
    """Train one network; returns it, and how many threads it might have used."""
    rows = np.random.default_rng(seed).integers(len(X), size=len(X))
    net = fastbp.MLP([64, 64, 10], output_activation="softmax", loss="cross_entropy", dtype=np.float32, rng=seed)
    net.fit(X[rows], labels[rows], epochs=20, batch_size=32, optimizer=fastbp.Adam(3e-3), rng=seed)
    return net, fastbp.get_num_threads()


images, labels = load_digits()
X = images.astype(np.float32) / 16
order = np.random.default_rng(0).permutation(len(X))
learn, test = order[:1000], order[1000:]

jobs = [joblib.delayed(train)(seed, X[learn], labels[learn]) for seed in range(options.networks)]
nets, threads = zip(*joblib.Parallel(n_jobs=options.jobs)(jobs), strict=True)

outputs = np.array([net.predict(X[test]) for net in nets])
together = np.cumsum(outputs, axis=0).argmax(axis=2)  # of the first one, two, ...
errors = (together != labels[test]).mean(axis=1)
single = (outputs.argmax(axis=2) != labels[test]).mean()
print(f"{options.jobs} processes of {max(threads)} thread(s) on {joblib.cpu_count()} cores")
print(f"error of a network: {single:.1%} on average; of {len(nets)} together: {errors[-1]:.1%}")

if options.plot:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axis.plot(np.arange(1, len(nets) + 1), 100 * errors, marker="o", label="together")
    axis.axhline(100 * single, color="0.6", linestyle=":", label="one, on average")
    axis.set(xlabel="networks", ylabel="error, %", title="Held-out digits, read by an ensemble", ylim=(0, None))
    axis.legend()
    figure.savefig(f"{options.plot}/joblib_ensemble.png")
