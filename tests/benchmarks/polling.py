"""How long answers take while a job runs: 50 clients that poll, as many QuPaths would.

    python tests/benchmarks/polling.py [--clients 50] [--seconds 20] [--every 1.0]

Draws a slide, starts a real server with the shipped model, gives it a job that lasts, polls, and
prints the median, 95th percentile and slowest answer in milliseconds. All stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from server_process import Server, segment_body, serving, wait_until  # noqa: E402

from qupath_bridge.demo.drawing import draw_slide  # noqa: E402

SIDE = 2048


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        slide = _slide(Path(scratch) / "slide.tif")
        with serving(Path(scratch) / "home", "--root", scratch, "--device", "cpu") as server:
            body = segment_body(slide, (SIDE, SIDE), options={"regions": "slide", "overlap": 0.75})
            job = server.ask("POST", "/v1/jobs", body).json()["links"]["self"]
            wait_until(lambda: server.ask("GET", job).json()["stage"] == "tiles", 300, "tiles")
            seconds = _poll(server, job, options)
            still = server.ask("GET", job).json()
            server.ask("DELETE", job)
    at = np.percentile(np.array(seconds) * 1e3, [50, 95, 100])
    print(
        f"{options.clients} clients, each every {options.every} s, {len(seconds)} answers while"
        f" a job was {still['state']} ({still['tilesDone']} of {still['tilesTotal']} tiles):"
        f" median {at[0]:.1f} ms, 95 % {at[1]:.1f} ms, slowest {at[2]:.1f} ms"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two polls")
    return parser.parse_args()


def _slide(path: Path) -> Path:
    pixels = np.tile(draw_slide(1, 512, 512, coverage=1.0).pixels, (SIDE // 512, SIDE // 512, 1))
    per_cm = (2e4, 2e4)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=per_cm, resolutionunit=3
    )
    return path


def _poll(server: Server, job: str, options: argparse.Namespace) -> list[float]:
    """Return how long each answer took, in seconds."""
    end, taken = time.monotonic() + options.seconds, []

    def client(number: int) -> None:
        time.sleep(options.every * number / options.clients)
        while time.monotonic() < end:
            before = time.monotonic()
            assert server.ask("GET", job).status == 200
            taken.append(time.monotonic() - before)
            time.sleep(options.every)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(options.clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return taken


if __name__ == "__main__":
    main()
