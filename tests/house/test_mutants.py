"""The mutants of both apps' engines: each has the one place in the source that it changes.

They run in `make test-full` alone; a change of the source that takes a mutant's place away is seen here.
"""

from __future__ import annotations

from android import mutants as android
from ios import mutants as ios


def test_every_mutant_has_one_place() -> None:
    assert len(android.MUTANTS) + len(ios.MUTANTS) > 60
    for engine in (android, ios):
        for mutant in engine.MUTANTS.values():
            assert mutant.applied(engine.SOURCES) != (engine.SOURCES / mutant.file).read_text(encoding="utf-8")
