"""What the tests of jobs share: bodies, and waiting for what becomes of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qupath_bridge.jobs import Job, JobQueue, RequestLimits, parse_job

ANNOTATION = "00000000-0000-4000-8000-{:012d}"


def path_of(uri: str) -> Path:
    return Path(uri.removeprefix("file:"))


def feature(number: int, ring: list[list[float]], kind: str = "Tumor") -> dict[str, Any]:
    """Return an annotation as QuPath exports it."""
    return {
        "type": "Feature",
        "id": ANNOTATION.format(number),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": f"Region {number}",
            "classification": {"name": kind, "color": [200, 0, 0]},
        },
    }


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def image_body(path: Path | str, size: tuple[int, int] = (640, 512), **more: Any) -> dict[str, Any]:
    sides = {"w": 0.5, "h": 0.5}
    image = {"uri": f"file:{path}", "name": Path(path).name, "width": size[0], "height": size[1]}
    return image | {"pixelSizeMicrons": sides} | more


def segment_body(path: Path | str, regions: Any = "one", **more: Any) -> dict[str, Any]:
    """Return the body of a segmentation; of one small square unless told otherwise."""
    chosen = collection(feature(1, square(40, 40, 100))) if regions == "one" else regions
    return {"kind": "segment", "image": image_body(path), "regions": chosen} | more


def submit(queue: JobQueue, body: dict[str, Any]) -> Job:
    return queue.submit(parse_job(json.loads(json.dumps(body)), RequestLimits()))


def wait_until(what: Callable[[], Any], seconds: float = 180.0) -> Any:
    """Return what is true at last."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain")
        time.sleep(0.02)
    return found


def finished(queue: JobQueue, job: Job, seconds: float = 180.0) -> Job:
    """Return a job when it is finished."""
    wait_until(lambda: queue.job(job.id).is_finished, seconds)
    return queue.job(job.id)


def big_pixels(side: int) -> np.ndarray:
    """Return dotted pink, uint8 [side, side, 3], that keeps a model busy for long."""
    rng = np.random.default_rng(3)
    pixels = np.full((side, side, 3), (235, 180, 215), np.uint8)
    pixels[rng.random((side, side)) < 0.3] = (70, 40, 120)
    return pixels
