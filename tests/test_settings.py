import pytest

from qupath_bridge.errors import SettingsError
from qupath_bridge.settings import RunSettings, read_settings


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path))
    return tmp_path


def test_without_anything_the_defaults_are_in_force():
    assert read_settings({}) == RunSettings()


def test_the_command_line_beats_the_environment_beats_the_file(own_home, monkeypatch):
    (own_home / "settings.toml").write_text("min_object_um2 = 1\noverlap = 0.25\ndevice = 'mps'\n")
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_OVERLAP", "0.3")
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_DEVICE", "cuda")
    settings = read_settings({"device": "cpu", "mpp": None})
    assert (settings.min_object_um2, settings.overlap, settings.device) == (1.0, 0.3, "cpu")


def test_lists_and_truths_are_understood(monkeypatch):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HEADS", "tissue, glands")
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_RESTART", "yes")
    settings = read_settings({})
    assert settings.heads == ("tissue", "glands")
    assert settings.restart


def test_an_unknown_key_names_its_source(own_home, monkeypatch):
    (own_home / "settings.toml").write_text("tile_size = 3\n")
    with pytest.raises(SettingsError, match=r"settings\.toml: unknown setting 'tile_size'"):
        read_settings({})
    (own_home / "settings.toml").unlink()
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_MODLE", "x")
    with pytest.raises(SettingsError, match="QUPATH_PATHSEGDIFF_MODLE: unknown setting 'modle'"):
        read_settings({})


def test_a_broken_file_is_named(own_home):
    (own_home / "settings.toml").write_text("overlap = \n")
    with pytest.raises(SettingsError, match=r"settings\.toml cannot be read"):
        read_settings({})


@pytest.mark.parametrize(
    "bad",
    [
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"mpp": -1.0},
        {"mpp": 1e6},
        {"overlap": 0.9},
        {"batch_size": -1},
        {"min_object_um2": -1.0},
        {"min_hole_um2": float("nan")},
        {"regions": "everything"},
        {"backend": "java"},
    ],
)
def test_values_out_of_range_are_refused_by_name(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        read_settings(bad)


def test_a_value_of_the_wrong_kind_is_refused(monkeypatch):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_OVERLAP", "half")
    with pytest.raises(SettingsError, match="overlap cannot be 'half'"):
        read_settings({})
