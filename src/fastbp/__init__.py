"""Loss and exact gradient of dense neural networks on the CPU, and a checker that says what is wrong with a gradient."""

from . import testing
from ._config import get_config, get_num_threads, set_num_threads, show_config
from .checking import diagnose, gradcheck
from .mlp import ACTIVATIONS, LOSSES, MLP, load
from .ops import dense_backward, dense_forward, safe_log
from .optim import SGD, Adam, AdamW

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "dense_backward",
    "dense_forward",
    "diagnose",
    "get_config",
    "get_num_threads",
    "gradcheck",
    "load",
    "safe_log",
    "set_num_threads",
    "show_config",
    "testing",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # reading the metadata costs more than the rest of the import
        return str(get_config()["version"])
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
