"""Every proof in full size, and a table of what was proven; exits with 1 if any claim fails.

python tests/statistics/prove.py
"""

import shutil
import sys
import time

import decimals
import distribution
import independence
import noise
import weights
from proof import exit_status, report


def main() -> int:
    start = time.monotonic()
    has_dieharder = shutil.which("dieharder") is not None
    told = report(distribution.verdicts()) + report(independence.verdicts())
    if has_dieharder:
        told += report(independence.dieharder_verdicts())
    told += report(weights.verdicts()) + report(noise.verdicts()) + report(decimals.verdicts())
    print(f"\nWhat was proven, in {time.monotonic() - start:.0f} s:\n")
    for verdict in told:
        print(verdict)
    if not has_dieharder:
        print("not run: dieharder is not installed (Debian: apt install dieharder)")
    return exit_status(told)


if __name__ == "__main__":
    sys.exit(main())
