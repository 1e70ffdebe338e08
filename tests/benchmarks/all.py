"""Every benchmark that this machine can run, one after another; a table and a picture at the end.

    python tests/benchmarks/all.py --out DIR [--slide FILE] [--lazyslide PYTHON] [--only NAME]

Each is a ratio of ours to a floor or a peer that were measured side by side in one run. DIR gets
results.json, table.md, ratios.png, what each benchmark printed, and the slides that are drawn.
What was run before into the same DIR stays until it is run again, so --only renews one. --also FILE
shows the results.json of another machine too. What needs QuPath, a GPU or LazySlide is skipped
where they are not. Nothing else should run on the machine: the load when begun is told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measuring import ROOT
from records import Record, as_json, read_records
from summary import Result, draw, load, machine, table

HERE = Path(__file__).parent
Need = Callable[[argparse.Namespace], str | None]


def nothing(chosen: argparse.Namespace) -> str | None:
    return None


def qupath(chosen: argparse.Namespace) -> str | None:
    return None if os.environ.get("PAQUO_QUPATH_DIR") else "no QuPath: set PAQUO_QUPATH_DIR"


def gpu(chosen: argparse.Namespace) -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no GPU that torch can use"


def lazyslide(chosen: argparse.Namespace) -> str | None:
    if not chosen.lazyslide:
        return "no LazySlide: name the Python of its environment, --lazyslide PYTHON"
    look = "import importlib.metadata as m; m.version('lazyslide')"
    there = subprocess.run([chosen.lazyslide, "-c", look], capture_output=True, check=False)
    return "--lazyslide names a Python without LazySlide" if there.returncode else None


def dask(chosen: argparse.Namespace) -> str | None:
    return None if find_spec("distributed") else "no Dask: pip install distributed"


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder, what it is told, what it is told to be quick, and what it needs.

    script: its name, where it is not the benchmark's. `{out}`, `{slide}` and `{lazyslide}` stand
    for what all.py was told; an option with `{slide}` is left out where no slide was named.
    """

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    needs: Need = nothing
    script: str = ""


BENCHMARKS = (
    Benchmark("cluster", (), ("--images=2", "--side=512", "--repeat=1"), dask),
    Benchmark("head_fused", ("head_fused",), ("--quick",), script="adapted"),
    Benchmark("pipe", ("pipe", "--slide={slide}"), ("--quick",), script="adapted"),
    Benchmark("tracing", ("--rows",), ("--side=1024",)),
    Benchmark("area", ("--slides={out}/slides",), ("--repeat=1", "--sides", "10240", "20480")),
    Benchmark("memory", ("--slides={out}/slides",), ("--repeat=1", "--sides", "10240", "20480")),
    Benchmark("write_objects", (), ("--count=2000",), qupath),
    Benchmark(
        "lazyslide",
        ("--lazyslide={lazyslide}",),
        ("--repeat=1", "--blocks=16", "--sides", "1024", "2048"),
        lazyslide,
    ),
    Benchmark("gpu_rate", ("gpu_rate",), ("--quick",), gpu, "adapted"),
)


def run(benchmark: Benchmark, chosen: argparse.Namespace) -> Result:
    """Run a benchmark in a process of its own, unless something is missing."""
    script = HERE / f"{benchmark.script or benchmark.name}.py"
    missing = benchmark.needs(chosen)
    if missing:
        return Result(benchmark.name, f"skipped: {missing}")
    records, log = (chosen.out / f"{benchmark.name}.{kind}" for kind in ("jsonl", "log"))
    records.unlink(missing_ok=True)
    where, busy, began = machine(), load(), time.monotonic()
    told = _told(benchmark, chosen)
    status = _run(script, [*told, f"--records={records}"], log)
    return Result(
        benchmark.name,
        status,
        where,
        datetime.now(UTC).isoformat(timespec="seconds"),
        round(time.monotonic() - began, 1),
        busy,
        read_records(records),
    )


def _told(benchmark: Benchmark, chosen: argparse.Namespace) -> list[str]:
    given = {"out": chosen.out, "slide": chosen.slide, "lazyslide": chosen.lazyslide}
    options = benchmark.arguments + (benchmark.quick if chosen.quick else ())
    kept = [option for option in options if chosen.slide or "{slide}" not in option]
    return [option.format(**given) for option in kept]


def _run(script: Path, arguments: Sequence[str], log: Path) -> str:
    """Run a script, showing and keeping what it says; return its status."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    last = ""
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        ) as process,
    ):
        for line in process.stdout or ():
            print(line, end="", flush=True)
            kept.write(line)
            last = line.strip() or last
    return "done" if process.returncode == 0 else f"failed: {last}"


def read_results(file: Path) -> dict[str, Result]:
    """Return the results in a results.json; none where there is no such file."""
    if not file.exists():
        return {}
    return {raw["name"]: _result(raw) for raw in json.loads(file.read_text(encoding="utf-8"))}


def _result(raw: dict[str, Any]) -> Result:
    known = Record.__dataclass_fields__
    records = [Record(**{k: v for k, v in one.items() if k in known}) for one in raw["records"]]
    return Result(**raw | {"records": records})


def write_results(out: Path, results: dict[str, Result]) -> None:
    """Write results.json, table.md and ratios.png."""
    listed = [asdict(r) | {"records": [as_json(x) for x in r.records]} for r in results.values()]
    text = json.dumps(listed, indent=1, ensure_ascii=False)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(results), encoding="utf-8")
    draw(out / "ratios.png", results)


def main() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slide", type=Path, help="a real slide for pipe.py; else it draws one")
    parser.add_argument("--lazyslide", metavar="PYTHON", help="of an environment with LazySlide")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", default=[])
    parser.add_argument("--also", type=Path, metavar="FILE", help="results of another machine")
    parser.add_argument("--quick", action="store_true", help="small sizes: only to see it work")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = read_results(chosen.out / "results.json")
    for benchmark in BENCHMARKS:
        if not chosen.only or benchmark.name in chosen.only:
            print(f"== {benchmark.name}", flush=True)
            results[benchmark.name] = run(benchmark, chosen)
            print(results[benchmark.name].status, flush=True)
    if chosen.also:
        results |= {k: r for k, r in read_results(chosen.also).items() if r.status == "done"}
    write_results(chosen.out, {name: results[name] for name in names if name in results})
    print(f"\n{(chosen.out / 'table.md').read_text(encoding='utf-8')}")
    if any(result.status.startswith("failed") for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
