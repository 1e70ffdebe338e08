"""Features of labelled images, computed once and kept on disk within a bound."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.errors import ModelError
from model.features import FeatureExtractor, tensors_of
from model.home import home
from model.labels import LabelledImage, LabelledPixels
from model.patches import Patch, patches_of
from model.stain import jittered

GIB = 2**30
ABANDONED_S = 3600
"""A file in the making that is older than this has nobody who makes it."""
Tell = Callable[[str, int, int], None]
"""Told of progress: stage, done, of how many."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class PatchPlan:
    """How images become patches; our choice. Sides in model pixels.

    variants: how many times each image is taken, the first as it is, the others stained anew.
    """

    side_m: int = 256
    stride_m: int = 192
    margin_m: int = 16
    variants: int = 1
    seed: int = 0


class FeatureFile:
    """Features and truth of one image's patches; the features are read from disk as needed.

    codes: uint8 [N, S, S]. origins_m: (x, y) of each patch in its image. channels: of each map.

    Raises:
        SafetensorError, OSError: it is not there, is cut short, or lacks something.
    """

    def __init__(self, path: Path, patches: Sequence[Patch]) -> None:
        self.path = path
        self.codes = torch.from_numpy(np.stack([p.codes for p in patches]))
        self.origins_m = [p.origin_m for p in patches]
        self._file = safe_open(path, framework="pt")
        self._embeddings = self._file.get_slice("embeddings")
        count = sum(key.isdigit() for key in self._file.keys())  # noqa: SIM118
        self._maps = [self._file.get_slice(str(i)) for i in range(count)]
        self._shapes = [tuple(maps.get_shape()) for maps in self._maps]
        self.channels = tuple(shape[1] if len(shape) == 4 else 0 for shape in self._shapes)

    @property
    def name(self) -> str:
        """Return what tells these features with this truth from others."""
        return f"{self.path.stem} {crc32(self.codes.numpy().tobytes())}"

    def __len__(self) -> int:
        return len(self.codes)

    def holds(self, channels: tuple[int, ...]) -> bool:
        """Return whether it has maps of so many channels, and a row of all for each patch."""
        rows = {shape[0] for shape in (self._embeddings.get_shape(), *self._shapes)}
        return self.channels == tuple(channels) and rows == {len(self)}

    @property
    def embeddings(self) -> Tensor:
        """Return the encoder's embedding of each patch, float32 [N, D]."""
        return self._embeddings[:].float()

    def features(self, index: int, maps: Sequence[int] | None = None) -> list[Tensor]:
        """Return the chosen maps (default: all) of one patch, float32 [C_i, h_i, w_i]."""
        chosen = range(len(self._maps)) if maps is None else maps
        return [self._maps[i][index].float() for i in chosen]


