"""GlaS: every gland with its id, patients, the rim of glands."""

import numpy as np
import pytest
from PIL import Image

from model.datasets import read_glas
from model.errors import ModelError

GRADES = "name,patient ID, grade (GlaS)\rtrain_1,4, benign\rtestA_1,4, benign\rtrain_2,9, benign\r"


def write_image(folder, name, instances, suffixes=("bmp", "bmp")):
    folder.mkdir(parents=True, exist_ok=True)
    plane = np.array(instances, np.uint8)
    rgb = np.repeat((plane * 20)[..., None], 3, axis=2)
    Image.fromarray(rgb).save(folder / f"{name}.{suffixes[0]}")
    Image.fromarray(plane).save(folder / f"{name}_anno.{suffixes[1]}")


@pytest.fixture
def plane() -> np.ndarray:
    plane = np.zeros((40, 60), np.uint8)
    plane[5:25, 5:25], plane[5:25, 25:45], plane[30:, :10] = 1, 2, 7
    return plane


def test_it_is_read_as_published_and_sorted_into_folders(tmp_path, plane):
    for name in ("train_1", "train_2", "testA_1", "testB_1"):
        write_image(tmp_path / "flat", name, plane)
        write_image(tmp_path / "sorted" / name.split("_")[0], name, plane, ("jpg", "png"))
    for folder in (tmp_path / "flat", tmp_path / "sorted"):
        names = [i.name for i in read_glas(folder, 0.5).images]
        assert sorted(names) == ["testA_1", "testB_1", "train_1", "train_2"]
        assert [i.name for i in read_glas(folder, 0.5, "train").images] == ["train_1", "train_2"]
    (only,) = read_glas(tmp_path / "sorted" / "testA", 0.5).images
    assert only.name == "testA_1"


def test_ids_and_classes_are_kept_at_the_models_resolution(tmp_path, plane):
    write_image(tmp_path, "train_1", plane)
    labels = read_glas(tmp_path, 0.62005)
    read = labels.images[0].read()
    assert (read.instances == plane).all() and read.instances.dtype == np.int32
    assert (read.codes == (plane > 0)).all()
    assert [(c.name, c.detections) for c in labels.classes] == [
        ("Background", False), ("Gland", True),
    ]  # fmt: skip
    finer = read_glas(tmp_path, 0.5).images[0].read()
    assert finer.codes.shape == finer.instances.shape == finer.pixels.shape[:2] == (49, 74)
    assert set(np.unique(finer.instances)) == {0, 1, 2, 7}
    assert (finer.instances > 0).mean() == pytest.approx((plane > 0).mean(), rel=0.03)


def test_the_rim_of_each_gland_is_a_class_of_its_own(tmp_path, plane):
    write_image(tmp_path, "train_1", plane)
    labels = read_glas(tmp_path, 0.62005, border_um=2 * 0.62005)
    codes = labels.images[0].read().codes
    assert [c.name for c in labels.classes] == ["Background", "Gland", "Gland border"]
    assert (codes[15, 5:25] == [2, 2, *[1] * 16, 2, 2]).all()  # touching glands: each has its rim
    assert (codes[15, 25:45] == [2, 2, *[1] * 16, 2, 2]).all()
    assert ((codes > 0) == (plane > 0)).all()
    assert (codes[35:, 0] == 1).all() and codes[29, 0] == 0 and codes[30, 0] == 2  # image's edge


def test_images_of_one_patient_are_one_group(tmp_path, plane):
    for name in ("train_1", "train_2", "train_3", "testA_1"):
        write_image(tmp_path / name.split("_")[0], name, plane)
    assert {i.group for i in read_glas(tmp_path, 0.5, "train").images} == {
        "train_1", "train_2", "train_3",
    }  # fmt: skip
    (tmp_path / "Grade.csv").write_bytes(GRADES.encode())
    groups = {i.name: i.group for i in read_glas(tmp_path, 0.5).images}
    assert groups["train_1"] == groups["testA_1"] == "patient 4"
    assert (groups["train_2"], groups["train_3"]) == ("patient 9", "train_3")
    assert read_glas(tmp_path / "train", 0.5).images[0].group == "patient 4"


def test_what_is_missing_is_said(tmp_path, plane):
    with pytest.raises(ModelError, match="is not a folder"):
        read_glas(tmp_path / "gone", 0.5)
    with pytest.raises(ModelError, match="no image of GlaS"):
        read_glas(tmp_path, 0.5)
    with pytest.raises(ModelError, match="no part 'testC'"):
        read_glas(tmp_path, 0.5, "testC")
    write_image(tmp_path, "train_1", plane)
    with pytest.raises(ModelError, match="less than a pixel"):
        read_glas(tmp_path, 0.5, border_um=0.1)
    (tmp_path / "Grade.csv").write_text("who,what\n")
    with pytest.raises(ModelError, match=r"Grade\.csv does not tell the patients"):
        read_glas(tmp_path, 0.5)
    (tmp_path / "Grade.csv").unlink()
    (tmp_path / "train_1_anno.bmp").unlink()
    with pytest.raises(ModelError, match="has no mask train_1_anno"):
        read_glas(tmp_path, 0.5)


def test_the_real_images_are_all_there(shared_data):
    train, test = (read_glas(shared_data / "glas", 0.5, part) for part in ("train", "testA"))
    assert (len(train.images), len(test.images)) == (85, 60)
    assert all(i.group.startswith("patient ") for i in (*train.images, *test.images))
    assert 5 < len({i.group for i in train.images}) < 20
    read = train.images[0].read()
    assert train.images[0].name == "train_1" and read.pixels.shape == (647, 961, 3)
    assert read.instances is not None and read.instances.max() == 7
    assert ((read.instances > 0) == (read.codes == 1)).all()
    border = read_glas(shared_data / "glas", 0.5, "train", border_um=4).images[0].read()
    assert ((border.codes > 0) == (read.codes > 0)).all()
    assert 0.02 < (border.codes == 2).mean() < 0.3
