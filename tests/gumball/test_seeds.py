"""The seeds of requests that bring none: no two alike, whoever asks."""

import os
import subprocess
import sys
import threading

import pytest
from gumball.seeds import AT_ONCE, draw_seed


def test_no_two_seeds_are_alike_in_any_thread():
    drawn: list[int] = []

    def draw() -> None:
        drawn.extend([draw_seed() for _ in range(3 * AT_ONCE)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 4 * 3 * AT_ONCE
    assert all(0 <= seed < 2**64 for seed in drawn)
    assert max(drawn) > 2**63


FORKING = """
import multiprocessing
from gumball.seeds import AT_ONCE, draw_seed

draw_seed()  # there are some in store
pool = multiprocessing.get_context("fork").Pool(1)
theirs = {pool.apply(draw_seed) for _ in range(AT_ONCE)}
assert not theirs & {draw_seed() for _ in range(AT_ONCE)}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_process_draws_others():
    """Of a process that has not used gRPC, which could not be forked."""
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=60)
