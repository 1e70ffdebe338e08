"""Where labels come from: the options that `train`, `evaluate` and `ablate` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from model import ModelCard
from qupath_bridge.errors import SettingsError
from qupath_bridge.settings import BACKENDS

if TYPE_CHECKING:
    from model.labels import LabelSet

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(path_type=Path)
GLAS_BORDER_UM = 4.0

OPTIONS = (
    click.option(
        "--project",
        "projects",
        type=FOLDER,
        multiple=True,
        metavar="QPPROJ",
        help="A QuPath project: its annotations are the labels; repeatable.",
    ),
    click.option("--bcss", type=FOLDER, metavar="DIR", help="The BCSS regions and masks."),
    click.option("--glas", type=FOLDER, metavar="DIR", help="The GlaS images and masks."),
    click.option(
        "--tiles",
        "tiles",
        type=FOLDER,
        multiple=True,
        metavar="DIR",
        help="A folder of tiles per class, as NCT-CRC-HE; weak labels; repeatable.",
    ),
    click.option(
        "--tile-mpp", type=float, default=0.5, metavar="UM", help="Pixel size of --tiles in um."
    ),
    click.option(
        "--point-radius",
        "point_radius_um",
        type=float,
        default=10.0,
        metavar="UM",
        help="Radius of the disc that a point annotation stands for.",
    ),
    click.option(
        "--mpp", type=float, metavar="UM", help="Pixel size of project images that have none."
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        help="How to reach projects: paquo needs a QuPath installation, portable none.",
    ),
)


@dataclass(frozen=True)
class LabelSources:
    """What the user named as sources of labels; see OPTIONS."""

    projects: Sequence[Path] = ()
    bcss: Path | None = None
    glas: Path | None = None
    tiles: Sequence[Path] = ()
    tile_mpp: float = 0.5
    point_radius_um: float = 10.0
    mpp: float | None = None
    backend: str = "auto"


def label_options(command: F) -> F:
    """Give a command every option that names labels."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def sources_of(flags: dict[str, Any]) -> LabelSources:
    """Take the options of labels out of a command's flags.

    Raises:
        SettingsError: no source was named.
    """
    taken = {name: flags.pop(name) for name in LabelSources.__dataclass_fields__}
    sources = LabelSources(**taken)
    if not (sources.projects or sources.bcss or sources.glas or sources.tiles):
        raise SettingsError(
            "name where the labels are: --project, --bcss, --glas or --tiles (see --help)"
        )
    return sources


def read_labels(
    sources: LabelSources,
    card: ModelCard,
    say: Callable[[str], None],
    held_out: bool = False,
    gland_border: bool = True,
) -> LabelSet:
    """Return the labels of all sources at a model's resolution.

    Of BCSS and GlaS, the part that is customarily trained on; with `held_out` the one that is
    customarily tested on. `gland_border` makes the rim of GlaS's glands a class of its own.

    Raises:
        ModelError, PathSegDiffError: a source cannot be read or has no labels.
    """
    from model.datasets.bcss import bcss_part
    from model.datasets.class_folders import read_class_folders
    from model.datasets.glas import read_glas
    from model.labels import merge
    from qupath_bridge.crops import CropPlan
    from qupath_bridge.training_labels import LabelSettings, project_labels

    settings = LabelSettings(
        backend=sources.backend,
        mpp=sources.mpp,
        point_radius_um=sources.point_radius_um,
        crops=CropPlan(cell_m=card.tile_m),
    )
    sets = [project_labels(path, settings, card.mpp, say) for path in sources.projects]
    if sources.bcss:
        sets.append(bcss_part(sources.bcss, card.mpp, held_out))
    if sources.glas:
        part, border_um = "testA" if held_out else "train", GLAS_BORDER_UM * gland_border
        sets.append(read_glas(sources.glas, card.mpp, part, border_um))
    for folder in sources.tiles:
        sets.append(read_class_folders(folder, card.mpp, sources.tile_mpp, card.tile_m))
    return merge(sets)
