"""Fixtures that many test modules share."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from qupath_bridge.demo.qpproj import ImageEntry, project_json, server_json
from qupath_bridge.disk import write_json

MakeProject = Callable[..., Path]


def pytest_collection_finish() -> None:
    """Leave what the imported libraries hold out of the search for garbage after each image."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_counts() -> None:
    """Let programs that tests start hear Ctrl-C, although a shell's background job ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real slides and tiles, or skip where it is absent."""
    beside_checkout = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PATHSEGDIFF_TEST_DATA", beside_checkout))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PATHSEGDIFF_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory, monkeypatch) -> None:
    """Keep the settings and models of whoever runs the tests out of them."""
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def one_thread(monkeypatch) -> Iterator[None]:
    """Train tiny networks in one thread, here and in programs that a test starts.

    Several wait for one another by spinning: three times as long where others use the cores too.
    """
    import torch  # only here: it takes seconds

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def write_tiff() -> Callable[[Path, np.ndarray, float], None]:
    """Return a function that writes a tiled TIFF with a pixel size in um."""

    def write(path: Path, pixels: np.ndarray, mpp: float) -> None:
        per_cm = (1e4 / mpp, 1e4 / mpp)
        tifffile.imwrite(
            path, pixels, tile=(256, 256), photometric="rgb", resolution=per_cm, resolutionunit=3
        )

    return write


@pytest.fixture(scope="session")
def make_project() -> MakeProject:
    """Return a function that writes a QuPath project by hand.

    `images` is a list of (path, (width, height), mpp or None); `regions` maps an entry's id to
    outlines in level-0 pixels.
    """

    def make(
        folder: Path,
        images: Sequence[tuple[Path, tuple[int, int], float | None]],
        regions: dict[int, Sequence[BaseGeometry]] | None = None,
    ) -> Path:
        file = folder / "project.qpproj"
        folder.mkdir(parents=True, exist_ok=True)
        listed: list[dict[str, Any]] = []
        for number, (path, size, mpp) in enumerate(images, start=1):
            entry = ImageEntry(path.name, path, [size], mpp or 1.0, 256, f"image {number}")
            content, server = project_json(file, entry, 0), server_json(entry)
            listed.append(content["images"][0] | {"entryID": number})
            if mpp is None:
                for metadata in (listed[-1]["serverBuilder"]["metadata"], server["metadata"]):
                    metadata["pixelCalibration"] = {}
            (folder / "data" / str(number)).mkdir(parents=True, exist_ok=True)
            write_json(folder / "data" / str(number) / "server.json", server)
        write_json(file, content | {"images": listed, "lastID": len(listed)})
        for number, outlines in (regions or {}).items():
            write_regions(folder / "pathsegdiff" / str(number) / "regions.geojson", outlines)
        return file

    return make


def write_regions(path: Path, outlines: Sequence[BaseGeometry]) -> None:
    features = [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "geometry": mapping(outline),
            "properties": {
                "objectType": "annotation",
                "name": f"Region {number}",
                "classification": {"name": "Tumor" if number % 2 else "Stroma", "color": [1, 2, 3]},
            },
        }
        for number, outline in enumerate(outlines, start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def drawn_pixels() -> np.ndarray:
    """Return drawn tissue, uint8 [512, 640, 3], at 0.5 um/px."""
    from qupath_bridge.demo.drawing import draw_slide

    return draw_slide(5, 640, 512, coverage=1.0).pixels


@pytest.fixture
def small_project(tmp_path, make_project, write_tiff, drawn_pixels) -> Path:
    """Return a project with one drawn image of 640 x 512 px and two small annotations."""
    folder = tmp_path / "Ein Projekt mit Ümlaut 🔬"
    folder.mkdir()
    write_tiff(folder / "bild ä.tif", drawn_pixels, 0.5)
    outlines = [box(40, 40, 140, 130), box(300, 200, 420, 300)]
    return make_project(folder, [(folder / "bild ä.tif", (640, 512), 0.5)], {1: outlines})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Return the folder of a model of random tiny networks; nobody may change it."""
    from tiny_models import write_tiny_model  # only here: it brings torch

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def sure_model(tmp_path_factory) -> Path:
    """Return the folder of a tiny model whose heads are sure of what they say; do not change it."""
    from tiny_models import write_sure_model  # only here: it brings torch

    folder = tmp_path_factory.mktemp("models") / "sure"
    write_sure_model(folder)
    return folder


@pytest.fixture
def installed_tiny(tiny_model) -> Path:
    """Return a copy of the tiny model among the models of this test's machine, named `tiny`."""
    from model.home import models_home

    return Path(shutil.copytree(tiny_model, models_home() / "tiny"))


@pytest.fixture(scope="session")
def groovy():
    """Return a real Groovy to evaluate code with, or skip where there is none."""
    from groovy_process import Groovy

    process = Groovy()
    yield process
    process.close()
