"""Old jobs cleared away: by age, then by how much disk all take together."""

from __future__ import annotations

from pathlib import Path

from qupath_bridge.clock import days_ago
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.store import JobStore


def tidy(store: JobStore, jobs: Path, keep_days: float, keep_gib: float) -> int:
    """Drop finished jobs that are too old, then the oldest until the rest fits; return how many.

    What is queued or runs is never touched.

    Raises:
        DiskFullError: the system refused to write.
    """
    finished = store.finished()
    total = sum(size for _, _, size in finished)
    oldest = days_ago(keep_days)
    dropped = 0
    for job_id, when, size in finished:
        if when >= oldest and total <= keep_gib * 2**30:
            break
        store.forget(job_id)  # first: a folder without a job is cleared at the next start
        JobFolder(jobs / job_id).remove()
        total -= size
        dropped += 1
    return dropped


def clear_strangers(store: JobStore, jobs: Path) -> None:
    """Take away folders of no job: of one that was not accepted to the end, or half cleared."""
    known = store.ids()
    for folder in jobs.iterdir():
        if folder.name not in known:
            JobFolder(folder).remove()
