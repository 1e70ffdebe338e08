"""Suggestions for whole projects, through the portable face and a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Polygon, box, mapping, shape
from tiny_models import TILE_M, write_sure_model

from model import load_segmenter, read_card
from model.errors import ModelError
from model.novelty import save_embeddings
from model.weights import seal
from qupath_bridge.errors import ProjectError, RegionError, SettingsError
from qupath_bridge.project.geojson_objects import read_annotations
from qupath_bridge.settings import read_settings
from qupath_bridge.suggest import SuggestReport, SuggestSettings, suggest_for_project
from qupath_bridge.suggestions import NOVELTY, UNCERTAINTY, is_untouched

pytestmark = pytest.mark.usefixtures("one_thread")

PORTABLE = {"backend": "portable", "device": "cpu", "heads": ("tissue",)}
SMALL = SuggestSettings(count=4, size_um=64, candidates=6)


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tiles = 0

    def begin(self, name, index, count, tiles):
        pass

    def advance(self, tiles):
        self.tiles += tiles

    def end(self):
        pass

    def say(self, text):
        self.said.append(text)


def suggest(
    path: Path, wanted: SuggestSettings = SMALL, reporter: Quiet | None = None, **changes: object
) -> SuggestReport:
    settings = read_settings(PORTABLE | changes)
    return suggest_for_project(path, settings, wanted, reporter or Quiet())


def written(project: Path, entry: str) -> list[dict]:
    path = project.parent / "pathsegdiff" / entry / "suggestions.geojson"
    return json.loads(path.read_text(encoding="utf-8"))["features"] if path.exists() else []


@pytest.fixture
def two_images(tmp_path, make_project, write_tiff, drawn_pixels) -> Path:
    """Return a project of two drawn images of 640 x 512 px at 0.5 um."""
    paths = [tmp_path / "one ä.tif", tmp_path / "two.tif"]
    for path, pixels in zip(paths, (drawn_pixels, drawn_pixels[::-1, ::-1]), strict=True):
        write_tiff(path, np.ascontiguousarray(pixels), 0.5)
    return make_project(tmp_path / "project", [(path, (640, 512), 0.5) for path in paths])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_sure_model(folder)
    return folder


@pytest.fixture(autouse=True)
def installed(tiny, own_settings, monkeypatch) -> None:
    """Let the tiny model be the one that is used where no other is named."""
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_MODEL", str(tiny))


@pytest.fixture
def knowing(tiny, tmp_path) -> Path:
    """Return the tiny model with embeddings of what `tissue` was trained on, made up."""
    folder = Path(shutil.copytree(tiny, tmp_path / "knowing"))
    tiles = np.random.default_rng(0).integers(0, 255, (4, TILE_M, TILE_M, 3), dtype=np.uint8)
    segmenter = load_segmenter(folder, ["tissue"], device="cpu")
    save_embeddings(folder, "tissue", segmenter.embeddings(tiles))
    seal(folder, read_card(folder))
    return folder


def test_suggestions_are_spread_over_the_images_and_lie_in_them(two_images):
    reporter = Quiet()
    report = suggest(two_images, reporter=reporter)
    assert reporter.tiles == 12 and report.failed == []
    names = [suggestion.name for _, suggestion in report.suggested]
    assert names == [f"Annotate next {number}" for number in (1, 2, 3, 4)]
    assert [len(written(two_images, entry)) for entry in ("1", "2")] == [2, 2]
    for image, suggestion in report.suggested:
        assert suggestion.outline_l0.area == 128 * 128
        assert box(0, 0, 640, 512).contains(suggestion.outline_l0)
        assert 0 < suggestion.measurements[UNCERTAINTY] < 1
        assert suggestion.id in {f["id"] for f in written(two_images, image.entry_id)}
    for entry in ("1", "2"):
        one, other = (shape(f["geometry"]) for f in written(two_images, entry))
        assert one.intersection(other).area == 0
    assert "kept nothing of what it was trained on" in " ".join(reporter.said)


def test_the_same_again_is_the_same_and_replaces_what_was(two_images):
    suggest(two_images)
    first = written(two_images, "1") + written(two_images, "2")
    suggest(two_images)
    assert written(two_images, "1") + written(two_images, "2") == first
    suggest(two_images, SuggestSettings(1, 64, 6))
    assert sorted(len(written(two_images, entry)) for entry in ("1", "2")) == [0, 1]
    suggest(two_images, SuggestSettings(4, 64, 6, seed=2))
    assert written(two_images, "1") + written(two_images, "2") != first


def test_only_images_asked_for_are_looked_at(two_images):
    suggest(two_images, images=("two*",))
    assert [len(written(two_images, entry)) for entry in ("1", "2")] == [0, 4]


def test_what_the_head_was_trained_on_counts(two_images, knowing):
    report = suggest(two_images, model=str(knowing))
    for _, suggestion in report.suggested:
        assert 0 < suggestion.measurements[NOVELTY] <= 2
    assert "novelty" in report.summary().splitlines()[0]


def annotate(project: Path, *features: tuple[str | None, str | None, Polygon]) -> None:
    """Write annotations of image 1, each its name, class and outline, beside the suggestions."""
    made = [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "geometry": mapping(outline),
            "properties": {
                "objectType": "annotation",
                "name": name,
                **({"classification": {"name": kind, "color": [1, 2, 3]}} if kind else {}),
            },
        }
        for number, (name, kind, outline) in enumerate(features)
    ]
    path = project.parent / "pathsegdiff" / "1" / "regions.geojson"
    path.parent.mkdir(parents=True, exist_ok=True)
    everything = {"type": "FeatureCollection", "features": made + written(project, "1")}
    path.write_text(json.dumps(everything), encoding="utf-8")


@pytest.mark.parametrize("kind", ["Tumor", "Ignore*", "Tumor: Positive"])
def test_no_square_covers_what_is_annotated(two_images, kind):
    left_half = box(0, 0, 320, 512)
    annotate(two_images, ("mine", kind, left_half))
    suggest(two_images, SuggestSettings(20, 64, 20))
    squares = [shape(f["geometry"]) for f in written(two_images, "1")]
    assert len(squares) == 8  # of 20, those of the two columns on the right
    assert max(square.intersection(left_half).area for square in squares) == 0


@pytest.mark.parametrize("kind", [None, "Region*"])
def test_outlines_of_where_to_work_take_nothing(two_images, kind):
    annotate(two_images, ("work here", kind, box(0, 0, 640, 512)))
    suggest(two_images)
    assert len(written(two_images, "1")) == 2


def test_untouched_suggestions_take_no_place_and_others_do(two_images):
    suggest(two_images)
    first = written(two_images, "1")
    annotate(two_images)  # as QuPath exports them
    suggest(two_images)
    assert written(two_images, "1") == first
    path = two_images.parent / "pathsegdiff" / "1" / "regions.geojson"
    path.write_text(path.read_text("utf-8").replace('"Ignore*"', '"Stroma"'), "utf-8")
    annotations = read_annotations(json.loads(path.read_text("utf-8")))
    assert not any(map(is_untouched, annotations))
    suggest(two_images)
    assert not {f["id"] for f in first} & {f["id"] for f in written(two_images, "1")}


def test_one_bad_image_does_not_cost_the_others(two_images):
    (two_images.parent.parent / "two.tif").write_bytes(b"no image")
    report = suggest(two_images)
    assert len(report.suggested) == len(written(two_images, "1")) == 4
    assert len(report.failed) == 1 and "two.tif" in report.failed[0]
    assert report.summary().endswith("4 suggestions in 1 images; 1 failed")


def test_a_project_without_tissue_is_told_in_one_sentence(
    tmp_path, make_project, write_tiff, two_images
):
    write_tiff(tmp_path / "glass.tif", np.full((300, 300, 3), 243, np.uint8), 0.5)
    project = make_project(tmp_path / "empty", [(tmp_path / "glass.tif", (300, 300), 0.5)])
    with pytest.raises(RegionError, match=r"no image of .* 64 um on tissue"):
        suggest(project)
    with pytest.raises(RegionError, match="5000 um"):
        suggest(two_images, SuggestSettings(size_um=5000))


def test_what_is_not_there_is_named(two_images, tmp_path):
    with pytest.raises(ModelError, match="no head 'nuclei'"):
        suggest(two_images, heads=("nuclei",))
    with pytest.raises(ModelError, match="no model 'nosuch'"):
        suggest(two_images, model="nosuch")
    with pytest.raises(ProjectError, match="no image is named"):
        suggest(two_images, images=("x*",))
    with pytest.raises(ProjectError):
        suggest(tmp_path / "nosuch.qpproj")


@pytest.mark.parametrize(
    ("name", "value"), [("count", 0), ("size_um", float("nan")), ("candidates", 0), ("seed", -1)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        SuggestSettings(**{name: value})


def test_the_command_tells_what_it_suggests(two_images):
    command = [sys.executable, "-m", "qupath_bridge", "suggest", str(two_images)]
    options = ["--count", "2", "--size", "64", "--candidates", "3", "--head", "glands"]
    told = subprocess.run(
        [*command, *options, "--backend", "portable", "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("Annotate next 1: ") and "px, uncertainty " in lines[0]
    assert lines[-1] == "2 suggestions in 2 images"
    bad = subprocess.run([*command, "--count", "0"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: count must be in") and bad.stderr.count("\n") == 1
