"""A server with two devices that are no GPUs: the CPU kernels, under the names that GPUs would have."""

import sys
from collections.abc import Callable, Sequence

from gumball_server.__main__ import main
from gumball_server.domain import SampleRequest
from gumball_server.worker import AnyWorker, DeviceLostError, Drawn

# Draw numbers of requests at which a device fails; other devices and the CPU draw them.
FAILS_AT = 1_000_001
IS_LOST_AT = 1_000_002


class CpuDevice:
    """Draws with the CPU kernels, and fails where a test wants it to."""

    at_once = 1

    def __init__(self, device: str, cpu: AnyWorker) -> None:
        self.device = device
        self._cpu = cpu

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        for request in requests:
            if request.plan.first_draw == FAILS_AT:
                raise RuntimeError("as the test wants it")
            if request.plan.first_draw == IS_LOST_AT:
                raise DeviceLostError("as the test wants it")
        return self._cpu.run(requests)

    def watch(self, told: Callable[[bool], None]) -> None:
        told(True)

    def close(self) -> None: ...


class CpuDevices:
    """Two of them, whatever is asked for."""

    def names(self, asked: str) -> list[str]:
        return ["cuda:0", "cuda:1"]

    def open(self, name: str, cpu: AnyWorker) -> CpuDevice:
        return CpuDevice(name, cpu)


if __name__ == "__main__":
    sys.exit(main(devices=CpuDevices()))
