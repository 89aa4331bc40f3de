"""Fit a curve with SciPy's L-BFGS, which asks fastbp for loss and gradient (needs SciPy)."""

import numpy as np
from scipy.optimize import minimize

import fastbp

x = np.linspace(-3, 3, 200)[:, None]
y = np.sin(2 * x) * np.exp(-(x**2) / 4)

net = fastbp.MLP([1, 20, 20, 1], activation="tanh", rng=0)
found = minimize(
    net.objective(x, y), net.parameters.copy(), jac=True, method="L-BFGS-B", options={"maxiter": 500}
)
net.parameters[:] = found.x
print(f"{found.nfev} evaluations, largest error {np.abs(net(x) - y).max():.1e}")
