"""The gradient checker: is this gradient right, and if not, what went wrong?  Pure NumPy, for anyone's gradient."""

from .check import gradcheck
from .diagnose import Diagnosis, diagnose
from .report import BlockReport, Report

__all__ = ["BlockReport", "Diagnosis", "Report", "diagnose", "gradcheck"]
