"""The speed of the kernels on a CUDA device, beside that of a copy and of what torch offers."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gumball_server.cuda_batch import Batch
from gumball_server.domain import Parameters
from gumball_server.validation import sample_request

COLUMNS = "{:36} {:>14} {:>10} {:>8} {:>12} {:>8}"
# Read before every timed call: empties the caches, and gives the host time to launch. Were it written, a call that
# reads would have to wait for as many bytes of it to leave the cache.
FLUSHED_BYTES = 1 << 31
COPIED_BYTES = 1 << 30
WARM_UPS, REPETITIONS = 3, 20


@dataclass(frozen=True)
class Target:
    """What a kernel must reach: at least this share of a copy's bandwidth and so many times a rival, within us."""

    share: float = 0.0
    times: float = 0.0
    us: float = math.inf

    def missed(self, share: float, times: float, us: float) -> str:
        """What it did not reach, in words."""
        limits = {
            f"below {self.share:.0%}": share < self.share,
            f"below {self.times} times": times < self.times,
            f"above {self.us} us": us > self.us,
        }
        return ", ".join(limit for limit, is_missed in limits.items() if is_missed)


class Speed:
    """Times kernels on logits that lie on the device, as shares of the bandwidth of a copy there."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._late = 0
        self.missed = 0  # targets
        self._flushed = torch.empty(FLUSHED_BYTES // 4, dtype=torch.float32, device=device)
        source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.copy_bandwidth = 2 * COPIED_BYTES / self.seconds(lambda: target.copy_(source))

    def seconds(self, call: Callable[[], Any]) -> float:
        """Median time of a call on the device, caches cold, launches queued before it begins."""
        times = []
        for repetition in range(WARM_UPS + REPETITIONS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._flushed.amax()
            start.record()
            call()
            end.record()
            is_late = start.query()  # it has begun, and may have waited for the host since
            end.synchronize()
            if repetition >= WARM_UPS:
                self._late += is_late
                times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)

    def print_table(self) -> None:
        print(f"copy on the device: {self.copy_bandwidth / 1e9:.0f} GB/s, read plus written")
        print(COLUMNS.format("", "rows x K", "us", "GB/s", "of the copy", "times"))
        for rows, categories in ((8192, 1024), (256, 32768), (64, 131072), (512, 131072), (8, 1 << 20)):
            self._print_hard(rows, categories)
        for dtype in (torch.float16, torch.bfloat16):
            self._print("hard " + str(dtype)[6:], self._logits(64, 131072, dtype), {"index"}, 2)
        for rows, categories in ((8192, 1024), (256, 32768), (64, 131072)):
            self._print_soft(rows, categories)
        self._print_lone_row()
        self._print_filters()
        if self._late:
            print(f"{self._late} calls began before all of them was launched: their times may have some of the host's")
        print(f"{self.missed} targets were missed")

    def _logits(self, rows: int, categories: int, dtype: Any = None) -> Any:
        torch.manual_seed(0)
        logits = 3 * torch.randn(rows, categories, device=self._device)
        return logits if dtype is None else logits.to(dtype)

    def _print_hard(self, rows: int, categories: int) -> None:
        logits = self._logits(rows, categories)
        trick = self.seconds(lambda: (logits.softmax(-1) / torch.empty_like(logits).exponential_()).argmax(-1))
        self._print("hard; times the exponential trick", logits, {"index"}, 4, trick, Target(share=0.6, times=4))

    def _print_soft(self, rows: int, categories: int) -> None:
        logits = self._logits(rows, categories)
        torch_soft = self.seconds(lambda: torch.nn.functional.gumbel_softmax(logits))
        self._print("soft; times gumbel_softmax", logits, {"soft"}, 8, torch_soft, Target(share=0.3, times=2))

    def _print_lone_row(self) -> None:
        logits = self._logits(1, 128_000)
        self._print("a lone row, hard", logits, {"index"}, 4, target=Target(us=60.0))
        self._print("a lone row, soft", logits, {"soft"}, 8)

    def _print_filters(self) -> None:
        for name, value in (("top_k", 50), ("top_p", 0.9), ("min_p", 0.05)):
            self._print(f"hard, {name}={value}", self._logits(32, 131072), {"index"}, 4, given={name: value})

    def _print(
        self,
        name: str,
        logits: Any,
        outputs: set[str],
        bytes_a_category: int,
        other_seconds: float | None = None,
        target: Target = Target(),
        given: dict[str, Any] | None = None,
    ) -> None:
        seconds = self.seconds(self._drawing(logits, outputs, given or {}))
        bandwidth, us = logits.numel() * bytes_a_category / seconds, seconds * 1e6
        share, times = bandwidth / self.copy_bandwidth, other_seconds / seconds if other_seconds else 0.0
        shape = f"{logits.shape[0]} x {logits.shape[1]}"
        figures = (f"{us:.1f}", f"{bandwidth / 1e9:.0f}", f"{share:.0%}", f"{times:.1f}" if times else "")
        missed = target.missed(share, times, us)
        self.missed += bool(missed)
        print(COLUMNS.format(name, shape, *figures), missed)

    def _drawing(self, logits: Any, outputs: set[str], given: dict[str, Any]) -> Callable[[], Any]:
        """A call that draws every row of logits, which lie on the device; what is drawn stays there."""
        host = logits.cpu()
        stored = host.view(torch.int16).numpy().view(np.uint16) if host.dtype is torch.bfloat16 else host.numpy()
        batch = Batch([sample_request(stored, Parameters(outputs=tuple(outputs), seed=1, **given))])
        staged = torch.empty(batch.input_bytes, dtype=torch.uint8)
        batch.fill(staged.numpy())
        buffer = staged.to(self._device)
        prepared = torch.empty(batch.prepared_elements, dtype=torch.float32, device=self._device)
        output = torch.empty(batch.output_elements, dtype=torch.int32, device=self._device)
        return lambda: batch.draw(buffer, prepared, output)
