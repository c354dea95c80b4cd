"""The human study's orders and its database: what is drawn, recorded, corrected and refused."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_run import OURS, RIVAL, new_study, rows

from human_study import store as store_module
from human_study.definition import Study
from human_study.store import Store, StudyFull, UnknownParticipant, random_order, read_answers
from lorarar.errors import InputError

TASKS = 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return new_study(tmp_path_factory.mktemp("study"), TASKS)


@pytest.fixture
def store(study: Study, tmp_path: Path) -> Store:
    return Store(tmp_path / "answers.sqlite", study)


def test_answers_are_read_where_nothing_can_be_written(
    store: Store, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive: SQLite would make a journal beside the file, and must not be asked for one."""
    token = store.new_participant()
    store.record(token, 0, "option1", 1.5)
    wanted = read_answers(store.path, study)
    assert len(wanted) == 1
    asked: list[tuple[object, object]] = []
    connect = sqlite3.connect
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr(
        sqlite3, "connect", lambda name, **given: asked.append((name, given["uri"])) or connect(name, **given)
    )
    assert read_answers(store.path, study) == wanted
    assert asked == [(f"{store.path.as_uri()}?mode=ro&immutable=1", True)]


@given(count=st.integers(1, 40), seed=st.integers(0, 2**48))
def test_order_is_a_permutation_with_balanced_sides(count: int, seed: int) -> None:
    tasks = [f"task {number}" for number in range(count)]
    order = random_order(tasks, (OURS, RIVAL), seed)
    assert sorted(entry.task for entry in order) == sorted(tasks)
    assert all(sorted(entry.options) == [OURS, RIVAL] for entry in order)
    first = sum(entry.options[0] == OURS for entry in order)
    assert count // 2 <= first <= count - count // 2
    assert order == random_order(tasks, (OURS, RIVAL), seed)


def test_orders_differ_between_participants_and_have_no_preferred_place() -> None:
    tasks = [str(number) for number in range(5)]
    orders = [random_order(tasks, (OURS, RIVAL), seed) for seed in range(2000)]
    # 2000 throws of a fair coin leave 850 to 1150 less than once in 10⁹; the seeds are fixed besides.
    for position in range(5):
        assert 850 < sum(order[position].options[0] == OURS for order in orders) < 1150
        for task in tasks:
            assert 280 < sum(order[position].task == task for order in orders) < 520
    assert len(set(orders)) > 1200  # 2000 draws from the 5! · 20 that are possible give about 1356 different ones


def test_the_order_is_recorded_with_its_seed(store: Store, study: Study) -> None:
    store.new_participant()
    store.new_participant()
    seeds = dict(rows(store.path, "SELECT id, seed FROM participants"))
    assert len(set(seeds.values())) == 2
    for participant, seed in seeds.items():
        expected = random_order([task.id for task in study.tasks], study.methods, seed)
        query = f"SELECT task, option1, option2 FROM assignments WHERE participant = {participant} ORDER BY position"
        assert rows(store.path, query) == [(entry.task, *entry.options) for entry in expected]


def test_a_correction_replaces_the_answer_and_is_counted(store: Store) -> None:
    token = store.new_participant()
    first = store.order(token)[2][0]
    assert store.record(token, 2, "option1", 4.0) == 1
    assert store.record(token, 2, "option1", 2.0) == 1  # the same again is no correction
    query = "SELECT task, choice, preferred, seconds, corrections FROM answers"
    assert rows(store.path, query) == [(first.task, "option1", first.options[0], 2.0, 0)]
    store.record(token, 2, "option2", 1.0)
    assert rows(store.path, query) == [(first.task, "option2", first.options[1], 1.0, 1)]
    store.record(token, 2, "similar", 1.0)
    assert rows(store.path, query) == [(first.task, "similar", None, 1.0, 2)]
    assert [choice for _, choice in store.order(token)] == [None, None, "similar", None, None]


def test_tokens_are_not_stored(store: Store) -> None:
    token = store.new_participant()
    assert token not in repr(rows(store.path, "SELECT * FROM participants"))
    with pytest.raises(UnknownParticipant):
        store.order(token + "x")


def test_a_full_study_takes_nobody_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_PARTICIPANTS", 1)
    store.new_participant()
    with pytest.raises(StudyFull):
        store.new_participant()
    assert rows(store.path, "SELECT count(*) FROM participants") == [(1,)]


def test_answers_of_another_study_are_refused(store: Store, tmp_path: Path) -> None:
    other = new_study(tmp_path / "other", TASKS - 1)
    for attempt in (lambda: Store(store.path, other), lambda: read_answers(store.path, other)):
        with pytest.raises(InputError, match="belong to a study with other methods, tasks or images"):
            attempt()


def test_a_file_that_is_no_database_is_refused_and_kept(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and dear to somebody " * 40)
    before = path.read_bytes()
    for attempt in (lambda: Store(path, study), lambda: read_answers(path, study)):
        with pytest.raises(InputError, match=r"can't be used as a file of answers .*`answers`"):
            attempt()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE notes (text)",
        # As Chromium's files have it.
        "CREATE TABLE meta (key TEXT, value TEXT); CREATE TABLE urls (url TEXT)",
    ],
)
def test_another_programs_database_is_refused_and_kept(made: str, study: Study, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(made)
        database.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match="a database of another program"):
        Store(path, study)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE meta SET value = '9' WHERE key = 'schema_version'", "answers of another version of the toolkit"),
        ("UPDATE meta SET value = 'xyz' WHERE key = 'image_key'", "its key is damaged"),
    ],
)
def test_answers_that_can_t_be_taken_up_are_refused_and_kept(
    change: str, says: str, store: Store, study: Study
) -> None:
    with closing(sqlite3.connect(store.path)) as database:
        database.execute(change)
        database.execute("DROP TABLE answers")  # which a version to come may call otherwise
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = store.path.read_bytes()
    with pytest.raises(InputError, match=says):
        Store(store.path, study)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("change", ["seconds = 'x'", "preferred = 'nobody'"])
def test_damaged_answers_are_told(change: str, store: Store, study: Study) -> None:
    store.record(store.new_participant(), 0, "option1", 1.5)
    with closing(sqlite3.connect(store.path)) as database:
        database.execute(f"UPDATE answers SET {change}")
        database.commit()
    with pytest.raises(InputError, match=r"the answer of participant 1 to .* is damaged"):
        read_answers(store.path, study)


def test_answers_that_were_moved_away_are_not_begun_anew(store: Store, tmp_path: Path) -> None:
    token = store.new_participant()
    store.path.rename(tmp_path / "elsewhere.sqlite")
    with pytest.raises(sqlite3.OperationalError):
        store.record(token, 0, "option1", 1.5)
    with pytest.raises(InputError, match="can't be used as a file of answers"):
        store.counts()
    assert not store.path.exists()


def test_many_threads_and_two_stores_write_at_once(store: Store, study: Study) -> None:
    """As two servers on one file would: every answer arrives, none twice."""
    stores = (store, Store(store.path, study))
    errors: list[BaseException] = []

    def take_part(number: int) -> None:
        try:
            mine = stores[number % 2]
            token = mine.new_participant()
            for position in range(TASKS):
                assert mine.record(token, position, "option1", 1.0) == position + 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take_part, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert store.counts() == (12, 12 * TASKS)
