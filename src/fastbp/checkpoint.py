"""Files: a network, its optimizer's state and the position in a fit, in one .npz of numbers and plain text.

Nothing in such a file can execute. A file is written beside its name and moved into place, so that there is never half
of one, and reading it checks all of it before anything is made of it.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from . import _check, optim
from .history import History
from .optim import Optimizer

if TYPE_CHECKING:
    from .mlp import MLP

Array = np.ndarray[Any, Any]
Path = str | os.PathLike[str]

FORMAT = "fastbp.MLP"
_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_VECTORS = ("first", "second")


@dataclass
class Checkpoint:
    """What a file holds: see `load_checkpoint`.

    Attributes
    ----------
    net : MLP
    optimizer : Optimizer or None
        With its state: it goes on with net where it was.
    history : History or None
        Of the fit that wrote the file.
    training : dict
        The rest of its position: what `fit` needs to go on.
    best_parameters : ndarray or None
        Of the best epoch, where the fit had patience.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.Checkpoint(fastbp.MLP([2, 1])).history is None
    True
    """

    net: MLP
    optimizer: Optimizer | None = None
    history: History | None = None
    training: dict[str, Any] = field(default_factory=dict, repr=False)
    best_parameters: Array | None = field(default=None, repr=False)


def save(path: Path, net: MLP, optimizer: Optimizer | None = None) -> None:
    """Write a network, and its optimizer if given."""
    write(path, Checkpoint(net, optimizer))


def write(path: Path, content: Checkpoint) -> None:
    """Write a file, or leave everything as it was."""
    net, optimizer, history = content.net, content.optimizer, content.history
    header: dict[str, Any] = {"format": FORMAT, "version": 1, **net._arguments()}
    arrays: dict[str, Any] = {"parameters": net._buffer}
    if optimizer is not None or history is not None:
        header = {"format": FORMAT, "version": 2, "network": net._arguments()}
    if optimizer is not None:
        header["optimizer"], vectors = _describe(optimizer, net)
        arrays.update(vectors)
    if history is not None:
        header["training"] = content.training
        header["history"] = {name: getattr(history, name) for name in ("best_epoch", "n_steps", "stopped")}
        arrays.update({f"history.{name}": np.array(values, np.float64) for name, values in history._arrays().items()})
        if content.best_parameters is not None:
            arrays["best_parameters"] = content.best_parameters
    text = np.array(json.dumps(header))

    path = _check.path("path", path)
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, header=text, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def load(path: Path) -> MLP:
    """The network in a file that `MLP.save` or `MLP.fit` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    MLP

    Raises
    ------
    ValueError, TypeError
        If the file is damaged, or not one of fastbp's; if path is no path.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import fastbp, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
    >>> fastbp.MLP([2, 3], rng=0).save(path)
    >>> fastbp.load(path).sizes
    (2, 3)
    """
    return load_checkpoint(path).net


def load_checkpoint(path: Path) -> Checkpoint:
    """All that a file holds: the network, and the optimizer and the history where it has them.

    Parameters
    ----------
    path : str or path-like
        Written by ``net.save(path, optimizer=...)`` or ``net.fit(..., checkpoint=path)``.

    Returns
    -------
    Checkpoint
        With attributes net, optimizer and history.

    Raises
    ------
    ValueError, TypeError
        If the file is damaged, or not one of fastbp's; if path is no path.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import fastbp, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
    >>> net, adam = fastbp.MLP([1, 1], rng=0), fastbp.Adam(learning_rate=0.01)
    >>> loss = net.train_step([[1.]], [[2.]], adam)
    >>> net.save(path, optimizer=adam)
    >>> fastbp.load_checkpoint(path).optimizer.learning_rate
    0.01
    """
    path = _check.path("path", path)
    with open(path, "rb") as file:
        try:
            return _read(file)
        except Exception as error:  # whatever a file of somebody else's makes numpy, zipfile or json say
            raise ValueError(f"path: {path!r} is not a network saved by fastbp, or damaged: {error}") from error


def _read(file: IO[bytes]) -> Checkpoint:
    from .mlp import MLP

    if not zipfile.is_zipfile(file):  # NumPy would say how to load it unsafely
        raise ValueError("it is no .npz file")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        damaged = archive.zip.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged}")
        header = json.loads(str(archive["header"]))
        if header.pop("format") != FORMAT:
            raise ValueError("it holds something else")
        version = header.pop("version")
        if version not in (1, 2):
            raise ValueError("it was written by a newer fastbp")
        net = MLP(rng=0, **(header if version == 1 else header["network"]))
        net._buffer[:] = _vector(archive, "parameters", net)
        content = Checkpoint(net)
        if version == 2 and "optimizer" in header:
            content.optimizer = _optimizer(archive, header["optimizer"], net)
        if version == 2 and "training" in header:
            content.training = header["training"]
            content.history = History(**header["history"])
            for name, values in content.history._arrays().items():
                values.extend(archive[f"history.{name}"].astype(np.float64).tolist())
            if "best_parameters" in archive:
                content.best_parameters = _vector(archive, "best_parameters", net)
    return content


def _vector(archive: Any, name: str, net: MLP) -> Array:
    vector: Array = archive[name]
    if vector.shape != (net.n_parameters,) or vector.dtype != net.dtype:
        raise ValueError(f"its {name} are {_check.describe(vector)}")
    return vector


def _describe(optimizer: Optimizer, net: MLP) -> tuple[dict[str, Any], dict[str, Array]]:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a fastbp optimizer, got {_check.describe(optimizer)}")
    if getattr(optim, type(optimizer).__name__, None) is not type(optimizer):
        raise TypeError(f"optimizer must be one of fastbp's own to be saved, got {_check.describe(optimizer)}")
    state = optimizer._state_for(net)
    arrays = {f"optimizer.{name}": getattr(state, name) for name in _VECTORS}
    return (
        {"name": type(optimizer).__name__, "steps": state.steps, "hyperparameters": optimizer._hyperparameters()},
        {name: vector for name, vector in arrays.items() if vector is not None},
    )


def _optimizer(archive: Any, description: dict[str, Any], net: MLP) -> Optimizer:
    kind = getattr(optim, description["name"])
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"its optimizer is {description['name']!r}")
    optimizer = kind(**description["hyperparameters"])
    names = [f"optimizer.{name}" for name in _VECTORS]
    vectors = [_vector(archive, name, net) if name in archive else None for name in names]
    set_state(optimizer, int(description["steps"]), (vectors[0], vectors[1]))
    optimizer._state_for(net)
    return optimizer


def set_state(optimizer: Optimizer, steps: int, vectors: tuple[Array | None, Array | None]) -> None:
    """Let an optimizer go on from a state of its kind, with the network that it steps next."""
    optimizer._restored = {"steps": steps, "vectors": vectors}
    optimizer._state = optimizer._ready = None


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a random generator, of plain types."""
    state = dict(generator.bit_generator.state)
    if state["bit_generator"] not in _GENERATORS:
        raise ValueError(
            f"rng: the state of {state['bit_generator']} cannot be saved in a checkpoint; use numpy.random.default_rng"
        )
    return {name: _plain(value) for name, value in state.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return [int(item) for item in value]
    return value if isinstance(value, str) else int(value)


def generator_from(state: dict[str, Any], given: np.random.Generator) -> np.random.Generator:
    """A generator that goes on from a saved state: the given one, if it is of that kind."""
    name = state["bit_generator"]
    if type(given.bit_generator).__name__ != name:
        if name not in _GENERATORS:
            raise ValueError(f"resume: it holds the state of a random generator {name!r}")
        given = np.random.Generator(getattr(np.random, name)())
    given.bit_generator.state = _like(given.bit_generator.state, state)
    return given


def _like(template: Any, value: Any) -> Any:
    if isinstance(template, dict):
        return {name: _like(item, value[name]) for name, item in template.items()}
    return np.array(value, template.dtype) if isinstance(template, np.ndarray) else value
