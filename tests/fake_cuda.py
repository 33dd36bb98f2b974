"""A GPU that is not there: what PyTorch's CUDA would be asked for, done on the CPU, and what it would not forgive.

Kernels run under Triton's interpreter. Copies that do not block are taken to be under way until their stream is waited
for: what was to come in must not have changed until then, and what was to come out is not there before.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode


class FakeStream:
    """Of copies and launches, in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._coming: list[tuple[torch.Tensor, torch.Tensor]] = []  # what was copied, and what was there then
        self._leaving: list[tuple[torch.Tensor, torch.Tensor]] = []

    def copy_in(self, source: torch.Tensor) -> torch.Tensor:
        self._coming.append((source, source.clone()))
        return source.clone()

    def copy_out(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self._leaving.append((target, source))
        return target

    def synchronize(self) -> None:
        for source, then in self._coming:
            assert torch.equal(source, then), "written to while it was copied"
        for target, source in self._leaving:
            target.copy_(source)
        self._coming, self._leaving = [], []


class FakeCuda(TorchFunctionMode):
    """In it, tensors of CUDA devices are tensors of the CPU. For one thread."""

    def __init__(self, memory_bytes: int = 1 << 30) -> None:
        super().__init__()
        self.memory_bytes = memory_bytes  # that a single tensor may take
        self.pinned_bytes = 0  # that were ever asked for
        self.contexts: set[torch.device] = set()  # devices that have one: half a gigabyte each
        self._current = torch.device("cuda:0")
        self._stream = FakeStream(self._current)

    @contextlib.contextmanager
    def installed(self) -> Iterator["FakeCuda"]:
        with pytest.MonkeyPatch.context() as patch, self:
            for name, fake in (("Stream", FakeStream), ("stream", self._on_stream), ("device", self._on_device)):
                patch.setattr(torch.cuda, name, fake)
            yield self

    @contextlib.contextmanager
    def _on_stream(self, stream: FakeStream) -> Iterator[None]:
        before = self._current, self._stream
        self._current, self._stream = stream.device, stream
        self.contexts.add(stream.device)
        yield
        self._current, self._stream = before
        self.contexts.add(self._current)  # its stream is set again, and that sets the device

    @contextlib.contextmanager
    def _on_device(self, device: torch.device) -> Iterator[None]:
        before, self._current = self._current, device
        yield
        self._current = before

    def _empty(self, elements: int, dtype: torch.dtype, device: Any = None, pin_memory: bool = False) -> torch.Tensor:
        size = elements * dtype.itemsize
        if pin_memory:
            self.pinned_bytes += size
        elif size > self.memory_bytes:
            raise torch.OutOfMemoryError
        assert device in (None, torch.device("cpu"), self._current), "Triton launches on the current device"
        return torch.empty(elements, dtype=dtype)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            return self._empty(*args, **kwargs)
        if function is torch.Tensor.to and args[1:] == (self._current,):
            assert kwargs == {"non_blocking": True}
            return self._stream.copy_in(args[0])
        if function is torch.Tensor.copy_ and "non_blocking" in kwargs:
            return self._stream.copy_out(*args)
        return function(*args, **kwargs)
