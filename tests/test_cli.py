"""The command as a user meets it: a process of its own, its words and its exit status."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "run",
    "suggest",
    "train",
    "evaluate",
    "ablate",
    "models",
    "export",
    "demo",
    "doctor",
)


def cli(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qupath_bridge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)])
def test_help_is_there_for_the_program_and_every_command(command):
    for flag in ("--help", "-h"):
        told = cli(*command, flag)
        assert told.returncode == 0 and told.stderr == ""
        assert told.stdout.startswith("Usage: ")


def test_the_program_lists_every_command():
    told = cli("--help").stdout
    assert all(re.search(rf"^  {command} ", told, re.M) for command in COMMANDS)


def test_every_option_of_a_run_shows_its_default():
    told = " ".join(cli("run", "--help").stdout.split())
    options = set(re.findall(r"(--[a-z-]+)", told)) - {"--help"}
    assert len(options) >= 14
    for option in re.split(r" (?=--[a-z])", told)[1:]:
        assert "[default: " in option or option.startswith("--help"), option


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_neither_torch_nor_java(command):
    code = (
        "import sys\nfrom qupath_bridge.cli import main\n"
        f"try: main(['{command}', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'jpype', 'paquo', 'diffusers', 'transformers', 'scipy', 'shapely'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_an_error_is_one_sentence_and_no_trace(tmp_path):
    told = cli("run", tmp_path / "nosuch.qpproj", "--backend", "portable")
    assert told.returncode == 1
    assert told.stderr.startswith("error: ") and "nosuch.qpproj" in told.stderr
    assert "Traceback" not in told.stderr and told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("--regions", "none"), ("--mpp", "wide"), ("--nosuch",), ("--backend", "java")],
)
def test_a_wrong_option_is_a_usage_error(tmp_path, arguments):
    assert cli("run", tmp_path, *arguments).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--heads", "nuclei"), "no head 'nuclei'"),
        (("--model", "nosuch"), "no model 'nosuch'"),
        (("--device", "cuda:7"), "cuda:7"),
        (("--mpp", "0"), "mpp must be in"),
        (("--overlap", "1"), "overlap must be in"),
        (("--image", "x*"), "no image is named x*"),
    ],
)
def test_a_choice_that_is_not_there_is_named(small_project, arguments, says):
    told = cli("run", small_project, "--backend", "portable", *arguments)
    assert told.returncode == 1
    assert says in told.stderr + told.stdout


def test_a_run_then_an_export_then_another_format(small_project, tmp_path, sure_model, monkeypatch):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_MODEL", str(sure_model))
    told = cli("run", small_project, "--backend", "portable", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "1 done / 0 skipped / 0 failed"
    assert re.search(r"\[1/1\] bild ä\.tif: \d+/\d+ tiles, .*/s, \d+ s left", told.stderr)
    table = small_project.parent / "pathsegdiff" / "class_areas.tsv"
    first = table.read_bytes()
    header = "Image\tEntry ID\tRegion\tRegion ID\tHead\tClass\tArea µm^2\tArea %\tObjects"
    assert first.decode().splitlines()[0] == header
    table.unlink()
    assert cli("export", small_project).returncode == 0
    assert table.read_bytes() == first
    csv = tmp_path / "areas.csv"
    assert cli("export", small_project.parent, "--output", csv).returncode == 0
    assert csv.read_text(encoding="utf-8").splitlines()[0] == header.replace("\t", ",")


def test_an_export_without_results_says_what_to_do(small_project):
    told = cli("export", small_project)
    assert told.returncode == 1 and "`run` the project first" in told.stderr


def test_doctor_has_a_line_for_everything_a_run_needs(small_project):
    told = cli("doctor", small_project)
    assert told.returncode == 0, told.stdout
    for topic in ("Python", "torch", "device", "OpenSlide", "paquo", "QuPath", "model", "disk"):
        assert re.search(rf"^(ok  |note)  {topic}\b", told.stdout, re.M), told.stdout


def test_doctor_finds_what_is_in_the_way(small_project):
    (small_project.parent / "bild ä.tif").unlink()
    told = cli("doctor", small_project, "--model", "nosuch")
    assert told.returncode == 1
    assert re.search(r"^BAD   model .*nosuch", told.stdout, re.M)
    assert re.search(r"^BAD   image .*bild ä\.tif.*missing", told.stdout, re.M)


def test_ctrl_c_stops_within_seconds_and_leaves_nothing_half_written(small_project):
    command = [sys.executable, "-m", "qupath_bridge", "run", str(small_project)]
    command += ["--backend", "portable", "--batch-size", "1", "--regions", "slide"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if line.startswith("[1/1]"):
                break
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        asked = time.monotonic()
        out, err = run.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert run.returncode == 130, out + err
    assert "Traceback" not in err
    left = {p.name for p in (small_project.parent / "pathsegdiff").rglob("*") if p.is_file()}
    assert left <= {"regions.geojson", "run.json", "run.lock", "made.json"}


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_names_only_commands_and_options_that_exist():
    for line in readme_commands():
        words = line.partition("#")[0].split()
        if "qupath-pathsegdiff" not in words:
            continue
        command, *rest = words[words.index("qupath-pathsegdiff") + 1 :]
        told = cli(command, *rest[: command == "models"], "--help").stdout  # a group of commands
        for option in (word for word in rest if word.startswith("--")):
            assert option in told, line
