"""Time of small calls, which is that of the way to the kernel and back (`make bench`)."""

from __future__ import annotations

import numpy as np
import pytest

import fastbp

pytestmark = pytest.mark.benchmark(group="small calls: 2-8-1 tanh float64, 4 rows")


@pytest.fixture
def net():
    return fastbp.MLP([2, 8, 1], activation="tanh", rng=0)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 2)), rng.normal(size=(4, 1))


def test_value_and_grad(benchmark, net, data):
    benchmark(net.value_and_grad, *data)


def test_value_and_grad_out(benchmark, net, data):
    benchmark(net.value_and_grad, *data, out=np.empty_like(net.parameters))


def test_value_and_grad_float32_lists(benchmark, net, data):
    X, Y = data
    benchmark(net.value_and_grad, X.astype(np.float32), Y.tolist())


def test_value(benchmark, net, data):
    benchmark(net.value, *data)


def test_predict(benchmark, net, data):
    benchmark(net.predict, data[0])


def test_forward_backward(benchmark, net, data):
    dY = np.ones((4, 1))
    benchmark(lambda: (net.forward(data[0]), net.backward(dY)))


def test_train_step(benchmark, net, data):
    benchmark(net.train_step, *data, fastbp.Adam())


def test_objective(benchmark, net, data):
    f = net.objective(*data)
    benchmark(f, net.parameters.copy())


def test_dense_forward(benchmark, net, data):
    benchmark(fastbp.dense_forward, data[0], net.weights[0], net.biases[0], activation="tanh")
