"""Several front ends: processes that listen on the same ports, are watched over, and count as one server.

Each is a whole server with a CPU worker of its own; the bits are the same on all of them. The operating system deals
connections out (SO_REUSEPORT). The compiled kernels and the memory of the metrics are there before the first fork, so a
front end has both at once, also one that takes the place of another.

The supervisor has no event loop and no thread, so that there is nothing a fork could tear apart.
"""

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType

log = logging.getLogger("gumball.frontends")

# A front end that dies sooner than this after it was started is not replaced at once.
HEALTHY_SECONDS = 5.0
PAUSE_SECONDS = 1.0

_STOP = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1

# Serves until a signal to stop, as the front end of a number; calls the function with its addresses when it is ready.
Serve = Callable[[int, Callable[[str], None]], int]


@dataclass(slots=True)
class Frontend:
    """A process, and where it says that it is ready."""

    number: int
    process: "multiprocessing.process.BaseProcess"
    ready: Connection
    started: float
    is_ready: bool = False


class Supervisor:
    """Keeps `count` front ends alive until a signal to stop.

    `serve` is called in a process of its own; `bury` here, with the number of one that died.
    """

    def __init__(self, count: int, serve: Serve, bury: Callable[[int], None]) -> None:
        self._serve = serve
        self._bury = bury
        self._context = multiprocessing.get_context("fork")
        self._frontends: dict[int, Frontend] = {}
        self._count = count
        self._was_ready = False
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Returns the exit status of the server: 0 if all ended well."""
        started = time.monotonic()
        with self._signals() as wakeup:
            for number in range(self._count):
                self._start(number)
            while self._frontends:
                everyone = list(self._frontends.values())
                wait([wakeup, *(each.process.sentinel for each in everyone), *(each.ready for each in everyone)])
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(1 << 10)
                for each in everyone:
                    self._look_after(each, started)
        return self._status

    def _look_after(self, frontend: Frontend, started: float) -> None:
        if not frontend.is_ready and frontend.ready.poll():
            self._note_ready(frontend, started)
        if not frontend.process.is_alive():
            self._note_end(frontend)

    def _note_ready(self, frontend: Frontend, started: float) -> None:
        with contextlib.suppress(EOFError):  # it died
            addresses = frontend.ready.recv()
            frontend.is_ready = True
            if not self._was_ready and all(each.is_ready for each in self._frontends.values()):
                self._was_ready = True
                log.info("ready %s frontends=%d after %.1f s", addresses, self._count, time.monotonic() - started)

    def _note_end(self, frontend: Frontend) -> None:
        frontend.process.join()
        frontend.ready.close()
        del self._frontends[frontend.number]
        self._bury(frontend.number)
        status = frontend.process.exitcode or 0
        if self._stopping:
            self._status = self._status or status
        elif not self._was_ready:  # what it could not do, its successor could not do either
            self._status = status
            self._stop(signal.SIGINT)
        else:
            log.error("front end %d ended with status %d; another takes its place", frontend.number, status)
            if time.monotonic() - frontend.started < HEALTHY_SECONDS:
                time.sleep(PAUSE_SECONDS)
            self._start(frontend.number)

    def _start(self, number: int) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=self._run_frontend, args=(number, sender), name=f"frontend-{number}")
        process.start()
        sender.close()
        self._frontends[number] = Frontend(number, process, receiver, time.monotonic())

    def _run_frontend(self, number: int, ready: Connection) -> None:
        """In the new process."""
        supervisor = os.getppid()
        signal.set_wakeup_fd(-1)
        for each in _STOP:
            signal.signal(each, signal.SIG_DFL)
        if sys.platform == "linux":  # it must not outlive its supervisor
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:
                sys.exit(1)
        sys.exit(self._serve(number, ready.send))

    def _stop(self, number: int) -> None:
        self._stopping = True
        for each in self._frontends.values():
            if each.process.pid is not None and each.process.is_alive():
                os.kill(each.process.pid, number)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Pass signals to stop on; the socket has something to read when there was one."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            self._stop(number)

        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        for each in _STOP:
            signal.signal(each, pass_on)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(-1)
            for each in _STOP:
                signal.signal(each, signal.SIG_DFL)
            reader.close()
            writer.close()
