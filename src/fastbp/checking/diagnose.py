"""What the mistake looks like, in words."""

from __future__ import annotations

from typing import Any

from .check import gradcheck
from .problem import Layout
from .report import Report


def diagnose(f: Any, w0: Any = None, layout: Layout | None = None, **options: Any) -> Report:
    """Check the gradient and say what the mistake looks like."""
    return gradcheck(f, w0, layout, **options)
