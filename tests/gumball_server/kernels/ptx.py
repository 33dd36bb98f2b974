"""Compiles every Triton kernel for a GPU that need not be there: `python ptx.py 90 FOLDER` writes <kernel>.ptx and
.cubin.

A program of its own, since in a process that runs Triton's interpreter nothing can be compiled. With --count, and
where Triton brings nvdisasm, prints the machine instructions of each kernel.
"""

import argparse
import collections
import re
import subprocess
from pathlib import Path
from typing import Any

import triton
from gumball_server.kernels import _triton_dense as dense
from gumball_server.kernels import _triton_filters as filters
from gumball_server.kernels import _triton_hard as hard
from gumball_server.kernels import _triton_peaks as peaks
from gumball_server.kernels import _triton_prepare as preparation
from gumball_server.kernels import _triton_probabilities as probabilities
from gumball_server.kernels import _triton_ranking as ranking
from gumball_server.kernels import cuda
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_OF_SLICES = (
    *(peaks.measure, preparation.upcast, filters.mask, probabilities.gauge, probabilities.describe),
    *(hard.sweep, dense.score, dense.weigh, dense.finish, dense.mark),
)
_OF_ROWS = (preparation.add_bias, filters.find_cut, ranking.list_most_likely, ranking.draw_distinct)
_OF_SAMPLES = (hard.settle, dense.answer, probabilities.appraise)
WARPS = (
    dict.fromkeys(_OF_SLICES, cuda.SLICE_WARPS)
    | dict.fromkeys(_OF_ROWS, cuda.ROW_WARPS)
    | dict.fromkeys(_OF_SAMPLES, cuda.SAMPLE_WARPS)
)

_POINTERS = {
    "*i64": ("table", "sums", "surprises", "cuts"),
    "*i32": ("owners", "peaks", "integers", "winners", "categories"),
    "*fp32": ("bounds", "floats", "bests", "prepared", "amounts"),
}
_TYPE_OF = {name: pointer for pointer, names in _POINTERS.items() for name in names} | {"TILES": "constexpr"}


def compiled(kernel: Any, logits: str, capability: int) -> Any:
    """A kernel compiled as `cuda` launches it, for logits of this type; every buffer is aligned, as torch's are."""
    signature = _TYPE_OF | {"logits": f"*{logits}"}
    source = ASTSource(
        fn=kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constexprs={"TILES": cuda.MOST_TILES},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name != "TILES"},
    )
    options = {**cuda.OPTIONS, "num_warps": WARPS[kernel]}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def instructions(cubin: Path) -> collections.Counter[str]:
    """How often each machine instruction occurs."""
    nvdisasm = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    text = subprocess.run([nvdisasm, cubin], capture_output=True, text=True, check=True).stdout
    return collections.Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", text, re.MULTILINE))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("capability", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--logits", default="fp32", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--count", action="store_true")
    arguments = parser.parse_args()
    for kernel in WARPS:
        assembly = compiled(kernel, arguments.logits, arguments.capability).asm
        path = arguments.folder / kernel.__name__
        path.with_suffix(".ptx").write_text(assembly["ptx"])
        path.with_suffix(".cubin").write_bytes(assembly["cubin"])
        if arguments.count:
            counts = instructions(path.with_suffix(".cubin"))
            print(f"{kernel.__name__:9} {counts.total():5}", *(f"{name} {n}" for name, n in counts.most_common(16)))


if __name__ == "__main__":
    main()
