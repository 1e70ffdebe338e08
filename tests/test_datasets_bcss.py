"""BCSS as it is published: folders, file names, codes, institutes."""

import numpy as np
import pytest
from PIL import Image

from model.datasets import bcss_split, read_bcss
from model.datasets.bcss import CLASSES
from model.errors import ModelError
from model.labels import IGNORED, check_labels

NAME = "TCGA-{}-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"


def write_pair(folder, codes, institute="A1", images="rgbs_colorNormalized", name=NAME):
    codes = np.array(codes, np.uint8)
    for place in (folder / images, folder / "masks"):
        place.mkdir(parents=True, exist_ok=True)
    name = name.format(institute) + ".png"
    rgb = np.repeat((codes * 10)[..., None], 3, axis=2)
    Image.fromarray(rgb).save(folder / images / name)
    Image.fromarray(codes).save(folder / "masks" / name)
    return folder / "masks" / name


@pytest.mark.parametrize("images", ["rgbs_colorNormalized", "rgbs", "images"])
@pytest.mark.parametrize("inside", ["", "0_Public-data-Amgad2019_0.25MPP"])
def test_it_is_read_from_every_layout(tmp_path, images, inside):
    write_pair(tmp_path / inside, np.ones((8, 12)), images=images)
    labels = read_bcss(tmp_path, 0.5)
    (image,) = labels.images
    assert (image.name, image.group) == (NAME.format("A1"), "A1")
    read = image.read()
    assert read.pixels.shape == (4, 6, 3) and read.codes.shape == (4, 6)
    assert (read.pixels == 10).all() and (read.codes == 0).all()


def test_every_code_goes_to_its_group_and_what_is_outside_weighs_nothing(tmp_path):
    write_pair(tmp_path, [list(range(22))])
    labels = read_bcss(tmp_path, 0.25)
    codes = labels.images[0].read().codes[0]
    assert codes[0] == IGNORED
    of_group = {c.name: np.flatnonzero(codes == n).tolist() for n, c in enumerate(labels.classes)}
    assert of_group.pop("Other") == [5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 21]
    assert of_group == {
        "Tumor": [1, 19, 20], "Stroma": [2], "Immune cells": [3, 10, 11], "Necrosis": [4],
    }  # fmt: skip
    assert labels.classes == CLASSES


def test_the_file_name_tells_the_resolution(tmp_path):
    write_pair(tmp_path, np.ones((8, 12)), name=NAME.replace("0.2500", "0.5000"))
    assert read_bcss(tmp_path, 1.0).images[0].read().codes.shape == (4, 6)
    assert read_bcss(tmp_path, 0.5).images[0].read().codes.shape == (8, 12)


def test_pixels_are_averaged_and_codes_voted(tmp_path):
    write_pair(tmp_path, [[1, 1, 0, 0], [1, 2, 0, 2]])
    read = read_bcss(tmp_path, 0.5).images[0].read()
    assert read.codes.tolist() == [[0, IGNORED]]
    assert read.pixels[0, 0].tolist() == pytest.approx([12.5] * 3, abs=1)


def test_the_customary_institutes_are_held_out(tmp_path):
    for institute in ("A1", "OL", "D8", "S3"):
        write_pair(tmp_path, np.arange(1, 22).reshape(1, -1), institute)
    labels = read_bcss(tmp_path, 0.25)
    train, test = bcss_split(labels)
    assert [i.group for i in train] == ["A1", "D8"] and [i.group for i in test] == ["OL", "S3"]
    assert check_labels(labels).per_class["Stroma"] == 4


def test_an_unknown_code_is_named_with_its_file(tmp_path):
    mask = write_pair(tmp_path, [[1, 99]])
    with pytest.raises(ModelError, match="has the code 99") as error:
        read_bcss(tmp_path, 0.25).images[0].read()
    assert str(mask) in str(error.value)


def test_a_mask_of_another_size_is_refused(tmp_path):
    mask = write_pair(tmp_path, np.ones((8, 12)))
    Image.fromarray(np.ones((8, 8), np.uint8)).save(mask)
    with pytest.raises(ModelError, match="is 8 x 8 pixels, but its image 12 x 8"):
        read_bcss(tmp_path, 0.5).images[0].read()


def test_what_is_not_as_published_is_said(tmp_path):
    with pytest.raises(ModelError, match="is not BCSS as published"):
        read_bcss(tmp_path / "gone", 0.5)
    mask = write_pair(tmp_path / "a", np.ones((8, 12)))
    mask.unlink()
    with pytest.raises(ModelError, match="has no mask of its name"):
        read_bcss(tmp_path / "a", 0.5)
    write_pair(tmp_path / "b", np.ones((8, 12)), name="slide{}")
    with pytest.raises(ModelError, match=r"slideA1\.png is not named"):
        read_bcss(tmp_path / "b", 0.5)
    (tmp_path / "c" / "masks").mkdir(parents=True)
    with pytest.raises(ModelError, match="none of the folders rgbs_colorNormalized"):
        read_bcss(tmp_path / "c", 0.5)
    (tmp_path / "c" / "images").mkdir()
    with pytest.raises(ModelError, match="has no image"):
        read_bcss(tmp_path / "c", 0.5)
