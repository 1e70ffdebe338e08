"""Probabilities as class maps have them."""

from __future__ import annotations

import numpy as np

from qupath_bridge.classmap import STEPS


def in_whole_steps(parts: np.ndarray | float) -> np.ndarray:
    """Return parts of one, 0..1, as what a class map makes of them."""
    return steps_of(np.asarray(parts)) / STEPS


def steps_of(parts: np.ndarray) -> np.ndarray:
    """Return parts of one, 0..1, in steps of 1/65535, uint16."""
    return np.rint(parts * STEPS).astype(np.uint16)
