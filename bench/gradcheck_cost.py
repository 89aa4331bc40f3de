"""What a check costs: evaluations and seconds, for networks of 5,000 and of a million parameters, right and wrong.

    python bench/gradcheck_cost.py

A wrong one has one entry of the first layer's weights off by 1 part in 1,000 of the block's largest.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fastbp
from fastbp.checking import gradcheck

SIZES = {"5,000": ((40, 90, 14), 32), "a million": ((784, 1000, 200, 10), 32)}


def case(sizes: tuple[int, ...], rows: int, activation: str, dtype: str, wrong: bool):
    """A network with data, as a function of its parameters; and these."""
    rng = np.random.default_rng(0)
    net = fastbp.MLP(list(sizes), activation=activation, output_activation="softmax", loss="cross_entropy",
                     dtype=dtype, rng=0)
    X, Y = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    f, w0 = net.objective(X, Y), np.array(net.parameters)
    first = slice(0, sizes[0] * sizes[1])
    entry = int(np.argsort(np.abs(f(w0)[1][first]))[-7])

    def spoiled(w):
        loss, gradient = f(w)
        gradient = gradient.copy()
        gradient[entry] += 1e-3 * np.abs(gradient[first]).max()
        return loss, gradient

    return (spoiled if wrong else f), w0, net.layout


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments = p.parse_args()
    for name in arguments.sizes:
        sizes, rows = SIZES[name]
        for activation in ("tanh", "relu"):
            for dtype in ("float64", "float32"):
                for wrong in (False, True):
                    f, w0, layout = case(sizes, rows, activation, dtype, wrong)
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
