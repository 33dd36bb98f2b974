"""Speed of the CPU kernels beside what PyTorch offers, on one core, as ratios within one run.

python tests/bench/kernels.py [--check]

Categories per second of CPU time, median of 7, all of them in turn, so that whatever else the machine does hits all
alike.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import gumbel_softmax

sys.path.insert(0, str(Path(__file__).parents[1]))

from gumball_server.domain import Parameters
from gumball_server.kernels.cpu import sample_rows
from gumball_server.kernels.table import ROW, LogitsType
from gumball_server.validation import sample_request
from gumball_server.worker import Worker

CATEGORIES = (10, 1_000, 32_000, 128_000)
CATEGORIES_A_CALL = 512_000
REPETITIONS = 7
# Least ratios: hard to the fastest of its rivals, soft to gumbel_softmax.
HARD_TARGETS = {10: 3, 1_000: 6, 128_000: 20}
SOFT_TARGETS = {10: 2, 1_000: 4, 32_000: 4, 128_000: 4}
FILTERS: dict[str, dict[str, float]] = {
    "top_k 50": {"top_k": 50},
    "top_p 0.9": {"top_p": 0.9},
    "min_p 0.05": {"min_p": 0.05},
    "all three": {"top_k": 50, "top_p": 0.9, "min_p": 0.05},
}
# Most times of the unfiltered draw that a filtered one may take.
FILTER_TARGETS = {"real 49,152": 1.5, "N(0,1) 50,000": 2.5}
CORES_TARGET = 1.7  # times the speed of one core that two have, at least
REAL_LOGITS = Path(__file__).parents[1] / "data/smollm2-135m-logits.npy"

Call = Callable[[], object]


class Sampler:
    """Our kernel over the rows of an array, ready to be called."""

    def __init__(self, logits: np.ndarray, soft: bool = False, **parameters: float) -> None:
        rows, categories = logits.shape
        self.logits = logits
        self.index = np.empty((rows, int(parameters.get("draws", 1))), np.int32)
        self.soft = np.empty(logits.shape, np.float32) if soft else None
        self.table = np.zeros(rows, ROW)
        number = np.arange(rows, dtype=np.uint64)
        self.table["logits"] = logits.ctypes.data + number * logits.strides[0]
        self.table["logits_type"] = LogitsType.FLOAT16 if logits.dtype == np.float16 else LogitsType.FLOAT32
        self.table["categories"] = categories
        self.table["seed"] = 2024
        self.table["row"] = number
        for name in ("draws", "temperature", "tau", "top_p", "distinct"):
            self.table[name] = 1
        self.table["top_k"] = categories
        for name, value in parameters.items():
            self.table[name] = value
        self.table["index"] = self.index.ctypes.data + number * self.index.strides[0]
        if self.soft is not None:
            self.table["soft"] = self.soft.ctypes.data + number * self.soft.strides[0]

    def __call__(self) -> None:
        sample_rows(self.table)

    def lone(self) -> "Sampler":
        """With the first row alone."""
        self.table = self.table[:1]
        return self


def cpu_seconds(calls: dict[str, Call], times: int = 1) -> dict[str, float]:
    """CPU seconds of one call of each: the median of several rounds in which all take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + REPETITIONS):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(times):
                call()
            seconds[name].append((time.process_time() - start) / times)
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}  # the first warms up


def rivals(logits: np.ndarray) -> dict[str, Call]:
    """What PyTorch users draw samples with. Probabilities are given, where a method starts from them."""
    scores = torch.from_numpy(logits.astype(np.float32))
    probabilities = torch.softmax(scores, -1)
    noise = torch.empty_like(probabilities)
    return {
        "gumbel_softmax(hard=True)": lambda: gumbel_softmax(scores, hard=True),
        "torch.multinomial": lambda: torch.multinomial(probabilities, 1),
        "exponential trick": lambda: (probabilities / noise.exponential_(1)).argmax(-1),
        "gumbel_softmax(hard=False)": lambda: gumbel_softmax(scores),
    }


def throughput(logits: np.ndarray) -> dict[str, float]:
    """Million categories per second of CPU time, by method."""
    calls = {"hard": Sampler(logits, soft=False), "soft": Sampler(logits, soft=True), **rivals(logits)}
    return {name: logits.size / seconds / 1e6 for name, seconds in cpu_seconds(calls).items()}


def ratios(speed: dict[str, float]) -> tuple[float, float]:
    """Hard to the fastest of its rivals, soft to gumbel_softmax."""
    fastest = max(speed[name] for name in ("gumbel_softmax(hard=True)", "torch.multinomial", "exponential trick"))
    return speed["hard"] / fastest, speed["soft"] / speed["gumbel_softmax(hard=False)"]


def print_table(speeds: dict[str, dict[str, float]]) -> None:
    """Methods down, rows of logits across."""
    print(f"{'million categories / CPU-second':32}" + "".join(f"{name:>12}" for name in speeds))
    for method in next(iter(speeds.values())):
        print(f"{method:32}" + "".join(f"{speed[method]:12.0f}" for speed in speeds.values()))
    for i, name in enumerate(("hard / fastest rival", "soft / gumbel_softmax")):
        print(f"{name:32}" + "".join(f"{ratios(speed)[i]:11.1f}x" for speed in speeds.values()))


