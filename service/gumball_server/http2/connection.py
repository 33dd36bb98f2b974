"""A connection of HTTP/2 at the server: its requests, and how it ends (RFC 9113, 5 and 6)."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gumball.http2 import frames
from gumball.http2.endpoint import GOODBYE_SECONDS, Endpoint
from gumball.http2.frames import PING, Http2Error
from gumball.http2.framing import MAX_FRAME_BYTES
from gumball.http2.headers import MAX_LIST_BYTES, HeaderReader, Headers, are_trailers, is_request
from gumball.http2.stream import Open, Stream

from gumball_server.http2.lifetime import Ages, Lifetime

MAX_STREAMS = 1024  # of a connection at a time
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24

_SETTINGS = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        frames.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
_LENGTH = re.compile(rb"[0-9]{1,18}")  # of a body
_ALIVE, _LEAVING = b"alive???", b"leaving!"  # what our pings carry


class _Head(NamedTuple):
    """Of a request, what the connection needs."""

    open: Open
    body_bytes: int | None  # if it tells


class Connection(Endpoint[Stream]):
    """Serves each request by what `route` finds for its headers; it is in `connections` as long as it is open.

    A peer that does not take what it is sent is not read from, either: nothing that it makes us answer piles up.
    """

    stream_window, connection_window = STREAM_WINDOW, CONNECTION_WINDOW

    def __init__(self, route: Callable[[Headers], Open], ages: Ages, connections: "set[Connection]") -> None:
        super().__init__(frames.PREFACE)
        self._route = route
        self._ages = ages
        self._connections = connections
        self._lifetime: Lifetime  # from `connection_made` on
        self._is_leaving = False
        self._headers: HeaderReader[_Head | None] = HeaderReader(self._head)
        self._cancelled = 0  # streams that the peer reset in this turn of the loop

    # Its life.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        self._out.write(_SETTINGS)
        self._lifetime = Lifetime(self._ages, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.closed.set_result(None)
        self._lifetime.cancel()
        self._drop_all()

    def leave(self) -> None:
        """Have the peer go elsewhere with what it begins from now on, and close when what it began has ended."""
        if not self._is_leaving:
            self._is_leaving = True
            # What it sends until it has heard of it is still taken.
            self._out.write(frames.goaway(frames.STREAM_BITS, frames.NO_ERROR) + frames.frame(PING, 0, 0, _LEAVING))
            self._lifetime.after(GOODBYE_SECONDS, self._leave)

    def stop(self) -> None:
        """End all that is open, now."""
        for stream in list(self._streams.values()):
            stream.receiver.stop()
        self._leave()
        self._lifetime.after(GOODBYE_SECONDS, self.abort)

    def ask(self) -> None:
        self._out.write(frames.frame(PING, 0, 0, _ALIVE))

    def on_error(self, error: Http2Error) -> None:
        self._out.write(frames.goaway(self._last, error.code, str(error)))
        self._close()
        self._lifetime.after(GOODBYE_SECONDS, self.abort)  # should the peer not take the last of it
        self._drop_all()

    def _leave(self) -> None:
        if not self._has_left:
            self._is_leaving = self._has_left = True
            self._out.write(frames.goaway(self._last, frames.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._has_left and not self._streams:
            self._close()

    def _on_pong(self, payload: bytes) -> None:
        if payload == _LEAVING and self._is_leaving:
            self._leave()

    def _on_goodbye(self, last: int, code: int, reason: str) -> None:
        self._leave()  # when all is answered

    def pause_writing(self) -> None:
        self._out.pause()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._out.resume()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # Requests.

    def data_received(self, data: bytes) -> None:
        self._lifetime.is_quiet = False
        if not self._transport.is_closing():
            super().data_received(data)

    def on_headers(self, number: int, block: bytes, ends: bool) -> None:
        stream = self._streams.get(number)
        if stream is not None or number in self._reset:
            self._on_trailers(stream, self._headers.decode(block), ends)
            return
        if not number % 2 or number <= self._last:
            code = frames.STREAM_CLOSED if number % 2 else frames.PROTOCOL_ERROR
            raise Http2Error(code, "a request must have a stream of its own")
        head = self._headers.read(block)
        if self._has_left:  # the peer knows, or will, that this one was not looked at
            return
        self._last = number
        if head is None:
            self._refuse(number, frames.PROTOCOL_ERROR)
        elif len(self._streams) + self._cancelled >= MAX_STREAMS:
            self._refuse(number, frames.REFUSED_STREAM)
        else:
            self._streams[number] = stream = Stream(number, self._out, self._open_window, STREAM_WINDOW)
            stream.missing, stream.has_ended = head.body_bytes, ends
            receiver = head.open(stream)
            if stream.is_open:  # and not refused
                stream.receiver = receiver
            if ends:
                self._end(stream)

    def _head(self, headers: Headers) -> _Head | None:
        """None if no request may have these headers."""
        lengths = {value for name, value in headers if name == b"content-length"}
        if not is_request(headers) or len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            return None
        return _Head(self._route(headers), int(lengths.pop()) if lengths else None)

    def _on_trailers(self, stream: Stream | None, headers: Headers, ends: bool) -> None:
        if stream is None:  # we reset it
            return
        if stream.has_ended:
            self._abort(stream, frames.STREAM_CLOSED)
        elif not ends or not are_trailers(headers):
            self._abort(stream, frames.PROTOCOL_ERROR)
        else:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        """The request is whole."""
        stream.has_ended = True
        if not stream.is_open:  # it was answered before
            return
        if stream.missing:
            self._abort(stream, frames.PROTOCOL_ERROR)
        else:
            stream.receiver.end()

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if number in self._streams:
            # Until the loop has gone round, it counts: nobody begins more than so many in a turn.
            if not self._cancelled:
                self._loop.call_soon(self._forget_cancelled)
            self._cancelled += 1
        super()._on_reset(flags, number, payload)

    def _forget_cancelled(self) -> None:
        self._cancelled = 0

    def _drop(self, stream: Stream, code: int | None) -> None:
        """The peer is not interested any more, or must not be."""
        if stream.is_open:
            receiver = stream.receiver
            self._forget(stream)
            receiver.gone(code)
            self._close_if_done()

    def _drop_all(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream, None)

    def _finish(self, stream: Stream) -> None:
        """All of its response is on its way."""
        self._forget(stream)
        if not stream.has_ended:
            self._refuse(stream.number, frames.NO_ERROR)  # the rest of the request is of no use
        self._close_if_done()
