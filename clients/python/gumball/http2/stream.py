"""A stream of a connection: a request and its response, of which one end sends the one, and the other the other."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gumball.http2.frames import ending, headers

if TYPE_CHECKING:
    from gumball.http2.outflow import Outflow

# What whoever writes to a stream may be ahead of what its peer takes.
MAX_UNSENT_BYTES = 1 << 16


class Receiver(Protocol):
    """What takes what the peer sends, as it comes."""

    def take(self, data: bytes | memoryview) -> None:
        """More of the body."""

    def end(self) -> None:
        """It is whole."""

    def has_room(self) -> bool:
        """Whether more of the body should be sent. One that said no calls `Stream.read_on` when there is room."""

    def gone(self, code: int | None) -> None:
        """The peer has given it up, by a code of RFC 9113, section 7, or None: it is gone itself.

        Whatever is sent from now on is lost.
        """

    def stop(self) -> None:
        """We end the connection; a server is to answer at once."""


class _Nobody:
    """Takes what comes after the end."""

    def take(self, data: bytes | memoryview) -> None: ...

    def end(self) -> None: ...

    def has_room(self) -> bool:
        return True

    def gone(self, code: int | None) -> None: ...

    def stop(self) -> None: ...


NOBODY = _Nobody()
_NOTHING: deque[memoryview] = deque()  # shared, for most are one write

Open = Callable[["Stream"], Receiver]


class Stream:
    """Sends headers, data in any pieces, and trailers. What the windows do not let through yet is kept."""

    __slots__ = (
        "_out",
        "_read_on",
        "_room",
        "credit",
        "ending",
        "has_begun",
        "has_ended",
        "is_open",
        "is_sent",
        "missing",
        "number",
        "on_room",
        "receive_window",
        "receiver",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, number: int, out: "Outflow", read_on: "Callable[[Stream], None]", receive_window: int) -> None:
        self.number = number
        self.receiver: Receiver = NOBODY  # but while it is open
        self._out = out
        self._read_on = read_on
        self.receive_window = receive_window
        self.credit = 0  # what the peer has taken less what was sent
        self.missing: int | None = None  # bytes of the body, where the request has said how many
        self.is_open = True  # until the response has ended, or nobody wants it
        self.has_begun, self.has_ended = True, False  # what the peer sends
        self.is_sent = False  # all that we send
        self.unsent: deque[memoryview] = _NOTHING
        self.unsent_bytes = 0
        self.ending = b""  # the frame that comes last, once that is known
        self.on_room: Callable[[], None] | None = None  # to be called when the peer has taken almost all that was sent
        self._room: asyncio.Event | None = None  # once somebody waits for that

    def send_whole(self, head: bytes, body: bytes, trailers: bytes = b"") -> None:
        """Send all at once; `head` and `trailers` are header blocks."""
        if self.is_open and not self._out.send_whole(self, head, body, trailers):
            self.start(head)
            self.send(body)
            self.end(trailers)

    def start(self, head: bytes) -> None:
        if self.is_open:
            self._out.write(headers(self.number, head))

    def send(self, data: bytes) -> None:
        if self.is_open:
            if self.unsent is _NOTHING:
                self.unsent = deque()
            self.unsent.append(memoryview(data))
            self.unsent_bytes += len(data)
            self._out.flush(self)

    def end(self, trailers: bytes = b"") -> None:
        """Nothing comes after this header block, which may be the first."""
        if self.is_open:
            self.ending = ending(self.number, trailers)
            self._out.flush(self)

    async def room(self) -> None:
        """Return when the peer has taken almost all that was sent."""
        while self.is_open and self.unsent_bytes > MAX_UNSENT_BYTES:
            if self._room is None:
                self._room = asyncio.Event()
                self.on_room = self._room.set
            self._room.clear()
            await self._room.wait()

    def take_unsent(self, size: int) -> memoryview:
        """What is to be sent next, of so many bytes at most."""
        chunk, rest = self.unsent[0][:size], self.unsent[0][size:]
        if rest:
            self.unsent[0] = rest
        else:
            self.unsent.popleft()
        size, before = len(chunk), self.unsent_bytes
        self.credit -= size
        self.unsent_bytes = before - size
        if self.on_room is not None and before - size <= MAX_UNSENT_BYTES < before:
            self.on_room()
        return chunk

    def read_on(self) -> None:
        """The receiver has room again."""
        if self.is_open:
            self._read_on(self)
