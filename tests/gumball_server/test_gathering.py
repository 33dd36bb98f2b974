"""What several threads bring, drawn together."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from gumball_server.domain import Parameters, SampleRequest
from gumball_server.gathering import AT_ONCE, Gathering
from gumball_server.validation import sample_request
from gumball_server.worker import DeviceLostError

CATEGORIES = 10


def request(seed: int) -> SampleRequest:
    return sample_request(np.zeros(CATEGORIES, np.float32), Parameters(seed=seed))


class Busy:
    """Answers a request with its seed, once it may; keeps what it was asked."""

    device = "cuda:0"

    def __init__(self, fails_at: int = -1, error: type[Exception] = RuntimeError) -> None:
        self.batches: list[list[int]] = []
        self.may_draw = threading.Event()
        self._fails_at, self._error = fails_at, error

    def run(self, requests: Sequence[SampleRequest]) -> list[int]:
        seeds = [request.seed for request in requests]
        self.batches.append(seeds)
        assert self.may_draw.wait(10)
        if self._fails_at in seeds:
            raise self._error(f"{self._fails_at} is at fault")
        return seeds

    def close(self) -> None: ...


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextmanager
def waiting(worker: Busy, *brought: list[int], max_elements: int = 1 << 20) -> Iterator[list["Future[list[int]]"]]:
    """What each of several threads gets, who come in this order while the worker draws; it goes on after the block."""
    gathering = Gathering(worker, max_elements)
    with ThreadPoolExecutor(16) as pool:
        first = [pool.submit(gathering.run, [request(100 + n)]) for n in range(AT_ONCE)]
        until(lambda: len(worker.batches) == AT_ONCE)
        calls = []
        for number, seeds in enumerate(brought):
            calls.append(pool.submit(gathering.run, [request(seed) for seed in seeds]))
            until(lambda number=number: len(gathering._waiting) == number + 1)
        worker.may_draw.set()
        yield calls
        assert sorted(each.result() for each in first) == [[100 + n] for n in range(AT_ONCE)]


def test_what_comes_while_a_device_draws_is_drawn_together():
    """As one batch, of which each thread gets its own part."""
    worker = Busy()
    with waiting(worker, [1, 2], [3], [4, 5, 6]) as calls:
        assert [call.result(10) for call in calls] == [[1, 2], [3], [4, 5, 6]]
    assert worker.batches[AT_ONCE:] == [[1, 2, 3, 4, 5, 6]]


def test_a_batch_is_no_larger_than_it_may_be():
    """But for what a thread brings by itself."""
    worker = Busy()
    with waiting(worker, [1], [2, 3], [4, 5, 6, 7], [8], max_elements=3 * CATEGORIES) as calls:
        assert [call.result(10) for call in calls] == [[1], [2, 3], [4, 5, 6, 7], [8]]
    assert sorted(worker.batches[AT_ONCE:]) == [[1, 2, 3], [4, 5, 6, 7], [8]]


def test_what_fails_harms_nothing_that_it_was_drawn_with():
    """The parts are drawn again, each alone."""
    worker = Busy(fails_at=3)
    with waiting(worker, [1, 2], [3], [4]) as (good, bad, other):
        assert good.result(10) == [1, 2]
        assert other.result(10) == [4]
        with pytest.raises(RuntimeError, match="3 is at fault"):
            bad.result(10)


def test_a_device_that_is_lost_is_asked_once():
    """Everybody is told."""
    worker = Busy(fails_at=3, error=DeviceLostError)
    with waiting(worker, [1, 2], [3]) as calls:
        for call in calls:
            with pytest.raises(DeviceLostError):
                call.result(10)
    assert worker.batches[AT_ONCE:] == [[1, 2, 3]]
