"""The time of day as text, as it stands in what others read: never to measure how long."""

from __future__ import annotations

import datetime


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the millisecond."""
    return as_text(datetime.datetime.now(datetime.UTC))


def days_ago(days: float) -> str:
    """Return the time so many days ago as `now` writes it; before all others if that is too far."""
    try:
        return as_text(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days))
    except OverflowError:
        return ""


def as_text(time: datetime.datetime) -> str:
    """Return a time in UTC as `now` writes it."""
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
