"""Loss and exact gradient of dense networks on the CPU, and a checker that says what is wrong with a gradient."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._config import get_config, get_num_threads, set_num_threads, show_config
from .mlp import ACTIVATIONS, LOSSES, MLP, load
from .ops import dense_backward, dense_forward, safe_log
from .optim import SGD, Adam, AdamW, RMSprop

if TYPE_CHECKING:
    from . import testing
    from .checking import diagnose, gradcheck

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
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


def __getattr__(name: str) -> Any:
    """What a program that only computes does not need, imported when first asked for."""
    if name in ("gradcheck", "diagnose"):
        return getattr(import_module(".checking", __name__), name)
    if name == "testing":
        return import_module(".testing", __name__)
    if name == "__version__":
        return get_config()["version"]
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
