"""What only a GPU can show: the bits of a million rows, and the speed. Says so, and passes, where there is none.

Needs torch, triton and numba, and nothing of this project installed: the sources are found beside this file.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="rows whose bits are compared")
    parser.add_argument("--only", choices=("bits", "speed"))
    arguments = parser.parse_args()
    device = cuda_device()
    if device is None:
        print("skipped: no CUDA device")
        return 0
    sys.path[:0] = [str(ROOT / folder) for folder in ("service", "clients/python", "tests")]
    differing = 0
    if arguments.only != "speed":
        from bits import compare_bits

        differing = compare_bits(device, arguments.rows)
    if arguments.only != "bits":
        from speed import Speed

        Speed(device).print_table()
    return 1 if differing else 0


def cuda_device() -> Any:
    """The first CUDA device, or None."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    return torch.device("cuda:0")


if __name__ == "__main__":
    sys.exit(main())
