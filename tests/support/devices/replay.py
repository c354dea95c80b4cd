"""A program that isn't there: its answers, by patterns of its command lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Generic, NoReturn, TypeVar

Answer = TypeVar("Answer")


class Replay(Generic[Answer]):
    """Answers each command by the first rule whose pattern is in it: an answer, or what makes one of the command."""

    def __init__(self, well: Mapping[str, Answer | Callable[[str], Answer]]) -> None:
        self.calls: list[str] = []
        self.rules = dict(well)

    def change(self, rules: Mapping[str, Answer | Callable[[str], Answer]]) -> None:
        """Put rules before all others."""
        self.rules = dict(rules) | {pattern: rule for pattern, rule in self.rules.items() if pattern not in rules}

    def answer(self, command: str) -> Answer:
        self.calls.append(command)
        rule = next(rule for pattern, rule in self.rules.items() if re.search(pattern, command))
        return rule(command) if callable(rule) else rule

    def called(self, pattern: str) -> list[str]:
        return [call for call in self.calls if re.search(pattern, call)]


def hangs(_: str) -> NoReturn:
    raise TimeoutError
