"""The worker for a CUDA device: one copy in, one launch of each kernel, one copy out a batch.

A batch runs on a `_Lane`: a stream, and pinned memory that is kept and grown, in which its two buffers (see
``cuda_batch``) are staged. As there are two lanes, the copies of one batch overlap the kernels of another where two
threads bring batches.

What the device has no kernels for, and what is too small to be worth the way, is drawn by the CPU worker: the bits
are the same.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from gumball_server.cuda_batch import SECTION, Batch
from gumball_server.domain import LOGITS_DTYPES, Parameters, SampleRequest
from gumball_server.kernels import cuda
from gumball_server.validation import sample_request
from gumball_server.worker import WORTH_THE_WAY, AnyWorker, DeviceLostError, Drawn, check

LANES = 2


class CudaWorker:
    """Draws batches on one device; may be called from several threads at once."""

    at_once = LANES

    def __init__(
        self,
        device: torch.device,
        cpu: AnyWorker,
        worth_the_way: int = WORTH_THE_WAY,
        probe: AnyWorker | None = None,
    ) -> None:
        """`probe` draws everything on the device: by it, after a batch has failed, one can tell whether it is lost."""
        self.device = str(device)
        self._cpu = cpu
        self._worth_the_way = worth_the_way
        self._probe = probe
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(_Lane(device))

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request; a request that cannot be drawn gets its error, alone."""
        here = [request for request in requests if is_built(request)]
        if sum(request.plan.layout.elements for request in here) < max(self._worth_the_way, 1):
            return self._cpu.run(requests)
        elsewhere = [request for request in requests if not is_built(request)]
        drawn_here = iter(self._draw(here))
        drawn_elsewhere = iter(self._cpu.run(elsewhere) if elsewhere else ())
        return [next(drawn_here if is_built(request) else drawn_elsewhere) for request in requests]

    def _draw(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        batch = Batch(requests)
        lane = self._lanes.get()
        try:
            return lane.draw(batch)
        except Exception:
            self._check_device()
            raise
        finally:
            self._lanes.put(lane)

    def _check_device(self) -> None:
        """Raise DeviceLostError if it was not the batch: most errors of CUDA are for the life of the process."""
        try:
            if self._probe is not None:
                check(self._probe)
        except Exception as error:
            raise DeviceLostError(f"{self.device} does not give the published vectors any more") from error

    def watch(self, told: Callable[[bool], None]) -> None:
        """It can compute as soon as there is one; batches find out when it cannot any more."""
        told(True)

    def close(self) -> None:
        self._cpu.close()


def is_built(request: SampleRequest) -> bool:
    """Whether the device has kernels for all that a request asks for."""
    return max(request.plan.without_replacement or 1, request.plan.top_log_probs) <= cuda.MOST_RANKED


def open_cuda_worker(device: str, cpu: AnyWorker) -> CudaWorker:
    """A worker whose kernels are compiled and have given the published vectors.

    Takes minutes where Triton's cache (TRITON_CACHE_DIR) has none of them, seconds where it has all.
    """
    probe = CudaWorker(torch.device(device), cpu, worth_the_way=0)
    check(probe)
    warm_up(probe)
    return CudaWorker(torch.device(device), cpu, probe=probe)


def warm_up(worker: CudaWorker) -> None:
    """Launch all that a worker of everything can launch, so that no caller waits for the compiler."""
    for tiles in cuda.TILES_OF_A_SLICE:  # one batch each: the rows of a batch are cut alike
        worker.run(list(_one_of_each(tiles * cuda.TILE_SIZE)))


def _one_of_each(categories: int) -> Iterator[SampleRequest]:
    """Requests that take every way there is."""
    for dtype in LOGITS_DTYPES:
        logits = np.zeros((1, categories), dtype)
        for output in ("index", "soft", "log_prob"):
            yield sample_request(logits, Parameters(outputs=(output, "one_hot"), seed=0))
            yield sample_request(logits, Parameters(outputs=(output,), seed=0, top_k=1, logit_bias={0: 1.0}))
        yield sample_request(logits, Parameters(seed=0, without_replacement=1))


class _Lane:
    """A stream, and the pinned buffers of the one batch that is on it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None  # under the interpreter
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._in = self._staging(0, torch.uint8)
        self._out = self._staging(0, torch.int32)

    def _staging(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=self._stream is not None)

    def _grow(self, batch: Batch) -> None:
        if self._in.numel() < batch.input_bytes:
            self._in = self._staging(batch.input_bytes * 5 // 4 // SECTION * SECTION + SECTION, torch.uint8)
        if self._out.numel() < batch.returned_elements:
            self._out = self._staging(batch.returned_elements * 5 // 4, torch.int32)

    def draw(self, batch: Batch) -> list[Drawn]:
        self._grow(batch)
        staged_in, staged_out = self._in[: batch.input_bytes], self._out[: batch.returned_elements]
        batch.fill(staged_in.numpy())
        with self._on_stream():
            prepared = torch.empty(batch.prepared_elements, dtype=torch.float32, device=self._device)
            output = torch.empty(batch.output_elements, dtype=torch.int32, device=self._device)
            batch.draw(staged_in.to(self._device, non_blocking=True), prepared, output)
            staged_out.copy_(output[: batch.returned_elements], non_blocking=True)
        return batch.drawn(staged_out.numpy())

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """What is launched in it goes on the stream, and is done after it.

        Also if something fails: the next batch would be written over one that is still being copied, and kernels would
        follow the addresses of both.
        """
        if self._stream is None:
            yield
            return
        # The device first: leaving a stream of another one than the thread's own makes a context on the latter.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._stream.synchronize()
