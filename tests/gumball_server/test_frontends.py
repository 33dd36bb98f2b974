"""Several front ends: the same ports, the same bits, one count; and none of them is missed when it dies."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import Server
from gumball import Client, contract
from prometheus_client.parser import text_string_to_metric_families

FRONTENDS = 2
RECOVERY_SECONDS = 4
LOGITS = np.array([0.5, 1.0, -0.5, 2.0], np.float32)
EXPECTED = [int(contract.hard(LOGITS, seed, 0, 0)[0]) for seed in range(100)]


def frontends_of(server: Server) -> list[int]:
    """The process ids of its front ends."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(child) for child in children.split()]


def answered(server: Server) -> float:
    """How many requests were answered, as any front end tells."""
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    return sum(sample.value for family in families if family.name == "gumball_requests" for sample in family.samples)


def ask(server: Server, seed: int) -> int:
    """The draw of a seed, over a connection of its own, and so by any of the front ends."""
    response = httpx.post(f"{server.http}/sample", json={"logits": LOGITS.tolist(), "seed": seed}, timeout=60)
    response.raise_for_status()
    return response.json()["index"][0][0]


@pytest.fixture
def several() -> Iterator[Server]:
    server = Server("--frontends", str(FRONTENDS), "--max-queue-elements", str(1 << 40))
    yield server
    assert server.wait() == -signal.SIGKILL if server.process.poll() else server.stop() == 0


def test_the_bits_are_those_of_one_on_both_transports(several: Server):
    """Whichever front end a connection is dealt to, and for as many connections as make one of each all but sure."""
    assert len(frontends_of(several)) == FRONTENDS
    assert [ask(several, seed) for seed in range(50)] == EXPECTED[:50]
    for seed in range(20):
        with Client(several.grpc) as client:
            assert client.sample(LOGITS, seed=seed).index.item() == EXPECTED[seed]


def test_metrics_count_what_all_of_them_answered_and_what_one_that_died_did(several: Server):
    """Exactly, whichever is asked, however often; the gauges of a dead one are gone, its counts stay."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: ask(several, seed), range(100))) == EXPECTED
    assert {answered(several) for _ in range(20)} == {100.0}
    os.kill(frontends_of(several)[0], signal.SIGKILL)
    wait_for_successor(several)
    assert {answered(several) for _ in range(20)} == {100.0}
    metrics = httpx.get(f"{several.http}/metrics").text
    assert 'gumball_worker_up{device="cpu"} 1.0' in metrics
    assert "gumball_inflight_requests 0.0" in metrics


def wait_for_successor(server: Server) -> None:
    """Return when there are as many front ends as there should be, and all of them answer."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while sum("another takes its place" in line for line in server.log) == 0 or len(frontends_of(server)) < FRONTENDS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while 'gumball_worker_up{device="cpu"} 1.0' not in httpx.get(f"{server.http}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_is_killed_loses_only_its_own_requests_and_another_takes_its_place(several: Server):
    """Connections to the other go on without a gap; four seconds later all new ones are served."""
    stop, outcomes = threading.Event(), []

    def keep_asking() -> None:
        """Over one connection, until told to stop or until it breaks."""
        with httpx.Client(base_url=several.http, timeout=60) as http:
            try:
                while not stop.is_set():
                    index = http.post("/sample", json={"logits": LOGITS.tolist(), "seed": 3}).json()["index"]
                    outcomes.append(index == [[EXPECTED[3]]])
            except httpx.TransportError as error:
                outcomes.append(error)

    callers = [threading.Thread(target=keep_asking) for _ in range(12)]
    for caller in callers:
        caller.start()
    victim = frontends_of(several)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for_successor(several)
    assert victim not in frontends_of(several)
    assert [ask(several, seed) for seed in range(30)] == EXPECTED[:30]
    survivors = sum(caller.is_alive() for caller in callers)
    stop.set()
    for caller in callers:
        caller.join()
    broken = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(broken) == len(callers) - survivors  # a connection breaks once, with at most one request in flight
    assert survivors > 0
    assert all(outcome for outcome in outcomes if not isinstance(outcome, Exception))


def test_what_is_accepted_is_answered_when_the_server_is_told_to_stop(several: Server):
    """SIGTERM to the supervisor drains every front end; the exit status is 0."""
    body, query = bytes(2 << 14), f"shape=1,{1 << 14}&dtype=float16&seed=7&draws=100000"
    headers = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(httpx.post, f"{several.http}/sample?{query}", content=body, headers=headers, timeout=60)
            for _ in range(6)
        ]
        while "gumball_inflight_requests 6.0" not in httpx.get(f"{several.http}/metrics").text:
            assert not any(call.done() for call in calls), "the machine was too fast for this test"
        several.signal(signal.SIGTERM)
        assert {call.result().status_code for call in calls} == {200}
        assert len({call.result().content for call in calls}) == 1
    assert several.wait() == 0


def test_front_ends_end_with_their_supervisor(several: Server):
    """Also when it is killed: nothing goes on listening."""
    several.process.kill()
    several.process.wait()
    deadline = time.monotonic() + 10
    port = int(several.http.rpartition(":")[2])
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_that_is_taken_is_said_and_ends_the_start():
    """Also one that is listened on with SO_REUSEPORT, which would let others in."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "gumball_server", "--frontends", "2", "--http-port", port, "--grpc-port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_a_port_is_free_while_connections_to_it_are_only_remembered():
    """As after a server without front ends has ended: the operating system keeps its connections for a minute more."""
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            before.accept()[0].close()
    server = Server("--frontends", "2", "--http-port", str(port))
    assert ask(server, 3) == EXPECTED[3]
    assert server.stop() == 0
