"""Runs on real Dask clusters: the same bytes whoever computes, whatever dies on the way."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shapely.geometry import box

pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")

from distributed import Client

from model.card import read_card
from qupath_bridge.engine import cluster
from qupath_bridge.engine.cluster_reach import connected
from qupath_bridge.engine.on_cluster import TASK_ROWS, ranges_of
from qupath_bridge.engine.spec import ImageSpec
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.errors import ClusterError
from qupath_bridge.geometry import Region
from qupath_bridge.overview import Overview
from qupath_bridge.pipeline import run_project
from qupath_bridge.progress import LineReporter
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import open_slide

ROOT = Path(__file__).parents[1]
OPTIONS = {"regions": "slide", "min_object_um2": 20.0, "min_hole_um2": 20.0}
PATIENCE_S = 100
WORKER = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
Results = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_project, write_tiff, sure_model) -> SimpleNamespace:
    """Return a project, its settings, and the results of a run without a cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(0)
    blobs = rng.integers(60, 230, (45, 5, 3)).repeat(40, 0).repeat(40, 1).astype(np.uint8)
    images = []
    for name, pixels in (("shown/a.tif", blobs), ("hidden/b.tif", blobs[:900, ::-1])):
        (folder / name).parent.mkdir()
        write_tiff(folder / name, np.ascontiguousarray(pixels), 0.5)
        images.append((folder / name, pixels.shape[1::-1], 0.5))
    project = make_project(folder / "project", images)
    settings = RunSettings(backend="portable", device="cpu", model=str(sure_model), **OPTIONS)
    with (folder / "log").open("w") as log:
        report = run_project(project, settings, LineReporter(log))
    assert report.failed == []
    expected = results_of(project)
    shutil.rmtree(project.parent / "pathsegdiff")
    return SimpleNamespace(
        folder=folder, project=project, settings=settings, model=sure_model, expected=expected
    )


@pytest.fixture
def project(made) -> Iterator[Path]:
    """Return the project, not run yet."""
    yield made.project
    shutil.rmtree(made.project.parent / "pathsegdiff", ignore_errors=True)


def results_of(project: Path) -> Results:
    found = (project.parent / "pathsegdiff").glob("*/detections.geojson")
    return {path.parent.name: path.read_bytes() for path in found}


