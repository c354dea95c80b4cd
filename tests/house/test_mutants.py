"""The mutants of both apps' engines: each has the one place in the source that it changes.

They run in `make test-full` alone; a change of the source that takes a mutant's place away is seen here.
"""

from __future__ import annotations

from android import mutants as android
from ios import mutants as ios


def test_every_mutant_has_one_place() -> None:
    places = [(android.SOURCES / mutant.file, mutant.before) for mutant in android.MUTANTS.values()]
    places += [(ios.SOURCES / mutant.file, mutant.right) for mutant in ios.MUTANTS.values()]
    assert len(places) > 60
    counts = {(path.name, text): path.read_text(encoding="utf-8").count(text) for path, text in places}
    assert {place for place, count in counts.items() if count != 1} == set()
