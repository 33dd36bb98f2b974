"""The code that Triton makes for real GPUs, read: what it computes must be what the contract says, operation by
operation.

No GPU is needed, so CI sees what a new Triton would change before a device does.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

COMPILER = Path(__file__).with_name("ptx.py")
CAPABILITIES = (80, 90)


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The PTX of every kernel for every capability, by "kernel sm_capability"."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    folders = {capability: tmp_path_factory.mktemp(f"sm{capability}") for capability in CAPABILITIES}
    compilers = [
        subprocess.Popen([sys.executable, COMPILER, str(capability), folder], env=environment)
        for capability, folder in folders.items()
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
    return {
        f"{path.stem} sm_{capability}": re.sub(r"//.*", "", path.read_text())
        for capability, folder in folders.items()
        for path in folder.glob("*.ptx")
    }


def found(assembly: dict[str, str], pattern: str) -> dict[str, set[str]]:
    """The instructions that match, by kernel."""
    matches = {name: set(re.findall(pattern, text)) for name, text in assembly.items()}
    return {name: instructions for name, instructions in matches.items() if instructions}


def test_every_kernel_compiles_and_computes(assembly: dict[str, str]):
    """What the other tests look for the absence of would be found: these are kernels with floating-point code."""
    arithmetic = found(assembly, r"\b(?:add|sub|mul)\.rn\.f32\b")
    for capability in CAPABILITIES:
        kernels = {"sweep", "settle", "score", "weigh", "finish", "find_cut", "gauge"}
        assert {f"{kernel} sm_{capability}" for kernel in kernels} <= arithmetic.keys()


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
def test_no_float_operation_is(assembly: dict[str, str], pattern: str):
    """Each is rounded to nearest on its own, to full precision, subnormals kept, in a fixed order."""
    assert found(assembly, pattern) == {}


def test_hard_samples_move_nothing_through_shared_memory(assembly: dict[str, str]):
    """But the few numbers a tile that `sweep` writes: words and logits stay in the thread that made them."""
    through = found(assembly, r"\bst\.shared\.\S+ .*")
    assert not through.keys() & {f"settle sm_{capability}" for capability in CAPABILITIES}
    assert all(len(through.get(f"sweep sm_{capability}", ())) <= 2 for capability in CAPABILITIES)
