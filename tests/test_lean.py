"""Networks made lean: less work and memory, the same results; what training uses stays."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from tiny_models import CLASSES, SPEC, TILE_M, WIDTH, tiny_backbone

from model import load_segmenter
from model.card import read_card
from model.features import FeatureExtractor
from model.fused import FusedResnet, add_biased, compiles_on, kernels, norm_silu
from model.head import Head
from model.home import DEFAULT_MODEL
from model.lean import LeanResnet, make_head_lean, make_lean
from model.weights import load_backbone, load_head
from qupath_bridge.demo.drawing import draw_slide

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINS = [(0, 0), (128, 0), (99_968, 128), (-256, 384)]


@pytest.fixture(scope="module")
def drawn_tiles() -> np.ndarray:
    """Return drawn tissue, uint8 [4, 256, 256, 3]."""
    pixels = draw_slide(5, 512, 512, coverage=1.0).pixels
    return np.stack([pixels[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)])


@pytest.fixture(scope="module")
def untouched(drawn_tiles) -> dict[str, np.ndarray]:
    """Return the shipped heads' probabilities from networks as they are loaded for training."""
    card = read_card(DEFAULT_MODEL)
    extractor = FeatureExtractor(load_backbone(DEFAULT_MODEL, card), card.features).eval()
    with torch.inference_mode():
        features = extractor(torch.from_numpy(drawn_tiles), ORIGINS)
        return {
            name: load_head(DEFAULT_MODEL, card, name)(features).softmax(dim=1).numpy()
            for name in ("tissue", "glands")
        }


def test_the_shipped_model_made_lean_gives_the_same_probabilities(drawn_tiles, untouched):
    found = load_segmenter(DEFAULT_MODEL, device="cpu").probabilities(drawn_tiles, ORIGINS)
    for name, expected in untouched.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        assert found[name].flags.c_contiguous


def test_bf16_gives_the_same_class_on_nearly_all_pixels(drawn_tiles, untouched):
    segmenter = load_segmenter(DEFAULT_MODEL, device="cpu", precision="bf16")
    found = segmenter.probabilities(drawn_tiles[:2], ORIGINS[:2])  # some CPUs emulate it: slow
    for name, every in untouched.items():
        expected = every[:2]
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name].sum(axis=1), 1, atol=1e-5)
        assert np.abs(found[name] - expected).max() > 1e-5  # it was another precision
        assert (found[name].argmax(1) == expected.argmax(1)).mean() >= 0.995


def test_embeddings_are_the_same_whatever_the_precision(drawn_tiles):
    exact, low = (
        load_segmenter(DEFAULT_MODEL, device="cpu", precision=p).embeddings(drawn_tiles)
        for p in ("float32", "bf16")
    )
    np.testing.assert_array_equal(exact, low)


@pytest.mark.parametrize("blocks", [(), (0,), (2, 1)])
def test_what_is_read_of_a_lean_extractor_stays_and_the_rest_is_gone(blocks):
    spec = replace(SPEC, up_blocks=blocks)
    whole, lean = (FeatureExtractor(tiny_backbone(1), spec).eval() for _ in range(2))
    make_lean(lean)
    tiles = torch.randint(0, 256, (3, TILE_M, TILE_M, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for found, expected in zip(
            lean(tiles, ORIGINS[:3]), whole(tiles, ORIGINS[:3]), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    names = {name for name, _ in lean.named_parameters()}
    assert not any("decoder" in name or "conv_out" in name.split("unet.")[-1:] for name in names)
    last = max(blocks, default=-1)
    assert {n.split(".")[3] for n in names if ".up_blocks." in n} == set(map(str, range(last + 1)))
    assert lean.channels == whole.channels


def test_a_lean_head_has_its_normalisations_folded_in():
    torch.manual_seed(0)
    channels, sides = (24, 12, 8), (8, 16, 16)
    head = Head(channels, len(CLASSES), WIDTH)
    features = [5 + torch.randn(2, c, s, s) for c, s in zip(channels, sides, strict=True)]
    with torch.no_grad():
        for _ in range(5):  # in training: statistics that are not 0 and 1
            head([f * 2 for f in features])
    expected, lean = head.eval()(features), make_head_lean(copy.deepcopy(head))
    torch.testing.assert_close(lean(features), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.modules())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in head.modules()) == 7


def block_of(channels_in: int, channels_out: int, time: int | None) -> ResnetBlock2D:
    """Return a residual block with weights of which none is 0 or 1."""
    torch.manual_seed(channels_in + channels_out)
    block = ResnetBlock2D(
        in_channels=channels_in, out_channels=channels_out, temb_channels=time, groups=8, eps=1e-6
    )
    for norm in (block.norm1, block.norm2):
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -1, 1)
    return block.eval().requires_grad_(False)


BLOCKS = [(32, 32, None), (32, 64, 48), (64, 64, 48), (96, 64, None)]


@pytest.mark.parametrize("sizes", BLOCKS)
def test_a_lean_residual_block_computes_the_very_same(sizes):
    block = block_of(*sizes)
    x = 2 + 3 * torch.randn(3, sizes[0], 12, 16)
    time = None if sizes[2] is None else torch.randn(1, sizes[2])
    before = x.clone()
    assert torch.equal(LeanResnet(block)(x, time), block(x, time))
    assert torch.equal(x, before)


@pytest.mark.parametrize("sizes", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_compute_what_torch_does_in_parts(sizes, dtype):
    """The formulas of the compiled kernels, not compiled."""
    block = block_of(*sizes).to(dtype)
    x = (2 + 3 * torch.randn(3, sizes[0], 12, 16)).to(dtype)
    offset = torch.randn(1, sizes[0]).to(dtype)
    norm = block.norm1
    weights = (norm.weight.view(8, -1), norm.bias.view(8, -1), norm.eps)
    exact = torch.nn.functional.group_norm(
        x.float() + offset.float()[:, :, None, None],
        *(8, norm.weight.float(), norm.bias.float(), norm.eps),
    )
    expected = torch.nn.functional.silu(exact)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    found = norm_silu(x, *weights, offset)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    total = add_biased(x, x, offset[0]).float()
    wanted = 2 * x.float() + offset.float()[0, :, None, None]
    torch.testing.assert_close(total, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_fused_residual_block_agrees_and_keeps_the_layout():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")
    assert compiles_on(torch.device("cpu"))
    for sizes in BLOCKS:
        block = block_of(*sizes)
        time = None if sizes[2] is None else torch.randn(1, sizes[2])
        for batch in (2, 5):
            x = 2 + 3 * torch.randn(batch, sizes[0], 12, 16)
            x = x.contiguous(memory_format=torch.channels_last)
            found = FusedResnet(block)(x, time)
            torch.testing.assert_close(found, block(x, time), atol=1e-5, rtol=1e-5)
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert kernels() is kernels()
