"""A CUDA device: the same as the CPU, graphs, short memory. All of it needs one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model import load_segmenter
from model.home import DEFAULT_MODEL
from model.segmenter import Segmenter
from qupath_bridge.demo.drawing import draw_slide

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's own compiler
]
ORIGINS = [(128 * i, 256) for i in range(6)]


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Return drawn tissue, uint8 [6, 256, 256, 3]."""
    pixels = draw_slide(5, 768, 512, coverage=1.0).pixels
    corners = [(x, y) for y in (0, 256) for x in (0, 256, 512)]
    return np.stack([pixels[y : y + 256, x : x + 256] for x, y in corners])


@pytest.fixture(scope="module")
def expected(tiles) -> dict[str, np.ndarray]:
    return load_segmenter(DEFAULT_MODEL, device="cpu").probabilities(tiles, ORIGINS)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process have what it holds of the device, and 300 MiB more."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved() + 300 * 2**20
    torch.cuda.set_per_process_memory_fraction(min(1.0, held / total))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def same_class(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return min((found[h].argmax(1) == expected[h].argmax(1)).mean() for h in expected)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_gpu_gives_the_class_that_the_cpu_gives(precision, tiles, expected):
    segmenter = load_segmenter(DEFAULT_MODEL, device="cuda", precision=precision)
    found = segmenter.probabilities(tiles, ORIGINS)
    assert same_class(found, expected) >= 0.995
    for name, probabilities in found.items():
        assert probabilities.dtype == np.float32 and probabilities.flags.c_contiguous
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4, err_msg=name)


def test_bf16_is_chosen_where_the_device_has_it():
    has = torch.cuda.is_bf16_supported(including_emulation=False)
    chosen = load_segmenter(DEFAULT_MODEL, device="cuda").dtype
    assert chosen == (torch.bfloat16 if has else torch.float32)


def test_a_graph_gives_what_kernels_give_that_are_launched_one_by_one(tiles):
    graphs, eager = (load_segmenter(DEFAULT_MODEL, device="cuda") for _ in range(2))
    eager._runner._use_graphs = False
    for count in (6, 3, 6, 1):
        ones, others = (
            segmenter.probabilities(tiles[:count], ORIGINS[:count]) for segmenter in (graphs, eager)
        )
        for name in ones:
            np.testing.assert_allclose(ones[name], others[name], atol=1e-6)
    assert graphs._runner._use_graphs, "nothing was captured"
    assert sorted(graphs._runner._graphs) == [1, 4, 8]


def test_a_stream_gives_the_numbers_of_single_calls(tiles):
    segmenter = load_segmenter(DEFAULT_MODEL, device="cuda")
    batches = [(i, np.roll(tiles, i, axis=0)[: 6 - i % 3], ORIGINS[: 6 - i % 3]) for i in range(9)]
    streamed = list(segmenter.stream(batches))
    assert [key for key, _ in streamed] == list(range(9))
    for (_, found), (_, pixels, origins) in zip(streamed, batches, strict=True):
        for name, alone in segmenter.probabilities(pixels, origins).items():
            np.testing.assert_array_equal(found[name], alone)


def test_the_batch_size_is_a_power_of_two_that_fits(tiles):
    segmenter = load_segmenter(DEFAULT_MODEL, device="cuda")
    size = segmenter.batch_size
    assert size & (size - 1) == 0
    many = np.resize(tiles, (size, *tiles.shape[1:]))
    assert len(segmenter.probabilities(many, [(0, 0)] * size)["tissue"]) == size
    assert segmenter.batch_size == size


def halves(segmenter: Segmenter, tiles: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    many = np.concatenate([tiles] * 20)
    found = segmenter.probabilities(many, ORIGINS * 20)
    assert segmenter.batch_size < len(many)
    assert same_class({h: p[-6:] for h, p in found.items()}, expected) >= 0.995


def test_out_of_memory_halves_the_batch_and_goes_on(tiles, expected, little_memory):
    halves(load_segmenter(DEFAULT_MODEL, device="cuda"), tiles, expected)