class FeatureCache:
    """A folder of feature files, the least recently used given up when there are too many.

    Files are known by the model, the pixels and where the patches lie, so nothing stale is ever
    used, and labels may change without computing anew. Nothing that this object has handed out is
    given up.

    Raises:
        ModelError: what one training needs is more than the bound, or the disk is full.
    """

    def __init__(self, folder: Path | None = None, limit_gib: float = 20.0) -> None:
        if not limit_gib > 0:  # also catches NaN
            raise ModelError(f"--cache-gib must be above 0; got {limit_gib:g}")
        self.folder = folder or home() / "cache"
        self._limit = limit_gib * GIB
        self._in_use: set[Path] = set()

    def features_of(
        self, extractor: FeatureExtractor, model: str, image: LabelledImage, plan: PatchPlan
    ) -> list[FeatureFile]:
        """Return the features of an image's patches, one file per stain variant.

        None where no patch has a label. A file that was damaged is made anew. `model` is the digest
        of all that the features depend on besides the pixels.
        """
        read = image.read()
        files = [
            self._variant(extractor, model, image, read, plan, variant)
            for variant in range(plan.variants)
        ]
        return [file for file in files if file is not None]

    def release(self, file: FeatureFile) -> None:
        """Take back a file that was handed out: it may be given up for others."""
        self._in_use.discard(file.path)

    def _variant(
        self,
        extractor: FeatureExtractor,
        model: str,
        image: LabelledImage,
        read: LabelledPixels,
        plan: PatchPlan,
        variant: int,
    ) -> FeatureFile | None:
        layout = (image.origin_m, plan.side_m, plan.stride_m, plan.margin_m)
        patches = list(patches_of(read, *layout))
        if not patches:
            return None
        name = image.name if variant else ""  # of which the stain depends
        key = _key([model, name, plan.seed * bool(variant), variant], read.pixels, patches)
        path = self.folder / f"{key}.safetensors"
        self._in_use.add(path)
        found = _opened(path, patches, extractor.channels)
        if found is not None:
            return found
        if variant:
            patches = list(patches_of(_stained(image, read, plan, variant), *layout))
        self._write(path, tensors_of(extractor, patches))
        return FeatureFile(path, patches)

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        size = sum(t.nbytes for t in tensors.values())
        beside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            save_file(tensors, beside)
            beside.replace(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"features could not be kept in {self.folder} ({error}); make room or make the"
                " folder writable, or set QUPATH_PATHSEGDIFF_HOME to another. What was computed so"
                " far is kept"
            ) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        files = _by_use(self.folder)
        total = size + sum(taken for _, taken, _ in files)
        for _, taken, path in files:
            if total <= self._limit:
                return
            if path not in self._in_use:
                total -= taken
                path.unlink(missing_ok=True)
        if total > self._limit:
            raise ModelError(
                f"the features of this training need more than {self._limit / GIB:g} GiB in"
                f" {self.folder}; allow more with --cache-gib, or use fewer images"
            )


def _opened(path: Path, patches: Sequence[Patch], channels: tuple[int, ...]) -> FeatureFile | None:
    """Return a file, from now the most recently used; None where it has to be made (again)."""
    with suppress(OSError, SafetensorError):
        os.utime(path)
        file = FeatureFile(path, patches)
        if file.holds(channels):
            return file
    with suppress(OSError):  # not there; or where nothing can be taken away, `_write` says so
        path.unlink()
    return None


def is_abandoned(part: os.stat_result) -> bool:
    """Return whether nobody can be writing a file any more: it was written to long ago.

    Or long from now: then the clock was wrong, and that it is newest says nothing.
    """
    return abs(time.time() - part.st_mtime) > ABANDONED_S


def _by_use(folder: Path) -> list[tuple[float, int, Path]]:
    """Return (time, bytes, path) of all files, the least recently used first.

    Those of a time to come go first: the clock was wrong when they were used. Clears away what a
    run left that was killed while it wrote.
    """
    found = []
    latest = time.time() + ABANDONED_S
    # safetensors itself writes into a .tmp... that it then renames.
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.part"), *folder.glob(".tmp*")]:
        with suppress(FileNotFoundError):  # another run may give it up at this moment
            state = path.stat()
            if path.suffix == ".safetensors":
                used = state.st_mtime if state.st_mtime < latest else 0.0
                found.append((used, state.st_size, path))
            elif is_abandoned(state):
                path.unlink()
    return sorted(found)


def _stained(
    image: LabelledImage, read: LabelledPixels, plan: PatchPlan, variant: int
) -> LabelledPixels:
    words = [*image.name.encode(), plan.seed, variant]
    return LabelledPixels(jittered(read.pixels, np.random.default_rng(words)), read.codes)


def _key(parts: Sequence[Any], pixels: np.ndarray, patches: Sequence[Patch]) -> str:
    """Return a digest of all that features depend on; what the labels say is no part of it."""
    digest = hashlib.sha256(repr([*parts, pixels.shape]).encode())
    digest.update(repr([(p.pixels.shape, p.origin_m) for p in patches]).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()[:40]