def begin_run(made: SimpleNamespace, *more: str, **options) -> subprocess.Popen[str]:
    options_of_all = ("--backend", "portable", "--device", "cpu", "--regions", "slide")
    sizes = ("--min-object", "20", "--min-hole", "20", "--model", made.model)
    command = (sys.executable, "-m", "qupath_bridge", "run", made.project)
    return subprocess.Popen(
        [str(word) for word in (*command, *options_of_all, *sizes, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        **options,
    )


def run(made: SimpleNamespace, *more: str) -> tuple[int, str]:
    """Return the exit status of a run, and all that it said."""
    with begin_run(made, *more) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def dask(*words: object, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Start a `dask` command; whatever is left of it is killed."""
    command = [*before, sys.executable, "-m", "dask", *map(str, words)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def scheduling() -> Iterator[SimpleNamespace]:
    """Start a scheduler; give its address and its process."""
    with dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard") as process:
        for line in process.stderr:
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
            if found:
                break
        yield SimpleNamespace(address=found[1], process=process)


@contextmanager
def working(
    scheduler: str, folder: Path, *more: str, before: tuple[str, ...] = ()
) -> Iterator[SimpleNamespace]:
    """Start a worker and wait until it is known; give its address and its process."""
    words = ("worker", scheduler, *WORKER, "--local-directory", folder / "scratch", *more)
    address = None
    with dask(*words, before=before) as process:
        for line in process.stderr:
            address = found_address(line) or address
            if "Registered to" in line:
                break
        yield SimpleNamespace(address=address, process=process)


def found_address(line: str) -> str | None:
    found = re.search(r"Start worker at:\s+(tcp://\S+)", line)
    return found[1] if found else None


def wait_until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def first_band(project: Path) -> Callable[[], object]:
    return lambda: list((project.parent / "pathsegdiff").glob("*/checkpoint/band-*"))


@pytest.mark.parametrize("count", [1, 2])
def test_local_processes_give_the_bytes_of_a_run_without_a_cluster(made, project, count):
    status, said = run(made, "--scheduler", f"local:{count}")
    assert status == 0, said
    assert "2 done / 0 skipped / 0 failed" in said
    assert "Traceback" not in said and "distributed" not in said
    assert results_of(project) == made.expected


def test_a_worker_that_is_killed_costs_only_its_task(made, project, tmp_path):
    with (
        scheduling() as scheduler,
        working(scheduler.address, tmp_path) as first,
        working(scheduler.address, tmp_path),
        begin_run(made, "--scheduler", scheduler.address) as process,
    ):
        wait_until(first_band(project))
        first.process.kill()
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert results_of(project) == made.expected


def test_a_worker_that_cannot_see_a_slide_says_so_and_others_do_its_tasks(made, project, tmp_path):
    hidden = made.folder / "hidden"
    hide = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    blind = ("unshare", "--mount", "--map-root-user", "sh", "-c", hide, "sh")
    if shutil.which("unshare") is None or subprocess.run([*blind, "true"], check=False).returncode:
        pytest.skip("a folder can be hidden from a process only by Linux's unshare, if allowed")
    with (
        scheduling() as scheduler,
        working(scheduler.address, tmp_path, before=blind) as worker,
    ):
        status, said = run(made, "--scheduler", scheduler.address)
        assert status == 1
        assert "1 done / 0 skipped / 1 failed" in said
        assert f"worker {worker.address} on " in said
        assert f"{hidden / 'b.tif'} is not there" in said
        with working(scheduler.address, tmp_path):
            status, said = run(made, "--scheduler", scheduler.address)
    assert status == 0, said
    assert "1 done / 1 skipped / 0 failed" in said
    assert results_of(project) == made.expected


def test_a_lost_scheduler_ends_the_run_and_the_next_one_goes_on(made, project, tmp_path):
    with (
        scheduling() as scheduler,
        working(scheduler.address, tmp_path),
        begin_run(made, "--scheduler", scheduler.address) as process,
    ):
        wait_until(first_band(project))
        scheduler.process.kill()
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
    assert f"the scheduler {scheduler.address} is lost; what is finished is kept: run again" in said
    assert "Traceback" not in said
    status, said = run(made)
    assert status == 0, said
    assert "goes on where it stood" in said
    assert results_of(project) == made.expected


def test_a_gpu_is_held_by_one_task_at_a_time(made, project, tmp_path):
    with (
        scheduling() as scheduler,
        working(scheduler.address, tmp_path, "--nthreads", "2", "--resources", "GPU=1"),
        begin_run(made, "--scheduler", scheduler.address) as process,
        Client(scheduler.address, set_as_default=False) as client,
    ):
        seen = set()
        while process.poll() is None:
            seen |= set(client.run(at_work_and_waiting).values())
            time.sleep(0.05)
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert max(at_work for at_work, _ in seen) == 1
    assert max(waiting for _, waiting in seen) >= 1
    assert results_of(project) == made.expected


def at_work_and_waiting(dask_worker) -> tuple[int, int]:
    state = dask_worker.state
    return len(state.executing), len(state.ready) + len(state.constrained)


def test_ctrl_c_ends_a_run_and_the_processes_of_its_cluster(made, project):
    with begin_run(made, "--scheduler", "local:2", start_new_session=True) as process:
        wait_until(first_band(project))
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    wait_until(lambda: not has_processes(process.pid))


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_scheduler_without_workers_is_waited_for_and_then_told_of(made, project, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE_S", 1.0)
    said: list[str] = []
    with (
        scheduling() as scheduler,
        pytest.raises(ClusterError, match="has had no worker for 1 s; start one"),
        connected(scheduler.address, said.append),
    ):
        pass
    assert "waiting up to 1 s" in said[0]


def test_no_scheduler_at_an_address_is_told_at_once(made):
    for address in ("tcp://127.0.0.1:1", "tcp://nowhere.invalid:8786"):
        with (
            pytest.raises(ClusterError, match=f"no Dask scheduler at {address}"),
            connected(address, print),
        ):
            pass


def test_without_dask_the_command_to_install_it_is_told(made, project):
    without = "import sys; sys.modules['distributed'] = None\nfrom qupath_bridge.cli import main\n"
    arguments = ["run", str(made.project), "--backend", "portable", "--scheduler", "local:1"]
    done = subprocess.run(
        [sys.executable, "-c", f"{without}main({arguments})"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is not installed: pip install distributed")


def test_what_runs_on_a_worker_knows_no_qupath():
    look = "import qupath_bridge.engine.cluster_task, sys; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, env=environment()
    )
    assert {"paquo", "jpype", "torch"}.isdisjoint(told.stdout.split())


def test_a_workers_sweep_is_the_runs_glass_and_all(tmp_path, write_tiff, sure_model):
    pixels = np.full((900, 300, 3), 243, np.uint8)
    pixels[200:500, 40:200] = np.random.default_rng(1).integers(60, 200, (300, 160, 3))
    write_tiff(tmp_path / "a.tif", pixels, 0.5)
    engine = Engine(sure_model, read_card(sure_model), ["tissue"], RunSettings())
    outlines = [box(0, 0, 300, 600), box(100, 100, 300, 900)]
    regions = [Region(str(n), str(n), "annotation", o) for n, o in enumerate(outlines)]
    with open_slide(tmp_path / "a.tif") as slide:
        work = ImageWork.of(engine, slide, Overview.of(slide), regions)
        spec = pickle.loads(pickle.dumps(ImageSpec.of(work, 4)))
    there = spec.sweep(engine)
    assert work.sweep.blanks and work.sweep.tiles
    assert there.tiles == work.sweep.tiles and there.blanks == work.sweep.blanks
    assert there.owners == work.sweep.owners and there.cuts == spec.bands


def test_ranges_are_of_consecutive_bands_and_of_enough_rows(made):
    with open_slide(made.folder / "shown" / "a.tif") as slide:
        engine = Engine(made.model, read_card(made.model), ["tissue"], RunSettings(overlap=0.75))
        whole = Region("slide", "Slide", "slide", box(0, 0, slide.width, slide.height))
        sweep = ImageWork.of(engine, slide, Overview.of(slide), [whole]).sweep
    count = len(sweep.bands)
    assert count > 8
    every = ranges_of(sweep, range(count))
    assert [band for bands in every for band in bands] == list(range(count))
    for bands in every[:-1]:
        rows = {t.y_m for b in bands for t in sweep.tiles[slice_of(sweep.bands[b].tiles)]}
        assert TASK_ROWS <= len(rows) < 2 * TASK_ROWS + 8
    assert ranges_of(sweep, [0, 2, 5]) == [range(1), range(2, 3), range(5, 6)]
    assert ranges_of(sweep, []) == []


def slice_of(places: range) -> slice:
    return slice(places.start, places.stop)
