"""Fixtures that many test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real slides and tiles, or skip where it is absent."""
    beside_checkout = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PATHSEGDIFF_TEST_DATA", beside_checkout))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PATHSEGDIFF_TEST_DATA to its folder")
    return folder
