"""Batches on a device: streamed, cut where memory is short, errors in a user's words."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TILE_M, write_sure_model

from model import ModelError, load_segmenter
from model.runner import HOST_BATCHES, rounded_up, smaller
from model.segmenter import Segmenter

GIB = 2**30


@pytest.fixture
def segmenter(tmp_path) -> Segmenter:
    write_sure_model(tmp_path / "tiny", heads=("first", "second"))
    return load_segmenter(tmp_path / "tiny", device="cpu")


def batch(count: int, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int]]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, TILE_M, TILE_M, 3))
    return pixels.astype(np.uint8), [(32 * i, 64 * seed) for i in range(count)]


class Hungry(torch.nn.Module):
    """A head that needs a GiB per patch more than the one it stands for."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.sizes = head, []

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        self.sizes.append(len(features[0]))
        torch.empty(len(features[0]) * GIB, dtype=torch.uint8)
        return self.head(features)


class Misfit(torch.nn.Module):
    """A head that multiplies matrices that do not fit."""

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.zeros(2, 3) @ torch.zeros(2, 3)


class Broken(torch.nn.Module):
    """A head on a device that fails."""

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """Let this process take only so many bytes of address space more than it has."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux bounds a process' memory so")
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_stream_gives_the_numbers_of_single_calls_in_order_with_their_keys(segmenter):
    sizes = {"a": 3, "b": 1, "c": 4}
    batches = [(name, *batch(size, seed)) for seed, (name, size) in enumerate(sizes.items())]
    streamed = list(segmenter.stream(iter(batches)))
    assert [key for key, _ in streamed] == ["a", "b", "c"]
    for (_, found), (_, tiles, origins) in zip(streamed, batches, strict=True):
        expected = segmenter.probabilities(tiles, origins)
        assert found.keys() == expected.keys() == {"first", "second"}
        for head in expected:
            np.testing.assert_allclose(found[head], expected[head], atol=1e-5)


@pytest.fixture
def set_cores():
    """Return what sets how many cores torch has; afterwards it has those of before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_cores_changes_no_bit_of_a_stream(segmenter, set_cores):
    batches = [(seed, *batch(3, seed)) for seed in range(6)]
    set_cores(1)
    expected = dict(segmenter.stream(batches))
    for cores in (2, 3):
        set_cores(cores)
        found = dict(segmenter.stream(batches))
        assert list(found) == list(expected)
        for seed, of_heads in expected.items():
            for head, scores in of_heads.items():
                np.testing.assert_array_equal(found[seed][head], scores)


def test_a_stream_in_lanes_ends_when_nobody_reads_on(segmenter, set_cores):
    set_cores(2)
    stream = segmenter.stream((seed, *batch(1, seed)) for seed in range(100))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model")]


def test_on_the_cpu_a_stream_takes_one_batch_more_than_it_computes(segmenter, set_cores):
    set_cores(1)
    taken = []

    def batches() -> Iterator[tuple[int, np.ndarray, list[tuple[int, int]]]]:
        for number in range(3):
            taken.append(number)
            yield (number, *batch(1, number))

    for number, _ in segmenter.stream(batches()):
        assert taken == list(range(min(number + 2, 3)))
    assert list(segmenter.stream(iter(()))) == []


def test_a_batch_that_memory_does_not_take_is_halved_until_it_does(segmenter):
    tiles, origins = batch(7)
    expected = segmenter.probabilities(tiles, origins)
    network = segmenter._runner.network
    hungry = network.heads[0] = Hungry(network.heads[0])
    with room_for(int(2.5 * GIB)):
        found = segmenter.probabilities(tiles, origins)
        assert hungry.sizes == [7, 4, 2, 2, 2, 1]
        assert segmenter.batch_size == 2
        hungry.sizes.clear()
        segmenter.probabilities(tiles, origins)
        assert hungry.sizes == [2, 2, 2, 1]  # it is remembered
    for head in expected:
        np.testing.assert_allclose(found[head], expected[head], atol=1e-4)


def test_where_not_one_patch_fits_the_device_is_named(segmenter):
    network = segmenter._runner.network
    network.heads[0] = Hungry(network.heads[0])
    with room_for(GIB // 2), pytest.raises(ModelError, match=r"not even one patch .* device cpu"):
        segmenter.probabilities(*batch(3))


def test_a_device_that_fails_is_told_of_in_a_users_words(segmenter):
    segmenter._runner.network.heads[1] = Broken()
    with pytest.raises(
        ModelError, match=r"device cpu failed \(CUDA error: .*\); what was finished"
    ):
        list(segmenter.stream([("a", *batch(2))]))


def test_errors_of_the_program_itself_stay_what_they_are(segmenter):
    segmenter._runner.network.heads[1] = torch.nn.Conv2d(5, 5, 1)  # takes no list of maps
    with pytest.raises(TypeError):
        segmenter.probabilities(*batch(2))
    segmenter._runner.network.heads[1] = Misfit()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        segmenter.probabilities(*batch(2))


def test_the_batch_size_on_the_cpu_is_a_small_one(segmenter):
    assert segmenter.batch_size == HOST_BATCHES["cpu"]


def test_halves_are_powers_of_two():
    assert [rounded_up(n) for n in (1, 2, 3, 4, 5, 31, 32)] == [1, 2, 4, 4, 8, 32, 32]
    assert [smaller(n) for n in (1, 2, 3, 4, 5, 7, 32)] == [1, 1, 2, 2, 4, 4, 16]
