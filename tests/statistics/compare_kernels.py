"""Compares the CPU kernels with the NumPy contract over random rows of every kind, plain and with any parameters.

Exits with 1 on any difference.

python tests/statistics/compare_kernels.py --categories 1e9
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

CATEGORIES_A_KIND = 1_000_000  # of plain rows, and of rows with parameters
CATEGORIES_A_TASK = 2 * CATEGORIES_A_KIND
LONGEST = 1 << 18


def compare(seed: int) -> tuple[int, list[str]]:
    """Draws one task's rows; returns how many categories they had and what differed."""
    from gumball_server.kernels.cpu import sample_rows
    from kernel_rows import Table, random_parameters, random_row, random_rows

    random = np.random.default_rng(seed)
    rows = [
        row for make in (random_row, random_parameters) for row in random_rows(random, CATEGORIES_A_KIND, LONGEST, make)
    ]
    random.shuffle(rows)
    table = Table(rows)
    sample_rows(table.records)
    return sum(row.logits.size * row.draws for row in rows), table.mismatches()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", type=float, default=1e8, help="how many to compare (1e8)")
    parser.add_argument("--seed", type=int, default=0, help="of the first task; the others count up from it (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (one a core)")
    arguments = parser.parse_args()

    compare(arguments.seed)  # leaves the compiled kernels for the processes to load
    start, done, wrong = time.monotonic(), 0, []
    tasks = range(arguments.seed, arguments.seed + -(-int(arguments.categories) // CATEGORIES_A_TASK))
    with ProcessPoolExecutor(arguments.processes) as pool:
        for categories, mismatches in pool.map(compare, tasks):
            done += categories
            wrong += mismatches
            speed = done / (time.monotonic() - start) / 1e6
            print(f"\r{done:,} categories, {len(wrong)} rows differ, {speed:.1f} million/s ", end="", flush=True)
    print()
    for mismatch in wrong[:20]:
        print(mismatch)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
