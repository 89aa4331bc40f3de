"""The same work in fastbp and in what else one can install, each behind the same three calls.

Every peer is built for one case and then offers

- ``result()``: loss and flat gradient (laid out W0, b0, W1, ...), to be compared before anything is timed;
- ``gradient()``: one loss + gradient, as fast as the peer can, result left in the peer's own form;
- ``step()``: one training step with Adam, parameters and state updated.

Parameters, inputs and targets are converted to the peer's own arrays beforehand, and buffers are allocated
once where the peer allows it. Imports stand inside the classes: each peer runs in a process of its own, see
run.py.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Array, Case

LEARNING_RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


def _layers(flat: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return views of (W, b) per layer into a flat vector."""
    layers, start = [], 0
    for n, m in itertools.pairwise(sizes):
        W = flat[start : start + n * m].reshape(n, m)
        layers.append((W, flat[start + n * m : start + (n + 1) * m]))
        start += (n + 1) * m
    return layers


class Peer:
    """A library on one case; see the module's text for what the calls do."""

    name = ""
    package = ""  # the distribution that must be installed
    reference = False  # True: a yardstick, not a competitor

    def __init__(self, case: Case, threads: int) -> None:
        raise NotImplementedError

    def result(self) -> tuple[float, Array]:
        """Return loss and flat gradient."""
        raise NotImplementedError

    def gradient(self) -> None:
        """Compute loss and gradient."""
        raise NotImplementedError

    def step(self) -> None:
        """Take a training step."""
        raise NotImplementedError

    @classmethod
    def version(cls) -> str | None:
        """Return the version installed, or None."""
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    @classmethod
    def fits(cls, case: Case) -> bool:
        """Say whether this peer can do this case."""
        return True


class Fastbp(Peer):
    """fastbp, as its users call it."""

    name = package = "fastbp"

    def __init__(self, case: Case, threads: int) -> None:
        import fastbp

        fastbp.set_num_threads(threads)
        parameters, self.X, self.Y = case.data()
        self.net = fastbp.MLP(
            case.sizes,
            activation=case.activation,
            output_activation=case.head,
            loss=case.loss,
            dtype=case.numpy_dtype,
        )
        self.net.parameters[:] = parameters
        self.out = np.empty_like(self.net.parameters)
        self.y = np.empty((case.batch, case.sizes[-1]), case.numpy_dtype)
        self.optimizer = fastbp.Adam(learning_rate=LEARNING_RATE, beta1=BETA1, beta2=BETA2, eps=EPS)
        tracemalloc.start()
        self.gradient()
        self.working_memory = tracemalloc.get_traced_memory()[1]  # all that a first call allocates
        tracemalloc.stop()

    def result(self) -> tuple[float, Array]:
        loss, gradient = self.net.value_and_grad(self.X, self.Y)
        return loss, gradient

    def gradient(self) -> None:
        self.net.value_and_grad(self.X, self.Y, out=self.out)

    def step(self) -> None:
        self.net.train_step(self.X, self.Y, self.optimizer)

    def forward(self) -> None:
        """Compute the outputs alone."""
        self.net.predict(self.X, out=self.y)

    def value(self) -> None:
        """Compute the loss alone."""
        self.net.value(self.X, self.Y)


class OneThread(Fastbp):
    """fastbp on one thread: what the others gain, and what each phase takes."""

    name, reference = "one thread", True

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, 1)


