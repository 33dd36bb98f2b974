"""From what a setting names to devices, and workers for them. torch is imported only where there may be a GPU."""

import ctypes
from importlib.util import find_spec
from typing import Protocol

from gumball_server.worker import AnyWorker, DeviceWorker


class DeviceError(Exception):
    """The device asked for cannot be used here."""


class Devices(Protocol):
    """What there is beside the CPU."""

    def names(self, asked: str) -> list[str]:
        """The devices of the setting `device`, none of them for the CPU alone.

        Raises DeviceError if there is no such device, or what draws on it is not installed.
        """

    def open(self, name: str, cpu: AnyWorker) -> DeviceWorker:
        """A worker that has given the published vectors, and leaves to `cpu` what is better drawn there."""


class CudaDevices:
    """The GPUs that CUDA lets this process see."""

    def names(self, asked: str) -> list[str]:
        if asked == "cpu" or (asked == "auto" and not _may_have_gpu()):
            return []
        if not _is_installed():
            raise DeviceError(f"device {asked} needs torch and triton: install gumball[cuda]")
        import torch

        there = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        named = there if asked in ("auto", "cuda") else asked.split(",")
        if (asked == "cuda" and not there) or not set(named) <= set(there):
            raise DeviceError(f"device {asked}: there are {len(there)} CUDA devices")
        return named

    def open(self, name: str, cpu: AnyWorker) -> DeviceWorker:
        """Takes minutes where Triton's cache has nothing, seconds where it has all."""
        from gumball_server.cuda_worker import open_cuda_worker

        return open_cuda_worker(name, cpu)


def _may_have_gpu() -> bool:
    """Whether it is worth importing torch to look: it takes seconds, and most machines have no driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return _is_installed()


def _is_installed() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "triton"))
