"""Import optional toolchains (torch, diffusers, the converters) without their noise, and say which extra brings one."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from lorarar.errors import InputError


def missing_toolchain(package: str, extra: str) -> InputError:
    """Make the error for a toolchain that is not installed; it names the extra that brings it."""
    return InputError(f"{package} is not installed: install it with  pip install 'lorarar-toolkit[{extra}]'")


def require_toolchain(package: str, extra: str) -> None:
    """Raise the error for a toolchain that is not installed, without importing one that is."""
    if find_spec(package) is None:
        raise missing_toolchain(package, extra)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime so that it tells its maker nothing, and return the module.

    From 1.29 on its packages tell what they run, unless this variable is set before they are loaded. Raises
    ModuleNotFoundError where it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


@contextmanager
def quiet_toolchains(level: int = logging.WARNING) -> Iterator[None]:
    """Silence what toolchains warn, and log up to `level`, while they are imported or convert; errors are still raised.

    They tell of torchao's missing CUDA libraries and of untested pairs of versions, about which a user can do nothing.
    """
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
