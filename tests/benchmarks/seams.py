"""What noise that is bound to the slide is worth: how far overlapping patches disagree.

    python tests/benchmarks/seams.py [--model NAME|DIR] [--seed N] [--slides N] [--side PX]

Neighbouring patches of drawn slides overlap by half. Once each place of a slide has its own noise,
as in a run, and once each patch has the same noise wherever it lies. Over the cells that two
patches share and a run uses of both: the mean absolute difference of their class probabilities, the
share of cells whose class differs, and the first noise's figure as a share of the second's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from model import find_model, load_segmenter
from model.segmenter import Segmenter
from qupath_bridge.demo.drawing import draw_slide

BATCH = 8
Scores = dict[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Disagreement:
    """Of overlapping patches: mean absolute difference of probabilities; share of other classes."""

    difference: float
    other_class: float


def scores(model: Segmenter, pixels: np.ndarray, bound_to: str) -> dict[str, Scores]:
    """Return each head's float32 [K, h, w] of the patches at (x, y) of uint8 [H, W, 3].

    bound_to: what the noise is bound to, "slide" or "patch".
    """
    side = model.card.tile_m
    starts = [range(0, n - side + 1, side // 2) for n in pixels.shape[:2]]
    corners = [(x, y) for y, x in product(*starts)]
    found: dict[str, Scores] = {head: {} for head in model.heads}
    for first in range(0, len(corners), BATCH):
        some = corners[first : first + BATCH]
        tiles = np.stack([pixels[y : y + side, x : x + side] for x, y in some])
        origins = some if bound_to == "slide" else [(0, 0)] * len(some)
        for head, answers in model.probabilities(tiles, origins).items():
            found[head] |= dict(zip(some, answers, strict=True))
    return found


def shared(of: Scores, side_m: int, margin_m: int, cell_m: int) -> Iterator[np.ndarray]:
    """Yield what pairs of neighbours say of the cells they share, float32 [2, K, n]."""
    half, rim = side_m // 2 // cell_m, margin_m // cell_m
    for (x, y), one in of.items():
        right, below = of.get((x + side_m // 2, y)), of.get((x, y + side_m // 2))
        if right is not None:
            yield _pair(one[:, :, half:], right[:, :, :half], rim)
        if below is not None:
            yield _pair(one[:, half:], below[:, :half], rim)


def _pair(one: np.ndarray, other: np.ndarray, rim: int) -> np.ndarray:
    both = np.stack([one, other])[:, :, rim:-rim, rim:-rim]
    return both.reshape(*both.shape[:2], -1)


def disagreement(model: Segmenter, of: Scores) -> Disagreement:
    card = model.card
    one, other = np.concatenate(list(shared(of, card.tile_m, card.margin_m, card.cell_m)), axis=2)
    differs = one.argmax(axis=0) != other.argmax(axis=0)
    return Disagreement(float(np.abs(one - other).mean()), float(differs.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the shipped one")
    parser.add_argument("--seed", type=int, default=70, help="of the first slide")
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--side", type=int, default=768, help="of a slide, px")
    chosen = parser.parse_args()
    model = load_segmenter(find_model(chosen.model), device="cpu")
    measured: dict[tuple[str, str], list[Disagreement]] = {}
    for seed in range(chosen.seed, chosen.seed + chosen.slides):
        pixels = draw_slide(seed, chosen.side, chosen.side, coverage=1.0).pixels
        for bound_to in ("slide", "patch"):
            for head, of in scores(model, pixels, bound_to).items():
                measured.setdefault((head, bound_to), []).append(disagreement(model, of))
    card = model.card
    print(f"{card.name} {card.version}, {card.features}; {chosen.slides} slides, {chosen.side} px")
    print(f"{'head':12}  {'measure':11}  slide's noise  patch's noise  ratio  smaller on")
    for head, measure in product(model.heads, ("difference", "other_class")):
        slide, patch = (
            np.array([getattr(one, measure) for one in measured[head, bound_to]])
            for bound_to in ("slide", "patch")
        )
        ratio = f"{slide.mean() / patch.mean():.3f}" if patch.any() else "-"
        smaller = f"{(slide < patch).sum()} of {len(slide)} slides"
        figures = f"{slide.mean():13.5f}  {patch.mean():13.5f}  {ratio:>5}"
        print(f"{head:12}  {measure:11}  {figures}  {smaller}")


if __name__ == "__main__":
    main()
