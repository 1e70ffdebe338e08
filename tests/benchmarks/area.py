"""What a slide costs per area: from 10,240 to 81,920 px a side, mostly glass.

    python tests/benchmarks/area.py [--sides PX ...] [--repeat N] [--slides DIR]

The slides are those of sparse_slide.py, as much tissue per area on each; the network costs next to
nothing. Wall seconds from opening the file to the GeoJSON, the search for tissue included, a
process for each run, the sides taking turns. Each side's cost per mm2 against that of the first: 1
where it is linear. The slides, half a gigabyte, are kept in DIR if one is named.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measuring import child
from records import Record, records_option, tell
from sparse_slide import MPP, PERIOD, write_sparse_slide

RUN = Path(__file__).parent / "sparse_run.py"
SIDES = [2 * PERIOD, 4 * PERIOD, 8 * PERIOD, 16 * PERIOD]


def options(description: str, repeat: int) -> argparse.Namespace:
    """Return what area.py and memory.py are told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--slides", type=Path, metavar="DIR", help="where slides are kept")
    records_option(parser)
    return parser.parse_args()


def least(sides: list[int], repeats: int, folder: Path | None) -> dict[int, dict[str, float]]:
    """Return what runs of each side tell, the least of each number."""
    with tempfile.TemporaryDirectory() as scratch:
        kept = folder or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        slides = {n: write_sparse_slide(kept / f"sparse-{n}.tif", n) for n in sides}
        told: dict[int, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(repeats):
            for side, path in slides.items():
                told[side].append(child(RUN, path))
                print(f"  {side} px: {told[side][-1]}", flush=True)
    return {
        side: {key: min(r[key] for r in runs) for key in runs[0]} for side, runs in told.items()
    }


def main() -> None:
    chosen = options(__doc__, repeat=2)
    runs = least(chosen.sides, chosen.repeat, chosen.slides)
    mm2 = {side: (side * MPP / 1000) ** 2 for side in runs}
    first, *others = runs
    for side in others:
        record = Record(
            "area",
            f"cost per area, {side} px ({runs[side]['tiles']:.0f} tiles)",
            runs[side]["seconds"] / mm2[side],
            runs[first]["seconds"] / mm2[first],
            f"{first} px",
            "s/mm2",
            at_most=1.1,
            repeats=chosen.repeat,
            size_px=side,
            other_px=first,
        )
        tell(record, chosen.records)


if __name__ == "__main__":
    main()
