"""A detection for tests."""

from __future__ import annotations

from shapely.geometry import Polygon, box

from qupath_bridge.detections import Detection, detection_id

HOLED = box(10.25, 20.5, 90.01, 70.07).difference(box(30, 30, 40.4, 40.6))


def detection(outline: Polygon = HOLED, name: str = "Tumor", region_id: str = "r-1") -> Detection:
    return Detection(
        id=detection_id("tissue", region_id, name.encode() + outline.wkb),
        head="tissue",
        region_id=region_id,
        class_name=name,
        color=(200, 0, 0),
        outline_l0=outline,
        area_um2=outline.area * 0.2521 * 0.2533,
        mean_probability=0.871234,
        mean_entropy=0.312345,
    )
