"""What every command of the command line shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import click

from model.loading import is_loading
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
            leave_interrupted()

    return wrapped


def leave_interrupted() -> NoReturn:
    """End the program after Ctrl-C; at once if a thread is still busy loading torch.

    Python would wait for such a thread, or stop it within C++ code, which ends in an abort.
    """
    if is_loading():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    sys.exit(INTERRUPTED)
