"""The settings of a run: defaults < settings.toml < environment < command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.home import HOME_VARIABLE, home
from qupath_bridge.errors import SettingsError

ENVIRONMENT_PREFIX = "QUPATH_PATHSEGDIFF_"
REGION_MODES = ("auto", "annotations", "tissue", "slide")
BACKENDS = ("auto", "paquo", "portable")
SCHEDULERS = "local:N, tcp://HOST:PORT or tls://HOST:PORT"
_SCHEDULER = re.compile(r"local:[1-9][0-9]{0,3}|(tcp|tls)://[^\s/]+:[0-9]{1,5}")


@dataclass(frozen=True)
class RunSettings:
    """What a run does; `""`, `()`, 0 and None leave the choice to the run.

    images: globs of image names. regions: see REGION_MODES. mpp: um per pixel, for images of
    which the project knows none. overlap: share of a patch that its neighbour covers too.
    min_object_um2, min_hole_um2: smaller ones are merged into what surrounds them.
    simplify_um: how far outlines may move. batch_size: patches per pass; 0 chooses.
    precision: float32, or bf16, which a GPU that knows it takes by itself.
    scheduler: of the Dask cluster that computes, see SCHEDULERS; "" computes here.
    """

    images: tuple[str, ...] = ()
    regions: str = "auto"
    region_classes: tuple[str, ...] = ()
    model: str = "default"
    heads: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "auto"
    mpp: float | None = None
    batch_size: int = 0
    backend: str = "auto"
    scheduler: str = ""
    restart: bool = False
    overlap: float = 0.5
    min_object_um2: float = 200.0
    min_hole_um2: float = 500.0
    simplify_um: float = 1.0

    def __post_init__(self) -> None:
        _one_of("regions", self.regions, REGION_MODES)
        _one_of("backend", self.backend, BACKENDS)
        if self.scheduler and not _SCHEDULER.fullmatch(self.scheduler):
            raise SettingsError(f"scheduler must be {SCHEDULERS}; got {self.scheduler!r}")
        _in_range("overlap", self.overlap, 0.0, 0.75)
        _in_range("batch_size", self.batch_size, 0, 4096)
        _in_range("simplify_um", self.simplify_um, 0.0, 50.0)
        for name in ("min_object_um2", "min_hole_um2"):
            _in_range(name, getattr(self, name), 0.0, 1e9)
        if self.mpp is not None:
            _in_range("mpp", self.mpp, 0.01, 100.0)

    def deciding(self) -> dict[str, Any]:
        """Return the settings on which an image's result depends, as JSON has them."""
        chosen = ("regions", "region_classes", "mpp", "overlap", "min_object_um2", "min_hole_um2")
        values = asdict(self)
        return {name: _plain(values[name]) for name in (*chosen, "simplify_um")}


def read_settings(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings in force; `flags` are those given on the command line.

    Raises:
        SettingsError: an unknown key or a value out of range; the message names its source.
    """
    values: dict[str, Any] = {}
    file = home() / "settings.toml"
    if file.is_file():
        values |= _from_file(file)
    values |= _from_environment()
    values |= {name: value for name, value in flags.items() if value is not None}
    return RunSettings(**values)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read ({error}); mend or remove it") from error
    return {name: _converted(name, value, str(file)) for name, value in table.items()}


def _from_environment() -> dict[str, Any]:
    values = {}
    for variable, text in os.environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != HOME_VARIABLE:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[name] = _converted(name, text, f"environment variable {variable}")
    return values


def _converted(name: str, value: Any, source: str) -> Any:
    """Return a value from a file or the environment as its field's type."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(RunSettings)}
    if name not in defaults:
        raise SettingsError(f"{source}: unknown setting {name!r}; known: {', '.join(defaults)}")
    default = defaults[name]
    try:
        if isinstance(default, tuple):
            items = value.split(",") if isinstance(value, str) else value
            return tuple(str(item).strip() for item in items)
        if isinstance(default, bool):
            return _truth(value)
        return type(0.0 if default is None else default)(value)
    except (TypeError, ValueError):
        raise SettingsError(f"{source}: {name} cannot be {value!r}") from None


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    named = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in named:
        raise ValueError(value)
    return named[str(value).lower()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also catches NaN
        raise SettingsError(f"{name} must be in {low:g}..{high:g}; got {value}")
