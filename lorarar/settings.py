"""Settings: frozen dataclasses whose fields say what a command line needs, so that no default and no help stands twice.

    @dataclass(frozen=True)
    class LoraSettings:
        rank: int = setting(64, "rank of every layer", metavar="R")

`lorarar.command_line.add_settings` makes options of them, `given_settings` the settings again from what was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from lorarar.errors import InputError

MOST_COUNT = 10**9
"""Of steps, ranks, images and the like: no machine does more, and no library's own limit is reached."""


def setting(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    choices: Collection[str] | None = None,
    flag: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Make a dataclass field with a default and what its option says.

    `flag` is the option's name where it is not the field's own (`--lambda` of `weight`); `parse` reads a text whose
    type is not that of the default. A help that tells its default in words, "(default: it chooses)", is left as it is.
    """
    about = {"help": help, "metavar": metavar, "choices": choices, "flag": flag, "parse": parse}
    return field(default=default, metadata={"option": about})


def words(text: str) -> tuple[str, ...]:
    """Split an option's `a,b` into its words; blanks around them, and empty ones, are left out."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def option_names(settings: Any) -> list[str]:
    """List the fields of a settings object that are options, those of nested settings too."""
    names: list[str] = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            names += option_names(value)
        elif "option" in item.metadata:
            names.append(item.name)
    return names


def use_plain_numbers(settings: Any) -> None:
    """Put Python's own numbers in the place of numpy's and torch's in a frozen dataclass: no JSON takes theirs."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if hasattr(value, "item") and getattr(value, "shape", None) == ():
            object.__setattr__(settings, item.name, value.item())


def is_whole(value: int, least: int, most: int) -> bool:
    """Tell whether a value is a whole number from `least` to `most`, both included."""
    return _is_integer(value) and least <= value <= most


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_at_least(least: int, **values: int) -> None:
    """Refuse whole numbers below `least` or above MOST_COUNT; the keywords are the parameters' names."""
    for name, value in values.items():
        if not _is_integer(value) or value < least:
            raise InputError(f"`{name}` is {value}; give a whole number of {least} or more")
        if value > MOST_COUNT:
            raise InputError(f"`{name}` is {value}; give a whole number of at most {MOST_COUNT}")


def check_from(least: int | float, **values: int | float) -> None:
    """Refuse numbers that are not finite, or below `least`."""
    for name, value in values.items():
        if not (isinstance(value, Real) and math.isfinite(value) and value >= least):
            raise InputError(f"`{name}` is {value!r}; give a number of {least:g} or more")


def check_share(**values: int | float) -> None:
    """Refuse numbers that are no share, from 0 to 1."""
    for name, value in values.items():
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise InputError(f"`{name}` is {value!r}; give a number from 0 to 1")


def check_positive(example: float, **values: float) -> None:
    """Refuse numbers that are not finite and above 0; `example` is one that is."""
    for name, value in values.items():
        if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
            raise InputError(f"`{name}` is {value}; give a positive number, such as {example:g}")


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes."""
    if not is_whole(seed, 0, 2**63 - 1):
        raise InputError(f"`seed` is {seed}; give a whole number of 0 or more, below 2**63")


def check_choice(valid: Collection[str], **values: str) -> None:
    """Refuse a word that is not among the valid ones."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in valid:
            raise InputError(f"`{name}` is {value!r}; valid are {', '.join(valid)}")
