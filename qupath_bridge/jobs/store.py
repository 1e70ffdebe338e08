"""The jobs of a server and their states, in SQLite: what was said once stays so after a crash."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qupath_bridge.clock import now
from qupath_bridge.errors import DiskFullError, JobError, QueueFullError, UnknownJobError
from qupath_bridge.jobs.job import Failure, Job
from qupath_bridge.jobs.rows import FORMAT, PLACED, TABLE, connected, job_of, placed


class JobStore:
    """Jobs on disk; safe to use from several threads. Who reads never waits for who writes.

    Raises:
        JobError: the file is damaged, or of a newer version of this program.
        DiskFullError: the system refused to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with self._told():
            self._writer = connected(path)
            self._writer.executescript(TABLE)
            found = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise JobError(f"{path} is of a newer version of this program; use that version")
            self._writer.execute(f"PRAGMA user_version = {FORMAT}")
            self._reader = connected(path)

    def close(self) -> None:
        for lock, connection in ((self._writing, self._writer), (self._reading, self._reader)):
            with lock:
                connection.close()

    def add(self, job: Job, longest_queue: int) -> None:
        """Queue a job.

        Raises:
            QueueFullError: so many are waiting already.
            DiskFullError: the system refused to write.
        """
        values = (job.id, job.kind, job.image_name, job.image_uri, job.model)
        columns = "id, kind, image_name, image_uri, model, heads, created"
        added = self._write(
            f"INSERT INTO jobs ({columns}) SELECT ?, ?, ?, ?, ?, ?, ?"
            " WHERE (SELECT COUNT(*) FROM jobs WHERE state = 'queued') < ?",
            (*values, _json(list(job.heads)), job.created, longest_queue),
        )
        if not added:
            raise QueueFullError(
                f"{longest_queue} jobs are waiting already; try again when some are done"
            )

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: there is none of that id.
        """
        rows = self._read(f"{PLACED} WHERE id = ?", (job_id,))
        if not rows:
            raise UnknownJobError(f"there is no job {job_id[:40]!r}; it was cleared or never was")
        return job_of(rows[0])

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        rows = self._read("SELECT *, NULL AS place FROM jobs ORDER BY seq")
        return [job_of(row, place) for row, place in placed(rows)][::-1]

    def next_queued(self) -> Job | None:
        """Return the job that has waited longest."""
        rows = self._read(f"{PLACED} WHERE state = 'queued' ORDER BY seq LIMIT 1")
        return job_of(rows[0]) if rows else None

    def begin(self, job_id: str) -> bool:
        """Return whether a queued job is running now; not if it was cancelled meanwhile."""
        return self._write(
            "UPDATE jobs SET state = 'running', started = ? WHERE id = ? AND state = 'queued'",
            (now(), job_id),
        )

    def requeue(self, job_id: str, deaths: int | None = None) -> None:
        """Put a running job back to where it waited; it saw so many servers die, if given."""
        self._write(
            "UPDATE jobs SET state = 'queued', started = NULL, deaths = COALESCE(?, deaths)"
            " WHERE id = ? AND state = 'running'",
            (deaths, job_id),
        )

    def cancel_queued(self, job_id: str) -> bool:
        """Return whether a job that waited is cancelled now."""
        return self._write(
            "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
            (now(), job_id),
        )

    def ask_cancel(self, job_id: str) -> bool:
        """Return whether a job runs; if so, note that it is to be cancelled, whatever happens."""
        return self._write(
            "UPDATE jobs SET cancel_asked = 1 WHERE id = ? AND state = 'running'", (job_id,)
        )

    def is_cancel_asked(self, job_id: str) -> bool:
        """Return whether a running job is to be cancelled."""
        rows = self._read("SELECT cancel_asked FROM jobs WHERE id = ?", (job_id,))
        return bool(rows and rows[0]["cancel_asked"])

    def finish(
        self,
        job_id: str,
        state: str,
        size_bytes: int = 0,
        warnings: Sequence[str] = (),
        error: Failure | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Say once and for all what became of a running job."""
        what = (error and error.type, error and error.message, _json(list(warnings)))
        told = None if result is None else _json(result)
        self._write(
            "UPDATE jobs SET state = ?, finished = ?, bytes = ?, error_type = ?,"
            " error_message = ?, warnings = ?, result = ? WHERE id = ? AND state = 'running'",
            (state, now(), size_bytes, *what, told, job_id),
        )

    def left_running(self) -> list[tuple[str, int, bool]]:
        """Return of jobs that run: id, servers that died meanwhile, whether to be cancelled."""
        rows = self._read("SELECT * FROM jobs WHERE state = 'running' ORDER BY seq")
        return [(row["id"], row["deaths"], bool(row["cancel_asked"])) for row in rows]

    def finished(self) -> list[tuple[str, str, int]]:
        """Return of finished jobs, the oldest first: id, when, bytes on disk."""
        rows = self._read(
            "SELECT id, finished, bytes FROM jobs WHERE state IN ('done', 'failed', 'cancelled')"
            " ORDER BY finished, seq"
        )
        return [tuple(row) for row in rows]

    def ids(self) -> set[str]:
        return {row["id"] for row in self._read("SELECT id FROM jobs")}

    def forget(self, job_id: str) -> None:
        """Drop a finished job."""
        self._write(
            "DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled')", (job_id,)
        )

    def _write(self, statement: str, values: Sequence[Any]) -> bool:
        """Return whether the statement, which is on disk now, changed anything."""
        with self._writing, self._told():
            return self._writer.execute(statement, values).rowcount > 0

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._reading, self._told():
            return self._reader.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskFullError(
                f"{self._path} cannot be written ({error}); make room on its disk"
            ) from error
        except sqlite3.DatabaseError as error:
            raise JobError(
                f"{self._path} is damaged ({error}); move it away: the server then begins with no"
                " jobs"
            ) from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
