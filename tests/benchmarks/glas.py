"""Few labels on real glands: heads on the shipped model against what else one could use.

    python tests/benchmarks/glas.py --glas DIR --out DIR [--vgg16 FILE] [--only NAME,NAME]

DIR is GlaS with its folders train and testA (research only: nothing trained here ships). Each
method learns from the same n of the 85 training images, drawn three times, and is scored on the 60
of testA. Results are kept in OUT/results.json run by run, so a run that was stopped goes on;
OUT/table.md is made of them, and OUT/worst shows the worst images of each method that saw all 85.
FILE are VGG16's convolutions as safetensors, `<i>.weight` and `<i>.bias`; without it that baseline
is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import max_pool2d, relu

from model.cache import FeatureCache, FeatureFile, PatchPlan
from model.card import FeatureSpec, ModelCard, read_card
from model.datasets.glas import read_glas
from model.evaluate import Predictor, evaluate, summarise
from model.feature_set import FeatureSet
from model.features import FeatureExtractor
from model.finetune import finetune, live_patches, start_afresh
from model.home import DEFAULT_MODEL, find_model
from model.labels import LabelledImage, LabelSet
from model.lessons import HeadTraining, Lessons
from model.measure import gland_reading
from model.overlays import draw_worst
from model.predict import HeadPredictor
from model.train import train_head
from model.weights import load_backbone

NUMBERS = (1, 2, 5, 10, 85)
DRAWS = 3
FEW, MANY = HeadTraining(steps=200), HeadTraining(steps=600)
MEASURES = ("image_dice", "dice", "mean_iou", "accuracy")
BLOCKS = (0, 1, 2)
STEM = (3, 4, 5)


@dataclass(frozen=True)
class Method:
    """What learns and is scored; `numbers` are those n at which it is tried."""

    name: str
    learn: Callable[[Sequence[LabelledImage], int], Predictor]
    numbers: tuple[int, ...] = NUMBERS


class Bench:
    """The shipped model, the images, and the features that all of its heads share."""

    def __init__(self, glas: Path, model: Path, out: Path) -> None:
        self.card = read_card(model)
        self.folder, self.out = model, out
        self.train = read_glas(glas, self.card.mpp, "train")
        self.test = read_glas(glas, self.card.mpp, "testA")
        self.cache = FeatureCache(out / "cache", limit_gib=60)
        self.plan = PatchPlan(self.card.tile_m, self.card.tile_m * 3 // 4, self.card.margin_m)

    @cached_property
    def conditioned(self) -> tuple[FeatureExtractor, str]:
        return self._extractor(self.card.features)

    @cached_property
    def unconditioned(self) -> tuple[FeatureExtractor, str]:
        return self._extractor(replace(self.card.features, conditioned=False))

    def _extractor(self, spec: FeatureSpec) -> tuple[FeatureExtractor, str]:
        card: ModelCard = replace(self.card, features=spec)
        backbone = load_backbone(self.folder, self.card)
        return FeatureExtractor(backbone, spec).eval(), card.backbone

    def frozen(self, maps: tuple[int, ...] | None, conditioned: bool = True) -> Any:
        """Return a learner of a head on some of the shipped model's features."""

        def learn(images: Sequence[LabelledImage], seed: int) -> Predictor:
            which = self.conditioned if conditioned else self.unconditioned
            return head_learner(*which, self.plan, self.cache, maps)(images, seed)

        return learn

    def tuned(self, afresh: bool) -> Any:
        """Return a learner of the U-Net with a head, from the diffusion weights or from none.

        Without the stem, to see what the diffusion taught. From none, all of the U-Net learns.
        """

        def learn(images: Sequence[LabelledImage], seed: int) -> Predictor:
            spec = replace(self.card.features, stem=None)
            extractor, digest = self._extractor(spec)
            settings = replace(settings_for(len(images)), seed=seed)
            patches = live_patches(extractor, images, self.plan)
            if afresh:
                start_afresh(extractor.backbone.unet, seed)
                extractor.backbone.unet.requires_grad_(True)
            frozen = head_learner(extractor, f"{digest}{afresh}{seed}", self.plan, self.cache)
            head = frozen(images, seed).head
            tuned = finetune(extractor, head, Lessons(patches, None, 2), settings)
            extractor.backbone.unet.requires_grad_(False)
            place = f"{digest} tuned {afresh} {seed} {len(images)}"
            return HeadPredictor(extractor, place, tuned.head, self.plan, self.cache)

        return learn


