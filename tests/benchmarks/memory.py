"""What a slide takes of memory: from 10,240 to 81,920 px a side, mostly glass.

    python tests/benchmarks/memory.py [--sides PX ...] [--repeat N] [--slides DIR]

The runs of area.py, each a process of its own: the most it held, against that of the first side,
which may grow by less than a tenth; and what of it came on top of what was held with the model
loaded, against 3 GiB.
"""

from __future__ import annotations

from area import least, options
from records import Record, tell

BOUND_MIB = 3 * 1024


def main() -> None:
    chosen = options(__doc__, repeat=1)
    runs = least(chosen.sides, chosen.repeat, chosen.slides)
    first, *others = runs
    for side in others:
        record = Record(
            "memory",
            f"most held, {side} px",
            runs[side]["peak_mib"],
            runs[first]["peak_mib"],
            f"{first} px",
            "MiB",
            at_most=1.1,
            repeats=chosen.repeat,
            size_px=side,
            other_px=first,
        )
        tell(record, chosen.records)
    last = others[-1] if others else first
    beyond = runs[last]["peak_mib"] - runs[last]["loaded_mib"]
    what = f"most held beyond the model, {last} px"
    bound = Record(
        "memory", what, beyond, BOUND_MIB, "3 GiB", "MiB", at_most=1.0, repeats=chosen.repeat
    )
    tell(bound, chosen.records)


if __name__ == "__main__":
    main()
