"""The command line: what the user says, handed to the module that does it.

Modules that are slow to load are imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from qupath_bridge import __version__
from qupath_bridge.cli_base import PROJECT, leave_interrupted, sentence_not_trace
from qupath_bridge.cli_models import models
from qupath_bridge.cli_scripts import scripts
from qupath_bridge.cli_serve import page, serve
from qupath_bridge.cli_suggest import suggest
from qupath_bridge.cli_train import ablate, evaluate, train
from qupath_bridge.known_projects import remember_project
from qupath_bridge.run_options import DEVICES, run_options, settings_of
from qupath_bridge.settings import RunSettings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="qupath-pathsegdiff")
def main() -> None:
    """Segment tissue in QuPath projects with a diffusion model.

    Tumour, stroma, immune cells, necrosis and glands become detection objects, and their areas
    a table. Not for diagnosis.
    """


@main.command(short_help="Segment the images of a project.")
@PROJECT
@run_options
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done; write nothing.  [default: off]"
)
@sentence_not_trace
def run(project: Path, dry_run: bool, **flags: Any) -> None:
    """Segment the images of PROJECT, a .qpproj file or its folder.

    Writes detections into the project (paquo) or as GeoJSON for QuPath's File > Import objects
    from file (portable), and class areas to pathsegdiff/class_areas.tsv beside it. Images that
    are done already are skipped. Exit status 0 means that nothing failed.
    """
    settings = settings_of(flags)
    from qupath_bridge.pipeline import plan_project, run_project
    from qupath_bridge.progress import console_reporter

    if dry_run:
        failed = plan_project(project, settings, click.echo)
        sys.exit(1 if failed else 0)
    report = run_project(project, settings, console_reporter())
    remember_project(project)
    click.echo(report.summary())
    if report.interrupted:
        leave_interrupted()
    sys.exit(1 if report.failed or report.ended else 0)


@main.command(short_help="Write a project's class areas as TSV or CSV.")
@PROJECT
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write; .csv writes commas, anything else tabs."
    "  [default: pathsegdiff/class_areas.tsv in the project's folder]",
)
@sentence_not_trace
def export(project: Path, output: Path | None) -> None:
    """Write the class areas of PROJECT again from what is stored.

    One row per image, region, head and class.
    """
    from qupath_bridge.measurements import write_class_areas
    from qupath_bridge.project import find_project_file
    from qupath_bridge.store import ResultStore

    store = ResultStore(find_project_file(project).parent)
    rows = store.read_class_areas()
    path = output or store.table
    write_class_areas(path, rows)
    click.echo(f"{len(rows)} rows written to {path}")


@main.command(short_help="Make a demo project and run on it.")
@click.argument(
    "folder", type=click.Path(path_type=Path), default=Path("pathsegdiff-demo"), metavar="[DIR]"
)
@click.option("--seed", type=int, default=1, metavar="N", help="Another seed draws another slide.")
@click.option("--device", default="auto", metavar=DEVICES, help="Where to compute.")
@sentence_not_trace
def demo(folder: Path, seed: int, device: str) -> None:
    """Make a demo project in DIR (default: pathsegdiff-demo) and run on it.

    Draws a whole-slide image with its exact truth, segments two annotations, prints the class
    areas and the agreement with the truth, and writes an overlay picture.
    """
    from qupath_bridge.demo.command import run_demo
    from qupath_bridge.progress import console_reporter

    settings = RunSettings(backend="portable", device=device)
    agreement = run_demo(folder, seed, settings, console_reporter(), click.echo)
    sys.exit(1 if agreement is None else 0)


@main.command(short_help="Look at everything a run needs.")
@click.argument("project", type=click.Path(path_type=Path), required=False)
@click.option("--model", default="default", metavar="NAME|DIR", help="The model to look at.")
@sentence_not_trace
def doctor(project: Path | None, model: str) -> None:
    """Look at everything a run needs and say what to do about what is missing.

    With PROJECT, also at that project and its images. Exit status 0 means that nothing is in the
    way of a run.
    """
    from qupath_bridge.doctor import examine

    findings = examine(project, model)
    for finding in findings:
        click.echo(finding.line())
    sys.exit(1 if any(finding.state == "bad" for finding in findings) else 0)


main.add_command(models)
main.add_command(scripts)
main.add_command(suggest)
main.add_command(train)
main.add_command(evaluate)
main.add_command(ablate)
main.add_command(serve)
main.add_command(page)
