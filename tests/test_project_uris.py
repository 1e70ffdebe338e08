"""Where an image is, as QuPath's URIs say and as moved projects have it."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qupath_bridge.project.uris import find_file, path_of_uri

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/data/a.svs", PurePosixPath("/data/a.svs")),
        ("file:///data/a.svs", PurePosixPath("/data/a.svs")),
        ("file://localhost/data/a.svs", PurePosixPath("/data/a.svs")),
        ("file:/data/a%20b%C3%BC%F0%9F%98%80.svs", PurePosixPath("/data/a bü😀.svs")),
        ("file:/data/aü%25.svs", PurePosixPath("/data/aü%.svs")),
        ("file:/data/a%23b.svs#2", PurePosixPath("/data/a#b.svs")),
        ("/data/a%20b.svs", PurePosixPath("/data/a%20b.svs")),
        ("file:/C:/data/a%20b.svs", PureWindowsPath("C:/data/a b.svs")),
        ("file:///D:/a.svs", PureWindowsPath("D:/a.svs")),
        ("C:\\data\\a.svs", PureWindowsPath("C:/data/a.svs")),
        ("file://server/share/a.svs", PureWindowsPath("//server/share/a.svs")),
        ("file:////server/share/a.svs", PureWindowsPath("//server/share/a.svs")),
        ("https://host/a.svs", None),
    ],
)
def test_a_uri_stands_for_the_path_of_the_system_it_was_written_on(uri: str, path: object) -> None:
    assert path_of_uri(uri) == path


@given(names)
def test_every_file_name_survives_its_uri(name: str) -> None:
    path = PurePosixPath("/data") / name
    assert path_of_uri(path.as_uri()) == path


def test_a_file_is_found_where_the_project_says(tmp_path: Path) -> None:
    image = tmp_path / "a.svs"
    image.touch()
    found = find_file(PurePosixPath(image), tmp_path / "p" / "project.qpproj", tmp_path / "p")
    assert found == (image, True)


def test_the_image_beside_a_moved_project_comes_before_the_one_at_the_old_place(
    tmp_path: Path,
) -> None:
    for place in ("old", "new"):
        (tmp_path / place / "slides").mkdir(parents=True)
        (tmp_path / place / "slides" / "a.svs").touch()
    stored = PurePosixPath(tmp_path / "old" / "slides" / "a.svs")
    saved_as = PurePosixPath(tmp_path / "old" / "p" / "project.qpproj")
    found = find_file(stored, saved_as, tmp_path / "new" / "p")
    assert found == (tmp_path / "new" / "slides" / "a.svs", True)


def test_the_old_place_serves_where_the_image_did_not_move_with_the_project(tmp_path: Path) -> None:
    image = tmp_path / "a.svs"
    image.touch()
    found = find_file(PurePosixPath(image), PurePosixPath("/gone/p.qpproj"), tmp_path / "new")
    assert found == (image, True)


def test_a_project_from_windows_finds_its_images_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a b.svs").touch()
    stored, saved_as = (
        path_of_uri(uri) for uri in ("file:/C:/x/slides/a%20b.svs", "file:/C:/x/p/project.qpproj")
    )
    assert stored is not None
    found = find_file(stored, saved_as, tmp_path / "p")
    assert found == (tmp_path / "slides" / "a b.svs", True)


def test_another_windows_drive_has_no_relative_path(tmp_path: Path) -> None:
    stored = PureWindowsPath("D:/a.svs")
    assert not find_file(stored, PureWindowsPath("C:/p/project.qpproj"), tmp_path).exists


def test_a_missing_image_is_expected_at_its_stored_place(tmp_path: Path) -> None:
    stored = PurePosixPath("/gone/slides/a.svs")
    found = find_file(stored, PurePosixPath("/gone/p/project.qpproj"), tmp_path)
    assert found == (Path("/gone/slides/a.svs"), False)


@pytest.mark.parametrize(("on_disk", "in_project"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_umlauts_are_found_however_they_are_composed(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], in_project: Literal["NFC", "NFD"]
) -> None:
    image = tmp_path / unicodedata.normalize(on_disk, "Gewebe Größe.svs")
    image.touch()
    stored = PurePosixPath(tmp_path) / unicodedata.normalize(in_project, "Gewebe Größe.svs")
    assert find_file(stored, None, tmp_path).exists


def test_a_name_that_no_disk_takes_is_missing_not_an_error(tmp_path: Path) -> None:
    assert not find_file(PurePosixPath("/data") / ("x" * 5000), None, tmp_path).exists
