"""The rules of the house that a reader of imports can check."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "paquo": "qupath_bridge/project",
    "jpype": "qupath_bridge/project",
    "openslide": "qupath_bridge/slide",
    "tifffile": "qupath_bridge/slide",
    "torch": "model",
    "diffusers": "model",
    "transformers": "model",
    "safetensors": "model",
    "skimage": "model",
    "matplotlib": "model/charts",
    "yaml": "model",
    "flask": "qupath_bridge/server",
    "werkzeug": "qupath_bridge/server",
    "waitress": "qupath_bridge/server",
    "distributed": "qupath_bridge/engine",
    "dask": "qupath_bridge/engine",
    "filelock": "qupath_bridge/lock",
}
# Looks at versions and devices, and so touches what it looks at.
EXCEPTIONS = {("qupath_bridge/doctor.py", "torch"), ("qupath_bridge/doctor.py", "openslide")}
# Writes the demo's slide.
EXCEPTIONS |= {("qupath_bridge/demo/tiff.py", "tifffile")}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def modules() -> list[Path]:
    return sorted(
        p for package in ("model", "qupath_bridge") for p in (ROOT / package).rglob("*.py")
    )


@pytest.mark.parametrize("library", HOMES)
def test_a_foreign_library_has_one_home(library):
    strangers = [
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for name in imports_of(path))
        and not path.relative_to(ROOT).as_posix().startswith(HOMES[library])
    ]
    assert [s for s in strangers if (s, library) not in EXCEPTIONS] == []


def test_the_model_knows_nothing_of_the_bridge():
    for path in (ROOT / "model").rglob("*.py"):
        assert not any(name.startswith("qupath_bridge") for name in imports_of(path)), path


def test_the_process_of_the_server_loads_no_deep_learning():
    heavy = ("model.segmenter", "model.weights", "model.train", "model.features", "model.encoder")
    for path in (ROOT / "qupath_bridge" / "server").rglob("*.py"):
        assert not any(name in heavy or name == "model" for name in imports_of(path)), path


def test_the_rules_look_at_something():
    assert len(modules()) > 30
