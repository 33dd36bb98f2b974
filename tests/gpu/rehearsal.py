"""`make gpu` on a GPU that is not there, in small: every line of it runs, by Triton's interpreter.

Without the modules that this project needs elsewhere, and that a machine with a GPU may not have.
"""

import os
import re
import sys
import warnings
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
THERE = {"numpy", "torch", "triton", "numba", "pytest"}


class Missing:
    """Finds none of the modules of what this project depends on but for what is there."""

    def __init__(self) -> None:
        needed = {re.split(r"[^\w.-]", requirement)[0] for requirement in requires("gumball") or ()} - THERE
        self._modules = {module for module, names in packages_distributions().items() if needed.intersection(names)}

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in self._modules:
            raise ModuleNotFoundError(f"{name} may not be there", name=name)


sys.meta_path.insert(0, Missing())

import run  # noqa: E402 - only now is missing what may be
import torch  # noqa: E402
from fake_cuda import FakeCuda  # noqa: E402


def main() -> int:
    warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes with NumPy, infinities too
    sys.path[:0] = [str(run.ROOT / folder) for folder in ("service", "clients/python")]
    with FakeCuda().installed():
        import bits
        import speed
        from kernel_cases import normal

        bits.LENGTHS, bits.LONG, bits.LONGEST = (5,), 30, 40
        bits.normal = lambda rows, categories: normal(1, categories)
        bits.check = lambda worker: None
        speed.FLUSHED_BYTES = speed.COPIED_BYTES = 1 << 10
        speed.WARM_UPS, speed.REPETITIONS = 0, 1
        speed.Speed._logits = lambda self, rows, categories, dtype=None: torch.randn(2, 70).to(dtype or torch.float32)
        sys.argv[1:] = ["--rows", "20"]
        return run.main()


if __name__ == "__main__":
    sys.exit(main())
