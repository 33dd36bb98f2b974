"""What /metrics says of the server's processes, beside what else can tell it."""

import os
import re
import resource
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from conftest import Server
from prometheus_client.parser import text_string_to_metric_families

WORK = b'{"logits": [0, 1, 2], "draws": 1000000}'


def told(server: Server) -> dict[str, float]:
    """The metrics of processes, over a connection of its own, and so by any of the front ends."""
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if s.name.startswith("process_")}


def processes(server: Server) -> list[int]:
    """The server's, its supervisor first."""
    pid = server.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def kibibytes(pid: int, file: str, name: str) -> int:
    return sum(map(int, re.findall(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)))


def work(server: Server) -> None:
    httpx.post(f"{server.http}/sample", content=WORK, headers={"content-type": "application/json"}).raise_for_status()


def used_by_children() -> float:
    """Processor time of those processes of ours that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("frontends", [1, 2])
def test_time_memory_files_and_start_are_those_of_all_processes(frontends):
    """As the kernel has them; the time, as it is told to the parent when all have ended."""
    used_before, before = used_by_children(), time.time()
    server = Server("--frontends", str(frontends), "--max-response-bytes", str(1 << 30))
    after = time.time()
    work(server)
    metrics = told(server)
    assert before - 1 <= metrics["process_start_time_seconds"] <= after
    memory = [kibibytes(pid, "smaps", "Pss" if frontends > 1 else "Rss") for pid in processes(server)]
    assert metrics["process_resident_memory_bytes"] == pytest.approx(sum(memory) << 10, rel=0.1)
    assert metrics["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    counts = [len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(server)]
    assert abs(metrics["process_open_fds"] - max(counts)) <= 2  # the connection that asked
    assert server.stop() == 0
    assert metrics["process_cpu_seconds_total"] == pytest.approx(used_by_children() - used_before, rel=0.2)


def test_connections_are_open_files(server):
    """Each is one."""
    before = told(server)["process_open_fds"]
    place = server.http.removeprefix("http://").split(":")
    with ExitStack() as connections, httpx.Client(base_url=server.http) as asking:
        for _ in range(50):
            connections.enter_context(socket.create_connection((place[0], int(place[1]))))
        asking.get("/livez")  # comes after them
        assert told(server)["process_open_fds"] >= before + 50


def test_the_time_of_a_front_end_that_died_still_counts():
    """The counter never goes back, whoever is asked, while one is killed and another takes its place."""
    server = Server("--frontends", "2", "--max-response-bytes", str(1 << 30))
    work(server)
    seen = [told(server)["process_cpu_seconds_total"]]
    victim = processes(server)[1]
    os.kill(victim, signal.SIGKILL)
    while victim in processes(server) or len(processes(server)) < 3 or len(seen) < 20:
        try:
            seen.append(told(server)["process_cpu_seconds_total"])
        except httpx.TransportError:  # it was the one that died
            continue
    assert seen == sorted(seen)
    assert server.stop() == 0
