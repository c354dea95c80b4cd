"""A single change of a source file that a test must see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """One change of one file, and the test that must fail."""

    file: str
    before: str
    after: str
    test: str

    def applied(self, sources: Path) -> str:
        """Return the changed text of the file. ValueError where the change has not exactly one place."""
        source = (sources / self.file).read_text(encoding="utf-8")
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.file} has {source.count(self.before)} places with {self.before!r}; the change needs 1"
            )
        return source.replace(self.before, self.after)
