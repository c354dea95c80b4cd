"""Import optional toolchains (torch, diffusers, the converters) without their noise, and say which extra brings one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lorarar.errors import InputError


def missing_toolchain(package: str, extra: str) -> InputError:
    """Make the error for a toolchain that is not installed; it names the extra that brings it."""
    return InputError(f"{package} is not installed: install it with  pip install 'lorarar-toolkit[{extra}]'")


@contextmanager
def quiet_toolchains() -> Iterator[None]:
    """Silence what toolchains log and warn while they are imported or convert; their errors still come through.

    Such as torchao's missing CUDA libraries and untested pairs of versions, about which a user can do nothing.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
