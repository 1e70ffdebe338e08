"""Is it worth annotating what `suggest` picks? Five more images of GlaS, picked or drawn.

    python tests/benchmarks/glas_suggest.py --glas DIR --out DIR [--draws N]

A head learns from five images drawn at random; five more are then picked from the other 80 as
`suggest` picks squares (an image's uncertainty is the mean over its patches, its embedding theirs),
or drawn at random; a head of the ten is scored on testA. Kept in OUT/suggest.json run by run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glas import Bench, draws_of
from torch.nn.functional import normalize

from model.evaluate import evaluate, summarise
from model.feature_set import FeatureSet
from model.home import DEFAULT_MODEL, find_model
from model.labels import LabelledImage
from model.novelty import novelty
from model.predict import HeadPredictor
from model.selection import Candidates, choose
from qupath_bridge.blending import normalised_entropy

FIRST, MORE = 5, 5


def picked(bench: Bench, head: HeadPredictor, labelled: Sequence[LabelledImage]) -> list[int]:
    """Return which images of the training set to annotate next, by number."""
    names = {image.name for image in labelled}
    others = [i for i, image in enumerate(bench.train.images) if image.name not in names]
    looked_at = [_looked_at(bench, head, bench.train.images[i]) for i in others]
    known = np.concatenate([_embeddings(bench, image) for image in labelled])
    embedding = np.stack([mean for _, mean, _ in looked_at])
    candidates = Candidates(
        # As one slide with all of them far apart: each may be taken.
        image=np.zeros(len(others), np.int64),
        place=np.stack([np.arange(len(others)) * 1e6, np.zeros(len(others))], axis=1),
        uncertainty=np.array([entropy for entropy, _, _ in looked_at]),
        novelty=np.array([novelty(each, known).mean() for _, _, each in looked_at]),
        embedding=embedding,
    )
    return [others[row] for row in choose(candidates, MORE)]


def _looked_at(
    bench: Bench, head: HeadPredictor, image: LabelledImage
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return an image's mean entropy, the mean of its patches' embeddings, and those [N, D]."""
    file = bench.cache.features_of(*bench.conditioned, image, bench.plan)[0]
    patches = FeatureSet([file])
    with torch.inference_mode():
        entropies = [
            normalised_entropy(head.head(patches.batch([i])[0]).softmax(1)[0].numpy()).mean()
            for i in range(len(patches))
        ]
    each = normalize(file.embeddings, dim=1)
    return float(np.mean(entropies)), normalize(each.mean(0), dim=0).numpy(), each.numpy()


def _embeddings(bench: Bench, image: LabelledImage) -> np.ndarray:
    file = bench.cache.features_of(*bench.conditioned, image, bench.plan)[0]
    return normalize(file.embeddings, dim=1).numpy()


def run(bench: Bench, draw: int) -> list[dict[str, Any]]:
    """Return the scores of one draw: of the five, of five more picked, of five more drawn."""
    learn = bench.frozen(None)
    first = draws_of(FIRST, bench.train.images, draw)
    start = learn(first, draw)
    names = {image.name for image in first}
    rng = np.random.default_rng([FIRST, MORE, draw])
    rest = [i for i, image in enumerate(bench.train.images) if image.name not in names]
    at_random = rng.permutation(rest)[:MORE].tolist()
    rows = [_row(bench, start, "first five", draw)]
    for how, more in (("suggested", picked(bench, start, first)), ("random", at_random)):
        ten = [*first, *(bench.train.images[i] for i in more)]
        rows.append(_row(bench, learn(ten, draw), how, draw))
    return rows


def _row(bench: Bench, predictor: HeadPredictor, how: str, draw: int) -> dict[str, Any]:
    summary = summarise(evaluate(predictor, bench.test))
    row = {
        "how": how,
        "draw": draw,
        "dice": round(float(summary.per_class["dice"].value[1]), 4),
        "mean_iou": round(float(summary.overall["mean_iou"].value), 4),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--glas", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.glas, find_model(arguments.model), arguments.out)
    kept = arguments.out / "suggest.json"
    results = json.loads(kept.read_text()) if kept.exists() else []
    done = {row["draw"] for row in results}
    for draw in (d for d in range(arguments.draws) if d not in done):
        results += run(bench, draw)
        kept.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
