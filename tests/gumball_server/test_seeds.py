"""The seeds of requests that bring none: no two alike, whoever asks."""

import os
import struct
import threading

import pytest
from gumball_server.validation import SEEDS_AT_ONCE, draw_seed


def test_no_two_seeds_are_alike_in_any_thread():
    drawn: list[int] = []

    def draw() -> None:
        drawn.extend([draw_seed() for _ in range(3 * SEEDS_AT_ONCE)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 4 * 3 * SEEDS_AT_ONCE
    assert all(0 <= seed < 2**64 for seed in drawn)
    assert max(drawn) > 2**63


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_draws_others():
    draw_seed()  # there are some in store
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, struct.pack("2Q", draw_seed(), draw_seed()))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = struct.unpack("2Q", os.read(reading, 16))
    os.close(reading)
    os.close(writing)
    assert not set(theirs) & {draw_seed() for _ in range(SEEDS_AT_ONCE)}