def print_lone_rows(logits: dict[int, np.ndarray]) -> None:
    """Microseconds of CPU time of a table of one row, the call from Python included."""
    print(f"\n{'a lone row, microseconds':32}" + "".join(f"{categories:12,}" for categories in logits))
    for soft in (False, True):
        line = ""
        for categories, values in logits.items():
            call = Sampler(values, soft).lone()
            line += f"{1e6 * cpu_seconds({'': call}, times=max(10, 100_000 // categories))['']:12.2f}"
        print(f"{'soft' if soft else 'hard':32}{line}")


def filter_costs(random: np.random.Generator) -> dict[str, dict[str, float]]:
    """How many times as long as the unfiltered draws of the same rows the filtered ones take."""
    rows = {"real 49,152": np.load(REAL_LOGITS), "N(0,1) 50,000": random.standard_normal((64, 50_000), np.float32)}
    costs = {}
    for name, logits in rows.items():
        filtered = {each: Sampler(logits, **parameters) for each, parameters in FILTERS.items()}
        seconds = cpu_seconds({"unfiltered": Sampler(logits), **filtered})
        costs[name] = {each: seconds[each] / seconds["unfiltered"] for each in FILTERS}
    return costs


def other_costs(random: np.random.Generator) -> dict[str, float]:
    """Ratios that may be 1 at most."""
    open_row = random.standard_normal((1, 128_000), np.float32)
    masked = np.full_like(open_row, -np.inf)
    masked[0, random.choice(128_000, 50, replace=False)] = 0
    rows = np.repeat(random.standard_normal((1, 10_000), np.float32), 1000, axis=0)
    costs = {}
    pairs = {
        "masked to 50 of 128,000 / unmasked": (Sampler(masked), Sampler(open_row)),
        "1,000 draws of a row / 1,000 rows": (Sampler(rows[:1], draws=1000), Sampler(rows)),
        "likewise, top_p 0.9": (Sampler(rows[:1], draws=1000, top_p=0.9), Sampler(rows, top_p=0.9)),
    }
    for name, (small, large) in pairs.items():
        seconds = cpu_seconds({"small": small, "large": large}, times=3)
        costs[name] = seconds["small"] / seconds["large"]
    return costs


def speed_of_two_cores(random: np.random.Generator) -> float:
    """How many times as fast two cores draw a large batch as one does: by the clock, the least of each by turns."""
    logits = random.standard_normal((64, 128_000), np.float32)
    requests = [sample_request(logits, Parameters(seed=1, draws=100))]
    workers = {threads: Worker(sample_rows, threads) for threads in (1, 2)}
    seconds = dict.fromkeys(workers, float("inf"))
    for _ in range(REPETITIONS):
        for threads, worker in workers.items():
            start = time.perf_counter()
            worker.run(requests)
            seconds[threads] = min(seconds[threads], time.perf_counter() - start)
    return seconds[1] / seconds[2]


def print_costs(filters: dict[str, dict[str, float]], others: dict[str, float]) -> None:
    print(f"\n{'times the unfiltered draw':40}" + "".join(f"{name:>16}" for name in FILTERS))
    for rows, costs in filters.items():
        print(f"{rows:40}" + "".join(f"{cost:15.2f}x" for cost in costs.values()))
    for name, cost in others.items():
        print(f"{name:40}{cost:15.2f}x")


def too_slow(filters: dict[str, dict[str, float]], others: dict[str, float]) -> list[str]:
    """The targets of filters and draws that were not reached."""
    limits = [
        (rows, each, FILTER_TARGETS[rows], cost) for rows, costs in filters.items() for each, cost in costs.items()
    ]
    limits += [(name, "", 1.0, cost) for name, cost in others.items()]
    return [f"{name} {each}: {cost:.2f}x, not {limit}x" for name, each, limit, cost in limits if cost > limit]


def missed(speeds: dict[int, dict[str, float]]) -> list[str]:
    """The targets that were not reached."""
    found = []
    for categories, speed in speeds.items():
        for name, ratio, targets in zip(("hard", "soft"), ratios(speed), (HARD_TARGETS, SOFT_TARGETS), strict=True):
            if ratio < targets.get(categories, 0):
                found.append(f"{name} at {categories:,}: {ratio:.1f}x, not {targets[categories]}x")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    arguments = parser.parse_args()

    cores = speed_of_two_cores(np.random.default_rng(1)) if (os.cpu_count() or 1) > 1 else None
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    logits = {n: 2 * random.standard_normal((CATEGORIES_A_CALL // n, n), np.float32) for n in CATEGORIES}
    speeds = {n: throughput(values) for n, values in logits.items()}
    print_table({**{f"{n:,}": speed for n, speed in speeds.items()}, "real 49,152": throughput(np.load(REAL_LOGITS))})
    print_lone_rows(logits)
    costs = filter_costs(random), other_costs(random)
    print_costs(*costs)
    wrong = missed(speeds) + too_slow(*costs)
    if cores is not None:
        print(f"{'two cores / one, a large batch':40}{cores:15.2f}x")
        wrong += [f"two cores: {cores:.2f}x, not {CORES_TARGET}x"] * (cores < CORES_TARGET)
    for line in wrong:
        print(f"missed: {line}")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
