"""A GPU that is not there: what PyTorch's CUDA would be asked for, done on the CPU, and what it would not forgive.

Kernels run under Triton's interpreter. Copies that do not block are taken to be under way until their stream is waited
for: what was to come in must not have changed until then, and what was to come out is not there before.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


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


class FakeEvent:
    """The moment at which it was recorded."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return False

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e3 * (end.seconds - self.seconds)


class _Current(threading.local):
    """Device and stream of a thread."""

    device = torch.device("cuda:0")
    stream: FakeStream


class FakeCuda:
    """Once it is installed, tensors of CUDA devices are tensors of the CPU."""

    def __init__(self, memory_bytes: int = 1 << 40) -> None:
        self.memory_bytes = memory_bytes  # that a single tensor may take
        self.pinned_bytes = 0  # that were ever asked for
        self.contexts: set[torch.device] = set()  # devices that have one: half a gigabyte each
        self._current = _Current()

    @contextlib.contextmanager
    def installed(self) -> Iterator["FakeCuda"]:
        with pytest.MonkeyPatch.context() as patch:
            fakes = {"Stream": FakeStream, "Event": FakeEvent, "stream": self._on_stream, "device": self._on_device}
            for name, fake in fakes.items():
                patch.setattr(torch.cuda, name, fake)
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "get_device_name", lambda device: "no GPU")
            for name in ("empty", "randn"):
                patch.setattr(torch, name, self._made(getattr(torch, name)))
            patch.setattr(torch.Tensor, "to", self._moved(torch.Tensor.to))
            patch.setattr(torch.Tensor, "copy_", self._copied(torch.Tensor.copy_))
            yield self

    @contextlib.contextmanager
    def _on_stream(self, stream: FakeStream) -> Iterator[None]:
        device = self._current.device
        self._current.device, self._current.stream = stream.device, stream
        self.contexts.add(stream.device)
        yield
        self._current.device = device
        self.contexts.add(device)  # its stream is set again, and that sets the device
        del self._current.stream

    @contextlib.contextmanager
    def _on_device(self, device: torch.device) -> Iterator[None]:
        before, self._current.device = self._current.device, device
        yield
        self._current.device = before

    def _made(self, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def made(*shape: Any, device: Any = "cpu", pin_memory: bool = False, **given: Any) -> torch.Tensor:
            assert torch.device(device) in (torch.device("cpu"), self._current.device), "a kernel could not reach it"
            tensor = make(*shape, **given)
            if pin_memory:
                self.pinned_bytes += tensor.nbytes
            elif tensor.nbytes > self.memory_bytes:
                raise torch.OutOfMemoryError
            return tensor

        return made

    def _moved(self, move: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def moved(tensor: torch.Tensor, to: Any, *, non_blocking: bool = False) -> torch.Tensor:
            if to != self._current.device:
                return move(tensor, to)
            return self._current.stream.copy_in(tensor) if non_blocking else tensor.clone()

        return moved

    def _copied(self, copy: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def copied(target: torch.Tensor, source: torch.Tensor, *, non_blocking: bool = False) -> torch.Tensor:
            return self._current.stream.copy_out(target, source) if non_blocking else copy(target, source)

        return copied
