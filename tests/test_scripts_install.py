"""Scripts on QuPath's menu: put there, brought up to date, taken away, and nothing else touched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from model.home import home
from qupath_bridge import __version__, cli
from qupath_bridge.launcher import write_launcher
from qupath_bridge.script_text import filled, read_installed

SCRIPT = "Segment selection.groovy"
COUNT = 8


def scripts(*arguments: object) -> str:
    """Return what the command says; it must succeed."""
    done = CliRunner().invoke(cli.main, ["scripts", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(cli.main, ["scripts", *map(str, arguments)])
    assert done.exit_code == 1 and "Traceback" not in done.output
    return done.output


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def user_dir(tmp_path) -> Path:
    """Return a user folder of QuPath's with a script of the user's own."""
    folder = tmp_path / "Mein QuPath ü" / "v0.5"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "mine.groovy").write_text("println 1\n")
    return folder


def test_install_then_uninstall_leaves_everything_as_it_was(user_dir):
    before = tree(user_dir)
    scripts("install", "--user-dir", user_dir)
    folder = user_dir / "scripts" / "PathSegDiff"
    assert len(list(folder.iterdir())) == COUNT
    assert {p.name for p in (home() / "groovy").glob("*.groovy")} == {
        "InQuPath.groovy",
        "PathSegDiff.groovy",
    }
    scripts("uninstall", "--user-dir", user_dir)
    assert tree(user_dir) == before
    assert not folder.exists()
    assert tree(home()) == {}


def test_what_is_installed_is_filled_in(user_dir):
    scripts("install", "--user-dir", user_dir)
    for path in [*(user_dir / "scripts" / "PathSegDiff").iterdir(), *(home() / "groovy").iterdir()]:
        assert "@HOME@" not in path.read_text() and "@VERSION@" not in path.read_text()
    assert f"VERSION = '{__version__}'" in (home() / "groovy" / "PathSegDiff.groovy").read_text()
    launcher = json.loads((home() / "launcher.json").read_text())
    assert launcher["version"] == __version__ and launcher["command"][-1] == "serve"


def test_a_project_gets_them_in_its_own_scripts(small_project):
    scripts("install", "--project", small_project)
    assert (small_project.parent / "scripts" / "PathSegDiff" / SCRIPT).is_file()
    scripts("uninstall", "--project", small_project)
    assert not (small_project.parent / "scripts" / "PathSegDiff").exists()


def test_by_default_every_qupath_from_0_5_on_gets_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("v0.4", "v0.5", "v0.10", "vault.1"):
        (tmp_path / "QuPath" / name).mkdir(parents=True)
    scripts("install")
    found = {p.parents[2].name for p in tmp_path.rglob(SCRIPT)}
    assert found == {"v0.5", "v0.10"}
    scripts("uninstall")
    assert not list(tmp_path.rglob("*.groovy"))


def test_without_a_user_folder_the_options_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    told = refused("install")
    assert "--user-dir" in told and "--project" in told


def test_what_they_share_stays_while_another_place_needs_it(user_dir, small_project):
    scripts("install", "--user-dir", user_dir)
    scripts("install", "--project", small_project)
    scripts("uninstall", "--project", small_project)
    assert (home() / "groovy" / "InQuPath.groovy").is_file()
    scripts("uninstall", "--user-dir", user_dir)
    assert not (home() / "groovy").exists()


def test_without_options_uninstall_finds_them_wherever_they_were_put(user_dir, small_project):
    scripts("install", "--user-dir", user_dir)
    scripts("install", "--project", small_project)
    scripts("uninstall")
    assert not list(user_dir.rglob("PathSegDiff"))
    assert not list((small_project.parent / "scripts").rglob("PathSegDiff"))


def test_a_file_of_somebody_else_stops_the_install_before_anything_is_written(user_dir):
    folder = user_dir / "scripts" / "PathSegDiff"
    folder.mkdir()
    (folder / SCRIPT).write_text("println 'my own'\n")
    before = tree(user_dir)
    assert SCRIPT in refused("install", "--user-dir", user_dir)
    assert tree(user_dir) == before and tree(home()) == {}


def test_a_second_install_changes_nothing(user_dir):
    scripts("install", "--user-dir", user_dir)
    before = tree(user_dir), tree(home())
    assert "kept" not in scripts("install", "--user-dir", user_dir)
    assert (tree(user_dir), tree(home())) == before


def test_changed_settings_are_carried_over(user_dir):
    scripts("install", "--user-dir", user_dir)
    path = user_dir / "scripts" / "PathSegDiff" / SCRIPT
    text = path.read_text().replace("'default'", "'mine // ours'").replace("= 200 ", "= 12.5 ")
    path.write_text(text.replace("\n", "\r\n"))  # as an editor on Windows leaves it
    assert "settings were kept" in scripts("install", "--user-dir", user_dir)
    now = path.read_text()
    assert "model = 'mine // ours' " in now and "smallestObject = 12.5 " in now
    assert not list(path.parent.glob("*.yours*"))
    scripts("uninstall", "--user-dir", user_dir)
    assert not path.parent.exists()


def test_changed_code_is_put_aside_and_its_settings_are_still_carried_over(user_dir):
    scripts("install", "--user-dir", user_dir)
    path = user_dir / "scripts" / "PathSegDiff" / SCRIPT
    mine = path.read_text().replace("= 200 ", "= 7 ").replace("qupath.run", "println 1; qupath.run")
    for kept in (f"{SCRIPT}.yours", f"{SCRIPT}.yours2"):
        path.write_text(mine)
        assert kept in scripts("install", "--user-dir", user_dir)
        assert (path.parent / kept).read_text() == mine
        assert "println 1" not in path.read_text() and "smallestObject = 7 " in path.read_text()


def test_uninstall_leaves_changed_code_and_says_so(user_dir):
    scripts("install", "--user-dir", user_dir)
    path = user_dir / "scripts" / "PathSegDiff" / SCRIPT
    path.write_text(path.read_text().replace("qupath.run", "println 1; qupath.run"))
    assert "stays" in scripts("uninstall", "--user-dir", user_dir)
    assert [p.name for p in path.parent.iterdir()] == [SCRIPT]


def test_settings_that_a_new_version_has_no_longer_are_dropped():
    old = filled("a = 1  // x\nb = 2\n// ---- end of settings ----\nrun(a)\n", "/h", "1", {})
    found = read_installed(old.replace("a = 1", "a = 5"))
    assert found and found.code_is_ours and not found.is_untouched
    new = filled("a = 3\n// ---- end of settings ----\nrun(a, 1)\n", "/h", "2", found.settings)
    assert new.startswith("a = 5\n") and "b =" not in new
    assert read_installed(new).is_untouched


def test_the_options_that_serve_was_started_with_stay_in_the_launcher(user_dir):
    write_launcher(home(), ["--port", "9000"])
    scripts("install", "--user-dir", user_dir)
    assert json.loads((home() / "launcher.json").read_text())["command"][-2:] == ["--port", "9000"]


def test_both_places_at_once_are_refused(user_dir, small_project):
    command = ["scripts", "install", "--user-dir", str(user_dir), "--project", str(small_project)]
    assert CliRunner().invoke(cli.main, command).exit_code == 2


@pytest.mark.parametrize("path", ["C:\\Users\\Jörg's 🔬\\udead\\n", "/home/a b/$x/'q'", "/ü\\"])
def test_a_home_of_any_name_is_what_groovy_reads(groovy, path):
    text = filled("'@HOME@'", path, "1", {})
    assert text.isascii()
    assert groovy(text) == path


def test_every_script_ends_with_our_mark_and_begins_with_its_settings(user_dir):
    scripts("install", "--user-dir", user_dir)
    for path in (user_dir / "scripts" / "PathSegDiff").iterdir():
        lines = path.read_text().splitlines()
        assert re.match(r"\w+ = |// \w", lines[0])
        assert lines[-1].startswith("// Put here by qupath-pathsegdiff")
