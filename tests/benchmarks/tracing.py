"""What tracing takes: in bands, the whole map at once, and by rasterio; memory against height.

    python tests/benchmarks/tracing.py [--side CELLS] [--width CELLS] [--rows N ...] [--repeat N]

The map is drawn: five classes in blobs with specks, the region an ellipse in it. Times are of this
process alone (CPU seconds), the ways one after another, again and again, the least of each. Bands
and the whole must give the same polygons to the last bit.
rasterio: its sieve for small components, its polygons, then simplified together and cut.
Memory: one process for each height, the most it held beyond what it held before the first band;
the objects are counted as they come and let go. Share: how much of the map has tissue, in a column
of ellipses. Memory is read where Linux tells it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio.features
import shapely
from measuring import forget_peak, least_seconds, peak_mib
from records import Record, records_option, tell
from scipy import ndimage
from shapely.affinity import scale
from shapely.geometry import Point
from shapely.geometry.base import BaseGeometry

from qupath_bridge.classmap import NODATA, STEPS, ClassMap, MapFrame, stacked
from qupath_bridge.polygons import PolygonSettings, Tracer, trace, trace_bands

MPP, CELL_M = 0.5, 2
BAND = 112  # rows: a row of tiles of 256 px that overlap by half, two rims of 16 px off
BLOCK = 1024  # rows, drawn once and repeated
SETTINGS = PolygonSettings()


def drawn_block(width: int) -> np.ndarray:
    """Return blobs of five classes with specks, uint8 [BLOCK, width], that join at all sides."""
    random = np.random.default_rng(0)
    noise = (random.standard_normal((BLOCK, width), np.float32) for _ in range(5))
    scores = [ndimage.gaussian_filter(layer, 6, mode="wrap") for layer in noise]
    codes = np.stack(scores).argmax(axis=0).astype(np.uint8)
    specks = random.random(codes.shape) < 0.01
    codes[specks] = random.integers(0, 5, specks.sum())
    return codes


def bands_of(block: np.ndarray, frame: MapFrame) -> Iterator[ClassMap]:
    """Yield a map's bands: the block again and again, moved sideways each time."""
    for top in range(0, frame.height, BAND):
        rows = np.arange(top, min(top + BAND, frame.height))
        codes = np.concatenate(
            [np.roll(block[row % BLOCK], 97 * (row // BLOCK))[None] for row in rows]
        )
        probability = ((0.5 + codes / 10) * STEPS).astype(np.uint16)
        layers = codes, probability, STEPS - probability
        yield ClassMap(*layers, frame.x_m, frame.y_m + top * CELL_M, CELL_M)


def tissue(width: int, height: int, share: float) -> BaseGeometry:
    """Return ellipses below one another, in model pixels, that cover about a share of a map."""
    across, count = share / (np.pi / 4), max(round(height / width), 1)
    tall = height / count
    parts = [
        scale(
            Point(width * CELL_M / 2, (i + 0.5) * tall * CELL_M).buffer(1, quad_segs=64),
            width * CELL_M / 2 * min(across, 1) - 8,
            tall * CELL_M / 2 - 8,
        )
        for i in range(count)
    ]
    return shapely.union_all(parts)


def by_rasterio(class_map: ClassMap, region: BaseGeometry) -> int:
    """Return how many polygons rasterio makes of a map, simplified and cut to a region."""
    inside = rasterio.features.rasterize(
        [region], class_map.codes.shape, transform=rasterio.Affine.scale(CELL_M), dtype=np.uint8
    )
    codes = np.where(inside == 1, class_map.codes, np.uint8(NODATA))
    smallest = round(SETTINGS.min_object_um2 / (MPP * CELL_M) ** 2)
    codes = rasterio.features.sieve(codes, smallest, mask=inside, connectivity=4)
    found = rasterio.features.shapes(
        codes, mask=inside == 1, transform=rasterio.Affine.scale(CELL_M)
    )
    polygons = np.array([shapely.geometry.shape(outline) for outline, _ in found])
    polygons = shapely.coverage_simplify(polygons, SETTINGS.simplify_um / MPP)  # in model pixels
    return len(shapely.intersection(polygons, region))


def compare(side: int, repeat: int, records: Path | None) -> None:
    """Tell what each way takes for a square map."""
    frame, region = MapFrame(0, 0, CELL_M, side, side), tissue(side, side, 1)
    bands = list(bands_of(drawn_block(side), frame))
    whole = stacked(bands)
    at_once = trace(whole, region, MPP, SETTINGS)
    if trace_bands(bands, frame, region, MPP, SETTINGS) != at_once:
        sys.exit("the polygons traced in bands are not those traced at once")
    ways: dict[str, Callable[[], object]] = {
        "bands": lambda: trace_bands(bands, frame, region, MPP, SETTINGS),
        "whole": lambda: trace(whole, region, MPP, SETTINGS),
        "rasterio": lambda: by_rasterio(whole, region),
    }
    least = least_seconds(ways, repeat, time.process_time)
    what = f"{side} x {side} cells in bands, {len(at_once)} objects"
    for other, name, at_most in (
        ("whole", "tracing them at once (the same polygons)", 1.1),
        ("rasterio", "rasterio on the whole", 1.0),
    ):
        ours, theirs = least["bands"], least[other]
        record = Record(
            "tracing", what, ours, theirs, name, "CPU s", at_most=at_most, repeats=repeat
        )
        tell(record, records)


def traced_rows(width: int, rows: int, share: float) -> str:
    """Return rows, objects, seconds and the most memory held, as a line."""
    block, frame = drawn_block(width), MapFrame(0, 0, CELL_M, rows, width)
    region = tissue(width, rows, share)
    trace(next(bands_of(block, frame)), region, MPP, SETTINGS)  # what is loaded once
    forget_peak()
    held, begin = peak_mib(), time.process_time()
    tracer = Tracer(frame, region, MPP, SETTINGS)
    for band in bands_of(block, frame):
        tracer.add(band)
    gathered = peak_mib()
    objects = sum(1 for _ in tracer.objects())
    taken = time.process_time() - begin
    return (
        f"{rows:7} {share:6.2f} {objects:9} {taken:8.1f} s"
        f" {gathered - held:10.0f} {peak_mib() - held:8.0f} MiB"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="*", default=[5000, 10000, 20000, 40000])
    parser.add_argument("--share", type=float, nargs="*", default=[1.0, 0.1])
    parser.add_argument("--repeat", type=int, default=3)
    records_option(parser)
    parser.add_argument("--one", action="store_true", help="one height and share, here")
    chosen = parser.parse_args()
    if chosen.one:
        print(traced_rows(chosen.width, chosen.rows[0], chosen.share[0]))
        return
    if chosen.side:
        compare(chosen.side, chosen.repeat, chosen.records)
    if not chosen.rows:
        return
    print(f"{chosen.width} cells wide\n   rows  share   objects     time   gathering     peak")
    for share in chosen.share:
        for rows in chosen.rows:
            size = ("--width", str(chosen.width), "--rows", str(rows), "--share", str(share))
            subprocess.run([sys.executable, __file__, "--one", *size], check=True)


if __name__ == "__main__":
    main()
