"""A loss of one's own: Huber's, between forward and backward, trained with Adam despite outliers."""

import numpy as np

import fastbp

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, size=(400, 2))
clean = np.sin(X[:, :1]) * X[:, 1:]
Y = clean + 5 * (rng.random(clean.shape) < 0.05)  # one in twenty is far off

net = fastbp.MLP([2, 32, 32, 1], activation="tanh", rng=0)
optimizer = fastbp.Adam(learning_rate=1e-2)
width = 0.1
for _ in range(2000):
    error = net.forward(X) - Y
    loss = np.where(abs(error) < width, error**2 / 2, width * (abs(error) - width / 2)).mean()
    _, gradient = net.backward(np.clip(error, -width, width) / len(X))
    optimizer.step(net, gradient)
print(f"loss {loss:.4f}, median distance from the clean curve {np.median(abs(net(X) - clean)):.4f}")
