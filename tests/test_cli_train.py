"""`train`, `evaluate` and `ablate` as a user meets them: words, files, exit status."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from shapely.geometry import box
from tiny_models import halves

from model import read_card
from model.home import models_home
from qupath_bridge.cli import main
from qupath_bridge.label_options import LabelSources, read_labels, sources_of

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("--steps", "4", "--batch-size", "4", "--stains", "1", "--device", "cpu")
SIX = [box(x, y, x + 100, y + 90) for x in (20, 240, 460) for y in (20, 300)]

needs_qupath = pytest.mark.skipif(
    not os.environ.get("PAQUO_QUPATH_DIR"), reason="no QuPath: PAQUO_QUPATH_DIR is not set"
)


def cli(*arguments: str | Path) -> Result:
    """Run a command in this process, which has loaded the frameworks already."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """Return the one sentence of a command that fails as it should."""
    told = cli(*arguments)
    assert told.exit_code == 1, told.output
    assert told.stderr.startswith("error: ") and told.stderr.count("\n") == 1
    return told.stderr


@pytest.fixture
def annotated(tmp_path, make_project, write_tiff, drawn_pixels) -> Path:
    """Return a project with three annotations of Tumor and three of Stroma, well apart."""
    folder = tmp_path / "Übung 🔬"
    folder.mkdir()
    write_tiff(folder / "bild.tif", drawn_pixels, 0.5)
    return make_project(folder, [(folder / "bild.tif", (640, 512), 0.5)], {1: SIX})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """Return a folder of plain and of dotted tiles, eight each."""
    folder = tmp_path_factory.mktemp("tiles") / "Kacheln"
    for number in range(8):
        read = halves(4 * number, 128)  # not turned: the upper half is dotted
        for name, part in (("Dotted", read.pixels[:64]), ("Plain", read.pixels[64:])):
            (folder / name).mkdir(parents=True, exist_ok=True)
            shift = number * 3  # no two are alike
            Image.fromarray(part[:, shift : shift + 64]).save(folder / name / f"{number}.png")
    return folder


def regions_of(project: Path) -> Path:
    return project.parent / "pathsegdiff" / "1" / "regions.geojson"


def test_annotations_become_a_head_and_a_run_writes_objects_of_its_classes(
    annotated, small_project, tiny_model
):
    told = cli("train", "mine", "--head", "mein_kopf", "--model", tiny_model, *QUICK,
               "--project", annotated, "--backend", "portable")  # fmt: skip
    assert told.exit_code == 0, told.output
    what = "project Übung 🔬 (6 annotations in 1 images)"
    assert told.stdout.startswith(f"5 images to train on, 1 held out ({what})\n")
    assert "use it: qupath-pathsegdiff run PROJECT --model mine" in told.stdout
    assert {line.split(":")[0] for line in told.stderr.splitlines()} == {"features", "train"}
    assert told.stderr.splitlines()[-1] == "train: 4/4"
    card = read_card(models_home() / "mine")
    assert [c.name for c in card.heads["mein_kopf"].classes] == ["Tumor", "Stroma"]
    assert card.heads["mein_kopf"].training["held out by"] == "group"

    ran = cli("run", small_project, "--model", "mine", "--heads", "mein_kopf", "--backend",
              "portable", "--device", "cpu", "--min-object", "1")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    written = json.loads((regions_of(small_project).parent / "detections.geojson").read_text())
    names = {f["properties"]["classification"]["name"] for f in written["features"]}
    assert names and names <= {"Tumor", "Stroma"}


def test_without_a_base_the_model_itself_gets_another_head(tiles, installed_tiny):
    for head in ("one", "two"):
        told = cli("train", "tiny", "--head", head, "--tiles", tiles, *QUICK)
        assert told.exit_code == 0, told.output
    assert list(read_card(installed_tiny).heads) == ["first", "one", "two"]


def test_tiles_of_a_folder_per_class_can_be_told_apart_and_the_head_be_measured(
    tiles, tiny_model, tmp_path
):
    assert cli("train", "mine", "--head", "dots", "--model", tiny_model, "--tiles", tiles,
               "--steps", "40", *QUICK[2:]).exit_code == 0  # fmt: skip
    told = cli("evaluate", "--model", "mine", "--head", "dots", "--tiles", tiles,
               "--output", tmp_path / "out", "--device", "cpu")  # fmt: skip
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[-1] == f"tables and pictures are in {tmp_path / 'out'}"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["images"] == 16 and summary["overall"]["accuracy"]["value"] > 0.8
    assert told.stderr.splitlines()[-1] == "measure: 16/16"


def test_an_evaluation_goes_into_a_folder_named_after_model_and_head(
    tiles, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli("train", "mine", "--head", "dots", "--model", tiny_model, "--tiles", tiles,
               *QUICK).exit_code == 0  # fmt: skip
    assert cli("evaluate", "--model", "mine", "--head", "dots", "--tiles", tiles).exit_code == 0
    assert (tmp_path / "evaluation-mine-dots" / "per_class.tsv").is_file()


def test_an_ablation_writes_its_table_and_picture(tiles, tiny_model, tmp_path):
    told = cli("ablate", "--model", tiny_model, "--tiles", tiles, "--timesteps", "50",
               "--blocks", "0;0,1", "--steps", "1", "--output", tmp_path / "out")  # fmt: skip
    assert told.exit_code == 0, told.output
    with (tmp_path / "out" / "ablation.tsv").open(encoding="utf-8", newline="") as lines:
        assert len(list(csv.DictReader(lines, delimiter="\t"))) == 9
    assert (tmp_path / "out" / "ablation.png").is_file()


def test_a_fine_tuned_model_is_made_by_a_flag(tiles, tiny_model):
    command = ("--head", "dots", "--model", tiny_model, "--tiles", tiles, "--finetune", *QUICK)
    told = cli("train", "tuned", *command)
    assert told.exit_code == 0, told.output
    assert "fine-tuning was" in told.stdout  # better, or no better
    kept = "fine-tuning was no better" in told.stdout
    heads = list(read_card(models_home() / "tuned").heads)
    assert heads == (["first", "dots"] if kept else ["dots"])
    assert "choose a new name for the fine-tuned model" in refused("train", "tuned", *command)


def test_sources_are_joined(tiles, annotated, tiny_model):
    card = read_card(tiny_model)
    sources = LabelSources(projects=[annotated], tiles=[tiles], backend="portable")
    labels = read_labels(sources, card, print)
    assert [c.name for c in labels.classes] == ["Tumor", "Stroma", "Dotted", "Plain"]
    assert len(labels.images) == 6 + 16
    assert {image.read().pixels.shape[0] % 64 for image in labels.images} == {0}


def test_options_of_labels_are_taken_out_of_the_flags():
    flags = {
        "projects": (), "bcss": None, "glas": Path("g"), "tiles": (), "tile_mpp": 0.25,
        "point_radius_um": 3.0, "mpp": None, "backend": "auto", "steps": 5,
    }  # fmt: skip
    sources = sources_of(flags)
    assert (sources.glas, sources.tile_mpp, sources.point_radius_um) == (Path("g"), 0.25, 3.0)
    assert flags == {"steps": 5}


@pytest.mark.parametrize(
    "command", [("train", "mine", "--head", "h"), ("evaluate", "--head", "h"), ("ablate",)]
)
def test_without_a_source_of_labels_the_four_kinds_are_named(command):
    told = refused(*command)
    assert "name where the labels are: --project, --bcss, --glas or --tiles" in told


def test_a_class_without_a_pixel_is_named(tiles, tiny_model, tmp_path):
    """Its tiles are all white, and white says nothing of a class."""
    for name in ("Dotted", "Plain"):
        (tmp_path / "t" / name).mkdir(parents=True)
        for picture in (tiles / name).iterdir():
            (tmp_path / "t" / name / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "t" / "Tumor").mkdir()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "t" / "Tumor" / "a.png")
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--tiles",
                   tmp_path / "t")  # fmt: skip
    assert "no pixel has the class Tumor; label some of it, or leave the class out" in told


def test_one_class_only_is_refused(tiles, annotated, tiny_model, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "Dotted").symlink_to(tiles / "Dotted")
    start = ("train", "mine", "--head", "h", "--model", tiny_model)
    told = refused(*start, "--tiles", tmp_path / "t")
    assert "two classes at least are needed, there is only one, Dotted" in told
    text = regions_of(annotated).read_text(encoding="utf-8").replace("Stroma", "Tumor")
    regions_of(annotated).write_text(text, encoding="utf-8")
    told = refused(*start, "--project", annotated, "--backend", "portable")
    assert "there is only one, Tumor" in told


def test_a_folder_without_an_image_is_named(tiny_model, tmp_path):
    start = ("train", "mine", "--head", "h", "--model", tiny_model)
    (tmp_path / "t").mkdir()
    assert "has no folder in it" in refused(*start, "--tiles", tmp_path / "t")
    (tmp_path / "t" / "Tumor").mkdir()
    assert "Tumor has no picture" in refused(*start, "--tiles", tmp_path / "t")
    for source in ("--glas", "--bcss", "--tiles"):
        assert "nosuch" in refused(*start, source, tmp_path / "nosuch")
        assert "empty" in refused(*start, source, empty(tmp_path))


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir(exist_ok=True)
    return folder / "empty"


def test_a_project_without_an_annotation_says_what_to_do(annotated, tiny_model):
    regions_of(annotated).unlink()
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--project",
                   annotated, "--backend", "portable")  # fmt: skip
    assert "no annotation to learn from" in told


def test_an_annotation_outside_of_its_image_does_not_stop_the_others(annotated, tiny_model):
    text = regions_of(annotated).read_text(encoding="utf-8")
    features = json.loads(text)
    outside = json.loads(json.dumps(features["features"][0]))
    outside["geometry"]["coordinates"] = [[[5000, 5000], [5100, 5000], [5100, 5100], [5000, 5000]]]
    features["features"].append(outside | {"id": "00000000-0000-4000-8000-000000000099"})
    regions_of(annotated).write_text(json.dumps(features), encoding="utf-8")
    told = cli("train", "mine", "--head", "h", "--model", tiny_model, "--project", annotated,
               "--backend", "portable", *QUICK)  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "outside" in told.stdout


@pytest.mark.parametrize("head", ["a b", "../up", "ä", ""])
def test_a_bad_name_of_a_head_is_refused_before_labels_are_read(head, tiny_model, tmp_path):
    told = refused("train", "mine", "--head", head, "--model", tiny_model, "--tiles",
                   tmp_path / "nosuch")  # fmt: skip
    assert "cannot name a head" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("default", "--head", "h"), "the model 'default' is the shipped one"),
        (("a b", "--head", "h"), "cannot name a model"),
        (("mine", "--head", "h", "--steps", "0"), "at least 1 step"),
        (("mine", "--head", "h", "--batch-size", "0"), "1 patch per step"),
        (("mine", "--head", "h", "--learning-rate", "-1"), "learning rate must be above 0"),
        (("mine", "--head", "h", "--batch-size", "100000"), "at most 256 patches per step"),
        (("mine", "--head", "h", "--seed", "-1"), "a whole number from 0 to 2^63 - 1; got -1"),
        (("mine", "--head", "h", "--seed", "9" * 20), "a whole number from 0 to 2^63 - 1"),
        (("mine", "--head", "h", "--model", "nosuch"), "no model 'nosuch'"),
    ],
)
def test_what_cannot_be_is_said_before_labels_are_read(arguments, says, tmp_path):
    assert says in refused("train", *arguments, "--tiles", tmp_path / "nosuch")


def test_a_cache_too_small_is_one_sentence(tiles, tiny_model):
    told = cli("train", "mine", "--head", "h", "--model", tiny_model, "--tiles", tiles,
               "--cache-gib", "0.0001", *QUICK[2:])  # fmt: skip
    assert told.exit_code == 1 and not (models_home() / "mine").exists()
    progress, sentence = told.stderr.splitlines()
    assert progress.startswith("features: 1/")
    assert sentence.startswith("error: ") and "allow more with --cache-gib" in sentence


def test_a_head_that_is_not_there_is_named(tiles, tiny_model):
    told = refused("evaluate", "--model", tiny_model, "--head", "nosuch", "--tiles", tiles)
    assert "no head 'nosuch'; it has: first" in told


def test_labels_of_classes_that_the_head_does_not_know_are_said(tiles, tiny_model, tmp_path):
    told = refused("evaluate", "--model", tiny_model, "--head", "first", "--tiles", tiles)
    assert "is labelled as Dotted, Plain; the head knows Background, Tumor, Stroma" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--blocks", "0,9"), "blocks 0 to 2"),
        (("--blocks", "0;;1"), "not a list of whole numbers"),
        (("--timesteps", "50,5000"), "timesteps 0 to 999"),
        (("--timesteps", "soon"), "'soon' is not a list of whole numbers"),
        (("--repeats", "0"), "0 repeats"),
    ],
)
def test_a_block_or_timestep_that_is_not_there_is_one_sentence(tiles, tiny_model, arguments, says):
    assert says in refused("ablate", "--model", tiny_model, "--tiles", tiles, *arguments)


def test_ctrl_c_is_said_and_the_same_command_goes_on(tiles, tiny_model, monkeypatch):
    command = ("train", "mine", "--head", "h", "--model", tiny_model, "--tiles", tiles,
               "--steps", "22", *QUICK[2:])  # fmt: skip

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train", 21):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qupath_bridge.cli_train.progress_line", lambda: stop)
        told = cli(*command)
    assert told.exit_code == 130 and "interrupted" in told.stderr
    assert not (models_home() / "mine").exists()
    again = cli(*command)
    assert again.exit_code == 0
    assert "train: 21/22" in again.stderr and "train: 1/22" not in again.stderr


DRAW = """
import sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.classes import QuPathPathClass
from paquo.images import QuPathImageType
from paquo.projects import QuPathProject
from shapely.geometry import box
with QuPathProject(Path(sys.argv[1]), mode="x") as project:
    entry = project.add_image(sys.argv[2], image_type=QuPathImageType.BRIGHTFIELD_H_E)
    kinds = [QuPathPathClass("Tumor"), QuPathPathClass("Stroma")]
    for number, (x, y) in enumerate((x, y) for x in (20, 240, 460) for y in (20, 300)):
        entry.hierarchy.add_annotation(box(x, y, x + 100, y + 90), path_class=kinds[number % 2])
    entry.hierarchy.add_annotation(box(0, 0, 9, 9), path_class=QuPathPathClass("Ignore*"))