class _Numpy:
    """NumPy by hand: everything preallocated, every operation in place, bias sums by a matrix product.

    With ``joint=True`` each layer's inputs carry a column of ones, so that one product adds the bias and one
    product gives dW and db; (W, b) of a layer lie next to each other in the flat vector, which makes them one
    matrix. Which of the two is faster depends on the widths.
    """

    def __init__(self, case: Case, joint: bool) -> None:
        parameters, X, Y = case.data()
        self.case, self.joint = case, joint
        dtype, batch, sizes = case.numpy_dtype, case.batch, case.sizes
        self.w, self.g = parameters, np.empty_like(parameters)
        self.layers, self.grads = _layers(self.w, sizes), _layers(self.g, sizes)
        self.ones, self.rows = np.ones(batch, dtype), np.arange(batch)
        self.padded = [np.ones((batch, n + 1), dtype) for n in sizes[:-1]]
        self.last = np.empty((batch, sizes[-1]), dtype)
        if joint:
            self.a = [*(buffer[:, :-1] for buffer in self.padded), self.last]
            self.a[0][:] = X
            self.wb, self.gb, start = [], [], 0
            for n, m in itertools.pairwise(sizes):
                part = slice(start, start + (n + 1) * m)
                self.wb.append(self.w[part].reshape(n + 1, m))
                self.gb.append(self.g[part].reshape(n + 1, m))
                start = part.stop
        else:
            self.a = [X, *(np.empty((batch, n), dtype) for n in sizes[1:])]
        self.d = [np.empty((batch, n), dtype) for n in sizes[1:]]
        self.mask = [np.empty((batch, n), bool) for n in sizes[1:]]
        self.scratch = [np.empty((batch, n), dtype) for n in sizes[1:]]
        self.Y, self.m, self.v = Y, np.zeros_like(self.w), np.zeros_like(self.w)
        self.s1, self.s2, self.steps = np.empty_like(self.w), np.empty_like(self.w), 0
        self.top = np.empty((batch, 1), dtype)

    def _activate(self, a: Array) -> None:
        if self.case.activation == "relu":
            np.maximum(a, 0, out=a)
        elif self.case.activation == "tanh":
            np.tanh(a, out=a)
        else:
            np.negative(a, out=a)
            np.exp(a, out=a)
            np.add(a, 1, out=a)
            np.reciprocal(a, out=a)

    def _derive(self, i: int) -> None:
        """Multiply the delta of hidden layer `i` by the activation's derivative."""
        a, d, s = self.a[i + 1], self.d[i], self.scratch[i]
        if self.case.activation == "relu":
            np.greater(a, 0, out=self.mask[i])
            np.multiply(d, self.mask[i], out=d)
            return
        if self.case.activation == "tanh":  # d (1 - a a) = d - d a a
            np.multiply(d, a, out=s)
            np.multiply(s, a, out=s)
        else:  # d a (1 - a)
            np.multiply(d, a, out=d)
            np.multiply(d, a, out=s)
        np.subtract(d, s, out=d)

    def _head(self) -> float:
        """Return the loss and leave dloss/dz in the last delta."""
        y, d, batch = self.a[-1], self.d[-1], self.case.batch
        if self.case.head == "softmax":
            np.max(y, axis=1, keepdims=True, out=self.top)
            np.subtract(y, self.top, out=y)
            true = y[self.rows, self.Y]
            np.exp(y, out=d)
            np.sum(d, axis=1, keepdims=True, out=self.top)
            loss = float(np.log(self.top).sum(dtype=float) - true.sum(dtype=float)) / batch
            self.top *= batch
            np.divide(d, self.top, out=d)
            d[self.rows, self.Y] -= 1 / batch
            return loss
        np.subtract(y, self.Y, out=d)
        flat = d.ravel()
        loss = 0.5 * float(flat @ flat) / batch
        np.multiply(d, 1 / batch, out=d)
        return loss

    def value_and_grad(self) -> float:
        last = len(self.layers) - 1
        for i, (W, b) in enumerate(self.layers):
            if self.joint:
                np.matmul(self.padded[i], self.wb[i], out=self.a[i + 1])
            else:
                np.matmul(self.a[i], W, out=self.a[i + 1])
                np.add(self.a[i + 1], b, out=self.a[i + 1])
            if i < last:
                self._activate(self.a[i + 1])
        loss = self._head()
        for i in range(last, -1, -1):
            if self.joint:
                np.matmul(self.padded[i].T, self.d[i], out=self.gb[i])
            else:
                gW, gb = self.grads[i]
                np.matmul(self.a[i].T, self.d[i], out=gW)
                np.matmul(self.ones, self.d[i], out=gb)
            if i:
                np.matmul(self.d[i], self.layers[i][0].T, out=self.d[i - 1])
                self._derive(i - 1)
        return loss

    def step(self) -> None:
        self.value_and_grad()
        self.steps += 1
        root = (1 - BETA2**self.steps) ** 0.5
        g, m, v, s1, s2 = self.g, self.m, self.v, self.s1, self.s2
        np.multiply(m, BETA1, out=m)
        np.multiply(g, 1 - BETA1, out=s1)
        np.add(m, s1, out=m)
        np.multiply(v, BETA2, out=v)
        np.multiply(s1, g, out=s1)
        np.multiply(s1, (1 - BETA2) / (1 - BETA1), out=s1)
        np.add(v, s1, out=v)
        np.sqrt(v, out=s1)
        np.add(s1, EPS * root, out=s1)
        np.divide(m, s1, out=s2)
        np.multiply(s2, LEARNING_RATE * root / (1 - BETA1**self.steps), out=s2)
        np.subtract(self.w, s2, out=self.w)


