"""The commands `train`, `evaluate` and `ablate`: heads from labels, and how good they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from model import find_model, read_card
from model.loading import load_apart
from qupath_bridge.cli_base import sentence_not_trace
from qupath_bridge.label_options import label_options, read_labels, sources_of
from qupath_bridge.run_options import DEVICES

F = TypeVar("F", bound=Callable[..., Any])
MODEL = click.option("--model", "base", metavar="NAME|DIR", help="The model to start from.")
HEAD = click.option("--head", required=True, metavar="HEAD", help="The name of the head.")
DEVICE = click.option("--device", default="auto", metavar=DEVICES, help="Where to compute.")
SEED = click.option("--seed", type=int, default=0, metavar="N", help="Of the split and training.")
STEPS = click.option("--steps", type=int, default=400, metavar="N", help="Steps of training.")
CACHE = click.option(
    "--cache-gib", type=float, default=20.0, metavar="GIB", help="Disk for cached features."
)
HELD_OUT = click.option(
    "--validation-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.25,
    metavar="SHARE",
    help="Share of the images held out, by slide or, of one slide, by annotation.",
)


FEATURES = (
    click.option(
        "--timesteps", metavar="T,T", help="Timesteps of the features.  [default: the model's]"
    ),
    click.option(
        "--joined/--averaged",
        default=None,
        help="Features of several timesteps side by side, or their mean.  [default: the model's]",
    ),
    click.option("--blocks", metavar="B,B", help="Decoder blocks.  [default: the model's]"),
    click.option(
        "--conditioning/--no-conditioning",
        default=None,
        help="Whether the encoder's embedding guides the U-Net.  [default: the model's]",
    ),
    click.option(
        "--stem/--no-stem",
        default=None,
        help="Whether the head sees the pixel stem too.  [default: the model's]",
    ),
)


def feature_options(command: F) -> F:
    """Give a command the options that say what of the frozen model is a feature."""
    for option in reversed(FEATURES):
        command = option(command)
    return command


@click.command(short_help="Train a head from annotations or a data set.")
@click.argument("name")
@HEAD
@MODEL
@label_options
@STEPS
@click.option("--learning-rate", type=float, default=2e-3, metavar="RATE", help="At its highest.")
@click.option("--batch-size", "batch", type=int, default=8, metavar="N", help="Patches per step.")
@HELD_OUT
@click.option(
    "--stains",
    "variants",
    type=click.IntRange(0, 16),
    default=0,
    metavar="N",
    help="Stains of each image to train on; 0 takes more the fewer images there are.",
)
@feature_options
@click.option("--finetune", is_flag=True, help="Let the U-Net's decoder learn with the head.")
@SEED
@CACHE
@DEVICE
@sentence_not_trace
def train(name: str, head: str, base: str | None, **flags: Any) -> None:
    """Train the head HEAD of the model NAME, which is made if it is not there.

    Without --model it starts from the model NAME itself, or from the shipped one. The labels are
    what you annotated in a project, or a data set. Then `run --model NAME` uses it. Interrupted,
    the same command goes on where it stood.
    """
    sources = sources_of(flags)
    load_apart("model.new_head")
    from model.feature_choice import FeatureChoice
    from model.head_base import HeadRequest, base_card
    from model.lessons import HeadTraining
    from model.new_head import train_new_head

    fields = ("steps", "learning_rate", "batch", "seed")
    settings = HeadTraining(**{field: flags.pop(field) for field in fields})
    choice = FeatureChoice.parsed(
        **{field: flags.pop(field) for field in FeatureChoice.__dataclass_fields__}
    )
    request = HeadRequest(
        model=name, head=head, base=base, features=choice, training=settings, **flags
    )
    labels = read_labels(sources, base_card(request), click.echo)
    made = train_new_head(request, labels, click.echo, progress_line())
    click.echo(made.summary())


@click.command(short_help="Measure a head on labelled images.")
@HEAD
@MODEL
@label_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where tables and pictures go.  [default: evaluation-<model>-<head>]",
)
@CACHE
@DEVICE
@sentence_not_trace
def evaluate(
    head: str, base: str | None, output: Path | None, cache_gib: float, device: str, **flags: Any
) -> None:
    """Measure the head HEAD on labelled images: scores, tables and pictures.

    Of BCSS the customary test institutes are measured, of GlaS the images testA. Do not measure
    a head on what it was trained on.
    """
    sources = sources_of(flags)
    load_apart("model.measure")
    from model.measure import Measuring, measure_head

    card = read_card(find_model(base))
    card.choose_heads([head])
    has_border = any(c.name == "Gland border" for c in card.heads[head].classes)
    labels = read_labels(sources, card, click.echo, held_out=True, gland_border=has_border)
    folder = output or Path(f"evaluation-{card.name}-{head}")
    how = Measuring(find_model(base), head, device, cache_gib)
    click.echo(measure_head(how, labels, folder, click.echo, progress_line()))
    click.echo(f"tables and pictures are in {folder}")


@click.command(short_help="Try timesteps, blocks and conditioning against each other.")
@MODEL
@label_options
@click.option("--timesteps", default="50,150,250", metavar="T,T", help="Timesteps to try.")
@click.option(
    "--blocks",
    default="0;1;2;0,1,2",
    metavar="B,B;B",
    help="Sets of decoder blocks to try, separated by semicolons.",
)
@click.option("--repeats", type=int, default=1, metavar="N", help="Seeds per trial.")
@STEPS
@HELD_OUT
@SEED
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ablation"),
    metavar="DIR",
    help="Where the table and the picture go.",
)
@CACHE
@DEVICE
@sentence_not_trace
def ablate(base: str | None, timesteps: str, blocks: str, output: Path, **flags: Any) -> None:
    """Train a head for each timestep, set of blocks, with conditioning and without, and compare.

    Writes ablation.tsv and ablation.png: held-out mean Dice of each. Where the model has a pixel
    stem, the stem alone and everything with it are tried too.
    """
    sources = sources_of(flags)
    load_apart("model.ablate")
    from model.ablate import Grid, run_ablation
    from model.feature_choice import numbers

    card = read_card(find_model(base))
    sets = tuple(dict.fromkeys(numbers(some) for some in blocks.split(";")))
    grid = Grid(numbers(timesteps), sets, **flags)
    labels = read_labels(sources, card, click.echo)
    rows = run_ablation(find_model(base), grid, labels, output, click.echo, progress_line())
    for row in rows:
        click.echo(row.line())
    click.echo(f"table and picture are in {output}")


def progress_line() -> Callable[[str, int, int], None]:
    """Return what tells of progress on stderr, a line about every ten seconds and at the end."""
    from qupath_bridge.progress import stage_lines

    return stage_lines()
