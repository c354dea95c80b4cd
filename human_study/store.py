"""Keep participants and answers in one SQLite file (WAL): several threads and processes may write and read at once.

Each participant's order of tasks and sides is drawn from a recorded seed when they start, and recorded row by row, so
that the answers can be read without this program: `answers.preferred` is the method's name, NULL for Similar.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from human_study.definition import Study
from lorarar.errors import InputError

SCHEMA_VERSION = "1"
CHOICES = ("option1", "similar", "option2")
MAX_PARTICIPANTS = 10_000  # more is somebody's loop; 10 000 participants of 25 tasks take about 30 MB
BUSY_SECONDS = 20.0  # how long a writer waits for another; one write takes about a millisecond

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS participants (
    id INTEGER PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE, seed INTEGER NOT NULL, started_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS assignments (
    participant INTEGER NOT NULL REFERENCES participants (id), position INTEGER NOT NULL, task TEXT NOT NULL,
    option1 TEXT NOT NULL, option2 TEXT NOT NULL,
    PRIMARY KEY (participant, position), UNIQUE (participant, task));
CREATE TABLE IF NOT EXISTS answers (
    participant INTEGER NOT NULL, task TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('option1', 'similar', 'option2')), preferred TEXT,
    seconds REAL NOT NULL, corrections INTEGER NOT NULL DEFAULT 0, answered_at TEXT NOT NULL,
    PRIMARY KEY (participant, task),
    FOREIGN KEY (participant, task) REFERENCES assignments (participant, task));
"""
_TABLE_NAMES = {"meta", "participants", "assignments", "answers"}


class UnknownParticipant(Exception):
    """No participant of this study has this token."""


class StudyFull(Exception):
    """MAX_PARTICIPANTS have started already."""


class Assignment(NamedTuple):
    """The view of one participant at one position: the task and the methods behind the two options."""

    task: str
    options: tuple[str, str]


class Answer(NamedTuple):
    """One answer as the summary reads it. `preferred` is a method's name, None for Similar."""

    participant: int
    position: int
    task: str
    option1: str
    option2: str
    choice: str
    preferred: str | None
    seconds: float
    corrections: int


def random_order(tasks: Sequence[str], methods: tuple[str, str], seed: int) -> tuple[Assignment, ...]:
    """Return the tasks in random order, each method as Option 1 in half of them, at random places.

    An odd one out is a coin's throw. A habit of choosing one side then favours neither method.
    """
    generator = random.Random(seed)
    order = list(tasks)
    generator.shuffle(order)
    swapped = [False, True] * (len(order) // 2) + [generator.random() < 0.5] * (len(order) % 2)
    generator.shuffle(swapped)
    first, second = methods
    return tuple(
        Assignment(task, (second, first) if swap else (first, second))
        for task, swap in zip(order, swapped, strict=True)
    )


class Store:
    """The answers of one study. A connection lives for one call: threads share nothing but the file."""

    def __init__(self, path: Path, study: Study) -> None:
        """Open or create the file. Raises InputError if it is no database or holds another study's answers."""
        self.path = path
        self.study = study
        path.parent.mkdir(parents=True, exist_ok=True)
        fingerprint = study.fingerprint()
        with _readable(path), closing(_connect(path, "rwc")) as database:
            # Looked at before anything is written, for it may be anybody's.
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables - _TABLE_NAMES or (tables and "meta" not in tables):
                raise InputError(f"{path}: a database of another program; choose another file as `answers`")
            if tables and (meta := dict(database.execute("SELECT key, value FROM meta"))):
                _check_meta(path, meta, fingerprint)
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_TABLES)
            with _transaction(database):
                new = {"schema_version": SCHEMA_VERSION, "study": fingerprint, "image_key": secrets.token_hex(32)}
                database.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", new.items())
            meta = dict(database.execute("SELECT key, value FROM meta"))
        _check_meta(path, meta, fingerprint)
        self.image_key = bytes.fromhex(meta["image_key"])

    def new_participant(self) -> str:
        """Add a participant and draw their order; returns their secret token. Raises StudyFull."""
        token = secrets.token_urlsafe(24)
        seed = secrets.randbits(48)
        order = random_order([task.id for task in self.study.tasks], self.study.methods, seed)
        with closing(_connect(self.path)) as database, _transaction(database):
            (count,) = database.execute("SELECT count(*) FROM participants").fetchone()
            if count >= MAX_PARTICIPANTS:
                raise StudyFull
            row = database.execute(
                "INSERT INTO participants (token_sha256, seed, started_at) VALUES (?, ?, ?)",
                (_hash(token), seed, _now()),
            ).lastrowid
            database.executemany(
                "INSERT INTO assignments VALUES (?, ?, ?, ?, ?)",
                [(row, position, entry.task, *entry.options) for position, entry in enumerate(order)],
            )
        return token

    def order(self, token: str) -> list[tuple[Assignment, str | None]]:
        """Return the participant's order, with the choice given at each position so far. Raises UnknownParticipant."""
        with closing(_connect(self.path)) as database:
            rows = database.execute(
                "SELECT task, option1, option2, choice FROM assignments LEFT JOIN answers USING (participant, task) "
                "WHERE participant = ? ORDER BY position",
                (_participant(database, token),),
            ).fetchall()
        return [(Assignment(task, (option1, option2)), choice) for task, option1, option2, choice in rows]

    def record(self, token: str, position: int, choice: str, seconds: float) -> int:
        """Save the answer at a position; a second one replaces the first, and counts as a correction if it differs.

        Returns how many answers the participant has given. Raises UnknownParticipant, and IndexError for a position
        that the study does not have.
        """
        with closing(_connect(self.path)) as database, _transaction(database):
            participant = _participant(database, token)
            row = database.execute(
                "SELECT task, option1, option2 FROM assignments WHERE participant = ? AND position = ?",
                (participant, position),
            ).fetchone()
            if row is None:
                raise IndexError(position)
            task, option1, option2 = row
            preferred = {"option1": option1, "similar": None, "option2": option2}[choice]
            database.execute(
                "INSERT INTO answers (participant, task, choice, preferred, seconds, answered_at) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "corrections = corrections + (choice != excluded.choice), choice = excluded.choice, "
                "preferred = excluded.preferred, seconds = excluded.seconds, answered_at = excluded.answered_at",
                (participant, task, choice, preferred, seconds, _now()),
            )
            (given,) = database.execute("SELECT count(*) FROM answers WHERE participant = ?", (participant,)).fetchone()
        return int(given)

    def counts(self) -> tuple[int, int]:
        """Count the participants who have answered something, and the answers. Raises InputError as `Store`."""
        with _readable(self.path), closing(_connect(self.path)) as database:
            row = database.execute("SELECT count(DISTINCT participant), count(*) FROM answers").fetchone()
        return int(row[0]), int(row[1])


