"""QuPath's Java, started once per process through paquo, and kept quiet."""

from __future__ import annotations

import importlib
import locale
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from qupath_bridge.errors import ProjectError
from qupath_bridge.project.installation import QuPathInstallation, paquo_settings

JAVA_OPTIONS = (
    "-Xrs",  # Ctrl-C stays Python's
    "--enable-native-access=ALL-UNNAMED",  # jpype's libraries, about which Java 24 warns
)


class JavaStartError(ProjectError):
    """The Java that comes with QuPath does not start."""


def start_java(qupath: QuPathInstallation) -> None:
    """Start QuPath's Java, unless it runs already, and keep its log away from standard output.

    Raises:
        JavaStartError: it does not start.
    """
    import jpype
    from paquo.jpype_backend import start_jvm

    running = jpype.isJVMStarted()
    try:
        if not running:
            with _file_names_in_utf8():
                start_jvm(finder_kwargs=_start_settings(qupath))
            _send_output_to_stderr()
        importlib.import_module("paquo.java")  # looks up QuPath's classes
    except (OSError, RuntimeError, TypeError, AttributeError, jpype.JException) as error:
        raise JavaStartError(
            f"{qupath} was found, but its Java does not start ({error}); reinstall QuPath"
        ) from error
    _silence_log()
    _load_openslide()


def java_class(name: str) -> Any:
    """Return a Java class by its full name.

    Raises:
        TypeError: there is none.
    """
    import jpype

    return jpype.JClass(name)


def cause_of(error: Any) -> Any:
    """Return the Java exception that is at the bottom of another."""
    while error.getCause() is not None:
        error = error.getCause()
    return error


def message_of(error: Any) -> str:
    """Return what a Java exception says, in one line."""
    cause = cause_of(error)
    said = cause.getMessage() or cause.getClass().getSimpleName()
    return " ".join(str(said).split())


def _start_settings(qupath: QuPathInstallation) -> dict[str, Any]:
    settings = paquo_settings()
    given = settings.get("java_opts") or []
    options = shlex.split(given) if isinstance(given, str) else list(given)
    return {**settings, "qupath_dir": str(qupath.path), "java_opts": [*JAVA_OPTIONS, *options]}


@contextmanager
def _file_names_in_utf8() -> Iterator[None]:
    """Let Java, which asks the locale when it starts, know file names beyond ASCII."""
    before = os.environ.get("LC_ALL")
    if sys.platform != "linux" or locale.getencoding().upper() == "UTF-8":
        yield
        return
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        yield
    finally:
        os.environ.pop("LC_ALL")
        if before is not None:
            os.environ["LC_ALL"] = before


def _send_output_to_stderr() -> None:
    """Let what Java prints go to standard error, before anybody keeps hold of its output."""
    system = java_class("java.lang.System")
    system.setOut(system.err)


def _silence_log() -> None:
    importlib.import_module("paquo._logging")  # which asks for all messages
    root = java_class("org.slf4j.LoggerFactory").getLogger("ROOT")
    with suppress(TypeError, AttributeError):  # another logger than QuPath's
        root.setLevel(java_class("ch.qos.logback.classic.Level").OFF)


def _load_openslide() -> None:
    """Let QuPath read slides with OpenSlide: without its window it would not load the library."""
    with suppress(TypeError, AttributeError):  # a QuPath without that extension
        java_class("qupath.lib.images.servers.openslide.jna.OpenSlideLoader").tryToLoadQuietly()
