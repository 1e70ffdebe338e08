"""Which file a URI means, and which files may be opened."""

import os
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest

from qupath_bridge.errors import ClosedFolderError, ImagePathError, SettingsError
from qupath_bridge.known_projects import known_folders, remember_project
from qupath_bridge.server.roots import Roots, parse_map


@pytest.fixture
def slides(tmp_path) -> Path:
    folder = tmp_path / "Folien mit Ümlaut"
    folder.mkdir()
    (folder / "bild ä#1.tif").write_bytes(b"x")
    return folder


@pytest.fixture
def roots(slides) -> Roots:
    return Roots((slides,))


def refused(roots: Roots, uri: str) -> str:
    with pytest.raises(ImagePathError) as caught:
        roots.resolve(uri)
    sentence = str(caught.value)
    sentence.encode()  # can be sent
    return sentence


def test_a_file_is_found_by_every_form_of_its_uri(roots, slides):
    file = slides / "bild ä#1.tif"
    java = str(file).replace(" ", "%20").replace("#", "%23")
    for uri in (
        file.as_uri(),
        str(file),
        f"file:{java}",
        f"file://{java}",
        f"FILE://localhost{java}",
    ):
        assert roots.resolve(uri) == file


def test_umlauts_of_two_characters_find_a_file_of_one(roots, slides):
    decomposed = unicodedata.normalize("NFD", "bild ä#1.tif")
    assert roots.resolve(str(slides / decomposed)) == slides / "bild ä#1.tif"


def test_dots_that_stay_below_a_root_are_resolved(roots, slides):
    (slides / "sub").mkdir()
    assert roots.resolve(f"{slides}/sub/../bild ä#1.tif") == slides / "bild ä#1.tif"


@pytest.mark.parametrize("tail", ["../secret.tif", "%2E%2E/secret.tif", "sub/../../secret.tif"])
def test_dots_that_leave_the_roots_are_refused(roots, slides, tail):
    (slides.parent / "secret.tif").write_bytes(b"x")
    (slides / "sub").mkdir()
    uri = f"file:{slides}/{tail}".replace(" ", "%20")
    assert f"--root {slides.parent}" in refused(roots, uri)


def test_a_link_that_leaves_the_roots_is_refused(roots, slides):
    (slides.parent / "secret.tif").write_bytes(b"x")
    (slides / "link.tif").symlink_to(slides.parent / "secret.tif")
    assert str(slides.parent / "secret.tif") in refused(roots, str(slides / "link.tif"))


def test_a_root_that_is_itself_a_link_lets_its_files_be_opened(slides):
    link = slides.parent / "link"
    link.symlink_to(slides)
    assert Roots((link,)).resolve(str(link / "bild ä#1.tif")) == slides / "bild ä#1.tif"


def test_a_link_to_itself_is_refused(roots, slides):
    (slides / "loop.tif").symlink_to(slides / "loop.tif")
    assert "loop.tif" in refused(roots, str(slides / "loop.tif"))


def test_a_folder_whose_name_begins_like_a_root_is_outside(roots, slides):
    twin = slides.with_name(slides.name + "2")
    twin.mkdir()
    (twin / "a.tif").write_bytes(b"x")
    assert "outside" in refused(roots, str(twin / "a.tif"))


def test_outside_of_the_roots_nothing_is_said_about_what_exists(roots):
    there, not_there = refused(roots, "/etc/passwd"), refused(roots, "/etc/no such thing")
    assert there.replace("/etc/passwd", "X") == not_there.replace("/etc/no such thing", "X")


def test_the_folder_to_open_is_named_unless_the_command_line_named_the_roots(roots, tmp_path):
    file = tmp_path / "elsewhere" / "a.svs"
    for asked, folder in ((roots, None), (Roots(remembered=list), str(file.parent))):
        with pytest.raises(ClosedFolderError) as caught:
            asked.resolve(file.as_uri())
        assert caught.value.folder == folder


def test_a_missing_file_is_named_with_what_to_do(roots, slides):
    sentence = refused(roots, f"file:{slides}/none.tif".replace(" ", "%20"))
    assert str(slides / "none.tif") in sentence and "--map" in sentence


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://example.org/a.svs", "no file"),
        ("omero:1", "no file"),
        ("file://[half/x", "no file"),
        ("a.tif", "no absolute path"),
        ("", "no absolute path"),
        (r"C:\slides\a.svs", r"--map 'C:\slides="),
        ("file:/C:/slides/a.svs", r"--map 'C:\slides="),
        (r"\\server\share\a.svs", "--map"),
        ("file://server/share/a.svs", "--map"),
        ("file:/a%00b", "NUL"),
        ("/a\0b", "NUL"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="where these are paths of another system")
