"""Two workers of a Dask cluster against one, each of one thread, on the same project.

    python tests/benchmarks/cluster.py [--images N] [--side PX] [--repeat N]

Two clusters wait beside each other, with one worker and with two, each worker a process that has
loaded the shipped model. Whole runs on them take turns. Twice the images than workers, or more, so
that both are busy to the end.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import ExitStack
from pathlib import Path

from distributed import LocalCluster
from measuring import least_seconds
from records import Record, records_option, tell

from qupath_bridge.demo.drawing import draw_slide
from qupath_bridge.demo.qpproj import ImageEntry, project_json, server_json
from qupath_bridge.demo.tiff import write_pyramid
from qupath_bridge.disk import write_json
from qupath_bridge.pipeline import run_project
from qupath_bridge.progress import LineReporter
from qupath_bridge.settings import RunSettings

MPP = 0.5
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def write_project(folder: Path, images: int, side: int) -> Path:
    """Write a project of drawn slides of side x side pixels; return its file."""
    file = folder / "project.qpproj"
    listed = []
    for number in range(1, images + 1):
        slide = folder / f"{number}.tif"
        write_pyramid(slide, draw_slide(number, side, side, coverage=1.0).pixels, MPP)
        entry = ImageEntry(slide.name, slide, [(side, side)], MPP, 256, f"image {number}")
        content = project_json(file, entry, 0)
        listed.append(content["images"][0] | {"entryID": number})
        (folder / "data" / str(number)).mkdir(parents=True)
        write_json(folder / "data" / str(number) / "server.json", server_json(entry))
    write_json(file, content | {"images": listed, "lastID": images})
    return file


def start(workers: int) -> LocalCluster:
    """Return a cluster of so many processes of one thread."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        env=ONE_THREAD,
    )


def run(project: Path, scheduler: str) -> None:
    """Run a project on a cluster, whatever was done before."""
    settings = RunSettings(
        backend="portable", device="cpu", regions="slide", restart=True, scheduler=scheduler
    )
    said = io.StringIO()
    report = run_project(project, settings, LineReporter(said))
    if report.failed or report.ended:
        raise RuntimeError(said.getvalue() + report.summary())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    records_option(parser)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        project = write_project(Path(folder), chosen.images, chosen.side)
        addresses = {
            str(count): stack.enter_context(start(count)).scheduler_address for count in (1, 2)
        }
        for address in addresses.values():  # from here on all workers have the model
            run(project, address)
        taken = least_seconds(
            {count: (lambda at=at: run(project, at)) for count, at in addresses.items()},
            chosen.repeat,
        )
    images = f"{chosen.images} slides of {chosen.side} px"
    record = Record(
        "cluster",
        f"two workers of one thread, {images}",
        chosen.images * 60 / taken["2"],
        chosen.images * 60 / taken["1"],
        "one worker",
        "slides/min",
        at_least=1.8,
        repeats=chosen.repeat,
    )
    tell(record, chosen.records)


if __name__ == "__main__":
    main()
