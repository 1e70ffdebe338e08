"""The command `models`: what models there are, and how they come and go."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from model import ModelCard, ModelError
from model.loading import load_apart
from qupath_bridge.cli_base import sentence_not_trace

FILE = click.Path(path_type=Path, dir_okay=False)
SAY_EVERY_S = 5.0


@click.group()
def models() -> None:
    """Import published weights as models, list them, check them, remove them."""


@models.command("import", short_help="Make a model of published weights.")
@click.argument("name")
@click.option("--ldm", type=FILE, required=True, metavar="CKPT", help="Latent diffusion model.")
@click.option("--encoder", type=FILE, required=True, metavar="PTH", help="DINO ViT, as HIPT's.")
@click.option("--config", type=FILE, metavar="YAML", help="The model's own configuration.")
@click.option("--licence", multiple=True, metavar="TEXT", help="Under what its owners give it.")
@click.option(
    "--encoder-pixels",
    type=click.Choice(["half", "imagenet"]),
    default="half",
    help="Mean and std the encoder was trained with: 0.5 (HIPT) or ImageNet's (iBOT).",
)
@click.option("--replace", is_flag=True, help="Take the place of a model of that name.")
@sentence_not_trace
def import_(
    name: str,
    ldm: Path,
    encoder: Path,
    config: Path | None,
    licence: tuple[str, ...],
    encoder_pixels: str,
    replace: bool,
) -> None:
    """Make the model NAME of published weights.

    CKPT is a latent diffusion model in CompVis' layout, as Large-Image-Diffusion and ZoomLDM are
    published in. Without YAML its architecture is read off the weights. Nothing that a file may
    hold is run.
    """
    load_apart("model.importing")
    from model.home import models_home
    from model.importing import Sources, import_model

    sources = Sources(ldm, encoder, config, licence, encoder_pixels)
    card = import_model(name, sources, replace)
    click.echo(f"{models_home() / name}: {card.description}")
    if not card.features.conditioned:
        click.echo("note: this model is used without a condition", err=True)
    click.echo(f"It has no heads yet: qupath-pathsegdiff train {name} --help")


@models.command("list", short_help="List the models of this machine.")
@sentence_not_trace
def list_() -> None:
    """List the models of this machine: name, size, heads, and what is wrong with it if anything."""
    from model.card import read_card
    from model.home import installed_models
    from model.library import size_of

    for folder in installed_models():
        try:
            what = ", ".join(read_card(folder).heads) or "no heads yet"
        except ModelError as error:
            what = f"unusable: {error}"
        click.echo(f"{folder.name}\t{size_of(folder) / 1e6:.0f} MB\t{what}")


@models.command(short_help="Show a model's card.")
@click.argument("name")
@sentence_not_trace
def show(name: str) -> None:
    """Show what the model NAME (or a folder) is, needs and gives."""
    from model.card import read_card
    from model.home import find_model
    from model.library import size_of

    folder = find_model(name)
    for label, value in _told(read_card(folder)):
        click.echo(f"{label}: {value}")
    click.echo(f"folder: {folder} ({size_of(folder) / 1e6:.0f} MB)")


@models.command(short_help="Check a model's files and load its weights.")
@click.argument("name")
@sentence_not_trace
def verify(name: str) -> None:
    """Check every file of the model NAME against its card, and load all of its weights."""
    load_apart("model.weights")
    from model.library import verify_model

    card = verify_model(name)
    click.echo(f"{name}: {len(card.files)} files as the card describes them, all weights load")


@models.command(short_help="Remove a model from this machine.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@sentence_not_trace
def remove(name: str, yes: bool) -> None:
    """Remove the model NAME; the shipped one stays."""
    from model.library import removable, remove_model, size_of

    folder = removable(name)
    if not yes and not click.confirm(f"Remove {folder} ({size_of(folder) / 1e6:.0f} MB)?"):
        click.echo("nothing was removed")
        sys.exit(1)
    remove_model(name)
    click.echo(f"removed {folder}")


@models.command(short_help="Fetch published weights from their owners.")
@click.argument("name", required=False)
@click.option("--url", multiple=True, metavar="URL[#sha256=HEX]", help="Fetch this file instead.")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Into this folder.")
@sentence_not_trace
def fetch(name: str | None, url: tuple[str, ...], to: Path | None) -> None:
    """Fetch the published weights NAME; without NAME, list what is known of them.

    A fetch that broke off goes on where it stopped. What is fetched is not yet a model: import it.
    """
    from model.fetch import fetch as fetch_file
    from model.published import PUBLISHED, downloads_home, files_of

    if name is None:
        _list_published()
        return
    files = files_of(name, url)
    if not url:
        click.echo(f"licence: {PUBLISHED[name].licence}\npage: {PUBLISHED[name].page}")
    tell = _Progress()
    for file in files:
        done = fetch_file(file, to or downloads_home() / name, tell)
        kind = "as stated" if done.verified else "none was stated to compare with"
        click.echo(f"{done.path}: sha256 {done.sha256} ({kind})")
    click.echo("Make a model of it: qupath-pathsegdiff models import --help")


def _list_published() -> None:
    from model.published import PUBLISHED

    for name, entry in PUBLISHED.items():
        state = "can be fetched" if entry.files else "by hand only"
        click.echo(f"{name}: {entry.title}\n  {state}: {entry.page}")
        click.echo(f"  licence: {entry.licence}\n  known: {entry.note}")


def _told(card: ModelCard) -> list[tuple[str, object]]:
    """Return what is shown of a card, in order."""
    spec = card.features
    condition = "with" if spec.conditioned else "without"
    rows: list[tuple[str, object]] = [
        ("name", card.name),
        ("version", card.version),
        ("description", card.description),
        ("intended use", card.intended_use),
        ("licence", card.licence),
        ("resolution", f"{card.mpp} um per pixel, patches of {card.tile_m} px"),
        ("features", f"t {spec.timesteps}, up blocks {spec.up_blocks}, {condition} condition"),
    ]
    rows += [(f"training, {key}", value) for key, value in card.training.items()]
    rows += [(f"source {name}", digest) for name, digest in card.sources.items()]
    heads = [
        (f"head {name}", ", ".join(c.name for c in head.classes))
        for name, head in card.heads.items()
    ]
    return [*rows, *(heads or [("heads", "none yet")])]


class _Progress:
    """Tells of a download now and then, on stderr."""

    def __init__(self) -> None:
        self._spoke = time.monotonic()

    def __call__(self, name: str, here: int, total: int | None) -> None:
        if time.monotonic() - self._spoke < SAY_EVERY_S:
            return
        self._spoke = time.monotonic()
        of = f" of {total / 1e6:.0f}" if total else ""
        click.echo(f"{name}: {here / 1e6:.0f}{of} MB", err=True)
