"""From the name of a device to a worker for it. torch is imported only where the name asks for a GPU, or one may be."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

from gumball_server.worker import AnyWorker, open_worker


class DeviceError(Exception):
    """The device asked for cannot be used here."""


def open_device(device: str, cache: Path, threads: int) -> AnyWorker:
    """A worker for auto, cpu, cuda or cuda:N that has given the published vectors. Takes seconds.

    Raises DeviceError if there is no such device, or what draws on it is not installed.
    """
    name = _available(device)
    cpu = open_worker(cache, threads)
    if name == "cpu":
        return cpu
    from gumball_server.cuda_worker import open_cuda_worker

    return open_cuda_worker(name, cpu)


def _available(device: str) -> str:
    """cpu or cuda:N."""
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    if not _is_installed():
        raise DeviceError(f"device {device} needs torch and triton: install gumball[cuda]")
    import torch

    count = torch.cuda.device_count()
    if device == "auto":
        return "cuda:0" if count else "cpu"
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        raise DeviceError(f"device {device}: there are {count} CUDA devices")
    return f"cuda:{number}"


def _may_have_gpu() -> bool:
    """Whether it is worth importing torch to look: it takes seconds, and most machines have no driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return _is_installed()


def _is_installed() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "triton"))
