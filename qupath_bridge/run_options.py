"""The options of `run`: each sets one field of RunSettings, and unset ones leave it to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from qupath_bridge.settings import BACKENDS, REGION_MODES, RunSettings, read_settings

F = TypeVar("F", bound=Callable[..., Any])
DEFAULTS = RunSettings()
DEVICES = "auto|cpu|cuda|cuda:N|mps"


def _shown(help_text: str, default: object) -> str:
    return f"{help_text}  [default: {default}]"


OPTIONS = {
    "images": click.option(
        "--image",
        "images",
        multiple=True,
        metavar="NAME",
        help=_shown("Only images of this name; globs like '*.svs' work; repeatable.", "all"),
    ),
    "regions": click.option(
        "--regions",
        type=click.Choice(REGION_MODES),
        help=_shown(
            "What to segment: area annotations, detected tissue, or the whole slide; auto takes"
            " annotations where an image has them, else tissue.",
            DEFAULTS.regions,
        ),
    ),
    "region_classes": click.option(
        "--region-class",
        "region_classes",
        multiple=True,
        metavar="NAME",
        help=_shown("Only annotations of this class; repeatable.", "all"),
    ),
    "model": click.option(
        "--model",
        metavar="NAME|DIR",
        help=_shown("An installed model's name or a model folder.", DEFAULTS.model),
    ),
    "heads": click.option(
        "--heads",
        metavar="A,B",
        help=_shown("Heads of the model to run, comma-separated.", "the model's usual ones"),
    ),
    "device": click.option(
        "--device", metavar=DEVICES, help=_shown("Where to compute.", DEFAULTS.device)
    ),
    "mpp": click.option(
        "--mpp",
        type=float,
        metavar="UM",
        help=_shown(
            "Pixel size in um, for images of which the project has none.", "the image file's"
        ),
    ),
    "batch_size": click.option(
        "--batch-size",
        type=int,
        metavar="N",
        help=_shown("Tiles per pass of the model; 0 chooses.", DEFAULTS.batch_size),
    ),
    "backend": click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help=_shown(
            "How to reach the project: paquo needs a QuPath installation, portable none; auto"
            " takes paquo where there is one.",
            DEFAULTS.backend,
        ),
    ),
    "scheduler": click.option(
        "--scheduler",
        metavar="tcp://HOST:PORT|local:N",
        help=_shown(
            "Have a Dask cluster compute: that of a scheduler's address, or N processes started"
            " here.",
            "compute in this process",
        ),
    ),
    "overlap": click.option(
        "--overlap",
        type=float,
        metavar="SHARE",
        help=_shown("Share of a tile that its neighbour covers too, 0 to 0.75.", DEFAULTS.overlap),
    ),
    "min_object_um2": click.option(
        "--min-object",
        "min_object_um2",
        type=float,
        metavar="UM2",
        help=_shown(
            "Smaller objects are merged into what surrounds them.",
            f"{DEFAULTS.min_object_um2:g} um2",
        ),
    ),
    "min_hole_um2": click.option(
        "--min-hole",
        "min_hole_um2",
        type=float,
        metavar="UM2",
        help=_shown("Smaller holes are filled.", f"{DEFAULTS.min_hole_um2:g} um2"),
    ),
    "simplify_um": click.option(
        "--simplify",
        "simplify_um",
        type=float,
        metavar="UM",
        help=_shown("How far outlines may move to be smooth.", f"{DEFAULTS.simplify_um:g} um"),
    ),
    "restart": click.option(
        "--restart",
        is_flag=True,
        default=None,
        help=_shown("Do images again that are done with the same model and settings.", "off"),
    ),
}


def run_options(command: F) -> F:
    """Give a command every option of a run."""
    return options_of_a_run(*OPTIONS)(command)


def options_of_a_run(*names: str) -> Callable[[F], F]:
    """Return what gives a command these options of a run, in this order."""

    def give(command: F) -> F:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return give


def settings_of(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings in force; an option that was not given leaves the choice to others.

    Raises:
        SettingsError: a value is out of range, or a settings file or variable is wrong.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if "heads" in given:
        given["heads"] = tuple(h.strip() for h in given["heads"].split(",") if h.strip())
    return read_settings(given)
