"""`serve` and `page`: the server for QuPath's scripts, and its page in the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from model.home import home
from qupath_bridge.cli_base import sentence_not_trace
from qupath_bridge.errors import ServerError, SettingsError
from qupath_bridge.run_options import options_of_a_run, settings_of

if TYPE_CHECKING:
    from qupath_bridge.server.roots import Roots

F = TypeVar("F", bound=Callable[..., Any])
POSITIVE = click.FloatRange(min=0, min_open=True)


def _where_options(command: F) -> F:
    """Give a command the options that say where a server listens and what it may open."""
    options = (
        click.option("--host", default="127.0.0.1", metavar="H", help="Address to listen on."),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            metavar="N",
            help="Port to listen on; 0 takes a free one.  [default: 8377, or a free one]",
        ),
        click.option(
            "--root",
            "roots",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Open images only below DIR; repeatable.  [default: the home folder and the"
            " folders of projects opened through this program]",
        ),
        click.option(
            "--map",
            "maps",
            multiple=True,
            metavar="FROM=TO",
            help=r"A folder FROM of the clients is TO here, as 'C:\slides=/data/slides';"
            " repeatable.  [default: none]",
        ),
        click.option(
            "--allow-host",
            "allow_hosts",
            multiple=True,
            metavar="NAME[:PORT]",
            help="A name that a reverse proxy passes on as Host; repeatable.  [default: none]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _keep_options(command: F) -> F:
    """Give a command the options that bound what is taken and kept."""
    options = (
        click.option(
            "--longest-queue",
            type=click.IntRange(1),
            default=200,
            metavar="N",
            help="Waiting jobs.",
        ),
        click.option(
            "--max-body",
            "body_mib",
            type=POSITIVE,
            default=64.0,
            metavar="MIB",
            help="One request.",
        ),
        click.option(
            "--keep-days", type=POSITIVE, default=30.0, metavar="DAYS", help="Age of old results."
        ),
        click.option(
            "--keep-gib", type=POSITIVE, default=20.0, metavar="GIB", help="Size of all results."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Serve QuPath's scripts and the page.")
@_where_options
@options_of_a_run("model", "device")
@_keep_options
@sentence_not_trace
def serve(
    host: str,
    port: int | None,
    roots: tuple[Path, ...],
    maps: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    longest_queue: int,
    body_mib: float,
    keep_days: float,
    keep_gib: float,
    **flags: Any,
) -> None:
    """Take jobs over HTTP, from QuPath's scripts and others, and do them one after another.

    Address and token go into connection.json in ~/.qupath-pathsegdiff, for this user alone.
    Ctrl-C ends it; jobs that wait or run are taken up by the next start.
    """
    chosen = settings_of(flags)
    from model.card import read_card
    from model.home import find_model
    from qupath_bridge.jobs import QueueSettings, RequestLimits
    from qupath_bridge.server.serve import ServeSettings
    from qupath_bridge.server.serve import serve as serve_until_told

    read_card(find_model(chosen.model))  # a model that is not there is said now
    kept = (longest_queue, keep_days, keep_gib)
    queue = QueueSettings(home() / "server", chosen.device, chosen.model, *kept)
    limits = RequestLimits(body_bytes=int(body_mib * 2**20))
    where = (_roots(roots, maps), host, port, allow_hosts)
    again = _options_again(click.get_current_context())
    serve_until_told(ServeSettings(home(), queue, *where, limits, again), click.echo)


@click.command(short_help="Open a running server's page.")
@click.option("--print", "only_print", is_flag=True, help="Only print the link.  [default: off]")
@sentence_not_trace
def page(only_print: bool) -> None:
    """Open the page of the server that runs, in the browser.

    Its link works once, and for ten minutes.
    """
    from qupath_bridge.server.connection import read_connection
    from qupath_bridge.server.page_link import new_page_link

    link = new_page_link(read_connection(home()))
    click.echo(link)
    if not only_print:
        import webbrowser

        if not webbrowser.open(link):
            raise ServerError("no browser could be opened; open the link above in one")


def _roots(roots: tuple[Path, ...], maps: tuple[str, ...]) -> Roots:
    from qupath_bridge.server.roots import Roots, parse_map

    for root in roots:
        if not root.is_dir():
            raise SettingsError(f"--root {root} is no folder; name one that is there")
    return Roots(tuple(root.resolve() for root in roots), tuple(map(parse_map, maps)))


def _options_again(context: click.Context) -> tuple[str, ...]:
    """Return the options that were given, but for the address: that is chosen at every start."""
    again: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        given = context.params[name]
        for value in given if isinstance(given, tuple) else (given,):
            if name not in ("host", "port"):
                again += [option.opts[0], _whole(value)]
    return tuple(again)


def _whole(value: Any) -> str:
    """Return a value as text; a relative path made absolute: the next start is from elsewhere."""
    is_folder = isinstance(value, (Path, str)) and Path(value).is_dir()
    return str(Path(value).resolve()) if is_folder else str(value)
