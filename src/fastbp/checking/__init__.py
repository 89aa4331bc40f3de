"""The gradient checker: is this gradient right, and if not, what went wrong?  Pure NumPy, for anyone's gradient."""

from .check import gradcheck
from .diagnose import diagnose
from .report import BlockReport, Report

__all__ = ["BlockReport", "Report", "diagnose", "gradcheck"]
