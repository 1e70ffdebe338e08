"""How unlike a patch is what a head was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from model import ModelError, load_segmenter, read_card
from model.home import DEFAULT_MODEL
from model.novelty import MOST_KEPT, embeddings_path, load_embeddings, novelty, save_embeddings
from model.weights import seal, verify_files


def directions(count: int, seed: int = 0, width: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_novelty_is_the_distance_to_the_nearest_known_one():
    candidates, known = directions(9000, 1), directions(50, 2)
    found = novelty(candidates, known)
    assert (found.shape, found.dtype) == ((9000,), np.float32)
    expected = np.linalg.norm(candidates[:, None] - known, axis=2).min(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_known_is_not_new_and_its_opposite_as_new_as_can_be():
    known = directions(1)
    np.testing.assert_allclose(novelty(np.concatenate([known, -known]), known), [0, 2], atol=1e-3)


@pytest.mark.parametrize("known", [directions(0), directions(3, width=8), directions(3)[0]])
def test_what_cannot_be_compared_is_refused(known):
    with pytest.raises(ModelError, match="train the head again"):
        novelty(directions(5), known)


def test_nothing_to_compare_gives_nothing():
    assert novelty(directions(0), directions(3)).shape == (0,)


def test_embeddings_are_of_unit_length_and_do_not_depend_on_the_batch():
    segmenter = load_segmenter(DEFAULT_MODEL, ["glands"], device="cpu")
    tiles = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8)
    together = segmenter.embeddings(tiles)
    assert together.dtype == np.float32 and together.ndim == 2
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([segmenter.embeddings(tiles[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert novelty(together, together).max() < 2e-3


def test_what_a_head_was_trained_on_is_kept_with_it(tmp_path):
    saved = directions(30)
    save_embeddings(tmp_path, "tissue", saved)
    loaded = load_embeddings(tmp_path, "tissue")
    assert loaded is not None and loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, saved, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(loaded, axis=1), 1, atol=1e-6)
    assert load_embeddings(tmp_path, "glands") is None


def test_of_too_many_an_even_part_is_kept(tmp_path):
    saved = directions(5 * MOST_KEPT)
    save_embeddings(tmp_path, "tissue", saved)
    kept = load_embeddings(tmp_path, "tissue")
    assert kept is not None and len(kept) == MOST_KEPT
    np.testing.assert_allclose(kept[[0, -1]], saved[[0, -1]], atol=1e-3)


def test_a_head_trained_on_nothing_keeps_nothing(tmp_path):
    with pytest.raises(ModelError, match="head tissue"):
        save_embeddings(tmp_path, "tissue", directions(0))


def test_the_card_vouches_for_kept_embeddings_and_the_backbone_stays_the_same(tmp_path):
    folder = Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))
    before = read_card(folder)
    save_embeddings(folder, "tissue", directions(30))
    card = seal(folder, before)
    assert card.backbone == before.backbone and card.fingerprint != before.fingerprint
    verify_files(folder, card)
    save_embeddings(folder, "tissue", directions(31))
    with pytest.raises(ModelError, match=r"tissue\.embeddings"):
        verify_files(folder, card)


def test_a_file_without_embeddings_is_refused(tmp_path):
    path = embeddings_path(tmp_path, "tissue")
    path.parent.mkdir()
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_embeddings(tmp_path, "tissue")
    shutil.copy(DEFAULT_MODEL / "conditioner.safetensors", path)
    with pytest.raises(ModelError, match="holds no embeddings"):
        load_embeddings(tmp_path, "tissue")
