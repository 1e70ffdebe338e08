"""A JSON body taken apart field by field; what is wrong has its name, and its JSON pointer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qupath_bridge.errors import RequestError

LARGEST_INT = 2**31 - 1
SHOWN_CHARACTERS = 60


class Fields:
    """One object of the body. Each `take_...` returns a field's value, or None where it is absent.

    Raises:
        RequestError: it is no object, a field that must be there is not, or is of another kind.
    """

    def __init__(self, raw: Any, pointer: str = "") -> None:
        if not isinstance(raw, Mapping):
            raise wrong(pointer, f"must be an object, not {kind_of(raw)}")
        self._left, self._pointer = dict(raw), pointer

    def at(self, key: str) -> str:
        """Return the pointer of a field."""
        return pointer_to(self._pointer, key)

    def has(self, key: str) -> bool:
        """Return whether a field is there and is not null."""
        return self._left.get(key) is not None

    def take(self, key: str, required: bool = False) -> Any:
        """Return a field's value as it is; null counts as absent."""
        value = self._left.pop(key, None)
        if value is None and required:
            raise wrong(self.at(key), "is missing")
        return value

    def take_text(self, key: str, required: bool = False, most: int = 4096) -> str | None:
        value = self.take(key, required)
        if value is None:
            return None
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise wrong(
                self.at(key), f"must be a text of 1 to {most} characters, not {shown(value)}"
            )
        return value

    def take_count(self, key: str, required: bool = False, most: int = LARGEST_INT) -> int | None:
        """Return a whole number from 1; 640.0 is one too, as JSON has it."""
        value = self.take(key, required)
        if value is None:
            return None
        if not is_number(value) or value != int(value) or not 1 <= value <= most:
            raise wrong(self.at(key), f"must be a whole number in 1..{most}, not {shown(value)}")
        return int(value)

    def take_number(self, key: str, low: float, high: float, required: bool = False) -> Any:
        """Return a number in low..high."""
        value = self.take(key, required)
        if value is None:
            return None
        if not is_number(value) or not low <= value <= high:
            raise wrong(self.at(key), f"must be a number in {low:g}..{high:g}, not {shown(value)}")
        return float(value)

    def take_choice(self, key: str, allowed: Sequence[str], required: bool = False) -> str | None:
        value = self.take(key, required)
        if value is not None and value not in allowed:
            raise wrong(self.at(key), f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return value

    def take_flag(self, key: str) -> bool:
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise wrong(self.at(key), f"must be true or false, not {shown(value)}")
        return bool(value)

    def take_list(self, key: str, most: int, required: bool = False) -> list[Any]:
        """Return a list; an empty one where it is absent."""
        value = self.take(key, required)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self.at(key), f"must be a list, not {kind_of(value)}")
        if len(value) > most:
            raise wrong(self.at(key), f"has {len(value)} items, more than the {most} taken")
        return value

    def end(self) -> None:
        """Check that nothing is left that nobody asked for."""
        for key in self._left:
            raise wrong(self.at(str(key)), "is not known here; leave it out")


def check_plain(body: Any, deepest: int) -> None:
    """Check that a parsed body is not nested too deep, and holds only numbers and texts for files.

    Raises:
        RequestError: it is or does not.
    """
    # A body has millions of parts: where one is, is only written out when it is found wrong.
    waiting: list[tuple[Any, _Trail, int]] = [((body,), None, 0)]
    while waiting:
        value, trail, depth = waiting.pop()
        if depth > deepest:
            raise RequestError(
                f"the body is nested deeper than {deepest} at {_pointer(trail)[:SHOWN_CHARACTERS]}"
            )
        if isinstance(value, dict):
            for key in value:
                _check_text(key, trail)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            kind = type(inner)  # as the parser makes them, so of exactly these types
            if kind is list or kind is dict:
                waiting.append((inner, (trail, key), depth + 1))
            elif kind is str:
                _check_text(inner, (trail, key))
            elif kind is float and not math.isfinite(inner):
                at = _pointer((trail, key))
                raise wrong(at, f"is {inner}, which is not a number that JSON has")


def wrong(pointer: str, what: str) -> RequestError:
    """Return the error of a field: a sentence that begins with its name."""
    return RequestError(f"{_name_of(pointer)} {what}", pointer)


def _name_of(pointer: str) -> str:
    """Return a field's name; of an item in a list the list's, and which one it is, from 1."""
    *_, last = keys = pointer.split("/")
    name = next(key for key in reversed(keys) if not key.isdecimal())  # the first one is empty
    name = name.replace("~1", "/").replace("~0", "~")[:SHOWN_CHARACTERS] or "the body"
    return f"{name} number {int(last) + 1}" if last.isdecimal() and len(last) < 9 else name


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def pointer_to(pointer: str, key: str) -> str:
    """Return the JSON pointer (RFC 6901) of a member."""
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def kind_of(value: Any) -> str:
    """Return what JSON calls the kind of a value."""
    kinds = ((bool, "true or false"), (str, "a text"), ((int, float), "a number"))
    if value is None:
        return "null"
    for types, name in kinds:
        if isinstance(value, types):
            return name
    return "a list" if isinstance(value, list) else "an object"


def shown(value: Any) -> str:
    """Return a value as an error shows it, shortened."""
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return "so large a number"  # one of 5000 digits cannot even be written out
    text = repr(value) if isinstance(value, (str, int, float)) else kind_of(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


_Trail = tuple["_Trail", str | int] | None
"""Where a part of the body is: where what holds it is, and its key there."""


def _pointer(trail: _Trail) -> str:
    """Return the JSON pointer of a trail; its first key stands for the body."""
    keys: list[str] = []
    while trail is not None:
        trail, key = trail
        keys.append(str(key))
    pointer = ""
    for key in reversed(keys[:-1]):
        pointer = pointer_to(pointer, key)
    return pointer


def _check_text(text: str, trail: _Trail) -> None:
    if "\0" in text:
        raise wrong(_pointer(trail), "holds a NUL character")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong(_pointer(trail), "holds half of a character pair") from None
