"""Tiles in a folder per class."""

import numpy as np
import pytest
from PIL import Image

from model.card import HeadClass
from model.datasets import read_class_folders
from model.errors import ModelError
from model.labels import IGNORED, check_labels


def write_tile(folder, name="t.png", side=8, hole=False):
    folder.mkdir(parents=True, exist_ok=True)
    tile = np.full((side, side, 3), 150, np.uint8)
    if hole:
        tile[0, 0], tile[0, 1] = (250, 250, 250), (250, 250, 200)
    Image.fromarray(tile).save(folder / name)


def test_folders_of_nct_crc_have_the_classes_that_are_meant(tmp_path):
    for name in ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]:
        write_tile(tmp_path / name)
    labels = read_class_folders(tmp_path, 0.5, tile_m=8)
    assert [c.name for c in labels.classes] == [
        "Tumor", "Stroma", "Immune cells", "Necrosis", "Mucus", "Muscle", "Normal mucosa",
        "Adipose", "Background",
    ]  # fmt: skip
    assert [c.name for c in labels.classes if not c.detections] == ["Background"]
    assert len({c.color for c in labels.classes}) == 9
    by_name = {i.name: i for i in labels.images}
    assert (by_name["TUM/t.png"].read().codes == 0).all()
    assert (by_name["BACK/t.png"].read().codes == 8).all()


def test_other_folders_give_classes_their_names_and_colours(tmp_path):
    for name in ("Tumor", "Zebra", "T", "background"):
        write_tile(tmp_path / name)
    classes = {c.name: c for c in read_class_folders(tmp_path, 0.5).classes}
    assert classes["Tumor"] == HeadClass("Tumor", (200, 0, 0))
    assert classes["T"].color != classes["Zebra"].color
    assert not classes["background"].detections


def test_two_folders_of_one_class_are_one_class(tmp_path):
    for name in ("TUM", "Tumor", "STR"):
        write_tile(tmp_path / name)
    labels = read_class_folders(tmp_path, 0.5, tile_m=8)
    assert [c.name for c in labels.classes] == ["Tumor", "Stroma"]
    assert check_labels(labels).per_class == {"Tumor": 2 * 64, "Stroma": 64}


@pytest.mark.parametrize(("kind", "ignored"), [("STR", 1), ("BACK", 0), ("ADI", 0), ("Fat", 0)])
def test_holes_say_nothing_but_of_what_is_white_by_nature(tmp_path, kind, ignored):
    write_tile(tmp_path / kind, hole=True)
    codes = read_class_folders(tmp_path, 0.5, tile_m=8).images[0].read().codes
    assert (codes == IGNORED).sum() == ignored


def test_a_short_tile_is_filled_up_without_labels(tmp_path):
    write_tile(tmp_path / "STR", side=10)
    read = read_class_folders(tmp_path, 0.5, tile_m=32).images[0].read()
    assert read.pixels.shape == (32, 32, 3) and (read.pixels == 150).all()
    assert (read.codes[:10, :10] == 0).all() and (read.codes == IGNORED).sum() == 32**2 - 100


def test_tiles_are_brought_to_the_models_resolution(tmp_path):
    write_tile(tmp_path / "STR", side=16)
    assert read_class_folders(tmp_path, 0.5, 0.25, 4).images[0].read().codes.shape == (8, 8)


def test_what_is_no_tile_is_left_out_and_what_is_broken_is_named(tmp_path):
    write_tile(tmp_path / "STR")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "STR" / ".hidden.png").touch()
    (tmp_path / "STR" / "list.csv").touch()
    assert len(read_class_folders(tmp_path, 0.5).images) == 1
    (tmp_path / "STR" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (broken, _) = read_class_folders(tmp_path, 0.5).images
    with pytest.raises(ModelError, match=r"broken\.png cannot be read"):
        broken.read()


def test_a_folder_without_classes_or_tiles_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no folder in it; make one per class"):
        read_class_folders(tmp_path, 0.5)
    with pytest.raises(ModelError, match="cannot be read"):
        read_class_folders(tmp_path / "gone", 0.5)
    write_tile(tmp_path / "STR")
    (tmp_path / "TUM").mkdir()
    with pytest.raises(ModelError, match="TUM has no picture; put tiles there, or remove it"):
        read_class_folders(tmp_path, 0.5)


def test_the_real_tiles_are_read(shared_data):
    labels = read_class_folders(shared_data / "tiles" / "nct_crc", 0.5)
    assert len(labels.images) == 108 and len(labels.classes) == 9
    counts = check_labels(labels).per_class
    assert all(0.5 * 12 * 224**2 < count <= 12 * 224**2 for count in counts.values()), counts
