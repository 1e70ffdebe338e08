"""Jobs as rows of SQLite: the table, how it is opened, and a row as a job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from qupath_bridge.jobs.job import Failure, Job

FORMAT = 1
TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    image_name TEXT NOT NULL,
    image_uri TEXT NOT NULL,
    model TEXT NOT NULL,
    heads TEXT NOT NULL,
    created TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    error_type TEXT,
    error_message TEXT,
    warnings TEXT NOT NULL DEFAULT '[]',
    result TEXT,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, seq);
"""
PLACED = """
SELECT *, CASE state
    WHEN 'running' THEN 0
    WHEN 'queued' THEN (SELECT COUNT(*) FROM jobs o WHERE o.state = 'queued' AND o.seq <= j.seq)
    END AS place
FROM jobs j
"""


def connected(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing halfway, and that several threads may share."""
    connection = sqlite3.connect(
        path, timeout=10, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def placed(rows: Sequence[sqlite3.Row]) -> Iterator[tuple[sqlite3.Row, int | None]]:
    """Yield rows, the oldest first, with their place in the queue."""
    waiting = 0
    for row in rows:
        waiting += row["state"] == "queued"
        places = {"running": 0, "queued": waiting}
        yield row, places.get(row["state"])


def job_of(row: sqlite3.Row, place: int | None = None) -> Job:
    """Return a row as a job; `place` is its place in the queue where the row has none."""
    error = row["error_type"] and Failure(row["error_type"], row["error_message"])
    return Job(
        id=row["id"],
        kind=row["kind"],
        state=row["state"],
        place=row["place"] if place is None else place,
        image_name=row["image_name"],
        image_uri=row["image_uri"],
        model=row["model"],
        heads=tuple(json.loads(row["heads"])),
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        error=error or None,
        warnings=tuple(json.loads(row["warnings"])),
        result=None if row["result"] is None else json.loads(row["result"]),
    )
