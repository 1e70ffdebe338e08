"""`suggest`: where the next ten minutes of annotation are best spent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from model.loading import load_apart
from qupath_bridge.cli_base import PROJECT, sentence_not_trace
from qupath_bridge.run_options import options_of_a_run, settings_of


@click.command(short_help="Say where to annotate next.")
@PROJECT
@click.option("--count", type=int, default=10, metavar="N", help="Squares to suggest at most.")
@click.option(
    "--size", "size_um", type=float, default=256.0, metavar="UM", help="Side of a square in um."
)
@options_of_a_run("images", "model")
@click.option(
    "--head",
    metavar="HEAD",
    help="The head that is to be trained further.  [default: all, their mean]",
)
@click.option(
    "--candidates",
    type=int,
    default=48,
    metavar="N",
    help="Squares of each image that are looked at, drawn at random.",
)
@click.option("--seed", type=int, default=1, metavar="N", help="Another seed draws others.")
@options_of_a_run("device", "mpp", "batch_size", "backend")
@sentence_not_trace
def suggest(
    project: Path,
    count: int,
    size_um: float,
    candidates: int,
    seed: int,
    head: str | None,
    **flags: Any,
) -> None:
    """Mark up to N squares of PROJECT that are worth annotating next.

    They are where the model is least sure and the tissue least like what the head was trained
    on, unlike each other, and spread over the images. Each becomes an annotation "Annotate next"
    of class Ignore* in the project (paquo), or in pathsegdiff/<entry>/suggestions.geojson for
    QuPath's File > Import objects from file (portable). Annotate inside them and train again.
    Earlier suggestions that nobody has touched are replaced; one given another class, name or
    shape is yours and stays. Exit status 0 means that nothing failed.
    """
    settings = settings_of(flags | {"heads": head})
    load_apart("qupath_bridge.suggest")
    from qupath_bridge.progress import console_reporter
    from qupath_bridge.suggest import SuggestSettings, suggest_for_project

    wanted = SuggestSettings(count, size_um, candidates, seed)
    report = suggest_for_project(project, settings, wanted, console_reporter())
    click.echo(report.summary())
    sys.exit(1 if report.failed else 0)
