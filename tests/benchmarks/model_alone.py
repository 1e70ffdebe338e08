"""The model alone: processor time per patch of a whole pass, and of what a segmenter runs.

    python tests/benchmarks/model_alone.py [--model NAME|DIR] [--batch 4] [--repeat 5]

Each way scores the same patches from memory with every head, in turns, so that all meet the same
machine: the networks run whole with hooks on the tapped blocks; the networks as they are loaded for
training; a segmenter in float32; one in bf16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model import find_model, load_segmenter, read_card
from model.autoencoder import to_signed
from model.features import FeatureExtractor
from model.head import Head
from model.segmenter import Segmenter
from model.weights import load_backbone, load_head
from qupath_bridge.demo.drawing import draw_slide

Heads = dict[str, Head]


def drawn_tiles(count: int, side: int = 256, seed: int = 5) -> np.ndarray:
    """Return drawn tissue, uint8 [count, side, side, 3]."""
    across = int(np.ceil(count**0.5))
    pixels = draw_slide(seed, across * side, across * side, coverage=1.0).pixels
    corners = [(x * side, y * side) for y in range(across) for x in range(across)][:count]
    return np.stack([pixels[y : y + side, x : x + side] for x, y in corners])


def model_alone(segmenter: Segmenter, tiles: np.ndarray, batch: int = 0) -> float:
    """Return the wall time of a segmenter on tiles from memory, s, in batches of its own size."""
    size = batch or segmenter.batch_size
    batches = [
        (start, tiles[start : start + size], [(128 * i, 0) for i in range(start, start + size)])
        for start in range(0, len(tiles), size)
    ]
    batches = [(key, some, origins[: len(some)]) for key, some, origins in batches]
    begin = time.perf_counter()
    for _ in segmenter.stream(batches):
        pass
    return time.perf_counter() - begin


def loaded(folder: Path) -> tuple[FeatureExtractor, Heads]:
    """Return networks as they are loaded for training."""
    card = read_card(folder)
    extractor = FeatureExtractor(load_backbone(folder, card), card.features).eval()
    return extractor, {name: load_head(folder, card, name) for name in card.choose_heads(None)}


@torch.inference_mode()
def as_loaded(extractor: FeatureExtractor, heads: Heads, tiles: np.ndarray) -> list[Tensor]:
    """Return the heads' probabilities of the networks as they are for training."""
    features = extractor(torch.from_numpy(tiles), [(128 * i, 0) for i in range(len(tiles))])
    return [head(features).softmax(dim=1) for head in heads.values()]


@torch.inference_mode()
def whole_pass(extractor: FeatureExtractor, heads: Heads, tiles: np.ndarray) -> list[Tensor]:
    """Return the same while every network runs to its end, the batch at once."""
    backbone, spec, given = extractor.backbone, extractor.spec, torch.from_numpy(tiles)
    pixels = to_signed(given)
    tokens = backbone.encoder.network(pixels, interpolate_pos_encoding=True).last_hidden_state
    condition = backbone.conditioner(normalize(tokens[:, 0], dim=-1))
    encoded = backbone.autoencoder.network.encode(pixels)
    latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    places = [(128 * i, 0) for i in range(len(tiles))]
    noise = torch.from_numpy(extractor.noise(places, *tiles.shape[1:3]))[:, 0]
    noised = extractor._noised(latent * backbone.autoencoder.scale, noise, spec.timesteps[0])
    taken: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda m, a, output, index=index: taken.update({index: output}))
        for index, block in enumerate(backbone.unet.up_blocks)
    ]
    backbone.unet(noised, spec.timesteps[0], encoder_hidden_states=condition)
    for hook in hooks:
        hook.remove()
    stem = backbone.stem(given) if backbone.stem is not None and spec.stem is not None else []
    features = [*(taken[block] for block in spec.up_blocks), *stem]
    return [head(features).softmax(dim=1) for head in heads.values()]


def compare(folder: Path, batch: int, repeat: int) -> dict[str, float]:
    """Return the least processor time per patch of each way, s."""
    tiles = drawn_tiles(batch, read_card(folder).tile_m)
    places = [(128 * i, 0) for i in range(batch)]
    networks = loaded(folder)
    networks[0].spec = replace(networks[0].spec, timesteps=networks[0].spec.timesteps[:1])
    exact, low = (load_segmenter(folder, device="cpu", precision=p) for p in ("float32", "bf16"))
    ways: dict[str, Callable[[], object]] = {
        "whole pass": lambda: whole_pass(*networks, tiles),
        "as loaded": lambda: as_loaded(*networks, tiles),
        "float32": lambda: exact.probabilities(tiles, places),
        "bf16": lambda: low.probabilities(tiles, places),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat + 1):  # the first makes everything warm
        for name, way in ways.items():
            begin = time.process_time()
            way()
            taken[name].append(time.process_time() - begin)
    return {name: min(times[1:]) / batch for name, times in taken.items()}


def main() -> None:
    """Print milliseconds per patch, and what share of a whole pass each is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the shipped one")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    found = compare(find_model(chosen.model), chosen.batch, chosen.repeat)
    print(f"{torch.get_num_threads()} threads, batches of {chosen.batch}")
    for name, taken in found.items():
        print(f"{name:11} {taken * 1e3:7.1f} ms/patch  {taken / found['whole pass']:.3f}")


if __name__ == "__main__":
    main()
