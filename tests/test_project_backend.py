"""Which face a project is opened with, and why; nothing of it starts Java."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qupath_bridge.errors import ProjectError, SettingsError
from qupath_bridge.project import choose_backend, find_qupath, open_project

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="QuPath's folder is laid out differently on other systems"
)


@pytest.fixture
def no_qupath(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no QuPath be found on this machine."""
    monkeypatch.delenv("PAQUO_QUPATH_DIR", raising=False)
    monkeypatch.setenv("PAQUO_QUPATH_SEARCH_DIRS", "@json []")
    monkeypatch.setenv("PAQUO_QUPATH_SEARCH_CONDA", "0")
    monkeypatch.chdir(tmp_path)


def install(folder: Path, version: str) -> Path:
    """Lay out a QuPath installation that holds nothing but its version."""
    app, java = folder / "lib" / "app", folder / "lib" / "runtime" / "lib" / "server"
    app.mkdir(parents=True)
    java.mkdir(parents=True)
    (java / "libjvm.so").touch()
    with zipfile.ZipFile(app / f"qupath-core-{version}.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", f"Implementation-Version: {version}\r\n")
    return folder


def test_without_qupath_auto_is_portable_and_says_why(no_qupath: None) -> None:
    choice = choose_backend("auto")
    assert find_qupath() is None
    assert (choice.backend, choice.qupath) == ("portable", None)
    assert "no QuPath was found; set PAQUO_QUPATH_DIR, or qupath_dir" in choice.reason


def test_without_qupath_paquo_is_refused_with_the_remedy(no_qupath: None) -> None:
    with pytest.raises(ProjectError, match=r"set PAQUO_QUPATH_DIR.* or use --backend portable"):
        choose_backend("paquo")


def test_another_backend_is_refused() -> None:
    with pytest.raises(SettingsError, match="no backend java; use auto, paquo or portable"):
        choose_backend("java")


@linux_only
def test_a_qupath_named_in_the_environment_is_taken(
    no_qupath: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = install(tmp_path / "QuPath ü", "0.5.1")
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(folder))
    choice = choose_backend("auto")
    assert choice.qupath is not None
    assert (choice.backend, choice.qupath.version) == ("paquo", "0.5.1")
    assert choice.qupath.path == folder
    assert choice.qupath.jvm.is_file()
    assert choice.reason == f"paquo: QuPath 0.5.1 at {folder}"
    assert choose_backend("portable").qupath is None


@linux_only
def test_a_qupath_named_in_paquo_toml_is_taken(no_qupath: None, tmp_path: Path) -> None:
    folder = install(tmp_path / "there", "0.6.0")
    (tmp_path / ".paquo.toml").write_text(f'qupath_dir = "{folder}"\n')
    found = find_qupath()
    assert found is not None
    assert (found.path, found.version) == (folder, "0.6.0")


@linux_only
def test_a_qupath_where_programs_are_installed_is_found(
    no_qupath: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(tmp_path / "QuPath-0.7.0", "0.7.0")
    monkeypatch.setenv("PAQUO_QUPATH_SEARCH_DIRS", f'@json ["{tmp_path}"]')
    found = find_qupath()
    assert found is not None
    assert found.version == "0.7.0"


def test_a_named_folder_without_qupath_is_said(
    no_qupath: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path))
    assert f"no QuPath in {tmp_path}" in choose_backend("auto").reason
    with pytest.raises(ProjectError, match="there is no QuPath in"):
        choose_backend("paquo")


def test_broken_settings_of_paquo_are_said(no_qupath: None, tmp_path: Path) -> None:
    (tmp_path / ".paquo.toml").write_text("qupath_dir = [")
    with pytest.raises(ProjectError, match=r"mend \.paquo\.toml"):
        find_qupath()


@linux_only
@pytest.mark.parametrize(
    ("installed", "saved_by", "said"),
    [
        ("0.3.2", None, "is too old, 0.4 is needed"),
        ("0.5.1", "0.6.0", "saved by QuPath 0.6.0, newer than QuPath 0.5.1 at"),
    ],
)
def test_a_qupath_that_does_not_fit_is_not_taken(
    no_qupath: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    installed: str,
    saved_by: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(install(tmp_path / "q", installed)))
    choice = choose_backend("auto", saved_by)
    assert choice.backend == "portable"
    assert said in choice.reason
    with pytest.raises(ProjectError, match=said):
        choose_backend("paquo", saved_by)


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_and_looking_for_qupath_start_no_java() -> None:
    code = """
import sys
import qupath_bridge.project as project
assert not {"paquo", "jpype", "dynaconf"} & set(sys.modules)
project.find_qupath()
import jpype
print(jpype.isJVMStarted())
"""
    assert run_python(code) == "False"


@linux_only
def test_java_that_does_not_start_leaves_auto_with_the_portable_face(
    no_qupath: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(install(tmp_path / "q", "0.5.1")))
    project = tmp_path / "project.qpproj"
    project.write_text(json.dumps({"version": "0.5.1", "lastID": 0, "images": []}))
    code = """
import sys
from pathlib import Path
from qupath_bridge.project import open_project
print(open_project(Path(sys.argv[1]), sys.argv[2]).reason)
"""
    reason = run_python(code, str(project), "auto")
    assert reason.startswith("portable: QuPath 0.5.1 at ")
    assert "its Java does not start" in reason


def test_a_project_is_looked_at_before_qupath_is(no_qupath: None, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"gone\.qpproj does not exist"):
        open_project(tmp_path / "gone.qpproj", "paquo")
