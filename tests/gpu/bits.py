"""The bits of a CUDA device: many rows against the CPU kernels, every parameter against the NumPy contract."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gumball_server.cuda_worker import CudaWorker
from gumball_server.domain import Parameters, SampleRequest, SamplingError, Source
from gumball_server.kernels import cpu
from gumball_server.validation import sample_request
from gumball_server.worker import Worker, check
from kernel_cases import DENSE, DISTINCT, DISTRIBUTION, HARD, Case, bfloat16, normal

THREADS = 3  # more than a worker has lanes, so that batches overlap and wait
LENGTHS = (5, 256, 1000, 50_000)
LONG, LONGEST = 1 << 20, 1 << 22


def compare_bits(device: Any, rows: int) -> int:
    """How many requests differ."""
    reference = Worker(cpu.sample_rows, threads=len(os.sched_getaffinity(0)))
    worker = CudaWorker(device, reference, worth_the_way=0)
    check(worker)
    print("the published vectors agree")
    differing, done = 0, 0
    batches = list(_batches(rows))
    with ThreadPoolExecutor(THREADS) as pool:
        for requests, drawn in zip(batches, pool.map(worker.run, batches), strict=True):
            for request, mine, expected in zip(requests, drawn, reference.run(requests), strict=True):
                done += request.plan.rows
                differing += not _same(mine, expected, request)
    print(f"{done} rows against the CPU kernels: {differing} requests differ")
    wrong = sum(not _agrees(case, drawn) for case, drawn in _drawn(worker, list(_cases())))
    print(f"every parameter against the NumPy contract: {wrong} requests differ")
    return differing + wrong


def _batches(rows: int) -> Iterator[list[SampleRequest]]:
    """Batches of requests, `rows` rows in all, of any length, type and mode, some masked."""
    random = np.random.default_rng(1)
    while rows > 0:
        batch = []
        for _ in range(8):
            categories = int(2 ** random.uniform(0, 10.5))
            count = min(rows, max(1, 200_000 // categories), 20_000)
            rows -= count
            if count:
                batch.append(_random_request(random, count, categories))
        yield batch


def _random_request(random: np.random.Generator, rows: int, categories: int) -> SampleRequest:
    logits = (random.choice([0.0, 1.0, 5.0, 1000.0]) * random.standard_normal((rows, categories))).astype(np.float32)
    logits[random.random(logits.shape) < random.choice([0.0, 0.5, 0.99])] = -np.inf
    logits[np.arange(rows), random.integers(categories, size=rows)] = 0.5
    stored: Callable[[Any], Any] = random.choice([np.asarray, np.float16, bfloat16])
    given = Parameters(
        mode=str(random.choice(["hard", "soft", "straight_through"])),
        seed=int(random.integers(2**63)),
        draws=int(random.integers(1, 4)),
        first_draw=int(random.integers(2**31)),
        tau=2.0 ** random.uniform(-5, 5, rows),
        temperature=2.0 ** random.uniform(-5, 5, rows),
    )
    return sample_request(stored(logits), given)


def _same(mine: Any, expected: Any, request: SampleRequest) -> bool:
    if isinstance(mine, SamplingError) or isinstance(expected, SamplingError):
        return str(mine) == str(expected)
    wrong = [name for name, values in mine.items() if values.tobytes() != expected[name].tobytes()]
    if wrong:
        print(f"  {', '.join(wrong)} of {request.plan.rows} x {request.plan.categories} {request.logits.dtype}")
    return not wrong


def _cases() -> Iterator[Case]:
    """Every parameter that the device has kernels for, at lengths from one slice to many."""
    for categories in LENGTHS:
        logits = normal(4, categories)
        for filters in ({"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}, {"top_k": 100, "top_p": 0.8, "min_p": 0.01}):
            yield Case(logits, DISTRIBUTION, given={**filters, "draws": 2})
            yield Case(np.round(logits), (*HARD, "soft"), given={**filters, "temperature": 0.7, "tau": 0.5})
        yield Case(logits, DISTRIBUTION, given={"temperature": 0.0, "top_log_probs": 3})
        yield Case(np.round(logits), DISTINCT, given={"without_replacement": min(categories, 20), "draws": 3})
        yield Case(logits.astype(np.float16), DENSE, given={"logit_bias": {0: 2.0, categories - 1: None}})
        yield Case(bfloat16(logits), DISTRIBUTION, given={"temperature": 2.0})
        yield Case(np.abs(logits), (*HARD, *DISTRIBUTION[1:]), Source.PROBS)
    yield Case(normal(1, LONGEST), (*HARD, "entropy"))
    yield Case(normal(1, LONG), ("index", "soft", "log_soft"))


def _drawn(worker: Any, cases: list[Case]) -> Iterator[tuple[Case, Any]]:
    yield from zip(cases, worker.run([case.request() for case in cases]), strict=True)


def _agrees(case: Case, drawn: Any) -> bool:
    try:
        case.check(drawn)
    except AssertionError as error:
        print(f"  {error}")
        return False
    return True
