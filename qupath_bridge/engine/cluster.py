"""A Dask cluster as a run sees it: its scheduler reached, its workers counted and given tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from qupath_bridge.errors import ClusterError

PATIENCE_S = 30.0
"""How long a scheduler may be without a worker."""

LOOK_S = 0.5
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
