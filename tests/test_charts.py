from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.charts import Dot, draw_bars, draw_confusion, draw_dots, draw_learning_curves
from model.errors import ModelError
from model.metrics import Interval

CURVE = "epoch\ttrain_loss\tvalidation_loss\tmean_dice\n1\t1.2\t1.3\t0.4\n2\t0.9\t\t0.6\n"


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def test_a_confusion_of_other_counts_looks_otherwise(tmp_path):
    for name, counts in (("a", [[9, 1], [2, 8]]), ("b", [[1, 9], [2, 8]]), ("c", [[0, 0], [2, 8]])):
        draw_confusion(tmp_path / name, np.array(counts), ["Stroma", "Tumor"])
    pictures = [picture(tmp_path / name) for name in "abc"]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    assert min(pictures[0].shape[:2]) >= 600


def test_what_is_undefined_has_no_bar(tmp_path):
    whole = Interval(np.array([0.9, 0.8]), np.array([0.8, 0.7]), np.array([1.0, 0.9]))
    partly = Interval(*(np.array([v, np.nan]) for v in (0.9, 0.8, 1.0)))
    draw_bars(tmp_path / "whole", ["a", "b"], {"Dice": whole})
    draw_bars(tmp_path / "partly", ["a", "b"], {"Dice": partly})
    blue = [
        (picture(tmp_path / n) == (0, 0x72, 0xB2)).all(axis=-1).sum() for n in ("whole", "partly")
    ]
    assert 0 < blue[1] < 0.6 * blue[0]


def test_a_learning_curve_with_gaps_is_drawn(tmp_path):
    (tmp_path / "curve.tsv").write_text(CURVE, encoding="utf-8")
    draw_learning_curves(tmp_path / "curve.tsv", tmp_path / "curve.png")
    losses_and_scores = picture(tmp_path / "curve.png").shape[1]
    only_losses = "\n".join("\t".join(row.split("\t")[:2]) for row in CURVE.splitlines())
    (tmp_path / "curve.tsv").write_text(only_losses, encoding="utf-8")
    draw_learning_curves(tmp_path / "curve.tsv", tmp_path / "curve.png")
    assert picture(tmp_path / "curve.png").shape[1] < losses_and_scores


@pytest.mark.parametrize("text", ["", "step\tloss\n1\t2\n", "epoch\tloss\n"])
def test_a_table_without_a_curve_is_said(tmp_path, text):
    (tmp_path / "curve.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="needs a column epoch and a row"):
        draw_learning_curves(tmp_path / "curve.tsv", tmp_path / "curve.png")


def test_dots_have_a_panel_each_and_a_colour_per_group(tmp_path):
    def dots(panels: int) -> list[Dot]:
        return [
            Dot(f"blocks {p}", f"{t}", group, 0.7 + 0.01 * p, 0.68, 0.75)
            for p in range(panels)
            for t in (50, 250)
            for group in ("conditioned", "unconditioned")
        ]

    for panels in (1, 4):
        draw_dots(tmp_path / f"{panels}", dots(panels), "timestep", "mean Dice")
    assert picture(tmp_path / "4").shape[1] > picture(tmp_path / "1").shape[1]
    shown = {tuple(c) for c in picture(tmp_path / "1").reshape(-1, 3).tolist()}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= shown


def test_a_legend_of_many_groups_is_not_cut_and_knows_groups_of_any_panel(tmp_path):
    groups = [f"blocks {b}, {c}" for b in ("1", "0,1,2") for c in ("conditioned", "unconditioned")]
    dots = [Dot("with the stem", "stem alone", "stem", 0.7, 0.68, 0.75)]
    dots += [Dot("without the stem", "50", group, 0.5, 0.4, 0.6) for group in groups]
    draw_dots(tmp_path / "many", dots, "timestep", "mean Dice")
    seen = picture(tmp_path / "many")
    assert (seen[:, :3] == 255).all()
    assert (seen[:, -3:] == 255).all()
    below = {tuple(c) for c in seen[int(len(seen) * 0.78) :].reshape(-1, 3).tolist()}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)} <= below