class Numpy(Peer):
    """NumPy by hand, the faster of two ways to treat the bias."""

    name = package = "numpy"

    def __init__(self, case: Case, threads: int) -> None:
        ways = [_Numpy(case, joint) for joint in (False, True)]
        taken = []
        for way in ways:
            way.value_and_grad()
            taken.append(best_time(way.value_and_grad, 0.1)[0])
        self.net = ways[int(np.argmin(taken))]

    def result(self) -> tuple[float, Array]:
        return self.net.value_and_grad(), self.net.g.copy()

    def gradient(self) -> None:
        self.net.value_and_grad()

    def step(self) -> None:
        self.net.step()


class Products(Peer):
    """The matrix products of a step alone, preallocated, by NumPy: a yardstick for what BLAS can do."""

    name, package, reference = "products alone", "numpy", True

    def __init__(self, case: Case, threads: int) -> None:
        self.net = _Numpy(case, joint=False)
        self.net.value_and_grad()

    def result(self) -> tuple[float, Array]:
        return self.net.value_and_grad(), self.net.g.copy()

    def gradient(self) -> None:
        net = self.net
        for i, (W, _) in enumerate(net.layers):
            np.matmul(net.a[i], W, out=net.a[i + 1])
        for i in range(len(net.layers) - 1, -1, -1):
            np.matmul(net.a[i].T, net.d[i], out=net.grads[i][0])
            if i:
                np.matmul(net.d[i], net.layers[i][0].T, out=net.d[i - 1])

    step = gradient


class Torch(Peer):
    """PyTorch, eager, with its fused Adam."""

    name, package = "torch", "torch"

    def __init__(self, case: Case, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.case = torch, case
        parameters, X, Y = case.data()
        self.X, self.Y = torch.from_numpy(X), torch.from_numpy(Y)
        self.parameters: list[Any] = []
        for W, b in _layers(parameters, case.sizes):  # torch keeps W as (fan_out, fan_in)
            self.parameters += [torch.from_numpy(W.T.copy()), torch.from_numpy(b.copy())]
        for p in self.parameters:
            p.requires_grad_()
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPS, fused=True
        )
        for p in self.parameters:
            p.grad = torch.zeros_like(p)

    def loss(self, parameters: list[Any], X: Any, Y: Any) -> Any:
        """Return the loss, written as in PyTorch's own documentation."""
        F, torch = self.torch.nn.functional, self.torch
        activate = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[self.case.activation]
        a = X
        for i in range(0, len(parameters), 2):
            a = F.linear(a, parameters[i], parameters[i + 1])
            if i + 2 < len(parameters):
                a = activate(a)
        if self.case.head == "softmax":
            return F.cross_entropy(a, Y)
        return F.mse_loss(a, Y, reduction="sum") * (0.5 / len(X))

    def _gradients(self) -> tuple[Any, Any]:
        loss = self.loss(self.parameters, self.X, self.Y)
        return loss, self.torch.autograd.grad(loss, self.parameters)

    def result(self) -> tuple[float, Array]:
        loss, gradients = self._gradients()
        return loss.item(), np.concatenate([g.detach().numpy().T.ravel() for g in gradients])

    def gradient(self) -> None:
        loss, _ = self._gradients()
        loss.item()

    def step(self) -> None:
        loss, gradients = self._gradients()
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        self.optimizer.step()
        loss.item()


