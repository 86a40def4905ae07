"""The results file of a sweep: an SQLite database that people's tools read, with the records beside it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from graphopt.cluster.sending import Files, FileState
from graphopt.errors import BadInput
from graphopt.record.rows import TaskRow
from graphopt.storage import check_target, write_content

_APPLICATION = 0x67707377  # "gpsw"
_VERSION = 1
_HEADER = b"SQLite format 3\0"
_WAIT_SECONDS = 30.0
_FIELDS = msgspec.structs.fields(TaskRow)
_KINDS = {int: "INTEGER", float: "REAL"}


class Results:
    """Rows by model and pipeline, and what is known of files, so that they need not be read again.

    Each row is written whole, with its record before it: what is interrupted leaves the rows that it had.

    Args:
        path: The file; made if it is not there.

    Raises:
        BadInput: It is something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.check(path)
        is_new = not path.exists()
        self.path = path
        self.records = path.with_suffix(".records")
        self._connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        with self._telling():
            if is_new:
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            columns = ", ".join(f'"{field.name}" {_kind(field)}' for field in _FIELDS)
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS tasks ({columns}, PRIMARY KEY (model, pipeline))"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, digest TEXT, states TEXT)"
            )

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @staticmethod
    def check(path: Path) -> None:
        """Refuse a file that cannot take results; nothing is written yet.

        Raises:
            BadInput: It is something else, or lies in no folder.
        """
        check_target(path, ())
        if path.exists() and not is_results(path):
            raise BadInput(f"{path} is no results file of a sweep: name another file to write to.")

    @staticmethod
    def read(path: Path) -> list[TaskRow]:
        """All rows of a file.

        Raises:
            BadInput: It is missing, no results file, or damaged.
        """
        if not path.is_file():
            raise BadInput(f"No such file: {path}")
        if not is_results(path):
            raise BadInput(f"{path} is no results file of a sweep.")
        try:
            with contextlib.closing(_read_only(path)) as connection:
                return list(_rows(connection))
        except (sqlite3.Error, msgspec.ValidationError) as error:
            raise BadInput(f"Cannot read the results in {path}: {error}.") from error

    def row(self, model: str, pipeline: str) -> TaskRow | None:
        """The row of a task; None where it has none."""
        with self._telling():
            found = list(_rows(self._connection, "WHERE model = ? AND pipeline = ?", (model, pipeline)))
        return found[0] if found else None

    def put(self, row: TaskRow, record: bytes | None) -> TaskRow:
        """Write a row in place of an older one of its task, and its record.

        Args:
            row: The row; its ``record`` is set here.
            record: The record as JSON; None where there is none.

        Raises:
            BadInput: There is no room.
        """
        older = self.row(row.model, row.pipeline)
        if record is not None:
            file = self.records / row.key[:2] / _record_name(row)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_content(file, record)
            row.record = file.relative_to(self.path.parent).as_posix()
        values = msgspec.structs.astuple(row)
        marks = ", ".join("?" * len(values))
        with self._telling():
            names = ", ".join(f'"{field.name}"' for field in _FIELDS)
            updates = ", ".join(f'"{field.name}" = excluded."{field.name}"' for field in _FIELDS)
            self._connection.execute(
                f"INSERT INTO tasks ({names}) VALUES ({marks})"
                f" ON CONFLICT (model, pipeline) DO UPDATE SET {updates}",
                values,
            )
        if older is not None and older.record and older.record != row.record:
            (self.path.parent / older.record).unlink(missing_ok=True)
        return row

    def files_of(self, path: Path) -> Files:
        """A model with its files: as it was when it was last looked at, where no file has changed since.

        Raises:
            BadInput: It cannot be read.
        """
        name = str(path.absolute())
        with self._telling():
            found = self._connection.execute(
                "SELECT digest, states FROM files WHERE path = ?", (name,)
            ).fetchone()
        if found is not None:
            states = msgspec.json.decode(found[1], type=tuple[FileState, ...])
            if all(state.is_in(path.absolute().parent) for state in states):
                return Files(name, found[0], states)
        files = Files.of(path)
        with self._telling():
            self._connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
                (name, files.digest, msgspec.json.encode(files.states).decode()),
            )
        return files

    @contextlib.contextmanager
    def _telling(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BadInput(f"Cannot write the results to {self.path}: {error}.") from error


def is_results(path: Path) -> bool:
    """Whether a file is the results of a sweep."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_HEADER)) != _HEADER:
                return False
        with contextlib.closing(_read_only(path)) as connection:
            return connection.execute("PRAGMA application_id").fetchone() == (_APPLICATION,)
    except (OSError, sqlite3.Error):
        return False


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)


def _rows(connection: sqlite3.Connection, where: str = "", values: tuple[Any, ...] = ()) -> Iterator[TaskRow]:
    cursor = connection.execute(f"SELECT * FROM tasks {where} ORDER BY rowid", values)
    names = [column[0] for column in cursor.description]
    for found in cursor:
        yield msgspec.convert(dict(zip(names, found, strict=True)), TaskRow)


def _kind(field: msgspec.structs.FieldInfo) -> str:
    kinds: tuple[Any, ...] = (field.type, *getattr(field.type, "__args__", ()))
    return next((_KINDS[kind] for kind in kinds if kind in _KINDS), "TEXT")


def _record_name(row: TaskRow) -> str:
    """A name that people can tell apart; the key makes it that of one task."""
    words = (Path(row.model).stem, Path(row.pipeline).stem)
    readable = ".".join(re.sub(r"[^\w-]+", "_", word)[:60] for word in words)
    return f"{readable}.{row.key[:16]}.json"
