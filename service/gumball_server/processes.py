"""What Linux knows of the server's processes: their time, memory and files, as Prometheus names them for one.

Several processes (front ends, their supervisor) are told as one server, by whichever of them is asked. Their times are
added up with the times of those that have ended, which the kernel keeps with the parent, so that the counter goes on
when one dies. Memory that they share counts once. Of open files the process with the most is told, as the limit is each
one's own.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel's clock, a second
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """A process, as proc(5) tells it."""

    pid: int
    ticks: int  # of the processor, in user and system mode
    ended_ticks: int  # of its children that have ended
    start_ticks: int  # from the system's boot
    pages: int


class Reading(NamedTuple):
    """What is told of all the processes."""

    cpu_seconds: float
    memory_bytes: int
    open_files: int


class Processes(Collector):
    """The process that makes this and those that descend from it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._root = os.getpid()
        # Not each time: the kernel's own second is not always the same.
        self._start_seconds = _start_seconds(self._root)
        self._reading: Reading | None = None
        registry.register(self)

    def read(self) -> None:
        """Look, for the next `collect`. It takes milliseconds, of the kernel for the most part: call it in a thread."""
        if processes := _settled(self._root):
            self._reading = Reading(
                cpu_seconds=sum(each.ticks + each.ended_ticks for each in processes) / TICKS,
                memory_bytes=_memory_bytes(processes),
                open_files=max(_open_files(each.pid) for each in processes),
            )

    def collect(self) -> Iterator[Metric]:
        if (reading := self._reading) is None:  # not on Linux
            return
        yield CounterMetricFamily("process_cpu_seconds", "Processor time of all processes", reading.cpu_seconds)
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Memory of all processes; what they share counts once",
            reading.memory_bytes,
        )
        yield GaugeMetricFamily("process_open_fds", "Open files of the process that has most", reading.open_files)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_max_fds", "Files that each process may have open", limit)
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Unix time at which the server started", self._start_seconds
        )


def _settled(root: int) -> list[Process]:
    """A process and its descendants at a moment when none of them ended: one that does changes places in the sums."""
    while True:
        processes, again = _tree(root), _tree(root)
        if [(each.pid, each.ended_ticks) for each in processes] == [(each.pid, each.ended_ticks) for each in again]:
            return processes


def _tree(root: int) -> list[Process]:
    found, pids = [], [root]
    for pid in pids:
        with suppress(OSError):  # it has just ended
            found.append(_process(pid))
            pids += _children(pid)
    return found


def _process(pid: int) -> Process:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold anything
    user, system, ended_user, ended_system = map(int, fields[11:15])
    return Process(pid, user + system, ended_user + ended_system, int(fields[19]), int(fields[21]))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _memory_bytes(processes: list[Process]) -> int:
    if len(processes) == 1:
        return processes[0].pages * PAGE_BYTES
    return sum(_share_bytes(each) for each in processes)


def _share_bytes(process: Process) -> int:
    """A process's memory, of pages that it shares with n - 1 others an nth; all of each on systems that do not know."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return process.pages * PAGE_BYTES


def _open_files(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _start_seconds(pid: int) -> float:
    with suppress(OSError):
        boot = Path("/proc/stat").read_text().partition("btime ")[2].split()[0]
        return int(boot) + _process(pid).start_ticks / TICKS
    return 0.0
