"""Training of a head: it learns, keeps its best, goes on where it stopped, says what is wrong."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_project_disk import files_of_at_most

from model.errors import ModelError
from model.feature_set import turned
from model.head import Head
from model.labels import IGNORED
from model.lessons import Along, HeadTraining, Lessons
from model.train import train_head

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = HeadTraining(steps=30, batch=4, learning_rate=5e-3, width=8, epoch_steps=5)
SIDE = 32


class Drawn:
    """Patches of two textures whose features are their pixels, at half and quarter resolution."""

    def __init__(self, seed: int, count: int = 6) -> None:
        rng = np.random.default_rng(seed)
        self.name = f"drawn {seed}"
        self.channels = (3, 2)
        self.codes = np.zeros((count, SIDE, SIDE), np.uint8)
        for number, codes in enumerate(self.codes):
            codes[:, rng.integers(8, 24) :] = 1
            codes[:] = np.rot90(codes, number)
        values = rng.normal(0, 1, (count, 3, SIDE // 2, SIDE // 2))
        values += 1.5 * self.codes[:, None, ::2, ::2]
        self.fine = torch.from_numpy(values).float()
        self.coarse = torch.nn.functional.avg_pool2d(self.fine[:, :2], 2)
        self.drawn: list[list[int]] = []

    @property
    def planes(self):
        return [self.codes]

    def __len__(self) -> int:
        return len(self.codes)

    def batch(self, indices, rng=None):
        if rng is not None:
            self.drawn.append(list(indices))
        ways = [int(rng.integers(8)) if rng is not None else 0 for _ in indices]
        pairs = list(zip(indices, ways, strict=True))
        maps = [torch.stack([turned(m[i], w) for i, w in pairs]) for m in (self.fine, self.coarse)]
        return maps, torch.stack([turned(torch.from_numpy(self.codes[i]), w) for i, w in pairs])


def lessons(validation: bool = True) -> Lessons:
    return Lessons(Drawn(0), Drawn(1) if validation else None, 2)


def equal(one: Head, other: Head) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def right(head: Head, examples: Drawn) -> float:
    with torch.inference_mode():
        maps, codes = examples.batch(range(len(examples)))
        return float((head(maps).argmax(1) == codes).float().mean())


def test_a_head_learns_two_textures():
    trained = train_head(lessons(), replace(QUICK, steps=60))
    assert right(trained.head, Drawn(2)) > 0.93
    assert len(trained.curve) == 12 and trained.trouble == ""
    assert trained.curve[-1].train_loss < 0.5 * trained.curve[0].train_loss
    assert trained.curve[trained.best - 1].mean_dice > 0.9
    assert not trained.head.training
    assert not any(p.requires_grad for p in trained.head.parameters())


def test_a_seed_decides_bit_for_bit():
    one, same, other = (train_head(lessons(), replace(QUICK, seed=s)).head for s in (1, 1, 2))
    assert equal(one, same) and not equal(one, other)


def test_every_patch_comes_once_before_any_comes_again():
    taught = lessons()
    train_head(taught, replace(QUICK, steps=3, epoch_steps=3))
    first, second, third = taught.training.drawn
    assert sorted(first + second[:2]) == list(range(6)) == sorted(second[2:] + third)


def spoil(examples: Drawn, ignored: bool) -> None:
    """Give a part of the patches wrong labels, or take its labels away."""
    part = examples.codes[:, :16]
    part[:] = IGNORED if ignored else 1 - part


def test_wrong_labels_do_harm_and_the_same_ones_ignored_do_none():
    wrong, ignored = lessons(False), lessons(False)
    spoil(wrong.training, ignored=False)
    spoil(ignored.training, ignored=True)
    settings = replace(QUICK, steps=60)
    assert right(train_head(ignored, settings).head, Drawn(2)) > 0.9
    assert right(train_head(wrong, settings).head, Drawn(2)) < 0.8


def test_what_is_held_out_is_measured_where_it_is_labelled_alone():
    plain, wrong, ignored = lessons(), lessons(), lessons()
    spoil(wrong.validation, ignored=False)
    spoil(ignored.validation, ignored=True)
    scores = [train_head(taught, QUICK).curve[-1].mean_dice for taught in (plain, wrong, ignored)]
    assert scores[2] == pytest.approx(scores[0], abs=0.05) and scores[1] < scores[0] - 0.2


def stop_at(step: int, error: type[BaseException] = KeyboardInterrupt):
    """Return a function to tell of progress that does not let training come further."""

    def tell(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("train", QUICK.steps)
        if done == step:
            raise error

    return tell


def test_the_epoch_that_is_best_on_what_is_held_out_is_kept(tmp_path):
    """Labels held out are flipped: the more is learned the worse, so an early epoch is best."""
    taught = lessons()
    taught.validation.codes[:] = 1 - taught.validation.codes
    trained = train_head(taught, QUICK)
    scores = [row.mean_dice for row in trained.curve]
    assert trained.best == 1 + int(np.argmax(scores)) < len(scores)
    assert scores[-1] < scores[trained.best - 1] - 0.1
    path = tmp_path / "then.pt"
    with pytest.raises(KeyboardInterrupt):
        train_head(taught, QUICK, path, stop_at(trained.best * QUICK.epoch_steps + 1))
    then = torch.load(path, weights_only=True)["networks"]
    assert all(torch.equal(then[f"0.{k}"], v) for k, v in trained.head.state_dict().items())


def test_without_anything_held_out_the_last_epoch_is_kept():
    trained = train_head(lessons(False), QUICK)
    assert trained.best == len(trained.curve) == 6
    assert all(math.isnan(row.mean_dice) for row in trained.curve)


@pytest.mark.parametrize("step", [1, 6, 30])
def test_an_interrupted_training_goes_on_and_ends_as_if_nothing_had_been(tmp_path, step):
    path = tmp_path / "deep" / "a.pt"
    whole = train_head(lessons(), QUICK)
    with pytest.raises(KeyboardInterrupt):
        train_head(lessons(), QUICK, path, stop_at(step))
    told: list[int] = []
    rest = train_head(lessons(), QUICK, path, lambda stage, done, total: told.append(done))
    assert told[0] == (step - 1) // 5 * 5 + 1  # a whole epoch at a time
    assert equal(rest.head, whole.head)
    assert rest.curve == whole.curve and rest.best == whole.best
    assert list(path.parent.iterdir()) == [path]


def test_a_finished_training_is_not_repeated(tmp_path):
    path = tmp_path / "a.pt"
    first = train_head(lessons(), QUICK, path)
    again = train_head(lessons(), QUICK, path, stop_at(1))
    assert equal(first.head, again.head) and first.curve == again.curve


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 31}, {"batch": 3}],
)
def test_a_checkpoint_of_other_settings_is_left_alone(tmp_path, change):
    path = tmp_path / "a.pt"
    train_head(lessons(), QUICK, path)
    other = replace(QUICK, **change)
    assert equal(train_head(lessons(), other, path).head, train_head(lessons(), other).head)


def test_a_checkpoint_of_other_examples_is_left_alone(tmp_path):
    path = tmp_path / "a.pt"
    train_head(lessons(), QUICK, path)
    other = Lessons(Drawn(5), Drawn(1), 2)
    assert equal(train_head(other, QUICK, path).head, train_head(other, QUICK).head)


def test_a_damaged_checkpoint_is_as_none(tmp_path):
    path = tmp_path / "a.pt"
    whole = train_head(lessons(), QUICK, path)
    content = path.read_bytes()
    for damaged in (b"", b"x" * 100, content[: len(content) // 2]):
        path.write_bytes(damaged)
        assert equal(train_head(lessons(), QUICK, path).head, whole.head)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on files")
def test_a_full_disk_stops_with_a_sentence_and_keeps_the_epochs_before(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(KeyboardInterrupt):
        train_head(lessons(), QUICK, path, stop_at(11))
    before = path.read_bytes()
    with (
        pytest.raises(ModelError, match=r"could not be kept in .*a\.pt.*make room") as told,
        files_of_at_most(len(before) // 2),
    ):
        train_head(lessons(), QUICK, path)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert equal(train_head(lessons(), QUICK, path).head, train_head(lessons(), QUICK).head)


class Spoiled(Drawn):
    """Features that are no numbers from some batch on."""

    def __init__(self, seed: int, after: int) -> None:
        super().__init__(seed)
        self.after = after

    def batch(self, indices, rng=None):
        maps, codes = super().batch(indices, rng)
        if rng is not None and len(self.drawn) > self.after:
            maps = [m * math.nan for m in maps]
        return maps, codes


def test_a_loss_that_is_no_number_stops_at_its_step_and_the_best_so_far_is_kept():
    taught = Lessons(Spoiled(0, after=12), Drawn(1), 2)
    trained = train_head(taught, QUICK)
    assert trained.trouble == "the loss is not a number at step 13"
    assert len(trained.curve) == 2
    assert all(torch.isfinite(p).all() for p in trained.head.parameters())
    plain = train_head(lessons(), QUICK)
    assert trained.curve == plain.curve[:2]
    scores = [row.mean_dice for row in trained.curve]
    assert trained.best == 1 + int(np.argmax(scores))


def test_a_loss_that_is_never_a_number_is_one_clear_error():
    with pytest.raises(ModelError, match="not a number at step 3; lower the learning rate, or"):
        train_head(Lessons(Spoiled(0, after=2), Drawn(1), 2), QUICK)


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("epoch_steps", [1, 5])
def test_an_endless_learning_rate_leaves_no_head_of_no_numbers(held_out, epoch_steps):
    endless = replace(QUICK, learning_rate=math.inf, epoch_steps=epoch_steps)
    with pytest.raises(ModelError, match=r"no(t a)? number.* step [12]"):
        train_head(lessons(held_out), endless)


def test_held_out_features_that_are_no_numbers_are_said_and_not_scored():
    taught = lessons()
    taught.validation.fine[3] = math.nan
    with pytest.raises(ModelError, match=r"held-out loss are no numbers after step 5"):
        train_head(taught, QUICK)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 10, 11, 14, 15, 20])
def test_any_number_of_steps_can_be_trained(steps):
    trained = train_head(lessons(), replace(QUICK, steps=steps, epoch_steps=7))
    assert len(trained.curve) == math.ceil(steps / 7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"batch": 0}, "1 patch per step"),
        ({"batch": 257}, "at most 256 patches per step"),
        ({"seed": -1}, "a whole number from 0"),
        ({"seed": 2**63}, "a whole number from 0"),
        ({"learning_rate": 0.0}, "learning rate must be above 0; got 0"),
        ({"learning_rate": math.nan}, "learning rate must be above 0; got nan"),
    ],
)
def test_settings_that_train_nothing_are_refused(change, says):
    with pytest.raises(ModelError, match=says):
        replace(QUICK, **change)


def test_a_network_that_learns_along_ends_in_its_state_of_the_best_epoch(tmp_path):
    """It starts from the head that is given, and both are of one epoch afterwards."""
    network = torch.nn.Conv2d(3, 3, 1)
    taught = lessons()

    class Along3(Drawn):
        def batch(self, indices, rng=None):
            (fine, coarse), codes = super().batch(indices, rng)
            return [network(fine), coarse], codes

    taught = Lessons(Along3(0), Along3(1), 2)
    taught.validation.codes[:] = 1 - taught.validation.codes
    states: dict[int, list[torch.Tensor]] = {}

    def keep(stage: str, done: int, total: int) -> None:
        states[done] = [p.detach().clone() for p in network.parameters()]

    head = Head((3, 2), 2, 8)
    start = [p.detach().clone() for p in network.parameters()]
    trained = train_head(taught, QUICK, None, keep, Along(network, head, 1e-2))
    assert trained.best < len(trained.curve)
    best = states[trained.best * QUICK.epoch_steps]
    assert all(map(torch.equal, best, network.parameters()))
    assert not any(map(torch.equal, best, states[QUICK.steps]))
    assert not any(map(torch.equal, best, start))
    assert trained.head is head
