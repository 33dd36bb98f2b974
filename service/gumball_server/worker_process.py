"""A worker in a process of its own, which the front ends share, and which can die and come back without them.

A front end and a worker have a `Channel`, made before either process is, so that nothing of it has a name that others
could open or that could stay behind: shared memory for tensors, and a socket over which the front end passes one end of
a new link. A link is a connection with whatever process is the worker then. Over it go a greeting, once the worker can
compute, and then by turns a batch and its answer; it ends with either process, which the other notices at once.

Whose turn it is owns the shared memory. A worker takes up the links of a channel one after the other, and so has
finished the batch of a front end that died before its successor is greeted and writes the next.
"""

import faulthandler
import logging
import math
import mmap
import pickle
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gumball_server.domain import SampleRequest
from gumball_server.gathering import Gathering
from gumball_server.worker import WORTH_THE_WAY, AnyWorker, DeviceLostError, Drawn

log = logging.getLogger("gumball.worker")

# A batch takes milliseconds. A worker that has not answered by then hangs.
ANSWER_SECONDS = 30.0
_LOOKS = 0.05  # how often it is looked at, in parts of that time
_SOON_SECONDS = 1e-3
ALIGNMENT = 64
# What a request has beside its tensors: parameters of its rows, biases.
SPARE_BYTES = 1 << 20

_GREETING = b"ready"
_FAILED = b""  # the answer to a batch that could not be drawn


class Channel:
    """Between one front end and the worker of one device, whichever processes these are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)  # takes room as it is written to
        self._front, self._back = socket.socketpair()

    def connect(self) -> Connection:
        """A new link, for the worker that is there or the next one."""
        mine, theirs = Pipe()
        with theirs:
            socket.send_fds(self._front, [b"\0"], [theirs.fileno()])
        return mine

    def accept(self) -> Connection:
        """The next link that the front end has made. Waits for it."""
        _, (link,), *_ = socket.recv_fds(self._back, 1, 1)
        return Connection(link)

    def write(self, what: object) -> bytes | None:
        """A message that something is in the shared memory, and where; None if it does not fit."""
        buffers: list[pickle.PickleBuffer] = []
        pieces: list[Any] = [pickle.dumps(what, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)]
        pieces += [buffer.raw() for buffer in buffers]
        places, end = [], 0
        for piece in pieces:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + len(piece)
            if end > self.size:
                return None
            self._memory[start:end] = np.frombuffer(piece, np.uint8)  # without the GIL, as NumPy copies
            places.append((start, end))
        return np.array(places, np.int64).tobytes()

    def read(self, message: bytes, *, copied: bool) -> Any:
        """What a message is of; its arrays are in the shared memory, unless they are copied."""
        pickled, *arrays = [self._memory[start:end] for start, end in np.frombuffer(message, np.int64).reshape(-1, 2)]
        buffers = [array.copy() for array in arrays] if copied else arrays
        return pickle.loads(pickled.data, buffers=buffers)  # noqa: S301 - a process of ours wrote it


class RemoteWorker:
    """Draws on a device whose worker is another process."""

    at_once = 1  # has the shared memory

    def __init__(
        self,
        device: str,
        channel: Channel,
        cpu: AnyWorker,
        worth_the_way: int = WORTH_THE_WAY,
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.device = device
        self._channel = channel
        self._cpu = cpu
        self._worth_the_way = worth_the_way
        self._seconds = seconds
        self._link: Connection | None = None
        self._turn = threading.Lock()

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request. What is not worth the way, or too large for the shared memory, is drawn here."""
        elements = sum([request.plan.layout.elements for request in requests])
        result_bytes = sum([request.plan.layout.result_bytes for request in requests])
        if elements >= self._worth_the_way and result_bytes + SPARE_BYTES <= self._channel.size:
            with self._turn:
                drawn = self._ask(requests)
            if drawn is not None:
                return drawn
        return self._cpu.run(requests)

    def _ask(self, requests: Sequence[SampleRequest]) -> list[Drawn] | None:
        """What the other process draws; None if the requests do not fit into the shared memory."""
        link = self._link  # first: before its greeting, another batch may be in the memory
        if link is None:
            raise DeviceLostError(f"{self.device} has no worker at present")
        message = self._channel.write(requests)
        if message is None:
            return None
        try:
            link.send_bytes(message)
            if not link.poll(self._seconds):
                _shut(link)
                raise DeviceLostError(f"{self.device} has not answered for {self._seconds} s")
            answer = link.recv_bytes()
        except (EOFError, OSError) as error:
            raise DeviceLostError(f"the worker of {self.device} is gone") from error
        if answer == _FAILED:
            raise RuntimeError(f"the worker of {self.device} failed; the log says above why")
        drawn: list[Drawn] = self._channel.read(answer, copied=True)
        return drawn

    def watch(self, told: Callable[[bool], None]) -> None:
        threading.Thread(target=self._keep_link, args=(told,), name=f"gumball-{self.device}-link", daemon=True).start()

    def _keep_link(self, told: Callable[[bool], None]) -> None:
        """Have a link with whatever process is the worker, and tell when there is one and when there is none."""
        while True:
            link = self._channel.connect()
            with suppress(EOFError, OSError):
                link.recv_bytes()  # the greeting
                self._link = link
                told(True)
                its_end = select.poll()
                its_end.register(link, 0)
                its_end.poll()
                told(False)
            with self._turn:
                self._link = None
                link.close()

    def close(self) -> None:
        """The link ends with the process."""


