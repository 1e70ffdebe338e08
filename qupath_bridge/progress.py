"""How a run tells where it is: a bar on a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from tqdm import tqdm


class Reporter(Protocol):
    """What a run tells while it works."""

    def begin(self, name: str, index: int, count: int, tiles: int) -> None:
        """An image begins: the `index`-th (from 1) of `count`, with so many tiles to do."""
        ...

    def advance(self, tiles: int) -> None:
        """So many more tiles are done."""
        ...

    def end(self) -> None:
        """The image's tiles are done, or it failed."""
        ...

    def say(self, text: str) -> None:
        """A line for the user."""
        ...


class BarReporter:
    """A bar per image, for terminals."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar: tqdm | None = None

    def begin(self, name: str, index: int, count: int, tiles: int) -> None:
        label = f"[{index}/{count}] {name}"
        self._bar = tqdm(total=tiles, desc=label, unit="tile", file=self._stream)

    def advance(self, tiles: int) -> None:
        if self._bar is not None:
            self._bar.update(tiles)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)


class LineReporter:
    """A plain line now and then, for logs."""

    def __init__(self, stream: TextIO = sys.stderr, every_s: float = 10.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._label, self._tiles, self._done = "", 0, 0
        self._began = self._spoke = 0.0

    def begin(self, name: str, index: int, count: int, tiles: int) -> None:
        self._label, self._tiles, self._done = f"[{index}/{count}] {name}", tiles, 0
        self._began = self._spoke = time.monotonic()
        self.say(f"{self._label}: {tiles} tiles")

    def advance(self, tiles: int) -> None:
        self._done += tiles
        now = time.monotonic()
        if now - self._spoke >= self._every_s or self._done == self._tiles:
            self._spoke = now
            self.say(f"{self._label}: {self._state(now - self._began)}")

    def end(self) -> None:
        """Nothing to close."""

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _state(self, seconds: float) -> str:
        rate = self._done / max(seconds, 1e-9)
        left = (self._tiles - self._done) / max(rate, 1e-9)
        return f"{self._done}/{self._tiles} tiles, {rate:.1f}/s, {left:.0f} s left"


def console_reporter() -> Reporter:
    """Return a bar where stderr is a terminal, plain lines otherwise."""
    return BarReporter() if sys.stderr.isatty() else LineReporter()


def stage_lines(every_s: float = 10.0) -> Callable[[str, int, int], None]:
    """Return a function to tell of stages: a line on stderr now and then, and at each end."""
    spoke: dict[str, float] = {}

    def tell(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - spoke.get(stage, -every_s) >= every_s:
            spoke[stage] = now
            print(f"{stage}: {done}/{total}", file=sys.stderr, flush=True)

    return tell
