"""A CUDA device kept busy: copies beside the computing, graphs, a batch size that fits.

Work goes through three streams: patches in, computing, results out. The host only queues it, and
is free for other things until it asks for a result.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.device import is_out_of_memory
from model.runner import Runner, Scores, rounded_up

log = logging.getLogger(__name__)

MOST = 32
"""Patches at once at most: more gain nothing, and diffusers leaves channels_last at 64."""
RESERVE = 0.15
"""This share of the free memory stays free: for graphs, and for other programs."""
WARM_UPS = 2
PROBED = (2, 4)


@dataclass(frozen=True)
class Coming:
    """Results on their way to the host, in pinned memory; whole once the event has happened."""

    arrays: dict[str, Tensor]
    arrived: torch.cuda.Event


@dataclass(frozen=True)
class Captured:
    """A graph of one batch's work: what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: dict[str, Tensor]


class CudaRunner(Runner[Coming]):
    """A network on a CUDA device.

    Batches are filled up to a power of two, and the work on each such size is captured as a graph
    when it first comes; where that fails, kernels are launched one by one.
    tile_shape, noise_shape: of one patch.
    """

    ahead = 1

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        tile_shape: Sequence[int],
        noise_shape: Sequence[int],
        graphs: bool = True,
    ) -> None:
        super().__init__(network, device)
        self._shapes = (tuple(tile_shape), tuple(noise_shape))
        self._into, self._compute, self._out = (torch.cuda.Stream(device) for _ in range(3))
        self._use_graphs = graphs
        self.free()

    def free(self) -> None:
        """Forget the graphs and give their memory back."""
        torch.cuda.synchronize(self.device)
        self._graphs: dict[int, Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    @torch.inference_mode()
    def begin(self, tiles: np.ndarray, noise: np.ndarray) -> Coming:
        """Queue a piece: copied in, computed, copied out."""
        with torch.cuda.device(self.device):
            inputs = [self._sent(array, rounded_up(len(tiles))) for array in (tiles, noise)]
            self._compute.wait_stream(self._into)
            with torch.cuda.stream(self._compute):
                outputs = self._computed(inputs)
            return self._fetched(outputs, len(tiles))

    def finish(self, work: Coming) -> Scores:
        """Return a piece's result once it is there."""
        work.arrived.synchronize()
        return {name: array.numpy() for name, array in work.arrays.items()}

    def fitting(self) -> int:
        """Return the power of two up to MOST whose need, as measured on few, the memory has."""
        peaks = []
        for count in PROBED:
            try:
                peaks.append(self._peak(count))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                return count // 2
        each = max(1, (peaks[1] - peaks[0]) // (PROBED[1] - PROBED[0]))
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        room = torch.cuda.memory_allocated(self.device) + int(free * (1 - RESERVE)) - peaks[1]
        count = PROBED[1]
        while count < MOST and each * (2 * count - PROBED[1]) <= room:
            count *= 2
        return count

    @torch.inference_mode()
    def _peak(self, count: int) -> int:
        """Return the most bytes allocated while `count` patches are computed."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        tiles, noise = ((count, *shape) for shape in self._shapes)
        self.network(
            torch.zeros(tiles, dtype=torch.uint8, device=self.device),
            torch.zeros(noise, device=self.device),
        )
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def _sent(self, array: np.ndarray, count: int) -> Tensor:
        """Return an array filled up to `count` patches, on its way to the device."""
        given = torch.from_numpy(array)
        pinned = torch.zeros((count, *given.shape[1:]), dtype=given.dtype, pin_memory=True)
        pinned[: len(given)].copy_(given)
        with torch.cuda.stream(self._into):
            sent = pinned.to(self.device, non_blocking=True)
        sent.record_stream(self._compute)
        return sent

    def _computed(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        captured = self._captured(inputs) if self._use_graphs else None
        if captured is None:
            return self.network(*inputs)
        for kept, given in zip(captured.inputs, inputs, strict=True):
            kept.copy_(given)
        captured.graph.replay()
        return {name: found.clone() for name, found in captured.outputs.items()}

    def _captured(self, inputs: list[Tensor]) -> Captured | None:
        """Return the graph for batches of this size; None if this network cannot be captured."""
        count = len(inputs[0])
        if count not in self._graphs:
            try:
                self._graphs[count] = self._capture(inputs)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._use_graphs = False
                log.warning("no CUDA graph on %s (%s); going on without", self.device, error)
                torch.cuda.synchronize(self.device)  # raises if it was the device that failed
        return self._graphs.get(count)

    def _capture(self, inputs: list[Tensor]) -> Captured:
        kept = [given.clone() for given in inputs]
        for _ in range(WARM_UPS):
            self.network(*kept)
        self._compute.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"
        ):
            outputs = self.network(*kept)
        return Captured(graph, kept, outputs)

    def _fetched(self, outputs: dict[str, Tensor], count: int) -> Coming:
        """Return results on their way to the host; float32, which the bus has room for."""
        self._out.wait_stream(self._compute)
        arrays = {}
        with torch.cuda.stream(self._out):
            for name, found in outputs.items():
                shape = (count, *found.shape[1:])
                arrays[name] = torch.empty(shape, dtype=found.dtype, pin_memory=True)
                arrays[name].copy_(found[:count], non_blocking=True)
                found.record_stream(self._out)
            arrived = torch.cuda.Event()
            arrived.record(self._out)
        return Coming(arrays, arrived)
