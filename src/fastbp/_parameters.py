"""What a network is made of: names and sizes, one flat vector of parameters, its compiled twin; copies."""

from __future__ import annotations

import math
import threading
from itertools import pairwise
from typing import Any

import numpy as np

from . import _check, _dispatch

Array = np.ndarray[Any, Any]

ACTIVATIONS: tuple[str, ...] = _dispatch.kernels(np.dtype(np.float64)).ACTIVATION_NAMES
LOSSES: tuple[str, ...] = _dispatch.kernels(np.dtype(np.float64)).LOSS_NAMES

# output activation -> the loss whose dE/dz is y - t: together they are computed from the logits, without a clip
CANONICAL = {"sigmoid": "binary_cross_entropy", "softmax": "cross_entropy", "exp": "poisson"}
# variance of a unit's weights times its fan_in: He's for what lets half of its input through, else Glorot's
HE = ("relu", "leaky_relu", "elu", "softplus", "gelu", "silu")

# what the compiled network was made of
_FIXED = frozenset(
    "sizes activation output_activation loss reduction dtype clip layout n_parameters weights biases".split()
)


class Parameters:
    """The part of an `MLP` that computes nothing."""

    sizes: tuple[int, ...]
    activation: tuple[str, ...]
    output_activation: str
    loss: str
    reduction: str
    dtype: np.dtype[Any]
    clip: float | None

    def _set_up(self) -> None:
        """All that follows from the arguments: the layout, the compiled network and the views of its parameters."""
        self.layout: list[tuple[str, tuple[int, ...]]] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            self.layout += [(f"W{i}", (fan_in, fan_out)), (f"b{i}", (fan_out,))]
        self.n_parameters = sum(math.prod(shape) for _, shape in self.layout)
        self._kernels = _dispatch.kernels(self.dtype)
        padded = np.zeros(self.n_parameters + self._kernels.READABLE_PAST_PARAMETERS, self.dtype)
        self._buffer = padded[: self.n_parameters]  # what the kernels get; users get views of it
        self._parameters = self._buffer[:]
        self.weights, self.biases = self.views(self._parameters)
        self._local = threading.local()
        self._mean = self.reduction == "mean"
        self._softmax = self.output_activation == "softmax"
        clipped = self.clip is not None or CANONICAL.get(self.output_activation) != self.loss
        clip = float(np.finfo(self.dtype).eps) if self.clip is None else self.clip
        log_clip, low, high = -math.inf, -math.inf, math.inf
        if clipped and self.loss != "squared_error":
            log_clip = math.log(clip)
            if not self._softmax:
                from ._clip import clip_edges  # and decimal, which few networks need

                low, high = clip_edges(self.output_activation, clip, self.dtype)
        codes = [ACTIVATIONS.index(name) for name in (*self.activation, self.output_activation)]
        loss = LOSSES.index(self.loss)
        self._network = self._kernels.Network(
            self._buffer, self._parameters, self.sizes, codes, loss, self._mean, clipped, clip, log_clip, low, high
        )

    def _draw_weights(self, generator: np.random.Generator) -> None:
        for W, name in zip(self.weights, (*self.activation, self.output_activation), strict=True):
            fan_in, fan_out = W.shape
            bound = math.sqrt(6 / fan_in) if name in HE else math.sqrt(6 / (fan_in + fan_out))
            W[...] = generator.uniform(-bound, bound, W.shape)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and "_network" in self.__dict__:
            raise ValueError(f"{name} cannot be changed, got {_check.describe(value)}: make another MLP")
        object.__setattr__(self, name, value)

    @property
    def parameters(self) -> Array:
        return self._parameters

    @parameters.setter
    def parameters(self, value: Any) -> None:
        if value is not self._parameters:  # `net.parameters -= step` assigns the array itself
            raise ValueError(
                f"parameters cannot be replaced, got {_check.describe(value)}: use net.parameters[:] = ..."
            )

    def _writable(self) -> None:
        if not self._parameters.flags.writeable:
            raise ValueError("parameters must be writable for a training step, got a read-only array")

    def views(self, vector: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The weights and biases in a flat vector laid out as ``parameters``, without copying.

        Parameters
        ----------
        vector : ndarray, shape (n_parameters,)
            For example a gradient.

        Returns
        -------
        weights, biases : tuple of ndarray
            Views, of shapes (fan_in, fan_out) and (fan_out,).

        Raises
        ------
        ValueError, TypeError
            If vector is no array of that shape.

        Examples
        --------
        >>> import numpy as np, fastbp
        >>> net = fastbp.MLP([2, 3])
        >>> W, b = net.views(np.arange(9.))
        >>> W[0].shape, b[0]
        ((2, 3), array([6., 7., 8.]))
        """
        if not isinstance(vector, np.ndarray):
            raise TypeError(f"vector must be an array of shape ({self.n_parameters},), got {_check.describe(vector)}")
        if vector.dtype.kind != "f":
            raise TypeError(f"vector must be of floating-point numbers, got {_check.describe(vector)}")
        if vector.shape != (self.n_parameters,):
            raise ValueError(f"vector must have shape ({self.n_parameters},), got {vector.shape}")
        blocks, at = [], 0
        for _, shape in self.layout:
            size = math.prod(shape)
            blocks.append(vector[at : at + size].reshape(shape))
            at += size
        return tuple(blocks[0::2]), tuple(blocks[1::2])

    # ---- copies ------------------------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments, of plain types."""
        return {
            "sizes": list(self.sizes), "activation": list(self.activation), "output_activation": self.output_activation,
            "loss": self.loss, "reduction": self.reduction, "dtype": self.dtype.name, "clip": self.clip,
        }  # fmt: skip

    def __repr__(self) -> str:
        hidden = self.activation[0] if len(set(self.activation)) == 1 else list(self.activation)
        parts = [repr(list(self.sizes))]
        if self.activation:
            parts.append(f"activation={hidden!r}")
        parts += [f"{name}={getattr(self, name)!r}" for name in ("output_activation", "loss", "reduction")]
        parts.append(f"dtype={self.dtype.name}")
        if self.clip is not None:
            parts.append(f"clip={self.clip!r}")
        return f"MLP({', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self._arguments(), "parameters": self._buffer.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        parameters = state.pop("parameters")
        self.__init__(rng=0, **state)  # type: ignore[misc]
        self._buffer[:] = parameters
