"""Balance a pole on a cart by policy gradient: REINFORCE with a learned baseline.

The cart-pole of Barto, Sutton and Anderson (1983) is written out in NumPy, many episodes side by side. The policy's
loss is not one of fastbp's: it is written between `forward` and `backward`. The baseline is a second network, which
predicts the return from the state. ``--plot FOLDER`` draws the return per iteration (needs matplotlib).
"""

import argparse

import numpy as np

import fastbp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=60)
parser.add_argument("--plot", metavar="FOLDER", help="write policy_gradient.png there")
options = parser.parse_args()

EPISODES, LIMIT, DISCOUNT = 32, 200, 0.98
rng = np.random.default_rng(0)


def move(state, right):
    """Advance the carts by 0.02 s under a force of +-10 N; state's columns: x, velocity, angle, angular velocity."""
    _, v, angle, omega = state.T
    push = np.where(right, 10.0, -10.0) + 0.05 * omega**2 * np.sin(angle)  # pole: 0.1 kg, half length 0.5 m
    turn = 9.8 * np.sin(angle) - np.cos(angle) * push / 1.1  # cart and pole: 1.1 kg
    alpha = turn / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    a = (push - 0.05 * alpha * np.cos(angle)) / 1.1
    return state + 0.02 * np.stack([v, a, omega, alpha], axis=1)


def play(policy):
    """Return the states and actions of all episodes, and which of them the episode lived to see."""
    state = rng.uniform(-0.05, 0.05, size=(EPISODES, 4))
    alive = np.ones(EPISODES, bool)
    states, actions, lived = [], [], []
    while alive.any() and len(states) < LIMIT:
        action = (rng.random(EPISODES) < policy(state)[:, 1]).astype(int)
        states.append(state)
        actions.append(action)
        lived.append(alive)
        state = move(state, action == 1)
        alive = alive & (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < np.pi / 15)
    return np.array(states), np.array(actions), np.array(lived)


policy = fastbp.MLP([4, 32, 2], activation="tanh", output_activation="softmax", loss="cross_entropy", rng=0)
baseline = fastbp.MLP([4, 32, 1], activation="tanh", rng=1)
adam, baseline_adam = fastbp.Adam(learning_rate=0.02), fastbp.Adam(learning_rate=0.02)
lengths = []
for _ in range(options.iterations):
    states, actions, lived = play(policy)
    lengths.append(lived.sum(axis=0).mean())
    returns = lived * 1.0  # a reward of 1 for every step lived
    for t in range(len(returns) - 2, -1, -1):
        returns[t] += DISCOUNT * returns[t + 1]
    X, chosen, G = states[lived], actions[lived], returns[lived][:, None]
    advantage = (G - baseline(X))[:, 0]
    advantage = (advantage - advantage.mean()) / advantage.std()
    for _ in range(10):
        baseline.train_step(X, G, baseline_adam)
    p = policy.forward(X)  # the loss is -mean(advantage * log p[chosen])
    dP = np.zeros_like(p)
    rows = np.arange(len(X))
    dP[rows, chosen] = -advantage / p[rows, chosen] / len(X)
    _, gradient = policy.backward(dP)
    adam.step(policy, gradient)
print(f"steps balanced, of {LIMIT}: {lengths[0]:.0f} at first, {np.mean(lengths[-5:]):.0f} at the end")

if options.plot:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axis.plot(lengths)
    axis.axhline(LIMIT, color="0.7", linestyle=":")
    axis.set(xlabel="iteration", ylabel="steps balanced, mean of 32 episodes", title="REINFORCE with a baseline")
    figure.savefig(f"{options.plot}/policy_gradient.png")
