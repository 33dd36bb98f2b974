"""Several front ends: processes that listen on the same ports, are watched over, and count as one server.

Each is a whole server with a CPU worker of its own; the bits are the same on all of them. The operating system deals
connections out (SO_REUSEPORT). The compiled kernels and the memory of the metrics are there before the first fork, so a
front end has both at once, also one that takes the place of another. GPUs they share: each GPU has a worker process,
which is watched over as they are and ends after them.

The supervisor has no event loop and no thread, and nothing of CUDA, so that there is nothing a fork could tear apart.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType

log = logging.getLogger("gumball.frontends")

# A process that dies sooner than this after it was started is not replaced at once.
HEALTHY_SECONDS = 5.0
PAUSE_SECONDS = 1.0

_STOP = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1

# Serves until a signal to stop, and calls the function with its addresses when it is ready.
Serve = Callable[[Callable[[str], None]], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What a process of the server does, and, once it is no more, what its supervisor does for it."""

    name: str
    serve: Serve
    bury: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Child:
    """A process, and where it says that it is ready."""

    part: Part
    process: "multiprocessing.process.BaseProcess"
    ready: Connection
    started: float
    addresses: str | None = None  # once it is ready


class Supervisor:
    """Keeps front ends alive until a signal to stop, and workers as long as there are front ends."""

    def __init__(self, frontends: Sequence[Part], workers: Sequence[Part] = ()) -> None:
        self._context = multiprocessing.get_context("fork")
        self._frontends = frontends
        self._workers = workers
        self._children: dict[str, Child] = {}
        self._was_ready = False
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Returns the exit status of the server: 0 if all ended well."""
        started = time.monotonic()
        with self._signals() as wakeup:
            for part in (*self._workers, *self._frontends):
                self._start(part)
            while self._children:
                everyone = list(self._children.values())
                wait([wakeup, *(each.process.sentinel for each in everyone), *(each.ready for each in everyone)])
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(1 << 10)
                for each in everyone:
                    self._look_after(each, started)
        return self._status

    def _look_after(self, child: Child, started: float) -> None:
        if child.addresses is None and child.ready.poll():
            self._note_ready(child, started)
        if not child.process.is_alive():
            self._note_end(child)

    def _note_ready(self, child: Child, started: float) -> None:
        with contextlib.suppress(EOFError):  # it died
            child.addresses = child.ready.recv()
            if self._stopping or self._was_ready:
                return
            if all(each.addresses is not None for each in self._children.values()):
                self._was_ready = True
                addresses, count = self._children[self._frontends[0].name].addresses, len(self._frontends)
                log.info("ready %s frontends=%d after %.1f s", addresses, count, time.monotonic() - started)

    def _note_end(self, child: Child) -> None:
        part = child.part
        child.process.join()
        child.ready.close()
        del self._children[part.name]
        part.bury()
        status = child.process.exitcode or 0
        if self._stopping:
            if part in self._frontends:
                self._status = self._status or status
                self._stop_workers()
        elif not self._was_ready:  # what it could not do, its successor could not do either
            self._status = status
            self._stop(signal.SIGINT)
        else:
            log.error("%s ended with status %d; another takes its place", part.name, status)
            if time.monotonic() - child.started < HEALTHY_SECONDS:
                time.sleep(PAUSE_SECONDS)
            self._start(part)

    def _start(self, part: Part) -> None:
        """Unless it is to stop. A signal that comes meanwhile waits until it can be passed on, and would be heeded."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        if not self._stopping:
            receiver, sender = self._context.Pipe(duplex=False)
            process = self._context.Process(target=self._run_part, args=(part, sender), name=part.name)
            process.start()
            sender.close()
            self._children[part.name] = Child(part, process, receiver, time.monotonic())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)

    def _run_part(self, part: Part, ready: Connection) -> None:
        """In the new process."""
        supervisor = os.getppid()
        signal.set_wakeup_fd(-1)
        for each in _STOP:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
        if sys.platform == "linux":  # it must not outlive its supervisor
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:
                sys.exit(1)
        part.serve(ready.send)

    def _stop(self, number: int) -> None:
        self._stopping = True
        self._kill(self._frontends, number)
        self._stop_workers()

    def _stop_workers(self) -> None:
        """Once they have nobody to draw for."""
        if not any(part.name in self._children for part in self._frontends):
            self._kill(self._workers, signal.SIGTERM)

    def _kill(self, parts: Sequence[Part], number: int) -> None:
        for each in (self._children[part.name] for part in parts if part.name in self._children):
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
