"""The code that Triton makes for real GPUs, read: what it computes must be what the contract says, operation by
operation.

No GPU is needed, so CI sees what a new Triton would change before a device does. What is read is all that a worker
launches (``ptx.py``): every kernel, for every type of logits and size of slices.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

COMPILER = Path(__file__).with_name("ptx.py")
CAPABILITIES = (80, 90)


@dataclass(frozen=True)
class Compiled:
    """What Triton keeps of a kernel that it has compiled."""

    path: Path  # but for its ending
    capability: int

    def __str__(self) -> str:
        return f"{self.name} of sm_{self.capability}, {self.path.parent.name[:6]}"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_late(self) -> bool:
        """Whether it was compiled for a request."""
        return self.path.parents[1].name == "late"

    def found(self, pattern: str) -> set[str]:
        """The instructions that match."""
        return set(re.findall(pattern, re.sub(r"//.*", "", self.path.with_suffix(".ptx").read_text())))

    def resources(self) -> dict[str, int]:
        """What the machine code takes, by cuobjdump's names."""
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [tool, "--dump-resource-usage", self.path.with_suffix(".cubin")]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", text)}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Compiled]:
    """All that a worker launches, for every capability."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    folders = {capability: tmp_path_factory.mktemp(f"sm{capability}") for capability in CAPABILITIES}
    compilers = [
        subprocess.Popen([sys.executable, COMPILER, str(capability), folder], env=environment)
        for capability, folder in folders.items()
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
    return [
        Compiled(path.with_suffix(""), capability)
        for capability, folder in folders.items()
        for path in folder.rglob("*.ptx")
    ]


def found(kernels: list[Compiled], pattern: str) -> dict[str, set[str]]:
    """The instructions that match, by kernel."""
    return {str(kernel): instructions for kernel in kernels if (instructions := kernel.found(pattern))}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_and_computes(kernels: list[Compiled], capability: int):
    """In three sizes of slices, and those that read logits in three types. What the other tests look for the absence of
    would be found: these are kernels with floating-point code."""
    of_type = {"upcast", "measure", "sweep", "settle", "score", "gauge", "describe", "appraise", "list_most_likely"}
    others = {"add_bias", "find_cut", "mask", "weigh", "finish", "answer", "mark", "draw_distinct"}
    names = [kernel.name for kernel in kernels if kernel.capability == capability]
    assert {name: names.count(name) for name in names} == dict.fromkeys(of_type, 9) | dict.fromkeys(others, 3)
    computing = {kernel.name for kernel in kernels if kernel.found(r"\b(?:add|sub|mul)\.rn\.f32\b")}
    assert computing >= {"sweep", "settle", "score", "weigh", "finish", "find_cut", "gauge"}


def test_no_caller_waits_for_the_compiler(kernels: list[Compiled]):
    """What requests of every kind launch was compiled before the worker was ready."""
    assert not [str(kernel) for kernel in kernels if kernel.is_late]


def test_registers_suffice(kernels: list[Compiled]):
    """Nothing is kept in memory instead, but for a word or two around a division. (Triton checks shared memory.)"""
    with ThreadPoolExecutor() as pool:
        taken = dict(zip(kernels, pool.map(Compiled.resources, kernels), strict=True))
    assert all(resources["REG"] > 8 for resources in taken.values())
    assert not [str(kernel) for kernel, resources in taken.items() if resources["STACK"] > 16]


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b(?:fma|mad)\.[\w.]*f(?:16|32|64)\w*",
        r"\b(?:add|sub|mul)\.(?!rn\.)[\w.]*f(?:16|32|64)\w*",
        r"\b[\w.]*\.(?:approx|full|ftz|sat)\b[\w.]*",
        r"\bdiv\.(?!rn\.f64)[\w.]*f(?:16|32|64)\w*",
        r"\b(?:ex2|lg2|rcp|rsqrt|sqrt|sin|cos|tanh)\.[\w.]+",
        r"\b(?:atom|red)\.[\w.]*f(?:16|32|64)\w*",
    ],
    ids=["fused", "free to be fused", "approximate", "divided but as IEEE doubles", "functions", "order of arrival"],
)
def test_no_float_operation_is(kernels: list[Compiled], pattern: str):
    """Each is rounded to nearest on its own, to full precision, subnormals kept, in a fixed order."""
    assert found(kernels, pattern) == {}


def test_hard_samples_move_nothing_through_shared_memory(kernels: list[Compiled]):
    """But the few numbers a tile that `sweep` writes: words and logits stay in the thread that made them."""
    for kernel in kernels:
        if kernel.name in ("settle", "sweep"):
            through = kernel.found(r"\bst\.shared\.\S+ .*")
            assert len(through) <= {"settle": 0, "sweep": 2}[kernel.name], kernel
