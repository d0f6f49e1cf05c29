"""The ledger: which cells a sweep has, what became of each, and what it gave, in one SQLite file.

1. One driver at a time writes (`driving` locks the folder); anyone may read meanwhile (write-ahead log).
2. A result is one transaction: it is there whole or not at all, whatever is killed or full.
3. What is small and what is large lie in tables of their own, so that counting 100,000 cells reads no response.
4. Nothing that is decided depends on the clock: times are only shown.
"""

import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workbench.errors import InputError
from workbench.sweeps.cells import Cell

FILE = "ledger.sqlite"
LOCKED = 3.0
"""Seconds to wait for whoever holds the file; a driver holds it for milliseconds."""
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, content TEXT);
CREATE TABLE IF NOT EXISTS cells (position INTEGER PRIMARY KEY, key TEXT, pair TEXT, problems TEXT, problem TEXT,
    intervention TEXT, seed INTEGER);
CREATE INDEX IF NOT EXISTS cells_by_key ON cells (key);
CREATE TABLE IF NOT EXISTS outcomes (key TEXT PRIMARY KEY, status TEXT, reason TEXT, seconds REAL, making REAL,
    worker TEXT, at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, digest TEXT, content BLOB);
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one cell."""

    key: str
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    """``responses`` and ``drift``, lists of rows; None where it failed."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    making: float = 0.0
    """Of the seconds: learning tokens or preparing a patch."""
    worker: str = ""
    stale: bool = False
    """It could not be computed because what it depends on has changed; not recorded."""

    @property
    def status(self) -> str:
        """``done`` or ``failed``."""
        return "failed" if self.result is None else "done"