"""


@pytest.mark.qupath
@needs_qupath
def test_annotations_drawn_in_qupath_are_trained_on_and_the_head_runs_there(
    tmp_path, write_tiff, drawn_pixels, tiny_model
):
    write_tiff(tmp_path / "bild.tif", drawn_pixels, 0.5)
    project = tmp_path / "Projekt Ü" / "project.qpproj"
    project.parent.mkdir()

    def python(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-c", DRAW, project, tmp_path / "bild.tif")
    program = ("-m", "qupath_bridge")
    told = python(*program, "train", "mine", "--head", "h", "--model", tiny_model, "--project",
                  project, "--backend", "paquo", *QUICK)  # fmt: skip
    assert "5 images to train on, 1 held out" in told and "6 annotations" in told
    classes = read_card(models_home() / "mine").heads["h"].classes
    assert {c.name for c in classes} == {"Tumor", "Stroma"}
    ran = python(*program, "run", project, "--model", "mine", "--heads", "h", "--backend",
                 "paquo", "--device", "cpu", "--min-object", "1")  # fmt: skip
    assert "1 done / 0 skipped / 0 failed" in ran


@pytest.mark.parametrize("mpp", ["0", "-1", "nan", "inf", "90", "1e-9"])
def test_a_pixel_size_that_no_tile_has_is_one_sentence(tiles, tiny_model, mpp):
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--tiles", tiles,
                   "--tile-mpp", mpp)  # fmt: skip
    assert "pass another --tile-mpp" in told


@pytest.mark.parametrize("mpp", ["0", "-1", "nan", "inf"])
def test_a_pixel_size_that_no_slide_has_is_one_sentence(annotated, tiny_model, mpp):
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--project", annotated,
                   "--backend", "portable", "--mpp", mpp)  # fmt: skip
    assert "mpp must be in 0.01..100 um" in told


@pytest.mark.parametrize("command", ["evaluate", "ablate"])
def test_a_folder_that_cannot_be_written_into_is_said_before_the_work(
    annotated, tiny_model, tmp_path, command
):
    (tmp_path / "file").write_text("mine")
    head = ("--head", "first") if command == "evaluate" else ()
    told = refused(command, *head, "--model", tiny_model, "--project", annotated, "--backend",
                   "portable", "--output", tmp_path / "file" / "out")  # fmt: skip
    assert "cannot write into" in told and "pass another with --output" in told
    assert not (models_home().parent / "cache").exists()  # no feature was computed for nothing


def test_a_set_of_blocks_named_twice_is_tried_once(annotated, tiny_model, tmp_path):
    told = cli("ablate", "--model", tiny_model, "--project", annotated, "--backend", "portable",
               "--timesteps", "50", "--blocks", "0;0", "--steps", "1", "--device", "cpu",
               "--output", tmp_path / "out")  # fmt: skip
    assert told.exit_code == 0, told.output
    assert len((tmp_path / "out" / "ablation.tsv").read_text().splitlines()) == 1 + 1 + 2 * 2


def test_a_name_with_a_line_break_is_shown_on_one_line(annotated, tiny_model):
    text = regions_of(annotated).read_text(encoding="utf-8").replace('"Tumor"', '"Tu\\nmor"')
    regions_of(annotated).write_text(text, encoding="utf-8")
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--project", annotated,
                   "--backend", "portable")  # fmt: skip
    assert r"cannot be named 'Tu\nmor'" in told


def test_a_slide_that_is_gone_is_named_with_the_remedy(annotated, tiny_model):
    (annotated.parent / "bild.tif").unlink()
    told = refused("train", "mine", "--head", "h", "--model", tiny_model, "--project", annotated,
                   "--backend", "portable")  # fmt: skip
    assert "bild.tif is not there" in told and "put it back, or show QuPath its new place" in told
