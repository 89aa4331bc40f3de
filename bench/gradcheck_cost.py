"""What a check costs: evaluations and seconds, for networks of 5,000 and of a million parameters, right and wrong.

    python bench/gradcheck_cost.py [--single 16]

A wrong one has one entry of the first layer's weights off by 1 part in 1,000 of the block's largest.  With ``--single``
it is told instead what becomes of that many relu networks in float32 of each of some shapes: right ones, and wrong ones
with an entry off by 1 and 2 parts in 100.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

import fastbp
from fastbp.checking import gradcheck

SIZES = {"5,000": ((40, 90, 14), 32), "a million": ((784, 1000, 200, 10), 32)}


SINGLE = ((40, 90, 14), (10, 200, 3), (20, 64, 64, 5), (64, 128, 10), (30, 30, 30, 30, 4), (100, 50, 50, 10))


def case(sizes: tuple[int, ...], rows: int, activation: str, dtype: str, error: float, seed: int = 0):
    """A network with data, as a function of its parameters; and these.  One entry is off by a share of the largest."""
    rng = np.random.default_rng(seed)
    net = fastbp.MLP(list(sizes), activation=activation, output_activation="softmax", loss="cross_entropy",
                     dtype=dtype, rng=seed)
    X, Y = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    f, w0 = net.objective(X, Y), np.array(net.parameters)
    first = slice(0, sizes[0] * sizes[1])
    entry = int(np.argsort(np.abs(f(w0)[1][first]))[-7])

    def spoiled(w):
        loss, gradient = f(w)
        gradient = gradient.copy()
        gradient[entry] += error * np.abs(gradient[first]).max()
        return loss, gradient

    return (spoiled if error else f), w0, net.layout


def verdicts_in_single_precision(seeds: int) -> None:
    """What becomes of relu networks in float32."""
    for sizes in SINGLE:
        for error in (0.0, 0.01, 0.02):
            verdicts, evaluations = Counter(), 0
            for seed in range(seeds):
                report = gradcheck(*case(sizes, 32, "relu", "float32", error, seed))
                verdicts["wrong elsewhere" if {*report.failed_blocks} - {"W0"} else report.verdict] += 1
                evaluations += report.evaluations
            print(f"{'-'.join(map(str, sizes))}, one entry off by {error:.0%}: {dict(verdicts)}, "
                  f"{evaluations / seeds:,.0f} evaluations a check", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    p.add_argument("--single", type=int, default=0, metavar="SEEDS", help="networks in float32 of each shape")
    arguments = p.parse_args()
    if arguments.single:
        verdicts_in_single_precision(arguments.single)
        return
    for name in arguments.sizes:
        sizes, rows = SIZES[name]
        for activation in ("tanh", "relu"):
            for dtype in ("float64", "float32"):
                for wrong in (False, True):
                    f, w0, layout = case(sizes, rows, activation, dtype, 1e-3 * wrong)
                    start = time.perf_counter()
                    for _ in range(20):
                        f(w0)
                    once = (time.perf_counter() - start) / 20
                    start = time.perf_counter()
                    report = gradcheck(f, w0, layout)
                    taken = time.perf_counter() - start
                    print(f"{w0.size:>9,} parameters, {activation}, {dtype}, {'wrong' if wrong else 'right'}: "
                          f"{report.verdict} {report.failed_blocks or ''} {report.evaluations} evaluations "
                          f"({60 + 25 * len(layout)} for right ones at most), {taken:.2f} s, one evaluation "
                          f"{1000 * once:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
