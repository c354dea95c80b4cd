"""Evaluate saved Core ML programs (`.mlpackage`) with numpy, on any system.

This checks the program and its stored weights, and not Apple's kernels: those may add in another order or keep other
precisions inside an operation.
"""

from runtime_py.mil.interpreter import OpTrace
from runtime_py.mil.program import Program

__all__ = ["OpTrace", "Program"]
