"""Names and colours of classes, as QuPath has them."""

from __future__ import annotations

from collections.abc import Collection

Color = tuple[int, int, int]

STANDARD_COLORS: dict[str, Color] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
}
"""QuPath's own; a new project begins with these."""

PALETTE: tuple[Color, ...] = (
    (0, 120, 200),
    (230, 120, 20),
    (0, 160, 120),
    (220, 60, 140),
    (120, 80, 220),
    (140, 180, 20),
    (0, 180, 220),
    (160, 100, 60),
    (255, 120, 120),
    (80, 100, 140),
    (190, 150, 230),
    (0, 100, 60),
)
"""For classes that bring no colour: told apart from one another and from QuPath's own."""


def color_for(name: str, taken: Collection[Color] = ()) -> Color:
    """Return a class's colour: QuPath's where it has one, else the first of the palette not taken.

    A palette that is used up begins again.
    """
    if name in STANDARD_COLORS:
        return STANDARD_COLORS[name]
    spare = [color for color in PALETTE if color not in taken]
    return spare[0] if spare else PALETTE[len(taken) % len(PALETTE)]


def makes_detections(name: str) -> bool:
    """Return whether a class of that name is worth objects: all but the background."""
    return name.strip().casefold() != "background"


def trains(name: str) -> bool:
    """Return whether QuPath counts a class: not `Ignore*`, `Region*` and what derives from them."""
    return not any(part.endswith("*") for part in name.split(": "))


def trouble_with_name(name: str) -> str | None:
    """Return what keeps QuPath from having a class of that name as it is, else None.

    One letter is enough for a name. "A: B" is a class derived from A; any other colon is not
    allowed, since QuPath would take the name apart there and show another one.
    """
    parts = name.split(": ")
    if not all(part.strip() for part in parts):
        return "it is empty, or a part of it is"
    if any(":" in part for part in parts):
        return 'it has a ":" that does not make a derived class, as in "Tumor: Positive"'
    if any(part != part.strip() for part in parts):
        return "it begins or ends with a space"
    if any(not character.isprintable() for character in name):
        return "it has a line break or another character that cannot be shown"
    if name in ("Unclassified", "null"):
        return "QuPath calls so what has no class"
    if not trains(name):
        return "QuPath does not count classes that end with *"
    return None
