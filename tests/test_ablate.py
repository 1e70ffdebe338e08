"""The paper's ablation on a tiny model: what is tried, what is shared, what is written."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import SPEC, two_textures

from model import ModelError, read_card
from model.ablate import COLUMNS, Grid, Row, Trial, run_ablation, trials
from model.card import write_card
from model.feature_choice import numbers
from model.home import models_home
from model.labels import LabelSet
from model.lessons import HeadTraining

pytestmark = pytest.mark.usefixtures("one_thread")


class Narrow(Grid):
    """A grid whose heads are narrow and learn fast."""

    def training(self, repeat: int = 0) -> HeadTraining:
        quick = {"width": 8, "batch": 4, "learning_rate": 1e-2, "epoch_steps": 5}
        return replace(super().training(repeat), **quick)


GRID = Narrow((50, 300), ((0,), (0, 2)), steps=4, device="cpu")


@pytest.fixture
def no_stem(tiny_model, tmp_path) -> Path:
    """Return a model without a stem, whose heads it does not matter that it has not."""
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    card = read_card(folder)
    write_card(folder, replace(card, features=replace(SPEC, stem=None), heads={}))
    return folder


def ablate(folder: Path, grid: Grid, output: Path, tell=None) -> tuple[list[Row], list[str]]:
    said: list[str] = []
    more = () if tell is None else (tell,)
    return run_ablation(folder, grid, two_textures(), output, said.append, *more), said


def test_everything_is_tried_with_and_without_the_stem_and_the_stem_alone():
    tried = list(trials(GRID, has_stem=True))
    assert tried[0] == Trial(50, (), True, True)
    rest = {(t.timestep, t.blocks, t.conditioned, t.stem) for t in tried[1:]}
    yes_no = (True, False)
    assert rest == {
        (t, b, c, s) for t in (50, 300) for b in ((0,), (0, 2)) for c in yes_no for s in yes_no
    }
    assert len(tried) == 17
    bare = list(trials(GRID, has_stem=False))
    assert len(bare) == 8 and not any(t.stem for t in bare)


def test_a_table_and_a_picture_are_written(tiny_model, tmp_path):
    grid = replace(GRID, timesteps=(50,), repeats=2, steps=20)
    rows, said = ablate(tiny_model, grid, tmp_path / "out")
    with (tmp_path / "out" / "ablation.tsv").open(encoding="utf-8", newline="") as lines:
        read = list(csv.DictReader(lines, delimiter="\t"))
    assert list(read[0]) == list(COLUMNS) and len(read) == len(rows) == 9
    assert read[0] | {"mean_dice": "", "lowest": "", "highest": ""} == {
        "timestep": "-",
        "blocks": "-",
        "conditioned": "-",
        "stem": "yes",
        "mean_dice": "",
        "lowest": "",
        "highest": "",
        "seeds": "2",
    }
    for row, cells in zip(rows, read, strict=True):
        low, mean, high = (float(cells[k]) for k in ("lowest", "mean_dice", "highest"))
        assert 0 <= low <= mean <= high <= 1
        assert mean == pytest.approx(sum(row.scores) / 2, abs=1e-4)
    assert any(cells["lowest"] < cells["highest"] for cells in read)
    assert {cells["blocks"] for cells in read[1:]} == {"0", "0,2"}
    with Image.open(tmp_path / "out" / "ablation.png") as picture:
        assert picture.size[0] > 500
    assert said[0] == "3 images to train on, 1 held out"
    assert said[1:] == [row.line() for row in rows]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ablation.png", "ablation.tsv"]


def test_a_model_without_a_stem_is_tried_without(no_stem, tmp_path):
    grid = Grid((50,), GRID.blocks, steps=1, device="cpu")
    rows, _ = ablate(no_stem, grid, tmp_path / "out")
    assert len(rows) == 4 and not any(row.trial.stem for row in rows)


def test_features_are_computed_once_per_timestep_and_condition(tiny_model, tmp_path):
    grid = replace(GRID, timesteps=(50,))
    ablate(tiny_model, grid, tmp_path / "a")
    cache = models_home().parent / "cache"
    assert len(list(cache.iterdir())) == 4 * 2  # images x conditions, whatever the blocks


def test_trials_use_the_blocks_they_name(tiny_model, tmp_path):
    """What a trial scores does not depend on what else is in the grid, but on its blocks."""
    grid = replace(GRID, timesteps=(50,), steps=20)
    both, _ = ablate(tiny_model, grid, tmp_path / "a")
    scores = {row.trial: row.scores for row in both}
    assert len(set(scores.values())) > 5
    alone, _ = ablate(tiny_model, replace(grid, blocks=((0,),)), tmp_path / "b")
    assert [row.trial for row in alone] == [t for t in scores if t.blocks in ((), (0,))]
    for row in alone:
        assert row.scores == pytest.approx(scores[row.trial], abs=1e-6)


def test_the_table_so_far_stays_after_an_interruption(tiny_model, tmp_path):
    told = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if told.count("train") > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(tiny_model, GRID, tmp_path / "out", stop)
    lines = (tmp_path / "out" / "ablation.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and not list((tmp_path / "out").glob("*.part"))


def test_earlier_trials_make_room_for_later_ones(tiny_model, tmp_path):
    """The bound holds one trial's files, not those of all timesteps."""
    ablate(tiny_model, replace(GRID, timesteps=(50,), blocks=((0,),)), tmp_path / "a")
    cache = models_home().parent / "cache"
    files = sum(p.stat().st_size for p in cache.iterdir())
    tight = replace(GRID, blocks=((0,),), cache_gib=0.6 * files / 2**30)
    rows, _ = ablate(tiny_model, tight, tmp_path / "b")
    assert len(rows) == 9
    assert sum(p.stat().st_size for p in cache.iterdir()) <= 0.6 * files


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks": ((0, 3),)}, r"blocks 0 to 2 .* got blocks \[3\]"),
        ({"timesteps": (50, 1000)}, r"timesteps 0 to 999.* timesteps \[1000\]"),
        ({"repeats": 0}, "0 repeats"),
        ({"steps": 0}, "at least 1 step"),
        ({"validation_share": 1.5}, "share must be between 0 and 1"),
    ],
)
def test_what_the_model_has_not_is_refused_before_anything_is_computed(
    tiny_model, tmp_path, change, says
):
    with pytest.raises(ModelError, match=says):
        ablate(tiny_model, replace(GRID, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (models_home().parent / "cache").exists()


@pytest.mark.parametrize("text", ["", "a", "1,", "1;2", "1,1", "-1", "1.5"])
def test_lists_of_numbers_that_are_none_are_refused(text):
    with pytest.raises(ModelError, match=r"whole numbers|twice or below 0"):
        numbers(text)


def test_lists_of_numbers_are_read():
    assert numbers("50, 150,0") == (50, 150, 0)


def test_labels_that_cannot_be_split_are_refused(tiny_model, tmp_path):
    labels = two_textures(1)
    with pytest.raises(ModelError, match="none is left to validate with"):
        run_ablation(tiny_model, GRID, labels, tmp_path, print)
    with pytest.raises(ModelError, match="no labelled image"):
        run_ablation(tiny_model, GRID, LabelSet(labels.classes, [], "none"), tmp_path, print)
