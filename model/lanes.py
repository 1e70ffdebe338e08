"""Batches on the cores of a CPU: several at once, each on one core alone.

Torch can spread each operation over the cores instead, but adds up in another order then, so that
the last bits of a result depend on their number; and its threads wait for one another, which is
slow where others use the cores as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

Found = TypeVar("Found")

MOST_LANES = 8
"""Each holds a batch's activations. More cores are for more processes."""


def lanes() -> int:
    """Return how many batches to compute at once: torch's number of threads, at most 8."""
    return min(torch.get_num_threads(), MOST_LANES)


def in_lanes(
    compute: Callable[..., Found], batches: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[Any, Found]]:
    """Yield what `compute` makes of batches (key, ...), in order, with their keys.

    One more batch is taken than are computed.
    """
    count = lanes()
    at_work: deque[tuple[Any, Future[Found]]] = deque()
    pool = ThreadPoolExecutor(count, "model", initializer=partial(torch.set_num_threads, 1))
    try:
        for key, *given in batches:
            at_work.append((key, pool.submit(compute, *given)))
            if len(at_work) > count:
                yield _next(at_work)
        while at_work:
            yield _next(at_work)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(at_work: deque[tuple[Any, Future[Found]]]) -> tuple[Any, Found]:
    key, found = at_work.popleft()
    return key, found.result()
