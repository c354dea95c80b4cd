"""Import optional toolchains (torch, diffusers, the converters) without their noise, and say which extra brings one."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from lorarar.errors import InputError

TRAINING = ("torch", "diffusers", "transformers", "peft", "accelerate")
"""The packages that the extra `train` brings."""


def missing_toolchain(package: str, extra: str) -> InputError:
    """Make the error for a toolchain that is not installed; it names the extra that brings it."""
    return InputError(f"{package} is not installed: install it with  pip install 'lorarar-toolkit[{extra}]'")


def require_torch() -> None:
    """Raise the error for a torch that is not installed, without importing one that is."""
    if find_spec("torch") is None:
        raise missing_toolchain("torch", "train")


def import_onnxruntime() -> Any:
    """Import ONNX Runtime so that it tells its maker nothing, and return the module.

    From 1.29 on its packages tell what they run, unless this variable is set before they are loaded. Raises
    ModuleNotFoundError where it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_coremltools() -> Any:
    """Import Core ML Tools without scikit-learn and ExecuTorch, and return the module.

    It imports them where it finds them, which takes nine tenths of its time, to convert their models; none of ours is.
    Raises ModuleNotFoundError where Core ML Tools are not installed.
    """
    with _hidden("sklearn", "executorch"):
        return importlib.import_module("coremltools")


def require_coreai() -> None:
    """Refuse a machine without Core AI, which is not imported: the processes that run artifacts do so themselves.

    Raises ModuleNotFoundError where it is not installed, and InputError where Apple has none for this machine.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in (("Linux", "x86_64"), ("Darwin", "arm64")):
        raise InputError(
            f"Core AI's packages are for Linux on x86-64 and macOS on Apple silicon, not for {system} on {machine}"
        )
    if find_spec("coreai") is None:
        raise ModuleNotFoundError("no coreai", name="coreai")


def import_coreai() -> Any:
    """Import Core AI's compiler and runtime, and return the package. Raises as `require_coreai`."""
    require_coreai()
    importlib.import_module("coreai.authoring")
    return importlib.import_module("coreai")


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Let an import in the block find none of these packages, unless it is loaded already."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: there is no such module
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


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


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Swallow what native code writes to standard error while the block runs; it is shown when the block raises."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            swallowed.seek(0)
            os.write(2, swallowed.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Let diffusers and transformers load and save in the block without bars of their own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [item for item in (diffusers_logging, transformers_logging) if item.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


@contextmanager
def named_if_missing(packages: Collection[str], extra: str) -> Iterator[None]:
    """Import quietly in the block; InputError names the extra to install where one of these packages is missing."""
    try:
        with quiet_toolchains():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in packages:
            raise
        raise missing_toolchain(package, extra) from None


def lazy_names(package: str, homes: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """Make a package's `__getattr__`, which imports a public name when it is first used.

    `homes` is module → the names that it holds.
    """

    def find(name: str) -> Any:
        for home, names in homes.items():
            if name in names:
                found = getattr(importlib.import_module(home), name)
                setattr(sys.modules[package], name, found)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
