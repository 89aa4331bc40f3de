"""What a network computes: the loss of a batch, its gradient, outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _check
from ._parameters import Parameters

Array = np.ndarray[Any, Any]


class Evaluation(Parameters):
    """The part of an `MLP` that changes no parameters.

    The compiled functions return None when an array is not just as they need it: only then it is looked at in Python,
    to be converted or refused.
    """

    def _batch(self, X: Any, Y: Any, sample_weight: Any) -> tuple[Array, Array, Array | None]:
        """The arguments as the kernels want them, or the error that says what is wrong."""
        X = _check.matrix("X", X, self.dtype, self.sizes[0])
        Y = _check.targets("Y", Y, self.dtype, X.shape[0], self.sizes[-1], self.loss, self._softmax)
        return X, Y, None if sample_weight is None else _check.weights("sample_weight", sample_weight, X.shape[0])

    def value_and_grad(
        self, X: Any, Y: Any, sample_weight: Any = None, out: Array | None = None
    ) -> tuple[float, Array]:
        """The loss of a batch and its exact gradient with respect to all parameters.

        Parameters
        ----------
        X : array_like, shape (rows, sizes[0])
            At least one row.
        Y : array_like, shape (rows, sizes[-1]), or (rows,)
            Targets; class labels from 0 for cross_entropy; one column may be given as a vector.
        sample_weight : array_like, shape (rows,), optional
            Finite, not negative, not all zero; 1 each by default.
        out : ndarray, shape (n_parameters,), optional
            Where to write the gradient: C order, the network's dtype, no memory shared with the parameters or inputs.

        Returns
        -------
        loss : float
        grad : ndarray, shape (n_parameters,)
            Laid out as ``parameters``; `views` gives its weights and biases.  It is out, if that is given.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described; nothing has been written then.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([1, 1])
        >>> net.parameters[:] = 2, 1
        >>> net.value_and_grad([[3.]], [[4.]])
        (4.5, array([9., 3.]))
        """
        result = self._network.value_and_grad(X, Y, sample_weight, out)
        if result is None:
            X, Y, sample_weight = self._batch(X, Y, sample_weight)
            if out is not None:
                out = _check.output("out", out, self.dtype, (self.n_parameters,), parameters=self._buffer, X=X, Y=Y,
                                    sample_weight=sample_weight)  # fmt: skip
            result = self._network.value_and_grad(X, Y, sample_weight, out)
        return result  # type: ignore[no-any-return]

    def value(self, X: Any, Y: Any, sample_weight: Any = None) -> float:
        """The loss of a batch, without its gradient.

        Parameters
        ----------
        X, Y, sample_weight
            As in `value_and_grad`, and so are the errors.

        Returns
        -------
        float
            Equal to the first of what `value_and_grad` returns, to rounding.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([1, 1])
        >>> net.parameters[:] = 2, 1
        >>> net.value([[3.]], [[4.]])
        4.5
        """
        loss = self._network.value(X, Y, sample_weight)
        if loss is None:
            X, Y, sample_weight = self._batch(X, Y, sample_weight)
            loss = self._network.value(X, Y, sample_weight)
        return loss  # type: ignore[no-any-return]

    def objective(self, X: Any, Y: Any, sample_weight: Any = None) -> Callable[[Any], tuple[float, Array]]:
        """A function of the parameters alone, as ``scipy.optimize.minimize(f, w0, jac=True)`` wants it.

        Parameters
        ----------
        X, Y, sample_weight
            As in `value_and_grad`; checked and converted once, here.

        Returns
        -------
        callable
            ``f(w) -> (loss, grad)``: sets ``parameters`` to w; grad is a new float64 vector at each call.

        Examples
        --------
        >>> import numpy as np, fastbp
        >>> from scipy.optimize import minimize
        >>> net = fastbp.MLP([1, 1])
        >>> X = np.linspace(-1, 1, 9)[:, None]
        >>> result = minimize(net.objective(X, 3 * X + 1), net.parameters.copy(), jac=True, method="L-BFGS-B")
        >>> result.x.round(4)
        array([3., 1.])
        """
        X, Y, sample_weight = self._batch(X, Y, sample_weight)

        def f(w: Any) -> tuple[float, Array]:
            w = _check.vector("w", w, self.dtype, self.n_parameters)
            self._buffer[:] = w
            loss, grad = self.value_and_grad(X, Y, sample_weight)
            return loss, grad.astype(np.float64, copy=False)

        return f

    # ---- outputs, and losses of the user's own -----------------------------------------------------------------------

    def predict(self, X: Any, out: Array | None = None) -> Array:
        """The outputs for some inputs: activations of the last layer, probabilities for softmax.

        Parameters
        ----------
        X : array_like, shape (rows, sizes[0])
        out : ndarray, shape (rows, sizes[-1]), optional
            Where to write them: C order, the network's dtype, no memory shared with the parameters or X.

        Returns
        -------
        ndarray, shape (rows, sizes[-1])

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([1, 2], output_activation="softmax", rng=0)
        >>> net.predict([[0.]])
        array([[0.5, 0.5]])
        """
        result = self._network.predict(X, out)
        if result is None:
            X = _check.matrix("X", X, self.dtype, self.sizes[0])
            if out is not None:
                out = _check.output("out", out, self.dtype, (X.shape[0], self.sizes[-1]), parameters=self._buffer, X=X)
            result = self._network.predict(X, out)
        return result  # type: ignore[no-any-return]

    __call__ = predict

    def forward(self, X: Any) -> Array:
        """The outputs, remembering what `backward` needs: for a loss of your own, or a model around this one.

        What is remembered (copies of X and the parameters, all activations) is kept for each thread until its next
        forward.

        Parameters
        ----------
        X : array_like, shape (rows, sizes[0])

        Returns
        -------
        ndarray, shape (rows, sizes[-1])

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([1, 1])
        >>> net.parameters[:] = 2, 1
        >>> y = net.forward([[3.]])
        >>> net.backward(y - 4)
        (array([[6.]]), array([9., 3.]))
        """
        result = self._network.forward(X)
        if result is None:
            result = self._network.forward(_check.matrix("X", X, self.dtype, self.sizes[0]))
        y, self._local.tape = result
        return y  # type: ignore[no-any-return]

    def backward(self, dY: Any, out: Array | None = None) -> tuple[Array, Array]:
        """The gradients of a loss whose derivative with respect to the last `forward`'s outputs is dY.

        May be called more than once for one forward; changes of X and of the parameters since then have no influence.

        Parameters
        ----------
        dY : array_like, shape (rows, sizes[-1])
            dE/dy, for the batch of the last `forward` in this thread.
        out : ndarray, shape (n_parameters,), optional
            Where to write the gradient, as in `value_and_grad`.

        Returns
        -------
        dX : ndarray, shape (rows, sizes[0])
            dE/dX.
        grad : ndarray, shape (n_parameters,)
            dE/d(parameters), laid out as these.

        Raises
        ------
        ValueError, TypeError
            If there was no forward, or dY does not fit its batch.
        """
        tape = getattr(self._local, "tape", None)
        if tape is None:
            raise ValueError("backward needs a forward before it, in the same thread: y = net.forward(X)")
        result = self._network.backward(tape, dY, out)
        if result is None:
            dY = _check.matrix("dY", dY, self.dtype, self.sizes[-1], tape.rows)
            if out is not None:
                out = _check.output("out", out, self.dtype, (self.n_parameters,), parameters=self._buffer, dY=dY)
            result = self._network.backward(tape, dY, out)
        return result  # type: ignore[no-any-return]
