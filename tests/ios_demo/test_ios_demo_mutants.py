"""The engine's tests fail when its source is wrong: a sign, a transposition, a name, a rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ios.mutants import MUTANTS
from ios.swift import BUILDS, PACKAGE, ROOT, Ran, swift

pytestmark = [pytest.mark.apps, pytest.mark.full]


@pytest.fixture(scope="session")
def copy() -> Path:
    """A copy of the package in a project of its own, built once; mutants are then built from what it has."""
    project = BUILDS / "mutants"
    package = project / "ios_demo" / "Merger"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns(".build"))
    for shared in ("models", "tests", "ios_demo/App"):  # golden data and the catalog, found beside the package
        (project / shared).symlink_to(ROOT / shared)
    assert run(package, "").code == 0
    return package


def run(package: Path, tests: str) -> Ran:
    """Build the copy and run the tests of this name, or none."""
    scratch = BUILDS / "mutants-build"
    if not tests:
        return swift("build", "--build-tests", package=package, scratch=scratch)
    return swift("test", "--filter", tests, package=package, scratch=scratch)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_engine_is_seen(copy: Path, name: str) -> None:
    mutant = MUTANTS[name]
    place = copy / "Sources" / "Merger" / mutant.file
    source = place.read_text(encoding="utf-8")
    place.write_text(mutant.applied(place.parent), encoding="utf-8")
    try:
        ran = run(copy, mutant.test)
    finally:
        place.write_text(source, encoding="utf-8")
    said = ran.out + ran.err
    assert ran.code != 0 and f"{mutant.test}" in said and "error: " in said and "Executed 1 test" in said, said[-3000:]


def test_the_engine_as_it_is_passes(copy: Path) -> None:
    """The mutants fail for their own sake: the same tests pass on the source as it is."""
    names = "|".join(sorted({mutant.test for mutant in MUTANTS.values()}))
    ran = run(copy, names)
    assert ran.code == 0 and "with 0 failures" in ran.out + ran.err, (ran.out + ran.err)[-3000:]