def settings_for(images: int) -> HeadTraining:
    """Return how long a head trains: no image is held out, so the last epoch counts."""
    return MANY if images > 10 else FEW


def head_learner(
    extractor: FeatureExtractor,
    digest: str,
    plan: PatchPlan,
    cache: FeatureCache,
    maps: tuple[int, ...] | None = None,
) -> Any:
    """Return what trains a head on cached features and gives it back as a predictor."""

    def learn(images: Sequence[LabelledImage], seed: int) -> HeadPredictor:
        stained = replace(plan, variants=3 if len(images) <= 10 else 1)
        files: list[FeatureFile] = []
        for image in images:
            files += cache.features_of(extractor, digest, image, stained)
        settings = replace(settings_for(len(images)), seed=seed)
        trained = train_head(Lessons(FeatureSet(files, maps), None, 2), settings)
        return HeadPredictor(extractor, digest, trained.head, plan, cache, maps)

    return learn


class Vgg16(nn.Module):
    """All of VGG16's convolutions as a stand-in for the model: the last of each of 4 stages."""

    taps = (3, 6, 9, 12)
    halved_before = (2, 4, 7, 10)

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(13):
            weight, bias = tensors[f"{i}.weight"], tensors[f"{i}.bias"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.layers.append(layer.requires_grad_(False))
        # What the cache asks of any extractor; these embeddings are used by nobody.
        self.backbone = SimpleNamespace(encoder=lambda pixels: pixels.mean(dim=(2, 3)))

    def forward(self, tiles: torch.Tensor, origins_m: object) -> list[torch.Tensor]:
        x = torch.nn.functional.avg_pool2d(tiles.permute(0, 3, 1, 2).float() / 255, 2)
        mean, std = x.new_tensor((0.485, 0.456, 0.406)), x.new_tensor((0.229, 0.224, 0.225))
        x = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        maps = []
        for index, layer in enumerate(self.layers):
            x = relu(layer(max_pool2d(x, 2) if index in self.halved_before else x))
            if index in self.taps:
                maps.append(x)
        return maps


def random_forest(images: Sequence[LabelledImage], seed: int) -> Predictor:
    """Return a random forest on a Gaussian scale-space at 2 um, as QuPath's pixel classifier."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    rows, truths = [], []
    for image in images:
        read = image.read()
        features, codes = scale_space(read.pixels), read.codes[2::4, 2::4]
        height, width = (min(a, b) for a, b in zip(features.shape[:2], codes.shape, strict=True))
        features = features[:height, :width].reshape(height * width, -1)
        chosen = rng.permutation(len(features))[: max(4000, 200_000 // len(images))]
        rows.append(features[chosen])
        truths.append(codes[:height, :width].ravel()[chosen])
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=seed)
    forest.fit(np.concatenate(rows), np.concatenate(truths))

    def predict(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
        features = scale_space(pixels)
        flat = forest.predict_proba(features.reshape(-1, features.shape[-1]))
        cells = flat.T.reshape(len(flat.T), *features.shape[:2]).astype(np.float32)
        scaled = torch.nn.functional.interpolate(
            torch.from_numpy(cells)[None], size=pixels.shape[:2], mode="bilinear"
        )
        return scaled[0].numpy()

    return predict


def scale_space(pixels: np.ndarray) -> np.ndarray:
    """Return float32 [H/4, W/4, F]: colours and stains, smoothed, with edges, blobs and ridges."""
    from scipy import ndimage
    from skimage.color import rgb2hed

    height, width = (n // 4 for n in pixels.shape[:2])
    blocks = pixels[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3)
    small = blocks.mean(axis=(1, 3)).astype(np.float32) / 255
    planes = [*np.moveaxis(small, 2, 0), *np.moveaxis(rgb2hed(small)[..., :2], 2, 0)]
    maps = []
    for plane in planes:
        for sigma in (1, 2, 4, 8):
            maps.append(ndimage.gaussian_filter(plane, sigma))
            maps.append(ndimage.gaussian_gradient_magnitude(plane, sigma))
            maps += hessian_eigenvalues(plane, sigma)
    return np.stack(maps, axis=-1).astype(np.float32)


def hessian_eigenvalues(plane: np.ndarray, sigma: float) -> list[np.ndarray]:
    """Return the larger and the smaller eigenvalue of each place's second derivatives."""
    from scipy import ndimage

    yy, xx, xy = (ndimage.gaussian_filter(plane, sigma, order=o) for o in ((2, 0), (0, 2), (1, 1)))
    middle, half = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return [middle + half, middle - half]


def methods_of(bench: Bench, vgg16: Path | None) -> list[Method]:
    """Return what is compared, the shipped model first."""
    few = (10, 85)
    methods = [
        Method("shipped model, frozen", bench.frozen(None)),
        Method("random forest, scale-space", random_forest),
        Method("stem alone", bench.frozen(STEM), few),
        Method("diffusion features alone", bench.frozen(BLOCKS), few),
        Method("the same, unconditioned", bench.frozen(BLOCKS, conditioned=False), few),
        Method("the same, decoder fine-tuned", bench.tuned(afresh=False), few),
        Method("the same U-Net from scratch", bench.tuned(afresh=True), few),
    ]
    if vgg16:
        network = Vgg16(load_file(vgg16)).eval()
        learner = head_learner(network, "vgg16", bench.plan, bench.cache)  # type: ignore[arg-type]
        methods.insert(2, Method("VGG16, frozen, same head", learner))
    return methods


def draws_of(n: int, images: Sequence[LabelledImage], draw: int) -> list[LabelledImage]:
    """Return n images, the same for every method."""
    chosen = np.random.default_rng([n, draw]).permutation(len(images))[:n]
    return [images[i] for i in sorted(chosen)]


def run(bench: Bench, method: Method, n: int, draw: int) -> dict[str, Any]:
    """Return one run's scores on testA."""
    began = time.monotonic()
    predictor = method.learn(draws_of(n, bench.train.images, draw), draw)
    learned = time.monotonic() - began
    test: LabelSet = bench.test
    objects = gland_reading(test.classes, bench.card.mpp) if n == 85 else None
    evaluation = evaluate(predictor, test, objects)
    if n == 85:
        place = bench.out / "worst" / re.sub(r"\W+", "-", method.name)
        draw_worst(place, evaluation, predictor, test, glands=objects)
    summary = summarise(evaluation)
    scores = {
        "dice": float(summary.per_class["dice"].value[1]),
        "image_dice": float(summary.per_class["image_dice"].value[1]),
        "mean_iou": float(summary.overall["mean_iou"].value),
        "accuracy": float(summary.overall["accuracy"].value),
        "image_dice_low": float(summary.per_class["image_dice"].low[1]),
        "image_dice_high": float(summary.per_class["image_dice"].high[1]),
    }
    glands = {name: float(interval.value) for name, interval in summary.glands.items()}
    return {
        "method": method.name,
        "n": n,
        "draw": draw,
        **{k: round(v, 4) for k, v in (scores | glands).items()},
        "seconds_learning": round(learned),
        "seconds": round(time.monotonic() - began),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table: mean over draws, lowest to highest in brackets."""
    names = list(dict.fromkeys(r["method"] for r in results))
    lines = []
    for measure in ("dice", "mean_iou"):
        lines += [f"| {measure} | " + " | ".join(f"n = {n}" for n in NUMBERS) + " |"]
        lines += ["|---" * (len(NUMBERS) + 1) + "|"]
        for name in names:
            cells = [
                _cell([r for r in results if (r["method"], r["n"]) == (name, n)], measure)
                for n in NUMBERS
            ]
            lines += [f"| {name} | " + " | ".join(cells) + " |"]
        lines += [""]
    return "\n".join(lines)


def _cell(runs: Sequence[dict[str, Any]], measure: str) -> str:
    if not runs:
        return "-"
    values = [r[measure] for r in runs]
    spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--glas", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vgg16", type=Path)
    parser.add_argument("--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--only", help="parts of methods' names, comma-separated")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each n below 85")
    parser.add_argument("--numbers", help="only these n, comma-separated")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.glas, find_model(arguments.model), arguments.out)
    kept = arguments.out / "results.json"
    wanted = [int(n) for n in arguments.numbers.split(",")] if arguments.numbers else NUMBERS
    for method in methods_of(bench, arguments.vgg16):
        if arguments.only and not any(p in method.name for p in arguments.only.split(",")):
            continue
        for n in (n for n in method.numbers if n in wanted):
            for draw in range(arguments.draws if n < 85 else 1):
                results = json.loads(kept.read_text()) if kept.exists() else []
                if any((r["method"], r["n"], r["draw"]) == (method.name, n, draw) for r in results):
                    continue
                row = run(bench, method, n, draw)
                results = json.loads(kept.read_text()) if kept.exists() else []
                kept.write_text(json.dumps([*results, row], indent=1))
                (arguments.out / "table.md").write_text(table([*results, row]))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
