"""Solve a differential equation with a network: Burgers' shock, from the equation and its boundary values alone.

The residual of u u' = nu u'' is taken by differences of the network's outputs at five neighbouring points, which one
`forward` gives; `backward` then gives the exact gradient of the squared residual. So no second derivatives through the
network are needed. SciPy's L-BFGS does the rest. ``--plot FOLDER`` draws the solution (needs matplotlib).
"""

import argparse

import numpy as np
from scipy.optimize import minimize

import fastbp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--evaluations", type=int, default=3000, help="of loss and gradient, at most")
parser.add_argument("--plot", metavar="FOLDER", help="write physics_informed.png there")
options = parser.parse_args()

nu = 0.2  # with less, where the shock is hangs by a residual of exp(-1 / nu)


def exact(x):
    """Return the solution, which also gives the boundary values."""
    return -np.tanh(x / (2 * nu))


x = np.linspace(-1, 1, 101)
h = 0.01
points = (x[:, None] + h * np.arange(-2, 3)).reshape(-1, 1)
FIRST = np.array([1, -8, 0, 8, -1]) / (12 * h)  # both of fourth order
SECOND = np.array([-1, 16, -30, 16, -1]) / (12 * h**2)
inside = 1 - points**2  # u = inside * network + a straight line: right at the boundary, whatever the network
line = exact(1) * points
net = fastbp.MLP([1, 20, 20, 1], activation="tanh", rng=0)
losses = []


def loss_and_gradient(w):
    """Return half the mean squared residual of the network with parameters w, and its gradient."""
    net.parameters[:] = w
    u = (inside * net.forward(points) + line).reshape(-1, 5)
    slope, curvature = u @ FIRST, u @ SECOND
    residual = u[:, 2] * slope - nu * curvature
    dU = np.outer(residual * u[:, 2], FIRST) - np.outer(residual, nu * SECOND)
    dU[:, 2] += residual * slope
    _, gradient = net.backward(inside * dU.reshape(-1, 1) / len(x))
    losses.append(0.5 * np.mean(residual**2))
    return losses[-1], gradient


# SciPy compares ftol with the loss or 1, whichever is larger: losses this small would all be as good as the next.
settings = {"maxfun": options.evaluations, "maxiter": options.evaluations, "ftol": 0, "gtol": 1e-12, "maxcor": 50}
found = minimize(loss_and_gradient, net.parameters.copy(), jac=True, method="L-BFGS-B", options=settings)
net.parameters[:] = found.x
solution = (1 - x**2) * net(x[:, None])[:, 0] + exact(1) * x
error = np.abs(solution - exact(x)).max()
print(f"{found.nfev} evaluations, half the mean squared residual {found.fun:.1e}, largest error {error:.1e}")

if options.plot:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(losses)
    left.set(xlabel="evaluation", ylabel="half the mean squared residual")
    right.plot(x, exact(x), color="0.8", linewidth=5, label="exact")
    right.plot(x, solution, color="C3", label="network")
    right.set(xlabel="x", ylabel="u", title=f"u u' = {nu} u'', largest error {error:.1e}")
    right.legend()
    figure.savefig(f"{options.plot}/physics_informed.png")
