"""The `demo` command: a project of our own making, run, and compared with its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qupath_bridge.demo.agreement import dice_per_class, mean_dice
from qupath_bridge.demo.drawing import GLAND_CLASSES, TISSUE_CLASSES
from qupath_bridge.demo.overlay import draw_overlay
from qupath_bridge.demo.project import DemoProject, make_demo_project, read_truth
from qupath_bridge.detections import Detection
from qupath_bridge.geometry import Region
from qupath_bridge.measurements import ClassArea
from qupath_bridge.pipeline import run_project
from qupath_bridge.progress import Reporter
from qupath_bridge.project import open_project
from qupath_bridge.regions import annotation_regions
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import open_slide
from qupath_bridge.store import ResultStore

HEAD_CLASSES: Mapping[str, Sequence[str]] = {"tissue": TISSUE_CLASSES, "glands": GLAND_CLASSES}
OVERLAY_SIDE_PX = 900
Say = Callable[[str], None]


def run_demo(
    folder: Path, seed: int, settings: RunSettings, reporter: Reporter, say: Say
) -> dict[str, dict[str, float]] | None:
    """Make the demo project, run on it and say how well that went.

    Returns each head's Dice per class against the truth; None if the run failed.

    Raises:
        ProjectError: the folder holds something else than a demo, or cannot be written.
    """
    reporter.say(f"drawing the slide of seed {seed} ...")
    demo = make_demo_project(folder, seed)
    report = run_project(demo.project_file, settings, reporter)
    if report.failed or report.interrupted:
        say(report.summary())
        return None
    store = ResultStore(demo.folder)
    detections = list(store.read_detections(demo.entry_id))
    regions = _regions(demo)
    say(class_area_table(store.read_class_areas()))
    agreement = _agreement(demo, detections, regions)
    say(dice_table(agreement))
    overlay = _write_overlay(demo, detections, regions)
    say(_what_next(demo, overlay))
    return agreement


def class_area_table(rows: Sequence[ClassArea]) -> str:
    """Return class areas as a table to read."""
    lines = [f"\n{'Region':<16}{'Head':<9}{'Class':<14}{'Area µm²':>12}{'Area %':>9}{'Objects':>9}"]
    for row in rows:
        lines.append(
            f"{row.region:<16.15}{row.head:<9.8}{row.class_name:<14.13}"
            f"{row.area_um2:>12,.0f}{row.percent:>9.2f}{row.objects:>9}"
        )
    return "\n".join(lines)


def dice_table(agreement: Mapping[str, Mapping[str, float]]) -> str:
    """Return Dice per head and class as a table to read; the means leave the background out."""
    lines = ["\nAgreement with the truth inside the regions (Dice)"]
    for head, dice in agreement.items():
        each = ", ".join(f"{name} {value:.3f}" for name, value in dice.items())
        lines.append(f"{head:<8} mean {mean_dice(dice):.3f}   ({each})")
    return "\n".join(lines)


def _regions(demo: DemoProject) -> list[Region]:
    project = open_project(demo.project_file, "portable")
    image = project.images()[0]
    if image.size_l0 is None:
        return []
    return annotation_regions(project.read_annotations(image), image.size_l0).regions


def _agreement(
    demo: DemoProject, detections: Sequence[Detection], regions: Sequence[Region]
) -> dict[str, dict[str, float]]:
    found = {head: [d for d in detections if d.head == head] for head in HEAD_CLASSES}
    return {
        head: dice_per_class(read_truth(demo.truth(head)), found[head], classes, regions)
        for head, classes in HEAD_CLASSES.items()
    }


def _write_overlay(
    demo: DemoProject, detections: Sequence[Detection], regions: Sequence[Region]
) -> Path:
    with open_slide(demo.slide) as slide:
        thumbnail = slide.thumbnail(OVERLAY_SIDE_PX)
        scale = slide.width / thumbnail.shape[1]
        by_head = {head: [d for d in detections if d.head == head] for head in HEAD_CLASSES}
        picture = draw_overlay(thumbnail, by_head, regions, scale, slide.mpp.x)
    path = demo.folder / "overlay.png"
    picture.save(path)
    return path


def _what_next(demo: DemoProject, overlay: Path) -> str:
    folder = demo.folder / "pathsegdiff" / demo.entry_id
    return (
        f"\nPicture: {overlay}\n"
        f"In QuPath: open {demo.project_file} (File > Project > Open project), open its image,\n"
        f"then File > Import objects from file: {folder / 'regions.geojson'}\n"
        f"and {folder / 'detections.geojson'}"
    )
