"""The speed of the kernels on a CUDA device, beside that of a copy and of what torch offers."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gumball_server.cuda_batch import Batch
from gumball_server.domain import Parameters
from gumball_server.validation import sample_request

COLUMNS = "{:36} {:>14} {:>10} {:>8} {:>12} {:>8}"
FLUSHED_BYTES = 1 << 31  # written before every timed call: empties the caches, and gives the host time to launch
COPIED_BYTES = 1 << 30
REPETITIONS = 20


class Speed:
    """Times kernels on logits that lie on the device, as shares of the bandwidth of a copy there."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
        source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.copy_bandwidth = 2 * COPIED_BYTES / self.seconds(lambda: target.copy_(source))

    def seconds(self, call: Callable[[], Any]) -> float:
        """Median time of a call on the device, caches cold, launches queued before it begins."""
        times = []
        for repetition in range(3 + REPETITIONS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._flushed.zero_()
            start.record()
            call()
            end.record()
            end.synchronize()
            if repetition >= 3:
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

    def _logits(self, rows: int, categories: int, dtype: Any = None) -> Any:
        generator = torch.Generator(self._device).manual_seed(0)
        logits = 3 * torch.randn(rows, categories, device=self._device, generator=generator)
        return logits if dtype is None else logits.to(dtype)

    def _print_hard(self, rows: int, categories: int) -> None:
        logits = self._logits(rows, categories)
        trick = self.seconds(lambda: (logits.softmax(-1) / torch.empty_like(logits).exponential_()).argmax(-1))
        self._print("hard; times the exponential trick", logits, {"index"}, 4, trick, targets=(0.6, 4))

    def _print_soft(self, rows: int, categories: int) -> None:
        logits = self._logits(rows, categories)
        torch_soft = self.seconds(lambda: torch.nn.functional.gumbel_softmax(logits))
        self._print("soft; times gumbel_softmax", logits, {"soft"}, 8, torch_soft, targets=(0.3, 2))

    def _print_lone_row(self) -> None:
        logits = self._logits(1, 128_000)
        self._print("a lone row, hard: target 60 us", logits, {"index"}, 4)
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
        targets: tuple[float, float] | None = None,
        given: dict[str, Any] | None = None,
    ) -> None:
        seconds = self.seconds(self._drawing(logits, outputs, given or {}))
        bandwidth = logits.numel() * bytes_a_category / seconds
        share, times = bandwidth / self.copy_bandwidth, other_seconds / seconds if other_seconds else None
        shape = f"{logits.shape[0]} x {logits.shape[1]}"
        line = COLUMNS.format(
            name,
            shape,
            f"{seconds * 1e6:.1f}",
            f"{bandwidth / 1e9:.0f}",
            f"{share:.0%}",
            f"{times:.1f}" if times else "",
        )
        missed = targets is not None and (share < targets[0] or times is None or times < targets[1])
        print(line + (f"  below {targets[0]:.0%} or {targets[1]}" if targets and missed else ""))

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
