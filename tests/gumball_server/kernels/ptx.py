"""Compiles every kernel that a worker launches, for a GPU that need not be there: `python ptx.py 90 FOLDER`.

The worker runs as it would on that GPU, up to where Triton's driver would launch: so what is compiled is what it asks
for, in every type and size. FOLDER/warm has, as Triton keeps it, what is compiled before the worker is ready, and
FOLDER/late what requests compile after that. A program of its own, since in a process that runs Triton's interpreter
nothing can be compiled. With --count prints the machine instructions of each kernel.
"""

import argparse
import collections
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from gumball_server.cuda_worker import CudaWorker, warm_up
from gumball_server.domain import LOGITS_DTYPES, Parameters, SampleRequest, SamplingError, Source
from gumball_server.kernels import cuda
from gumball_server.validation import sample_request
from triton.backends.compiler import GPUTarget

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}  # that a program may have

OUTPUTS = (("index",), ("score", "one_hot"), ("soft",), ("log_soft",), ("log_prob",), ("probs", "soft"), ("entropy",))
GIVEN: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 2},
    {"top_p": 0.5, "min_p": 0.1},
    {"temperature": 0.0},
    {"logit_bias": {0: 1.0}},
    {"draws": 3},
    {"without_replacement": 1},
    {"top_log_probs": 1},
)


class Driver:
    """Triton's driver of a GPU: takes what was compiled for it, and launches nothing."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES[self._target.arch]}

    def load_binary(self, *binary: Any) -> tuple[str, str, int, int, int]:
        return "module", "function", 0, 0, 1024  # registers, spills, most threads

    def unload_module(self, module: str) -> None: ...

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *launch: None


def every_way(categories: int) -> Iterator[SampleRequest]:
    """Requests of every type, output and parameter, and of what these have in common."""
    for dtype, outputs, given, source in itertools.product(LOGITS_DTYPES, OUTPUTS, GIVEN, Source):
        try:
            yield sample_request(np.ones((1, categories), dtype), Parameters(outputs=outputs, seed=0, **given), source)
        except SamplingError:  # one of those that exclude each other
            continue


def instructions(cubin: Path) -> collections.Counter[str]:
    """How often each machine instruction occurs."""
    text = subprocess.run([TOOLS / "nvdisasm", cubin], capture_output=True, text=True, check=True).stdout
    return collections.Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", text, re.MULTILINE))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("capability", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", action="store_true")
    arguments = parser.parse_args()
    triton.runtime.driver.set_active(Driver(arguments.capability))
    worker = CudaWorker(torch.device("cpu"), None, worth_the_way=0)
    os.environ["TRITON_CACHE_DIR"] = str(arguments.folder / "warm")
    warm_up(worker)
    os.environ["TRITON_CACHE_DIR"] = str(arguments.folder / "late")
    for categories in (1, 10, *(tiles * cuda.TILE_SIZE for tiles in cuda.TILES_OF_A_SLICE), 5000):
        worker.run(list(every_way(categories)))
    if arguments.count:
        for cubin in sorted(arguments.folder.rglob("*.cubin"), key=lambda path: path.name):
            counts = instructions(cubin)
            print(f"{cubin.stem:9} {counts.total():5}", *(f"{name} {n}" for name, n in counts.most_common(16)))


if __name__ == "__main__":
    main()