def read_answers(path: Path, study: Study) -> list[Answer]:
    """Read every answer in the file, by participant and position; also while a server writes. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no answers there; run  lorarar study serve  first, or check `answers`")
    with _readable(path), closing(_connect(path, "ro&immutable=1" if _is_archived(path) else "rw")) as database:
        meta = dict(database.execute("SELECT key, value FROM meta"))
        _check_meta(path, meta, study.fingerprint())
        rows = database.execute(
            "SELECT participant, position, task, option1, option2, choice, preferred, seconds, corrections "
            "FROM answers JOIN assignments USING (participant, task) ORDER BY participant, position"
        ).fetchall()
    answers = [Answer(*row) for row in rows]
    for each in answers:
        if not isinstance(each.seconds, float) or each.preferred not in (None, *study.methods):
            raise InputError(
                f"{path}: the answer of participant {each.participant} to {each.task!r} is damaged; give an undamaged "
                "copy as `answers`"
            )
    return answers


def _check_meta(path: Path, meta: dict[str, str], fingerprint: str) -> None:
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: answers of another version of the toolkit; read them with that version")
    if meta.get("study") != fingerprint:
        raise InputError(
            f"{path}: these answers belong to a study with other methods, tasks or images; "
            "give that study, or another file as `answers`"
        )
    if not re.fullmatch("[0-9a-f]{64}", meta.get("image_key", "")):
        raise InputError(f"{path}: its key is damaged; give an undamaged copy as `answers`")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn SQLite's own complaints about a file into one sentence about it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: can't be used as a file of answers ({error}); choose another as `answers`") from None


def _is_archived(path: Path) -> bool:
    """Tell whether nothing can be written beside the file, as SQLite does even to read what a server may write to."""
    return not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open the file; only `rwc` makes one that is not there, since answers may be moved away while a server runs."""
    # Autocommit, so that transactions begin and end where _transaction says.
    name = f"{path.resolve().as_uri()}?mode={mode}"
    database = sqlite3.connect(name, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
    database.execute("PRAGMA foreign_keys = ON")
    return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE takes the write lock at once: two that both read first could not both go on to write.
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _participant(database: sqlite3.Connection, token: str) -> int:
    row = database.execute("SELECT id FROM participants WHERE token_sha256 = ?", (_hash(token),)).fetchone()
    if row is None:
        raise UnknownParticipant
    return int(row[0])


def _hash(token: str) -> str:
    # Only the hash is stored: whoever analyses the answers can't answer in a participant's name.
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
