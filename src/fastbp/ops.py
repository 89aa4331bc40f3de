"""One layer at a time, for those who write their own backpropagation."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check, _dispatch
from ._parameters import ACTIVATIONS

Array = np.ndarray[Any, Any]


def _common_dtype(*arrays: Any) -> np.dtype[Any]:
    """float32 if every floating array is, else float64."""
    kinds = [np.asarray(a).dtype for a in arrays if a is not None]
    floating = [k for k in kinds if k.kind == "f"]
    single = bool(floating) and all(k.itemsize <= 4 for k in floating)
    return np.dtype(np.float32 if single else np.float64)


def _outputs(out: Any, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any],
             inputs: dict[str, Any]) -> list[Array]:  # fmt: skip
    """Fresh arrays, or those of the user's tuple once checked."""
    if out is None:
        return [np.empty(shape, dtype) for shape in shapes]
    if not isinstance(out, tuple) or len(out) != len(names):
        raise TypeError(f"out must be None or the tuple ({', '.join(names)}), got {_check.describe(out)}")
    results: list[Array] = []
    for k, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        others = {**inputs, **{f"out[{i}]": a for i, a in enumerate(results)}}
        results.append(_check.output(f"out[{k}] ({name})", out[k], dtype, shape, **others))
    return results


def dense_forward(X: Any, W: Any, b: Any, activation: str = "identity", out: Any = None) -> tuple[Array, Array]:
    """One dense layer: ``z = X W + b``, ``a = act(z)``.

    Parameters
    ----------
    X : array_like, shape (rows, fan_in)
    W : array_like, shape (fan_in, fan_out)
    b : array_like, shape (fan_out,)
    activation : str, default "identity"
        One of ``fastbp.ACTIVATIONS``, "softmax" (over each row) included.
    out : tuple of two arrays, optional
        Where to write (a, z): C order, the result's shape and dtype, no memory shared with the inputs.

    Returns
    -------
    a, z : ndarray, shape (rows, fan_out)
        The output, and what the way back needs.  float32 if all floating inputs are, else float64.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, something is not of real numbers, or the activation is unknown.

    Examples
    --------
    >>> import fastbp
    >>> a, z = fastbp.dense_forward([[1., 2.]], [[1.], [-1.]], [0.5], "relu")
    >>> a, z
    (array([[0.]]), array([[-0.5]]))
    """
    _check.choice("activation", activation, ACTIVATIONS)
    dtype = _common_dtype(X, W, b)
    W = _weights(W, dtype)
    X = _check.matrix("X", X, dtype, W.shape[0])
    b = _check.vector("b", b, dtype, W.shape[1])
    shape = (X.shape[0], W.shape[1])
    a, z = _outputs(out, ("a", "z"), (shape, shape), dtype, {"X": X, "W": W, "b": b})
    _dispatch.kernels(dtype).dense_forward(X, W, b, ACTIVATIONS.index(activation), a, z)
    return a, z


def dense_backward(
    dA: Any, X: Any, W: Any, z: Any, activation: str = "identity", out: Any = None
) -> tuple[Array, Array, Array]:
    """The way back through one layer: ``dz = dA * act'(z)``, ``dX = dz W^T``, ``dW = X^T dz``, ``db = sum of dz``.

    The derivative is taken at z, so it is exact also where a is saturated.  relu'(0) is 0.

    Parameters
    ----------
    dA : array_like, shape (rows, fan_out)
        dE/da.
    X, W
        As given to `dense_forward`.
    z : array_like, shape (rows, fan_out)
        As returned by it.
    activation : str, default "identity"
        One of ``fastbp.ACTIVATIONS`` but "softmax", whose derivative is not one number per output (an MLP has it).
    out : tuple of three arrays, optional
        Where to write (dX, dW, db).

    Returns
    -------
    dX, dW, db : ndarray
        dE/dX, dE/dW, dE/db.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, something is not of real numbers, or the activation is unknown.

    Examples
    --------
    >>> import fastbp
    >>> X, W = [[1., 2.]], [[1.], [1.]]
    >>> a, z = fastbp.dense_forward(X, W, [0.], "relu")
    >>> dX, dW, db = fastbp.dense_backward([[10.]], X, W, z, "relu")
    >>> dW.ravel(), db
    (array([10., 20.]), array([10.]))
    """
    _check.choice("activation", activation, ACTIVATIONS[:-1])
    dtype = _common_dtype(dA, X, W, z)
    W = _weights(W, dtype)
    X = _check.matrix("X", X, dtype, W.shape[0])
    dA = _check.matrix("dA", dA, dtype, W.shape[1], X.shape[0])
    z = _check.matrix("z", z, dtype, W.shape[1], X.shape[0])
    dX, dW, db = _outputs(out, ("dX", "dW", "db"), (X.shape, W.shape, (W.shape[1],)), dtype,
                          {"dA": dA, "X": X, "W": W, "z": z})  # fmt: skip
    _dispatch.kernels(dtype).dense_backward(dA, X, W, z, ACTIVATIONS.index(activation), dX, dW, db)
    return dX, dW, db


def _weights(W: Any, dtype: np.dtype[Any]) -> Array:
    array = _check.real_array("W", W, dtype)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 1:
        raise ValueError(f"W must have shape (fan_in, fan_out), both at least 1, got {array.shape}")
    return array


def safe_log(y: Any, clip: float | None = None, *, derivative: bool = False, out: Any = None) -> Any:
    """``log(max(y, clip))``, finite for every y that is not nan or infinite.

    Its derivative is 1 / y where y > clip, and exactly 0 elsewhere: a gradient that keeps 1 / y there is not the
    gradient of what is computed.

    Parameters
    ----------
    y : array_like
        Any shape.  nan stays nan.
    clip : float in (0, 0.5), optional
        The machine epsilon of the result's dtype by default.
    derivative : bool, default False
        Also return the derivative.
    out : ndarray, optional
        Where to write the logarithm: C order, shape of y, the result's dtype.  May be y itself unless the derivative is
        asked for.

    Returns
    -------
    ndarray, or a tuple of two
        The logarithm, and the derivative if asked for; float32 if y is (or is narrower), else float64.

    Raises
    ------
    ValueError, TypeError
        If clip is not in (0, 0.5), y is not of real numbers, or out does not fit.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.safe_log([1., 0.], clip=1e-3, derivative=True)
    (array([ 0.        , -6.90775528]), array([1., 0.]))
    """
    dtype = _common_dtype(y)
    y = _check.real_array("y", y, dtype)
    clip = float(np.finfo(dtype).eps) if clip is None else _check.clip("clip", clip)
    if out is None:
        out = np.empty(y.shape, dtype)
    elif derivative:
        out = _check.output("out", out, dtype, y.shape, y=y)
    else:
        out = _check.output("out", out, dtype, y.shape)
        if out.ctypes.data != y.ctypes.data and np.may_share_memory(out, y):
            raise ValueError("out must be y itself or share no memory with it")
    slope = np.empty(y.shape, dtype) if derivative else None
    _dispatch.kernels(dtype).safe_log(y, clip, out, slope)
    return (out, slope) if derivative else out
