"""Whole runs on small projects, through the portable face; one is of the shipped model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qupath_bridge.detections import is_ours
from qupath_bridge.errors import ProjectError
from qupath_bridge.measurements import read_class_areas
from qupath_bridge.pipeline import plan_project, run_project
from qupath_bridge.report import RunReport
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tiles = 0

    def begin(self, name, index, count, tiles):
        self.expected = tiles

    def advance(self, tiles):
        self.tiles += tiles

    def end(self):
        pass

    def say(self, text):
        self.said.append(text)


PORTABLE = RunSettings(backend="portable", device="cpu")


@pytest.fixture(scope="module")
def small(sure_model) -> RunSettings:
    """Return settings of runs with a tiny model, which finds objects of both heads."""
    return replace(PORTABLE, model=str(sure_model), overlap=0.0, min_object_um2=20.0)


@pytest.fixture
def run(small) -> Callable[..., RunReport]:
    """Return a function that runs a project with a tiny model, and settings of its own."""
    return lambda path, **settings: run_project(path, replace(small, **settings), Silent())


def detections_of(project: Path, entry: str = "1") -> str:
    store = ResultStore(project.parent)
    return (store.of(entry) / "detections.geojson").read_text(encoding="utf-8")


def test_a_run_leaves_detections_areas_and_a_report(small_project):
    reporter = Silent()
    report = run_project(small_project, PORTABLE, reporter)
    assert [o.status for o in report.outcomes] == ["done"], report.summary()
    assert reporter.tiles == reporter.expected > 0

    store = ResultStore(small_project.parent)
    detections = list(store.read_detections("1"))
    assert detections and all(is_ours(d.id) for d in detections)
    assert len({d.id for d in detections}) == len(detections)
    rows = read_class_areas(store.table)
    assert len(rows) == 2 * (6 + 2)  # two regions; six tissue classes and two of glands
    for region_area_um2, region in ((100 * 90 / 4, "Region 1"), (120 * 100 / 4, "Region 2")):
        for head in ("tissue", "glands"):
            mine = [r for r in rows if r.region == region and r.head == head]
            assert sum(r.area_um2 for r in mine) == pytest.approx(region_area_um2, rel=0.01)
            assert sum(r.percent for r in mine) == pytest.approx(100, abs=1)
    for row in rows:
        if row.class_name != "Background":
            made = [
                d
                for d in detections
                if (d.head, d.class_name, d.region_id) == (row.head, row.class_name, row.region_id)
            ]
            assert row.objects == len(made)
            assert row.area_um2 == pytest.approx(sum(d.area_um2 for d in made), abs=0.01)
    assert "Background" not in {d.class_name for d in detections}

    told = json.loads((store.folder / "run.json").read_text(encoding="utf-8"))
    assert told["settings"]["device"] == "cpu"
    assert told["model"]["name"] == "default"
    assert told["images"][0]["status"] == "done" and told["images"][0]["seconds"] > 0
    assert told["versions"]["torch"]


def test_a_second_run_skips_and_a_restart_gives_the_same_bytes(small_project, run):
    run(small_project)
    first = detections_of(small_project)
    assert [o.status for o in run(small_project).outcomes] == ["skipped"]
    assert [o.status for o in run(small_project, restart=True).outcomes] == ["done"]
    assert detections_of(small_project) == first


def test_batch_size_changes_no_class(small_project, run):
    run(small_project, batch_size=1)
    one = ResultStore(small_project.parent).read_class_areas()
    run(small_project, batch_size=7, restart=True)
    seven = ResultStore(small_project.parent).read_class_areas()
    for a, b in zip(one, seven, strict=True):
        assert a.area_um2 == pytest.approx(b.area_um2, abs=5)


@pytest.mark.parametrize(
    "change", [{"overlap": 0.25}, {"min_object_um2": 500.0}, {"heads": ("glands",)}]
)
def test_other_settings_are_done_again(small_project, change, run):
    run(small_project)
    assert [o.status for o in run(small_project, **change).outcomes] == ["done"]


def test_a_changed_annotation_or_slide_is_done_again(small_project, write_tiff, run):
    run(small_project)
    regions = small_project.parent / "pathsegdiff/1/regions.geojson"
    regions.write_text(regions.read_text(encoding="utf-8").replace("140.0", "135.0"), "utf-8")
    assert [o.status for o in run(small_project).outcomes] == ["done"]
    assert [o.status for o in run(small_project).outcomes] == ["skipped"]
    slide = small_project.parent / "bild ä.tif"
    shutil.copy(slide, slide.with_suffix(".copy"))
    slide.with_suffix(".copy").replace(slide)  # the same pixels, another file
    assert [o.status for o in run(small_project).outcomes] == ["done"]


def test_a_run_of_one_head_keeps_the_other_heads_objects(small_project, run):
    run(small_project)
    store = ResultStore(small_project.parent)
    both = {d.id for d in store.read_detections("1")}
    assert {d.head for d in store.read_detections("1")} == {"tissue", "glands"}
    run(small_project, heads=("glands",))
    assert {d.id for d in store.read_detections("1")} == both
    assert {row.head for row in store.read_class_areas()} == {"tissue", "glands"}


def test_a_result_of_an_earlier_engine_is_done_again_and_counts_until_then(small_project, run):
    run(small_project)
    store = ResultStore(small_project.parent)
    path = store.of("1") / "result.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["made"].pop("engine") > 1
    path.write_text(json.dumps(content), encoding="utf-8")
    rows = store.read_class_areas()
    assert {row.head for row in rows} == {"tissue", "glands"}
    assert [o.status for o in run(small_project, heads=("glands",)).outcomes] == ["done"]
    assert sorted(map(repr, store.read_class_areas())) == sorted(map(repr, rows))
    path.write_text(json.dumps(content), encoding="utf-8")
    assert [o.status for o in run(small_project).outcomes] == ["done"]
    assert [o.status for o in run(small_project).outcomes] == ["skipped"]


def test_a_run_of_one_class_of_regions_keeps_the_others(small_project, run):
    run(small_project)
    store = ResultStore(small_project.parent)
    everything = {d.id for d in store.read_detections("1")}
    run(small_project, region_classes=("Tumor",), restart=True)
    assert {d.id for d in store.read_detections("1")} == everything
    assert {row.region for row in store.read_class_areas()} == {"Region 1", "Region 2"}


def test_what_was_found_in_a_deleted_annotation_goes_with_it(small_project, run):
    run(small_project)
    regions = small_project.parent / "pathsegdiff/1/regions.geojson"
    content = json.loads(regions.read_text(encoding="utf-8"))
    content["features"] = content["features"][:1]
    regions.write_text(json.dumps(content), encoding="utf-8")
    run(small_project)
    store = ResultStore(small_project.parent)
    assert {row.region for row in store.read_class_areas()} == {"Region 1"}
    assert len({d.region_id for d in store.read_detections("1")}) == 1


def test_without_annotations_the_tissue_is_segmented(small_project, run):
    (small_project.parent / "pathsegdiff/1/regions.geojson").unlink()
    run(small_project)
    rows = ResultStore(small_project.parent).read_class_areas()
    assert {(row.region, row.region_id) for row in rows} == {("Tissue", "tissue")}


def test_a_dry_run_writes_nothing_and_loads_no_weights(small_project):
    before = sorted(small_project.parent.rglob("*"))
    lines: list[str] = []
    assert plan_project(small_project, PORTABLE, lines.append) == 0
    assert "2 regions (Region 1, Region 2)" in lines[-1] and "tiles" in lines[-1]
    assert sorted(small_project.parent.rglob("*")) == before


def test_one_bad_image_does_not_cost_the_others(
    tmp_path, make_project, write_tiff, small_project, run
):
    good = small_project.parent / "bild ä.tif"
    images = [
        (tmp_path / "gone.svs", (100, 100), 0.5),
        (tmp_path / "text.svs", (100, 100), 0.5),
        (good, (999, 999), 0.5),
        (good, (640, 512), None),
        (good, (640, 512), 0.5),
    ]
    (tmp_path / "text.svs").write_text("not an image")
    project = make_project(tmp_path / "mixed", images)
    report = run(project, images=("*.svs", "bild*"))
    assert [o.status for o in report.outcomes] == ["failed", "failed", "failed", "done", "done"]
    gone, text, other, *_ = (o.message for o in report.outcomes)
    assert "gone.svs" in gone and "text.svs" in text and "999 x 999" in other
    assert report.summary().endswith("2 done / 0 skipped / 3 failed")


def test_images_are_chosen_by_name(small_project, run):
    with pytest.raises(ProjectError, match=r"no image is named \*\.svs; the project has: bild"):
        run(small_project, images=("*.svs",))


def test_an_interruption_is_reported_and_leaves_no_half_result(small_project, small, run):
    class Impatient(Silent):
        def advance(self, tiles):
            raise KeyboardInterrupt

    report = run_project(small_project, small, Impatient())
    assert report.interrupted
    left = {p.name for p in (small_project.parent / "pathsegdiff").rglob("*") if p.is_file()}
    # Nothing but a checkpoint is begun.
    assert left - {"run.lock"} == {"regions.geojson", "run.json", "made.json"}
    assert [o.status for o in run(small_project).outcomes] == ["done"]


def test_a_damaged_store_is_done_again(small_project, run):
    run(small_project)
    result = ResultStore(small_project.parent).of("1") / "result.json"
    result.write_text(result.read_text(encoding="utf-8")[:100], encoding="utf-8")
    assert [o.status for o in run(small_project).outcomes] == ["done"]
