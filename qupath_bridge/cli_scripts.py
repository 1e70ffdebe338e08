"""The command `scripts`: our scripts on QuPath's menu."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qupath_bridge.cli_base import sentence_not_trace

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def scripts() -> None:
    """Put our scripts on QuPath's menu Automate, or take them away."""


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the scripts are."""
    project = click.option(
        "--project", type=click.Path(path_type=Path), metavar="P", help="Those of this project."
    )
    user_dir = click.option(
        "--user-dir", type=FOLDER, metavar="D", help="Those of this user folder of QuPath's."
    )
    return project(user_dir(command))


@scripts.command(short_help="Put the scripts on QuPath's menu.")
@where
@sentence_not_trace
def install(project: Path | None, user_dir: Path | None) -> None:
    """Put a folder PathSegDiff into QuPath's scripts: the menu Automate then shows it.

    By default into the user folders of all QuPaths from 0.5 on (~/QuPath/v0.5 and so on); with
    --project into that project alone. Settings changed in scripts that are there already are kept.
    """
    from model.home import home
    from qupath_bridge.known_projects import remember_project
    from qupath_bridge.scripts import install_scripts, script_folders

    _refuse_both(project, user_dir)
    for line in install_scripts(script_folders(project, user_dir), home()):
        click.echo(line)
    if project is not None:
        remember_project(project.absolute())
    click.echo("In QuPath: Automate > Project scripts or User scripts > PathSegDiff")


@scripts.command(short_help="Take the scripts away again.")
@where
@sentence_not_trace
def uninstall(project: Path | None, user_dir: Path | None) -> None:
    """Take away what `scripts install` put, by default wherever that was.

    Scripts whose code was changed stay.
    """
    from model.home import home
    from qupath_bridge.scripts import script_folders, uninstall_scripts

    _refuse_both(project, user_dir)
    chosen = project is not None or user_dir is not None
    folders = script_folders(project, user_dir) if chosen else None
    for line in uninstall_scripts(folders, home()):
        click.echo(line)


def _refuse_both(project: Path | None, user_dir: Path | None) -> None:
    if project is not None and user_dir is not None:
        raise click.UsageError("give --project or --user-dir, not both")
