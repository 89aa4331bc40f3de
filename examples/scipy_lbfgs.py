"""Fit a curve with SciPy's L-BFGS, which asks fastbp for loss and gradient (needs SciPy).

``--plot FOLDER`` draws the loss against the number of evaluations, and the fitted curve (needs matplotlib).
"""

import argparse

import numpy as np
from scipy.optimize import minimize

import fastbp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--plot", metavar="FOLDER", help="write scipy_lbfgs.png there")
options = parser.parse_args()

x = np.linspace(-3, 3, 200)[:, None]
y = np.sin(2 * x) * np.exp(-(x**2) / 4)

net = fastbp.MLP([1, 20, 20, 1], activation="tanh", rng=0)
f = net.objective(x, y)
losses = []


def recorded(w):
    loss, gradient = f(w)
    losses.append(loss)
    return loss, gradient


settings = {"maxiter": 500, "ftol": 1e-12}
found = minimize(recorded, net.parameters.copy(), jac=True, method="L-BFGS-B", options=settings)
net.parameters[:] = found.x
error = np.abs(net(x) - y).max()
print(f"{found.nfev} evaluations, loss {losses[0]:.3f} to {found.fun:.1e}, largest error {error:.1e}")

if options.plot:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(losses)
    left.set(xlabel="evaluation of loss and gradient", ylabel="loss", title="L-BFGS")
    right.plot(x, y, color="0.8", linewidth=5, label="data")
    right.plot(x, net(x), color="C3", label="network")
    right.set(xlabel="x", title=f"largest error {error:.1e}")
    right.legend()
    figure.savefig(f"{options.plot}/scipy_lbfgs.png")
