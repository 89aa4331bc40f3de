"""Check the gradient that JAX computes for a function of several arrays, in five lines."""

import jax
import jax.numpy as jnp
import numpy as np

import fastbp

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
X, T = rng.normal(size=(16, 4)), rng.normal(size=(16, 2))


# The check:
def loss(p):
    return jnp.mean((jax.nn.relu(X @ p["W0"] + p["b0"]) @ p["W1"] - T) ** 2)


w0 = {"W0": rng.normal(size=(4, 8)), "b0": np.zeros(8), "W1": rng.normal(size=(8, 2))}
report = fastbp.gradcheck(jax.jit(jax.value_and_grad(loss)), w0)

if __name__ == "__main__":
    print(report)
    assert report.ok
