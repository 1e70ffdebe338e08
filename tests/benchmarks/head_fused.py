"""The head's projections at each block's own resolution, against upsampling and concatenating.

    python tests/benchmarks/head_fused.py [--side 64 128 256] [--repeat 5] [--width 48]

Both are given the maps of the published U-Net's decoder blocks for one patch of 256 px (channels at
side: 960 at 16, 576 at 32, 384 and 192 at 64), normalise them and give the same `--width` channels
at `--side`: the patch's own as Baranchuk et al. 2022 have it, 64 as the program's head has it.
Prints seconds of processor time, the most bytes allocated at once beyond the maps, how many times
less the projected way takes of each, and how far the results differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2]))

from model.head import Head

BLOCKS = ((960, 16), (576, 32), (384, 64), (192, 64))


def maps_of(patches: int = 1) -> list[Tensor]:
    """Return maps as the published U-Net's decoder blocks give them, random."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(patches, c, s, s, generator=generator) for c, s in BLOCKS]


def head_of(width: int) -> Head:
    """Return a head with normalisations that do something."""
    torch.manual_seed(0)
    head = Head([channels for channels, _ in BLOCKS], classes=6, width=width).eval()
    for norm in head.norms:
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return head.requires_grad_(False)


def projected(head: Head, maps: list[Tensor], side: int) -> Tensor:
    """Return the blocks' sum as the head makes it, float [B, width, side, side]."""
    total = None
    for feature, norm, project in zip(maps, head.norms, head.projections, strict=True):
        part = interpolate(project(norm(feature)), size=side, mode="bilinear")
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def concatenated(head: Head, maps: list[Tensor], side: int) -> Tensor:
    """Return the same of one convolution over the upsampled, concatenated blocks."""
    normed = [norm(feature) for feature, norm in zip(maps, head.norms, strict=True)]
    joined = torch.cat([interpolate(m, size=side, mode="bilinear") for m in normed], dim=1)
    kernel = torch.cat([project.weight for project in head.projections], dim=1)
    return conv2d(joined, kernel, sum(project.bias for project in head.projections))


def seconds(way: Callable[[], object], repeat: int) -> float:
    """Return the least processor time that a call takes."""
    taken = []
    for _ in range(repeat):
        begin = time.process_time()
        way()
        taken.append(time.process_time() - begin)
    return min(taken)


def most_bytes(way: Callable[[], object]) -> int:
    """Return the most bytes that a call has allocated at once, as torch's allocator tells."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        kept = way()
    held = most = 0
    for event in told.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    del kept
    return most


def head_ratio(side: int = 64, repeat: int = 3, width: int = 48) -> dict[str, Any]:
    """Return what each way takes for a patch: seconds, bytes, ratios, largest difference."""
    head, maps = head_of(width), maps_of()

    def ours() -> Tensor:
        return head.project(maps) if side == BLOCKS[-1][1] else projected(head, maps, side)

    def theirs() -> Tensor:
        return concatenated(head, maps, side)

    with torch.inference_mode():
        difference = (ours() - theirs()).abs().max().item()
        times = [seconds(way, repeat) for way in (ours, theirs)]
        held = [most_bytes(way) for way in (ours, theirs)]
    return {
        "name": f"head at {side} px",
        "ours_s": times[0],
        "theirs_s": times[1],
        "ratio": times[1] / times[0],
        "ours_bytes": held[0],
        "theirs_bytes": held[1],
        "bytes_ratio": held[1] / held[0],
        "difference": difference,
    }


def main() -> None:
    """Print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--width", type=int, default=48, help="channels that maps are projected to")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {chosen.width} channels; s, MiB; the other's / ours")
    for side in chosen.side:
        found = head_ratio(side, chosen.repeat, chosen.width)
        mib = [found[name] / 2**20 for name in ("ours_bytes", "theirs_bytes")]
        print(
            f"{found['name']:14} {found['ours_s']:7.4f} {found['theirs_s']:7.4f}"
            f" {found['ratio']:6.1f} x  {mib[0]:7.1f} {mib[1]:7.1f} {found['bytes_ratio']:6.1f} x"
            f"  differ by {found['difference']:.1e}"
        )


if __name__ == "__main__":
    main()