def _shut(link: Connection) -> None:
    """End a link, so that whoever waits for its end notices."""
    with socket.fromfd(link.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.shutdown(socket.SHUT_RDWR)


def serve_worker(
    open_worker: Callable[[], AnyWorker],
    channels: Sequence[Channel],
    ready: Callable[[str], None],
    max_elements: int,
    seconds: float = ANSWER_SECONDS,
) -> None:
    """Draw what comes over channels until the process is ended. Raises DeviceLostError if the device is lost.

    What comes over several of them meanwhile is drawn together, up to `max_elements` (rows x draws x categories).
    Ends the process if a batch takes more than `seconds`, and says what its threads were at: another can be started.
    """
    service = _Service(Gathering(open_worker(), max_elements), len(channels))
    for number, channel in enumerate(channels):
        threading.Thread(target=service.answer, args=(number, channel), daemon=True).start()
    ready(service.worker.device)
    _end_in(seconds)
    while not service.is_lost.wait(seconds * _LOOKS):
        _end_in(max(seconds - service.age(), _SOON_SECONDS))
    faulthandler.cancel_dump_traceback_later()
    raise DeviceLostError(f"{service.worker.device} is lost")


def _end_in(seconds: float) -> None:
    """Let the process end then, unless this is called again: a batch that hangs may hold the GIL."""
    faulthandler.dump_traceback_later(seconds, exit=True)


class _Service:
    """Draws for front ends, each with a channel of its own."""

    def __init__(self, worker: AnyWorker, channels: int) -> None:
        self.worker = worker
        self.is_lost = threading.Event()
        self._begun = [math.inf] * channels  # when their batches were, by time.monotonic

    def age(self) -> float:
        """Of the oldest batch under way, in seconds."""
        return max(0.0, time.monotonic() - min(self._begun))

    def answer(self, number: int, channel: Channel) -> None:
        """Draw for one front end, and for those that come after it."""
        while True:
            with channel.accept() as link, suppress(EOFError, OSError):
                link.send_bytes(_GREETING)
                while True:
                    message = link.recv_bytes()
                    self._begun[number] = time.monotonic()
                    answer = self._draw(channel, message)
                    self._begun[number] = math.inf
                    link.send_bytes(answer)

    def _draw(self, channel: Channel, message: bytes) -> bytes:
        try:
            return channel.write(self.worker.run(channel.read(message, copied=False))) or _FAILED
        except Exception as error:
            log.exception("a batch failed on %s", self.worker.device)
            if isinstance(error, DeviceLostError):
                self.is_lost.set()
            return _FAILED
