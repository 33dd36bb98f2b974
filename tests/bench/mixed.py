"""Small requests at a steady rate, alone and while bodies of 10 MB arrive one after another."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import Case, Form, Mode
from contestants import Running
from figures import target_of
from load import send

SMALL = Case(Form.JSON, 10, Mode.HARD)
LARGE = Case(Form.JSON, 10_000, Mode.HARD, rows=95)  # 10 MB
CONNECTIONS = 8
REQUESTS_A_SECOND = 20  # of each connection
SECONDS = 5


@dataclass(frozen=True)
class Latencies:
    """Of small requests, in microseconds: the 99th percentile alone, with large ones, and the worst with large ones."""

    alone_p99_us: float
    p99_us: float
    worst_us: float
    large_requests: int

    def __str__(self) -> str:
        alone, p99, worst = (us / 1000 for us in (self.alone_p99_us, self.p99_us, self.worst_us))
        return f"p99 alone {alone:.1f} ms, with {self.large_requests} large {p99:.1f} ms, worst {worst:.1f} ms"


def small_between_large(server: Running, folder: Path) -> Latencies:
    server.first_answer(LARGE)
    alone = _small(server, folder)
    done = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        large = thread.submit(_large_until, done, server)
        try:
            among = _small(server, folder)
        finally:
            done.set()
    return Latencies(np.percentile(alone, 99), np.percentile(among, 99), among.max(), large.result())


def _small(server: Running, folder: Path) -> np.ndarray:
    target = target_of(server, SMALL, folder)
    requests = CONNECTIONS * REQUESTS_A_SECOND * SECONDS
    return send(target, requests, CONNECTIONS, f"--rps={REQUESTS_A_SECOND}").latencies_us


def _large_until(done: threading.Event, server: Running) -> int:
    """How many were answered."""
    answered = 0
    while not done.is_set():
        server.ask(LARGE)
        answered += 1
    return answered
