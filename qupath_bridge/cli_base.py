"""What every command of the command line shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from qupath_bridge.errors import EXPECTED_ERRORS

P = ParamSpec("P")
R = TypeVar("R")
INTERRUPTED = 130
PROJECT = click.argument("project", type=click.Path(path_type=Path))


def sentence_not_trace(command: Callable[P, R]) -> Callable[P, R]:
    """Show an expected error as one sentence, exit status 1; Ctrl-C exits with 130."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except EXPECTED_ERRORS as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was left half-written", err=True)
            sys.exit(INTERRUPTED)

    return wrapped
