"""How the benchmarks measure: ways that take turns, peaks of memory, children that tell."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def least_seconds(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the least seconds of each way; they take turns, so that all see the same machine.

    clock: `time.process_time` where other programs share the cores and one thread works.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            gc.collect()
            begin = clock()
            way()
            taken[name].append(clock() - begin)
    return {name: min(times) for name, times in taken.items()}


def wall_and_cpu(way: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds that a call takes, all threads of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mib() -> float:
    """Return the most memory that this process has held, MiB.

    On Linux not as `getrusage` tells it, which counts what a parent held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def forget_peak() -> None:
    """Let the most memory held be what is held now; only Linux can."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def child(script: Path, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    """Run a script in a process of its own; return the JSON object that is its last line.

    This checkout is what it imports.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    done = subprocess.run(
        [python, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(f"{script.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
