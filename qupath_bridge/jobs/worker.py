"""The process that computes: orders on stdin, tidings on stdout, a line of JSON each.

It is started by the server and ends when its stdin closes, however the server ended.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from model import load_segmenter
from qupath_bridge.errors import EXPECTED_ERRORS
from qupath_bridge.jobs.child import LOCK, send
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.order import read_order
from qupath_bridge.jobs.segment import segment
from qupath_bridge.jobs.telling import CancelledJob, Teller
from qupath_bridge.jobs.train import train
from qupath_bridge.lock import ProcessLock

if TYPE_CHECKING:
    from model.segmenter import Segmenter

LOCK_S = 60.0
NO_ROOM = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")} - {None}
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


class WarmModel:
    """The model that was used last, loaded; another one takes its place."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._model: Segmenter | None = None

    def load(
        self, folder: Path, heads: Sequence[str] | None, device: str, precision: str
    ) -> Segmenter:
        """Return a model on a device, as `load_segmenter` does.

        Raises:
            ModelError: the folder, a head, the device or the precision cannot be used.
        """
        key = (str(folder), _version(folder), device, precision, *(heads or ()))
        if self._model is None or key != self._key:
            self._key, self._model = (), None  # two might not fit into memory
            self._model = load_segmenter(folder, heads, device, precision)
            self._key = key
        return self._model


class Worker:
    """Does jobs one after the other."""

    def __init__(self, home: Path, device: str, out: BinaryIO) -> None:
        self._lock, self._device, self._out = ProcessLock(home / LOCK), device, out
        self._warm = WarmModel()
        self._orders: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
        self._cancelled: set[str] = set()

    def listen(self) -> None:
        """Take orders until stdin closes, and then end the process, whatever it does."""
        try:
            for line in sys.stdin.buffer:
                order = json.loads(line)
                if "cancel" in order:
                    self._cancelled.add(order["cancel"])
                else:
                    self._orders.put(order)
        finally:
            os._exit(0)

    def work(self) -> None:
        """Say what is computed on, then do what comes, for ever."""
        self._send({"ready": _device_name(self._device)})
        while True:
            order = self._orders.get()
            self._do(order["job"], JobFolder(Path(order["folder"])))

    def _do(self, job_id: str, folder: JobFolder) -> None:
        """Do a job and tell what became of it; nothing that goes wrong gets past this."""
        teller = Teller(job_id, self._send, lambda: job_id in self._cancelled)
        try:
            self._lock.wait(LOCK_S)  # until the child of a server that died has ended
            if not folder.result.exists():
                result = self._result(folder, teller)
                folder.keep_result({"result": result, "warnings": teller.warnings})
            teller.ended()
        except CancelledJob:
            teller.ended()
        except EXPECTED_ERRORS as error:
            teller.ended({"type": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            teller.ended({"type": type(error).__name__, "message": _sentence(error)})
        finally:
            folder.clear_work()

    def _result(self, folder: JobFolder, teller: Teller) -> dict[str, Any]:
        order = read_order(folder)
        if order.request.kind == "train":
            return train(order, self._device, folder, teller)
        return segment(order, self._device, self._warm.load, folder, teller)

    def _send(self, message: Mapping[str, Any]) -> None:
        send(self._out, message)


def _version(folder: Path) -> str:
    """Return what changes when a model is put in place of another of its name."""
    state = (folder / "card.json").stat()
    return f"{state.st_mtime_ns} {state.st_size}"


def _device_name(device: str) -> str:
    from model.device import choose_device  # brings the frameworks: from now on they are loaded

    chosen = choose_device(device)
    return f"{chosen.type}:{chosen.index or 0}" if chosen.type == "cuda" else chosen.type


def _sentence(error: Exception) -> str:
    """Return an error that nobody expected as one sentence."""
    if type(error).__name__ in OUT_OF_MEMORY:
        return "the memory is full; try a smaller region, or end other programs"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the disk is full ({error}); make room, then start the job again"
    return f"{type(error).__name__}: {error} (unexpected; please report it)"


def _own_stdout() -> BinaryIO:
    """Return stdout for tidings alone: what any library prints goes to stderr instead."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "wb")


def main(home: Path, device: str) -> None:
    """Work for the server that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's; it then ends this
    worker = Worker(home, device, _own_stdout())
    threading.Thread(target=worker.listen, name="orders", daemon=True).start()
    try:
        worker.work()
    except EXPECTED_ERRORS as error:
        print(error, file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # at once: Python cannot end while a thread listens


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
