"""Toolchains are imported without what they would bring and nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

TOLD = """
import sys
from lorarar.toolchains import import_coremltools, quiet_toolchains

with quiet_toolchains():
    ct = import_coremltools()
brought = [name for name in ("sklearn", "executorch") if name in sys.modules]
import sklearn
print(ct.__name__, brought, sklearn.__name__)
"""


def test_core_ml_tools_bring_no_other_toolchain() -> None:
    """They import ExecuTorch and scikit-learn where they find them; afterwards both can be imported as ever."""
    assert find_spec("sklearn") and find_spec("executorch")
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["coremltools", "[]", "sklearn"]
