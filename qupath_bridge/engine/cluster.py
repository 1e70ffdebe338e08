"""A Dask cluster as a run sees it: its scheduler reached, its workers counted and given tasks."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Future, LocalCluster

from qupath_bridge.errors import ClusterError

CONNECT_S = 10.0
PATIENCE_S = 30.0
"""How long a scheduler may be without a worker."""

LOOK_S = 0.5
LONGEST_GREETING = 2**20
GPU = "GPU"
AGAIN = "what is finished is kept: run again"


@dataclass(frozen=True)
class Workers:
    """Workers that may do a task: of those with a GPU, if any has one.

    needs: the resources that a task holds. chosen: whether others may not do it.
    """

    addresses: list[str]
    needs: dict[str, float]
    chosen: bool = False

    def without(self, refused: Collection[str]) -> Workers:
        """Return those that have not refused."""
        able = [address for address in self.addresses if address not in refused]
        return Workers(able, self.needs, self.chosen or bool(refused))


class Cluster:
    """A cluster that is reached."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    def look(self) -> Workers:
        """Return the workers that are there.

        Raises:
            ClusterError: the scheduler is lost.
        """
        self.check()
        with self._lost_told():
            found = self._client.scheduler_info()["workers"]
        with_gpu = [w for w, told in found.items() if told["resources"].get(GPU, 0) >= 1]
        return Workers(with_gpu or list(found), {GPU: 1} if with_gpu else {})

    def submit(self, workers: Workers, task: Callable[..., Any], *given: Any) -> Future:
        """Have one of the workers do a task.

        Raises:
            ClusterError: the scheduler is lost.
        """
        with self._lost_told():
            return self._client.submit(
                task,
                *given,
                pure=False,
                workers=workers.addresses if workers.chosen else None,
                resources=workers.needs or None,
            )

    def check(self) -> None:
        """Do nothing while the scheduler is there.

        Raises:
            ClusterError: it is lost.
        """
        if self._client.status != "running":
            raise self.lost()

    def lost(self) -> ClusterError:
        """Return the error of a scheduler that is gone."""
        return ClusterError(f"the scheduler {self.name} is lost; {AGAIN}")

    def deserted(self) -> ClusterError:
        """Return the error of a scheduler without workers."""
        return ClusterError(
            f"the scheduler {self.name} has had no worker for {PATIENCE_S:g} s; start one where"
            f" this program is installed: dask worker {self.name} --nthreads 1; {AGAIN}"
        )

    def result(self, future: Future) -> Any:
        """Return the result of a task, when it is there.

        Raises:
            ClusterError: the scheduler is lost, or cannot take our tasks.
            Exception: what the task raised.
        """
        try:
            return future.result()
        except CancelledError as error:
            raise self.lost() from error
        except RuntimeError as error:
            if "deserialization of the task graph" not in str(error):
                raise
            raise ClusterError(
                f"the scheduler {self.name} does not know this program: start it and its workers"
                " where qupath-pathsegdiff is installed, in the same version"
            ) from error

    def cancel(self, futures: Collection[Future]) -> None:
        """Drop tasks; one that is at work ends soon. A scheduler that is lost does not mind."""
        if futures and self._client.status == "running":
            with suppress(OSError):
                self._client.cancel(list(futures))

    def wait_for_workers(self, say: Callable[[str], None]) -> None:
        """Wait until there is a worker.

        Raises:
            ClusterError: for PATIENCE_S there was none.
        """
        end = time.monotonic() + PATIENCE_S
        if not self.look().addresses:
            say(f"{self.name}: no worker yet; waiting up to {PATIENCE_S:g} s for one")
        while not self.look().addresses:
            if time.monotonic() > end:
                raise self.deserted()
            time.sleep(LOOK_S)

    @contextmanager
    def _lost_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of Dask's too: a connection that is closed
            raise self.lost() from error


@contextmanager
def connected(scheduler: str, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Reach a cluster, `local:N` started for that; let go of it at the end, and end a local one.

    Raises:
        ClusterError: there is none at that address, or it has no worker.
    """
    _hush()
    with ExitStack() as stack:
        address = scheduler
        if scheduler.startswith("local:"):
            count = int(scheduler.removeprefix("local:"))
            address = stack.enter_context(_local(count)).scheduler_address
            say(f"{count} processes of a local cluster at {address}")
        cluster = Cluster(stack.enter_context(_client(address)), scheduler)
        cluster.wait_for_workers(say)
        yield cluster


def _hush() -> None:
    """Keep Dask's own log off the user's terminal: what matters is told by us."""
    for name in ("distributed", "distributed.client", "distributed.nanny", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _local(processes: int) -> LocalCluster:
    """Return a cluster of so many processes of one task each, which share the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    with _ctrl_c_later():
        return LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hear Ctrl-C only afterwards; threads and processes started meanwhile never do.

    A terminal sends it to the workers too. They are ended by the run, which tells the user.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _client(address: str) -> Iterator[Client]:
    _knock(address)
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address} does not answer as a Dask scheduler ({error}); is it the address that"
            " `dask scheduler` printed?"
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError):
            client.close(timeout=2)


def _knock(address: str) -> None:
    """Check that a scheduler listens at an address: Dask itself would try for long, or for ever.

    A scheduler greets whoever connects, and begins with the length of that, little-endian.
    """
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), CONNECT_S) as line:
            greeting = line.recv(8, socket.MSG_WAITALL) if parts.scheme == "tcp" else bytes(8)
        if len(greeting) < 8 or int.from_bytes(greeting, "little") > LONGEST_GREETING:
            raise ValueError("something else answers there")
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler at {address} ({error}); start one with `dask scheduler` and pass"
            " the address that it prints"
        ) from error
