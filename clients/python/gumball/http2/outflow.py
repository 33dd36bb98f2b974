"""What goes out on a connection: as much as its windows and the network take (RFC 9113, 5.2), the rest later."""

import asyncio
from collections.abc import Callable
from typing import Any

from gumball.http2.frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    HEAD,
    ending,
    headers,
)
from gumball.http2.stream import Stream

WHOLE_BYTES = 1 << 19  # of a body that is sent in one write
MAX_UNTAKEN_BYTES = 1 << 20  # that are written and that the network has not taken


class Outflow:
    """Sends requests or responses; calls `finish` once all of one is on its way."""

    def __init__(self, transport: Any, finish: Callable[[Stream], None]) -> None:
        self._transport = transport
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self.window = DEFAULT_WINDOW  # of the connection
        self.first_window = DEFAULT_WINDOW  # of a stream, before it sends and its peer takes
        self.frame_bytes = DEFAULT_FRAME_BYTES  # that the peer takes
        self._is_paused = False
        self._blocked: dict[int, Stream] = {}  # those that have more to send
        self._is_to_flush = False
        transport.set_write_buffer_limits(MAX_UNTAKEN_BYTES)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self.flush_soon()

    def window_of(self, stream: Stream) -> int:
        return self.first_window + stream.credit

    def send_whole(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> bool:
        """Send all of a stream in one write, if it is not too large and all windows have room for it."""
        size, number = len(body), stream.number
        if size > min(self.window, self.first_window + stream.credit, WHOLE_BYTES) or self._is_paused:
            return False
        self.window -= size
        stream.credit -= size
        data = [HEAD.pack(size << 8, 0, number), body] if size <= self.frame_bytes else self._frames(number, body)
        self.write(b"".join((headers(number, head), *data, ending(number, trailers))))
        self._finish(stream)
        return True

    def _frames(self, number: int, body: bytes) -> list[bytes | memoryview]:
        """A body in as many frames as the peer wants."""
        parts: list[bytes | memoryview] = []
        rest = memoryview(body)
        while rest:
            chunk, rest = rest[: self.frame_bytes], rest[self.frame_bytes :]
            parts += HEAD.pack(len(chunk) << 8, 0, number), chunk
        return parts

    def flush(self, stream: Stream) -> None:
        """Send of a stream what may be sent now."""
        while stream.unsent and self._send_some(stream):
            pass
        if stream.unsent:
            self._blocked[stream.number] = stream
            return
        self._blocked.pop(stream.number, None)
        if stream.ending:
            self.write(stream.ending)
            stream.ending = b""
            self._finish(stream)

    def flush_soon(self) -> None:
        """The same of all streams, once in a turn of the loop, however often a peer asks for it."""
        if self._blocked and not self._is_to_flush:
            self._is_to_flush = True
            self._loop.call_soon(self._flush_blocked)

    def forget(self, stream: Stream) -> None:
        self._blocked.pop(stream.number, None)

    def _flush_blocked(self) -> None:
        """A frame each in turn, for what has opened may not be enough for all."""
        self._is_to_flush = False
        blocked = list(self._blocked.values())
        while blocked:
            blocked = [stream for stream in blocked if self._send_some(stream)]
        for stream in [stream for stream in self._blocked.values() if not stream.unsent]:
            self.flush(stream)

    def _send_some(self, stream: Stream) -> bool:
        """Send a frame of data, if it may be."""
        size = min(self.window, self.first_window + stream.credit, self.frame_bytes)
        if not stream.unsent or size <= 0 or self._is_paused:
            return False
        chunk = stream.take_unsent(size)
        self.window -= len(chunk)
        self.write(b"".join((HEAD.pack(len(chunk) << 8, 0, stream.number), chunk)))
        return True
