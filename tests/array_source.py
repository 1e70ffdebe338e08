"""A reader of image files whose pixels are in memory."""

from __future__ import annotations

import numpy as np

from qupath_bridge.geometry import Mpp


class ArraySource:
    """Pixels in memory, as a reader of image files would offer them."""

    mpp = Mpp(0.5, 0.5)

    def __init__(self, *levels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> None:
        self._levels = levels
        self.level_sizes = [(level.shape[1], level.shape[0]) for level in levels]
        width, height = self.level_sizes[0]
        self.origin_l0 = origin
        self.size_l0 = (width - origin[0], height - origin[1])
        self.largest_read = 0

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.largest_read = max(self.largest_read, width * height)
        out = self._levels[level][y : y + height, x : x + width]
        assert out.shape == (height, width, 3), "reads stay inside the level"
        return out

    def close(self) -> None: ...