class TorchCompile(Torch):
    """PyTorch with torch.compile over loss and gradient, and over the whole training step."""

    name = "torch.compile"

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        torch = self.torch
        torch._dynamo.reset()
        self.parameters = [p.detach().clone() for p in self.parameters]
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = torch.zeros((), dtype=torch.float64)
        differentiate = torch.func.grad_and_value(self.loss)

        def adam_step(parameters: Any, m: Any, v: Any, t: Any, X: Any, Y: Any) -> Any:
            gradients, loss = differentiate(parameters, X, Y)
            t += 1
            root = torch.sqrt(1 - BETA2**t)
            rate = (LEARNING_RATE * root / (1 - BETA1**t)).to(X.dtype)
            small = (EPS * root).to(X.dtype)
            for p, g, mean, square in zip(parameters, gradients, m, v, strict=True):
                mean.mul_(BETA1).add_(g, alpha=1 - BETA1)
                square.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                p.sub_(rate * mean / (torch.sqrt(square) + small))
            return loss

        self._compiled = torch.compile(differentiate, fullgraph=True, dynamic=False)
        self._compiled_step = torch.compile(adam_step, fullgraph=True, dynamic=False)

    def _gradients(self) -> tuple[Any, Any]:
        gradients, loss = self._compiled(self.parameters, self.X, self.Y)
        return loss, gradients

    def step(self) -> None:
        self._compiled_step(self.parameters, self.m, self.v, self.t, self.X, self.Y).item()


class Jax(Peer):
    """JAX with jit over loss and gradient, and over the whole training step."""

    name = package = "jax"

    def __init__(self, case: Case, threads: int) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", case.dtype == "f64")
        self.jax, dtype = jax, case.numpy_dtype
        flat, X, Y = case.data()
        if case.head == "softmax":
            Y = np.eye(case.sizes[-1], dtype=dtype)[Y]
        self.X, self.Y = jnp.asarray(X), jnp.asarray(Y)
        self.parameters = [(jnp.asarray(W), jnp.asarray(b)) for W, b in _layers(flat, case.sizes)]
        activate = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[case.activation]

        def loss(parameters: Any, X: Any, Y: Any) -> Any:
            a = X
            for W, b in parameters[:-1]:
                a = activate(a @ W + b)
            W, b = parameters[-1]
            z = a @ W + b
            if case.head == "softmax":
                return -jnp.mean(jnp.sum(Y * jax.nn.log_softmax(z), axis=1))
            return 0.5 * jnp.sum((z - Y) ** 2) / case.batch

        def step(parameters: Any, m: Any, v: Any, t: Any, X: Any, Y: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(parameters, X, Y)
            t = t + 1
            root = jnp.sqrt(1 - BETA2**t)
            rate = LEARNING_RATE * root / (1 - BETA1**t)
            m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradient)
            v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradient)
            update = lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPS * root)  # noqa: E731
            return value, jax.tree.map(update, parameters, m, v), m, v, t

        self._value_and_grad = jax.jit(jax.value_and_grad(loss))
        self._step = jax.jit(step, donate_argnums=(0, 1, 2, 3))
        zeros = lambda: jax.tree.map(jnp.zeros_like, self.parameters)  # noqa: E731
        self.state = (jax.tree.map(jnp.copy, self.parameters), zeros(), zeros(), jnp.zeros((), dtype))

    def result(self) -> tuple[float, Array]:
        loss, gradients = self._value_and_grad(self.parameters, self.X, self.Y)
        return float(loss), np.concatenate([np.asarray(g).ravel() for layer in gradients for g in layer])

    def gradient(self) -> None:
        self.jax.block_until_ready(self._value_and_grad(self.parameters, self.X, self.Y))

    def step(self) -> None:
        _, *self.state = self._step(*self.state, self.X, self.Y)
        self.jax.block_until_ready(self.state)