class Ledger:
    """A sweep's ledger, in a folder."""

    def __init__(self, folder: Path, *, write: bool = False, argument: str = "out") -> None:
        """Open it; only a driver writes, and one that writes makes it where there is none. ``argument``: for messages.

        Raises:
            InputError: there is none, it is damaged, or the folder can't be written.
        """
        self.folder, self.file, self.argument = folder, folder / FILE, argument
        if not write and not self.file.is_file():
            raise self._absent()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if write else "rw"  # even a reader of a write-ahead log needs its index
            self.base = sqlite3.connect(
                f"{self.file.resolve().as_uri()}?mode={mode}", uri=True, timeout=LOCKED
            )
            self.base.execute("PRAGMA journal_mode=WAL" if write else "PRAGMA query_only=1")
            self.base.execute("PRAGMA synchronous=NORMAL")
            if write:
                self.base.executescript(_TABLES)
            planned = self.base.execute("SELECT count(*) FROM about").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise self._wrong(error) from error
        if not write and not planned:
            raise self._absent()

    def _absent(self) -> InputError:
        if self.folder.is_file():
            return InputError(
                f"`{self.argument}` {self.folder} is a file; expected the folder of a sweep, as --out named it: workbench sweep "
                "run sweep.yaml --out my-sweep"
            )
        return InputError(
            f"`{self.argument}` {self.folder} holds no sweep; start one: workbench sweep run sweep.yaml --out {self.folder}"
        )

    def close(self) -> None:
        """Let go of the file."""
        self.base.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        try:
            with self.base:
                yield self.base
        except sqlite3.Error as error:
            raise self._wrong(error) from error

    def _wrong(self, error: Exception) -> InputError:
        text = str(error)
        if "full" in text or "disk I/O" in text or "No space" in text:
            advice = (
                "free some space; nothing that was recorded is lost, and `workbench sweep resume` goes on"
            )
        elif "malformed" in text or "not a database" in text:
            advice = "the file is damaged: move it away and run the sweep again, with --share for other sweeps' cells"
        elif "locked" in text or "locking" in text:
            advice = (
                "another process holds it, or it lies on a network drive without locks: end that process "
                f"(fuser {self.file}), or keep the sweep on a disk of this machine's own: --out my-sweep"
            )
        else:
            advice = "name a folder you may write to"
        return InputError(f"`{self.argument}` {self.folder}: {FILE} could not be used ({text}); {advice}")

    # --- what is planned ---------------------------------------------------------------------------------

    def plan(self, cells: Sequence[Cell], about: Mapping[str, Any]) -> None:
        """Set the cells and what the sweep is; results that are there stay, those of other plans too."""
        with self._writing() as base:
            base.execute("DELETE FROM cells")
            rows = (
                (i, c.key, c.pair, c.problems, c.problem, c.intervention, c.seed) for i, c in enumerate(cells)
            )
            base.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            base.executemany(
                "INSERT OR REPLACE INTO about VALUES (?, ?)", [(k, json.dumps(v)) for k, v in about.items()]
            )

    @property
    def about(self) -> dict[str, Any]:
        """What the sweep is: its file's text, the device, ..."""
        return {name: json.loads(content) for name, content in self._rows("SELECT name, content FROM about")}

    def cells(self) -> Iterator[Cell]:
        """All cells, in order."""
        for row in self._rows(
            "SELECT key, pair, problems, problem, intervention, seed FROM cells ORDER BY position"
        ):
            yield Cell(*row)

    def pending(self, *, retry_failed: bool = False) -> list[Cell]:
        """The cells that have no result, in order, each content once."""
        undone = "status IS NULL" + (" OR status = 'failed'" if retry_failed else "")
        rows = self._rows(
            "SELECT key, pair, problems, problem, intervention, seed FROM cells LEFT JOIN outcomes USING (key) "
            f"WHERE {undone} ORDER BY position"
        )
        by_key: dict[str, Cell] = {}
        for row in rows:
            by_key.setdefault(row[0], Cell(*row))
        return list(by_key.values())

    # --- what is done ------------------------------------------------------------------------------------

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Append, in one transaction. A cell that is done stays as it is; one that failed may still be done."""
        with self._writing() as base:
            for outcome in outcomes:
                values = (
                    outcome.key,
                    outcome.status,
                    outcome.reason,
                    outcome.seconds,
                    outcome.making,
                    outcome.worker,
                )
                base.execute(
                    "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                    "status = excluded.status, reason = excluded.reason, seconds = excluded.seconds, "
                    "making = excluded.making, worker = excluded.worker, at = excluded.at WHERE status = 'failed'",
                    (*values, time.time()),
                )
                if outcome.result is not None:
                    content = pack(outcome.result)
                    base.execute(
                        "INSERT OR IGNORE INTO results VALUES (?, ?, ?)",
                        (outcome.key, _digest(content), content),
                    )

    def adopt(self, other: Path) -> int:
        """Take over what another sweep has of this one's cells; how many."""
        with Ledger(other, argument="share") as theirs:
            keys = [cell.key for cell in self.pending(retry_failed=True)]
            count = 0
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ", ".join("?" * len(part))
                rows = theirs._rows(
                    "SELECT key, seconds, making, worker, content, digest FROM outcomes JOIN results USING (key) "
                    f"WHERE status = 'done' AND key IN ({marks})",
                    part,
                )
                outcomes = [
                    Outcome(k, unpack(c), "", s, m, w) for k, s, m, w, c, d in rows if _digest(c) == d
                ]
                self.record(outcomes)
                count += len(outcomes)
        return count

    def counts(self) -> list[tuple[str, str, str, int]]:
        """(pair, problem set, status, cells); what has no result is ``pending``."""
        return list(
            self._rows(
                "SELECT pair, problems, coalesce(status, 'pending'), count(*) FROM cells LEFT JOIN outcomes USING (key) "
                "GROUP BY 1, 2, 3 ORDER BY min(position), 3"
            )
        )

    def failures(self) -> list[tuple[str, int]]:
        """(reason, cells), the most frequent first."""
        return list(
            self._rows(
                "SELECT reason, count(*) FROM cells JOIN outcomes USING (key) WHERE status = 'failed' "
                "GROUP BY 1 ORDER BY 2 DESC, 1"
            )
        )

    def latest(self) -> list[tuple[str, int, float]]:
        """(worker, cells, mean seconds), of all that worked on what is planned; old ledgers have some without a name."""
        return list(
            self._rows(
                "SELECT coalesce(nullif(worker, ''), 'unknown'), count(*), avg(seconds) FROM outcomes "
                "WHERE key IN (SELECT key FROM cells) GROUP BY 1 ORDER BY 1"
            )
        )

    def outcomes(self) -> Iterator[tuple[Cell, dict[str, Any], dict[str, Any] | None]]:
        """Every cell in order, with what became of it and its result."""
        rows = self._rows(
            "SELECT c.key, pair, problems, problem, intervention, seed, coalesce(status, 'pending'), "
            "coalesce(reason, ''), seconds, making, worker, content FROM cells c LEFT JOIN outcomes o ON o.key = c.key "
            "LEFT JOIN results r ON r.key = c.key AND status = 'done' ORDER BY position"
        )
        with closing(rows):
            for row in rows:
                outcome: dict[str, Any] = dict(
                    zip(("status", "reason", "seconds", "making_seconds", "worker"), row[6:11], strict=True)
                )
                try:
                    result = None if row[11] is None else unpack(row[11])
                except (zlib.error, ValueError) as error:
                    raise InputError(
                        f"`{self.argument}` {self.folder}: result {row[0]} is damaged; have it computed again: "
                        f"workbench sweep resume {self.folder}"
                    ) from error
                yield Cell(*row[:6]), outcome, result

    def damaged(self) -> list[str]:
        """Keys of results that are not what was recorded, or are missing."""
        keys = [
            key
            for key, digest, content in self._rows("SELECT key, digest, content FROM results")
            if _digest(content) != digest
        ]
        return keys + [
            row[0]
            for row in self._rows(
                "SELECT key FROM outcomes LEFT JOIN results USING (key) WHERE status = 'done' AND content IS NULL"
            )
        ]

    def forget_damaged(self) -> int:
        """Make what is damaged pending again; how many cells."""
        keys = [(key,) for key in self.damaged()]
        with self._writing() as base:
            for table in ("results", "outcomes"):
                base.executemany(f"DELETE FROM {table} WHERE key = ?", keys)
        return len(keys)

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        return [row[0] for row in self._rows("PRAGMA integrity_check") if row[0] != "ok"]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Generator[tuple[Any, ...]]:
        try:
            yield from self.base.execute(query, values)
        except sqlite3.Error as error:
            raise self._wrong(error) from error


def pack(result: Mapping[str, Any]) -> bytes:
    """A result, small; equal results give equal bytes."""
    return zlib.compress(json.dumps(result, sort_keys=True).encode(), 1)


def unpack(content: bytes) -> dict[str, Any]:
    """What `pack` packed."""
    return json.loads(zlib.decompress(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Meanwhile this process alone drives the sweep in a folder; the lock goes with the process, however it ends.

    Raises:
        InputError: another one does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".driver.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"`out` {folder} has a driver already; wait for it, watch it (workbench sweep status {folder} --watch), "
            "or name another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"`out` {folder} can't be written ({error.strerror or error}); name another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
