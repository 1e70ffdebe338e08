"""A job as clients see it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATES = ("queued", "running", "done", "failed", "cancelled")
FINISHED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Failure:
    """Why a job failed: the error's type, and one sentence with the remedy."""

    type: str
    message: str


@dataclass(frozen=True)
class Progress:
    """How far a running job is. total: of tiles, images or steps; None where it is not known.

    seconds: from when this stage began, with `begun` done, to when the last of `done` was. ago:
    since then.
    """

    stage: str
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    ago: float = 0.0
    begun: int = 0

    @property
    def seconds_left(self) -> int | None:
        """Return how long this stage will last; None where nothing can be said."""
        if self.done <= self.begun or self.total is None:
            return None
        left = max(self.total - self.done, 0)
        each = self.seconds / (self.done - self.begun)
        return math.ceil(max(left * each - self.ago, min(left, 1)))


@dataclass(frozen=True)
class Job:
    """A job and what became of it. Times are ISO 8601 in UTC.

    place: 0 runs, 1 comes next; None once it is finished.
    """

    id: str
    kind: str
    state: str
    place: int | None
    image_name: str
    image_uri: str
    model: str
    heads: Sequence[str]
    created: str
    started: str | None = None
    finished: str | None = None
    error: Failure | None = None
    warnings: Sequence[str] = ()
    result: Mapping[str, Any] | None = None
    progress: Progress | None = None

    @property
    def is_finished(self) -> bool:
        """Return whether nothing will change any more."""
        return self.state in FINISHED

    @property
    def has_objects(self) -> bool:
        """Return whether there are detections, class areas and an overlay."""
        return self.kind == "segment" and self.state == "done"

    def as_json(self) -> dict[str, Any]:
        """Return the job as the HTTP interface has it."""
        progress = self.progress or Progress("waiting")
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "place": self.place,
            "stage": None if self.is_finished else progress.stage,
            "tilesDone": progress.done,
            "tilesTotal": progress.total,
            "secondsLeft": progress.seconds_left,
            "image": {"name": self.image_name, "uri": self.image_uri},
            "model": self.model,
            "heads": list(self.heads),
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "error": self.error and {"type": self.error.type, "message": self.error.message},
            "warnings": list(self.warnings),
            "result": None if self.result is None else dict(self.result),
            "links": self._links(),
        }

    def _links(self) -> dict[str, str | None]:
        own, there = f"/v1/jobs/{self.id}", self.has_objects
        parts = {"detections": "detections", "classAreas": "class-areas", "overlay": "overlay"}
        return {"self": own, **{k: f"{own}/{part}" if there else None for k, part in parts.items()}}