def test_what_is_no_path_here_is_refused_with_a_remedy(roots, uri, said):
    assert said in refused(roots, uri)


def test_folders_devices_and_pipes_are_no_images(slides):
    os.mkfifo(slides / "pipe")
    roots = Roots((slides, Path("/dev")))
    assert "folder" in refused(roots, str(slides))
    assert "pipe" in refused(roots, str(slides / "pipe"))
    assert "device" in refused(roots, "/dev/null")


def test_a_name_too_long_or_of_odd_bytes_is_refused_in_a_sentence(roots, slides):
    assert "no file" in refused(roots, f"{slides}/{'x' * 5000}")
    assert "none?" in refused(roots, f"file:{slides}/none%FF.tif".replace(" ", "%20"))
    refused(roots, f"{slides}/half \ud800 pair")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_the_right_to_read_is_refused(roots, slides):
    (slides / "shut.tif").write_bytes(b"x")
    (slides / "shut.tif").chmod(0)
    assert "permissions" in refused(roots, str(slides / "shut.tif"))


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        (r"C:\slides", r"C:\slides\bild ä#1.tif"),
        (r"C:\slides", r"c:\SLIDES\bild ä#1.tif"),
        (r"C:\slides", "file:/C:/slides/bild%20%C3%A4%231.tif"),
        (r"C:\slides", "file:///c:/slides/bild%20ä%231.tif"),
        ("C:/slides", r"C:\slides\sub\..\bild ä#1.tif"),
        ("C:/slides/", "C:/slides/bild ä#1.tif"),
        ("c:", "C:/bild ä#1.tif"),
        (r"\\Server\share", "file://server/Share/bild%20%C3%A4%231.tif"),
        ("//server/share", r"\\SERVER\share\bild ä#1.tif"),
        ("/Volumes/slides", "file:/Volumes/slides/bild%20%C3%A4%231.tif"),
    ],
)
def test_a_map_translates_paths_of_the_client(slides, source, uri):
    roots = Roots((slides,), (parse_map(f"{source}={slides}"),))
    assert roots.resolve(uri) == slides / "bild ä#1.tif"


def test_of_several_maps_the_longest_prefix_wins(slides):
    maps = (parse_map(r"C:\=/nowhere"), parse_map(rf"C:\a\b={slides}"), parse_map(r"C:\a=/no"))
    assert Roots((slides,), maps).resolve(r"C:\a\b\bild ä#1.tif") == slides / "bild ä#1.tif"


def test_a_map_ends_at_a_folder_and_minds_case_where_the_client_does(slides):
    maps = (parse_map(f"/Vol/slides={slides}"), parse_map(rf"C:\slides={slides}"))
    for uri in ("/vol/slides/bild ä#1.tif", "/Vol/slides2/bild ä#1.tif", r"C:\slides2\a"):
        refused(Roots((slides,), maps), uri)


def test_a_mapped_path_cannot_leave_the_roots(slides):
    (slides.parent / "secret.tif").write_bytes(b"x")
    roots = Roots((slides,), (parse_map(f"/data={slides}"), parse_map(rf"C:\data={slides}")))
    assert "outside" in refused(roots, "file:/data/../secret.tif")
    refused(roots, r"C:\data\..\secret.tif")


def test_a_map_may_have_equals_signs_in_its_paths():
    found = parse_map("C:\\a=b=/c=d")
    assert found.source == PureWindowsPath(r"C:\a=b") and found.target == Path("/c=d")


@pytest.mark.parametrize("text", ["", "=", "/a", "a=/b", "/a=b", "/a=", "C:=", "/a=/b\0"])
def test_a_map_without_two_absolute_paths_is_refused(text):
    with pytest.raises(SettingsError, match="FROM=TO"):
        parse_map(text)


def test_without_roots_the_home_and_known_projects_may_be_read(slides, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    file = slides / "bild ä#1.tif"
    refused(Roots(), str(file))
    remember_project(slides / "project.qpproj")
    assert Roots().resolve(str(file)) == file
    assert refused(Roots((tmp_path / "me",)), str(file))


def test_projects_are_remembered_once_newest_first_and_for_this_user(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(home))
    for name in ("a", "b", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        remember_project(tmp_path / name)
    assert known_folders() == [tmp_path / "a", tmp_path / "b"]
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "text", ["", "[]", '{"folders": 1}', '{"folders": ["relative"]}', "[" * 9999]
)
def test_a_damaged_list_of_projects_is_no_list(tmp_path, monkeypatch, text):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path))
    (tmp_path / "projects.json").write_text(text)
    assert known_folders() == []
