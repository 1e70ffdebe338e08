"""Features on disk: computed once, never stale, within their bound, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_project_disk import files_of_at_most
from tiny_models import SPEC, halves, image_of, tiny_backbone

from model.cache import GIB, FeatureCache, FeatureFile, PatchPlan
from model.errors import ModelError
from model.feature_set import FeatureSet, turned
from model.features import FeatureExtractor, tensors_of
from model.home import models_home
from model.labels import IGNORED, LabelledImage, LabelledPixels
from model.patches import patches_of

PLAN = PatchPlan(side_m=64, stride_m=48, margin_m=8)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(tiny_backbone(), SPEC).eval()


@pytest.fixture
def image() -> LabelledImage:
    return replace(image_of("a", halves(0)), origin_m=(320, -64))


@contextmanager
def counted(extractor: FeatureExtractor) -> Iterator[list[int]]:
    """Collect the sizes of the batches that the stem sees."""
    batches: list[int] = []
    stem = extractor.backbone.stem
    hook = stem.register_forward_pre_hook(lambda m, args: batches.append(len(args[0])))
    try:
        yield batches
    finally:
        hook.remove()


LONG_FROM_NOW = 4e9  # the year 2096: what a wrong clock has said


def aged(step_s: float = 100.0) -> Callable[[FeatureFile], Path]:
    """Return a function that makes a file look used, each one later than the one before."""
    used = iter(range(1, 100))

    def age(file: FeatureFile) -> Path:
        path = file.path
        stamp = time.time() - 1e6 + step_s * next(used)
        os.utime(path, (stamp, stamp))
        return path

    return age


def placed(image: LabelledImage, name: str) -> LabelledImage:
    """Return the image under another name and at another place, so with other features."""
    return replace(image, name=name, origin_m=(16 * crc32(name.encode()), 0))


def test_files_hold_what_the_extractor_gives_for_each_patch(extractor, image, tmp_path):
    (file,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    patches = list(patches_of(image.read(), image.origin_m, 64, 48, 8))
    assert len(file) == len(patches) == 4
    assert [tuple(o) for o in file.origins_m] == [p.origin_m for p in patches]
    assert file.channels == extractor.channels
    for index, patch in enumerate(patches):
        assert (file.codes[index].numpy() == patch.codes).all()
        pixels = torch.from_numpy(patch.pixels.copy())[None]
        with torch.inference_mode():
            expected = extractor(pixels, [patch.origin_m])
        for found, one in zip(file.features(index), expected, strict=True):
            torch.testing.assert_close(found, one[0], atol=5e-3, rtol=5e-3)  # kept as float16
    torch.testing.assert_close(file.embeddings.norm(dim=1), torch.ones(4), atol=1e-2, rtol=0)


def test_features_are_computed_once(extractor, image, tmp_path):
    with counted(extractor) as batches:
        (first,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
        assert sum(batches) == 4
        (second,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
        assert sum(batches) == 4
    assert first.name == second.name
    assert all(map(torch.equal, first.features(2), second.features(2)))


def changed(image: LabelledImage, **planes: np.ndarray) -> LabelledImage:
    read = replace(image.read(), **planes)
    return replace(image, read=lambda: read)


def test_nothing_stale_is_ever_used(extractor, image, tmp_path):
    cache = FeatureCache(tmp_path)
    read = image.read()
    one_pixel = read.pixels.copy()
    one_pixel[5, 5, 1] ^= 1
    cases = [
        ("m", image, PLAN),
        ("another model", image, PLAN),
        ("m", changed(image, pixels=one_pixel), PLAN),
        ("m", replace(image, origin_m=(0, 0)), PLAN),
        ("m", image, replace(PLAN, stride_m=16)),
    ]
    names = [cache.features_of(extractor, *case)[0].name for case in cases]
    assert len(set(names)) == len(cases) == len(list(tmp_path.iterdir()))


def test_other_labels_are_other_truth_on_the_same_features(extractor, image, tmp_path):
    cache = FeatureCache(tmp_path)
    codes = image.read().codes.copy()
    codes[5, 5] = IGNORED
    (file,) = cache.features_of(extractor, "m", image, PLAN)
    with counted(extractor) as batches:
        (again,) = cache.features_of(extractor, "m", changed(image, codes=codes), PLAN)
    assert batches == [] and again.path == file.path and again.name != file.name
    assert again.codes[0, 5, 5] == IGNORED != file.codes[0, 5, 5]


def test_variants_are_stained_anew_but_the_first_and_can_be_repeated(extractor, image, tmp_path):
    plan = replace(PLAN, variants=3)
    files = FeatureCache(tmp_path / "a").features_of(extractor, "m", image, plan)
    again = FeatureCache(tmp_path / "b").features_of(extractor, "m", image, plan)
    (plain,) = FeatureCache(tmp_path / "a").features_of(extractor, "m", image, PLAN)
    assert len(files) == 3 and files[0].name == plain.name
    stems = [file.features(0)[3] for file in files]
    assert not torch.equal(stems[0], stems[1]) and not torch.equal(stems[1], stems[2])
    for one, other in zip(files, again, strict=True):
        assert one.name == other.name and torch.equal(one.codes, files[0].codes)
        assert all(map(torch.equal, one.features(1), other.features(1)))


def test_an_image_without_a_label_has_no_file(extractor, tmp_path):
    read = halves(0)
    bare = image_of("bare", LabelledPixels(read.pixels, np.full_like(read.codes, IGNORED)))
    assert FeatureCache(tmp_path).features_of(extractor, "m", bare, PLAN) == []
    edge = np.full((100, 100), IGNORED, np.uint8)
    edge[97:] = 1  # beyond the last patch that lies on the lattice
    late = image_of("late", LabelledPixels(np.zeros((100, 100, 3), np.uint8), edge))
    assert FeatureCache(tmp_path).features_of(extractor, "m", late, PLAN) == []
    with pytest.raises(ModelError, match="no patch has a label"):
        FeatureSet([])


def test_without_a_folder_the_cache_lies_beside_the_models(extractor, image):
    FeatureCache().features_of(extractor, "m", image, PLAN)
    assert len(list((models_home().parent / "cache").glob("*.safetensors"))) == 1


def test_the_least_recently_used_goes_first_and_the_bound_is_kept(extractor, image, tmp_path):
    age = aged()
    pictures = [placed(image, name) for name in "abc"]
    paths = [
        age(FeatureCache(tmp_path).features_of(extractor, "m", picture, PLAN)[0])
        for picture in pictures
    ]
    size = paths[0].stat().st_size
    tight = 3.5 * size / GIB
    FeatureCache(tmp_path, tight).features_of(extractor, "m", pictures[0], PLAN)  # used just now
    FeatureCache(tmp_path, tight).features_of(extractor, "m", placed(image, "d"), PLAN)
    assert [path.exists() for path in paths] == [True, False, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3.5 * size


def test_what_was_used_while_the_clock_was_wrong_does_not_stay_for_ever(extractor, image, tmp_path):
    age = aged()
    pictures = [placed(image, name) for name in "ab"]
    first, second = (
        age(FeatureCache(tmp_path).features_of(extractor, "m", picture, PLAN)[0])
        for picture in pictures
    )
    os.utime(second, (LONG_FROM_NOW, LONG_FROM_NOW))
    tight = 2.5 * first.stat().st_size / GIB
    FeatureCache(tmp_path, tight).features_of(extractor, "m", placed(image, "c"), PLAN)
    assert first.exists() and not second.exists()


def test_files_in_use_never_go_and_a_bound_too_small_is_one_clear_error(extractor, image, tmp_path):
    (foreign,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    size = aged()(foreign).stat().st_size
    cache = FeatureCache(tmp_path, 2.5 * size / GIB)
    held = [cache.features_of(extractor, "m", placed(image, name), PLAN)[0] for name in "bc"]
    with pytest.raises(
        ModelError, match=r"need more than .* GiB in .*; allow more with --cache-gib"
    ):
        cache.features_of(extractor, "m", placed(image, "d"), PLAN)
    kept = {path.stem for path in tmp_path.iterdir()}
    assert kept == {file.path.stem for file in held}
    cache.release(held[0])
    (late,) = cache.features_of(extractor, "m", placed(image, "d"), PLAN)
    assert {path.stem for path in tmp_path.iterdir()} == {held[1].path.stem, late.path.stem}


@pytest.mark.parametrize("left", [0, 4, 8, 200, -1, -100_000])
def test_a_file_that_was_cut_short_is_made_anew(extractor, image, tmp_path, left):
    (file,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    whole = file.features(0)
    path = file.path
    content = path.read_bytes()
    del file
    path.unlink()
    path.write_bytes(content[:left])
    with counted(extractor) as batches:
        (again,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    assert sum(batches) == 4 and path.read_bytes() == content
    assert all(map(torch.equal, again.features(0), whole))


@pytest.mark.parametrize("content", [b"", b"x" * 5000, "foreign"])
def test_a_file_of_anything_else_is_made_anew(extractor, image, tmp_path, content):
    (file,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    path = file.path
    path.unlink()
    if content == "foreign":
        save_file({"0": torch.zeros(4, 64, 64, 3)}, path)
    else:
        path.write_bytes(content)
    (again,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    assert len(again) == 4 and again.embeddings.shape == (4, 16)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on files")
def test_a_full_disk_is_one_sentence_leaves_no_part_and_keeps_what_was_there(
    extractor, image, tmp_path
):
    cache = FeatureCache(tmp_path)
    (kept,) = cache.features_of(extractor, "m", image, PLAN)
    with (
        pytest.raises(ModelError, match=r"could not be kept in .*; make room"),
        files_of_at_most(100_000),
    ):
        cache.features_of(extractor, "m", placed(image, "b"), PLAN)
    assert [path.stem for path in tmp_path.iterdir()] == [kept.path.stem]
    with counted(extractor) as batches:
        cache.features_of(extractor, "m", image, PLAN)
    assert batches == []


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs to mount a small disk"
)
def test_a_disk_that_is_really_full_is_the_same_sentence(extractor, image, tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        cache = FeatureCache(tmp_path)
        with pytest.raises(ModelError, match="make room") as told:
            for number in range(100):
                cache.features_of(extractor, "m", placed(image, str(number)), PLAN)
        assert "\n" not in str(told.value) and list(tmp_path.glob("*.part")) == []
        assert len(list(tmp_path.glob("*.safetensors"))) >= 1
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_an_interruption_while_writing_leaves_no_part(extractor, image, tmp_path, monkeypatch):
    def interrupted(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("model.cache.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_away_and_what_is_in_the_making_stays(
    extractor, image, tmp_path
):
    old, fresh = tmp_path / "aa.1.part", tmp_path / "bb.2.part"
    of_the_library = tmp_path / ".tmpAbCdEf"
    for path in (old, fresh, of_the_library):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    os.utime(of_the_library, (LONG_FROM_NOW, LONG_FROM_NOW))
    FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    assert not old.exists() and not of_the_library.exists() and fresh.exists()


def test_two_runs_may_use_one_cache_at_once(extractor, image, tmp_path):
    size = sum(
        t.nbytes
        for t in tensors_of(extractor, list(patches_of(image.read(), (0, 0), 64, 48))).values()
    )
    failed: list[BaseException] = []

    def use(seed: int) -> None:
        try:
            for name in np.random.default_rng(seed).permutation(list("abcd") * 3):
                cache = FeatureCache(tmp_path, 2.5 * size / GIB)
                (file,) = cache.features_of(extractor, "m", placed(image, name), PLAN)
                assert file.features(3)[0].shape[0] == file.channels[0]
        except BaseException as error:
            failed.append(error)

    runs = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert failed == []


def test_a_thousand_files_can_be_held_at_once(extractor, image, tmp_path):
    import resource

    (file,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        patches = list(patches_of(image.read(), image.origin_m, 64, 48, 8))
        held = [FeatureFile(file.path, patches) for _ in range(200)]
        assert torch.equal(held[0].features(0)[0], held[-1].features(0)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_set_numbers_the_patches_of_its_files_through(extractor, image, tmp_path):
    cache = FeatureCache(tmp_path)
    files = [cache.features_of(extractor, "m", placed(image, name), PLAN)[0] for name in "ab"]
    both = FeatureSet(files, maps=[3, 0])
    assert len(both) == 8 and both.channels == (64, 24)
    maps, codes = both.batch([5, 2])
    for row, (file, place) in enumerate([(files[1], 1), (files[0], 2)]):
        assert torch.equal(codes[row], file.codes[place])
        expected = file.features(place, [3, 0])
        assert all(torch.equal(m[row], one) for m, one in zip(maps, expected, strict=True))
    assert both.name != FeatureSet(files).name != FeatureSet(files[::-1]).name


def test_turned_patches_turn_truth_and_features_alike(extractor, image, tmp_path):
    (file,) = FeatureCache(tmp_path).features_of(extractor, "m", image, PLAN)
    one = FeatureSet([file])
    plain, codes = one.batch([0])
    seen = set()
    for seed in range(40):
        maps, told = one.batch([0], np.random.default_rng(seed))
        (way,) = [w for w in range(8) if torch.equal(turned(plain[3][0], w), maps[3][0])]
        assert torch.equal(turned(codes[0], way), told[0])
        seen.add(way)
    assert seen == set(range(8))


@pytest.mark.parametrize("written", ["no maps", "fewer rows", "other channels"])
def test_a_file_that_another_version_wrote_is_made_anew(extractor, image, tmp_path, written):
    cache = FeatureCache(tmp_path)
    (file,) = cache.features_of(extractor, "model", image, PLAN)
    whole = load_file(file.path)
    other = {
        "no maps": {"embeddings": whole["embeddings"]},
        "fewer rows": {name: part[:1].contiguous() for name, part in whole.items()},
        "other channels": whole | {"0": whole["0"][:, :2].contiguous()},
    }[written]
    save_file(other, file.path)
    (again,) = FeatureCache(tmp_path).features_of(extractor, "model", image, PLAN)
    found = load_file(again.path)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_folder_that_is_a_file_is_one_sentence_and_stays(extractor, image, tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(ModelError, match=r"features could not be kept in .*cache .*make room"):
        FeatureCache(tmp_path / "cache").features_of(extractor, "model", image, PLAN)
    assert (tmp_path / "cache").read_text() == "mine"


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(tmp_path, limit):
    with pytest.raises(ModelError, match="--cache-gib must be above 0"):
        FeatureCache(tmp_path, limit)