class Sklearn(Peer):
    """scikit-learn: its own backpropagation for the gradient, `partial_fit` for a step."""

    name, package = "scikit-learn", "scikit-learn"

    def __init__(self, case: Case, threads: int) -> None:
        import warnings

        from sklearn.neural_network import MLPClassifier, MLPRegressor

        warnings.filterwarnings("ignore")
        flat, X, Y = case.data()
        kind = MLPClassifier if case.head == "softmax" else MLPRegressor
        self.model: Any = kind(
            hidden_layer_sizes=case.sizes[1:-1],
            activation={"sigmoid": "logistic"}.get(case.activation, case.activation),
            solver="adam",
            alpha=0.0,
            batch_size=case.batch,
            learning_rate_init=LEARNING_RATE,
            random_state=0,
        )
        self.X, self.case = X, case
        if case.head == "softmax":
            # It learns the classes from the first batch, which need not hold all of them.
            self.model.partial_fit(X, Y, classes=np.arange(case.sizes[-1]))
            self.Y = np.eye(case.sizes[-1], dtype=X.dtype)[Y]
            self.target: Array = Y
        else:
            self.target = Y[:, 0] if case.sizes[-1] == 1 else Y
            self.model.partial_fit(X, self.target)
            self.Y = Y
        for i, (W, b) in enumerate(_layers(flat, case.sizes)):
            self.model.coefs_[i][...] = W
            self.model.intercepts_[i][...] = b
        widths = case.sizes[1:]
        self.a: list[Any] = [X, *(np.empty((case.batch, n), X.dtype) for n in widths)]
        self.d: list[Any] = [np.empty((case.batch, n), X.dtype) for n in widths]
        self.gW: list[Any] = [np.empty_like(W) for W in self.model.coefs_]
        self.gb: list[Any] = [np.empty_like(b) for b in self.model.intercepts_]

    @classmethod
    def fits(cls, case: Case) -> bool:
        return not (case.head == "softmax" and case.sizes[-1] < 3)

    def _backprop(self) -> float:
        loss, self.gW, self.gb = self.model._backprop(self.X, self.Y, None, self.a, self.d, self.gW, self.gb)
        # Its squared error is averaged over the outputs, its gradient is not.
        return float(loss) * (1 if self.case.head == "softmax" else self.case.sizes[-1])

    def result(self) -> tuple[float, Array]:
        loss = self._backprop()
        return loss, np.concatenate([g.ravel() for pair in zip(self.gW, self.gb, strict=True) for g in pair])

    def gradient(self) -> None:
        self._backprop()

    def step(self) -> None:
        self.model.partial_fit(self.X, self.target)


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Fastbp, OneThread, Numpy, Torch, TorchCompile, Jax, Sklearn, Products)
}


def installed(name: str) -> bool:
    """Say whether the package behind a peer can be imported."""
    module = {"scikit-learn": "sklearn"}.get(PEERS[name].package, PEERS[name].package)
    return importlib.util.find_spec(module) is not None


def best_time(call: Callable[[], object], seconds: float, least: int = 2) -> tuple[float, float]:
    """Time a call again and again.

    Parameters
    ----------
    call : callable
        What to time; it has been called before, so that it is warm.
    seconds : float
        How long to go on.
    least : int
        Blocks to time at any rate.

    Returns
    -------
    best, median : float
        Seconds per call, over blocks of calls that take some 0.3 ms each.
    """
    clock = time.perf_counter
    start = clock()
    call()
    once = max(clock() - start, 1e-7)
    calls = max(1, round(3e-4 / once))
    taken: list[float] = []
    end = clock() + seconds
    while len(taken) < least or clock() < end:
        start = clock()
        for _ in range(calls):
            call()
        taken.append((clock() - start) / calls)
    return min(taken), float(np.median(taken))
