"""A Dask cluster reached: that of a scheduler's address, or one of processes started here."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from urllib.parse import urlsplit

from distributed import Client, LocalCluster

from qupath_bridge.engine.cluster import Cluster
from qupath_bridge.errors import ClusterError

CONNECT_S = 10.0
LONGEST_GREETING = 2**20


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
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
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
    resource_tracker.ensure_running()  # where it starts that, Python lets the signal through again
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
