"""Loss and exact gradient of dense networks on the CPU, and a checker that says what is wrong with a gradient."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._config import get_config, get_num_threads, set_num_threads, show_config
from ._parameters import ACTIVATIONS, LOSSES
from .mlp import MLP
from .ops import dense_backward, dense_forward, safe_log
from .optim import SGD, Adam, AdamW, RMSprop

if TYPE_CHECKING:
    from . import schedules, testing
    from .checking import diagnose, gradcheck
    from .checkpoint import Checkpoint, load, load_checkpoint
    from .divergence import TrainingDiverged
    from .history import Epoch, History
    from .lbfgs import LBFGS
    from .order import permutation

__all__ = [
    "ACTIVATIONS",
    "LBFGS",
    "LOSSES",
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "Checkpoint",
    "Epoch",
    "History",
    "RMSprop",
    "TrainingDiverged",
    "dense_backward",
    "dense_forward",
    "diagnose",
    "get_config",
    "get_num_threads",
    "gradcheck",
    "load",
    "load_checkpoint",
    "permutation",
    "safe_log",
    "schedules",
    "set_num_threads",
    "show_config",
    "testing",
]

# What a program that only computes does not need, imported when first asked for: name -> its module
_LATER = {
    "Checkpoint": ".checkpoint",
    "Epoch": ".history",
    "History": ".history",
    "LBFGS": ".lbfgs",
    "TrainingDiverged": ".divergence",
    "diagnose": ".checking",
    "gradcheck": ".checking",
    "load": ".checkpoint",
    "load_checkpoint": ".checkpoint",
    "permutation": ".order",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    if name in ("schedules", "testing"):
        return import_module(f".{name}", __name__)
    if name == "__version__":
        return get_config()["version"]
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
