"""The errors that the libraries raise on purpose, and the words for those of the operating system."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence


class InputError(ValueError):
    """An argument or a file that can't be used: one sentence that says what happened, what is valid and what to do.

    Parameters stand in it by their names between backticks, as in "`rank` is 0"; a command shows its flags instead.
    """


class Diverged(InputError):
    """A training whose loss is no number: what happened, and after a semicolon the advice for who chose its options."""

    @property
    def told(self) -> str:
        return str(self).partition(";")[0]


def check_loss(loss: float, when: str) -> None:
    """Refuse a training's loss that is no finite number. Raises Diverged, which tells `when`, as  step 3."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at {when}; lower `learning_rate`, or use bf16 or no mixed precision")


class FailedCheck(Exception):
    """A comparison with the reference that came out wrong or could not be made; nothing was written."""


class CutShort(FailedCheck):
    """A comparison that could not be made, or work that a signal ended: the same command may end otherwise."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: PyTorch raises a RuntimeError of its own, on a GPU and on the CPU."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names for a message, with an ellipsis where there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def said_by(error: BaseException, most: int = 200) -> str:
    """Return what a library's error says, in one line of at most `most` characters; its type where it says nothing."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= most else f"{said[: most - 1]}…"


def describe_os_error(error: OSError) -> str:
    """Return one sentence for an operating-system error: the path, what happened, what to do."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space or write to another disk (nothing was left half-written)"
    if error.errno == errno.ENOENT:
        return f"{where}no such file or folder; check the path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}no permission; choose a path that you may read or write"
    return f"{where}{error.strerror or error}"
