"""The sampler as a library call: the same requests, the same kernels, no server."""

import time
from typing import Any

from gumball_server.domain import Array, Parameters, SampleResult, SamplingError, Source
from gumball_server.info import DeviceInfo, Info, info
from gumball_server.settings import Settings
from gumball_server.validation import sample_request
from gumball_server.worker import open_worker


class LocalSampler:
    """Draws in the calling thread; may be called from several at once. Opening takes as long as starting a server."""

    def __init__(self, threads: int | None = None) -> None:
        self._settings = Settings(threads=threads or 0)
        self._worker = open_worker(self._settings.cache_path, self._settings.cpu_threads)

    def sample(self, logits: Array, source: Source = Source.LOGITS, **given: Any) -> SampleResult:
        """The samples of logits (or probs) [rows, categories] float32, float16 or uint16 (bfloat16).

        `given` are the members of `Parameters`. Raises SamplingError.
        """
        request = sample_request(logits, Parameters(**given), source)
        start = time.perf_counter_ns()
        (drawn,) = self._worker.run([request])
        if isinstance(drawn, SamplingError):
            raise drawn
        return SampleResult(request, drawn, queue_ns=0, compute_ns=time.perf_counter_ns() - start)

    def info(self) -> Info:
        told = info(self._settings)
        told.devices.append(DeviceInfo(self._worker.device, self._settings.cpu_threads))
        return told

    def close(self) -> None:
        self._worker.close()
