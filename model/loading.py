"""Modules that take seconds to load, out of the reach of Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import Thread

LOOK_EVERY_S = 0.1
_loaders: list[Thread] = []


def load_apart(module: str) -> None:
    """Import a module in a thread of its own and wait for it; Ctrl-C ends the wait at once.

    Signals reach only the main thread. Within the imports of torch an interrupt would get lost,
    or end the process by an abort: its C++ code expects none. What goes wrong with the import
    itself, the caller's own import of the module tells again.
    """
    loader = Thread(target=_load, args=(module,), name=f"load {module}", daemon=True)
    _loaders[:] = [*filter(Thread.is_alive, _loaders), loader]
    loader.start()
    while loader.is_alive():
        loader.join(LOOK_EVERY_S)  # Windows lets no signal through while it waits for longer


def is_loading() -> bool:
    """Return whether a module is still being imported that nobody waits for any more."""
    return any(loader.is_alive() for loader in _loaders)


def _load(module: str) -> None:
    with suppress(Exception):
        import_module(module)
