"""A connection of HTTP/2 at the client: requests, and how they and it end (RFC 9113, 5 to 8)."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self

from gumball.http2 import frames
from gumball.http2.endpoint import GOODBYE_SECONDS, Endpoint
from gumball.http2.frames import Http2Error
from gumball.http2.framing import MAX_FRAME_BYTES
from gumball.http2.headers import MAX_LIST_BYTES, HeaderReader, Headers, are_trailers, is_response
from gumball.http2.keepalive import Keepalive
from gumball.http2.stream import Receiver, Stream

STREAM_WINDOW = 1 << 24  # an answer may be large, and whoever asked for it takes it
CONNECTION_WINDOW = 1 << 26

_START = (
    frames.PREFACE
    + frames.settings(
        {
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            frames.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            frames.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
        }
    )
    + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
)
_ALIVE = b"alive???"  # what our pings carry


class Caller(Receiver, Protocol):
    """What makes a request, and takes the response."""

    is_over: bool  # nobody wants the response any more

    def is_waiting(self) -> bool:
        """Whether the peer owes it something."""

    def begin(self, connection: "ClientConnection", stream: Stream) -> None:
        """Send the request."""

    def head(self, status: int, fields: Mapping[bytes, bytes]) -> None:
        """The response begins."""

    def trailers(self, fields: Mapping[bytes, bytes]) -> None:
        """What comes after the body; `end` follows."""


class _Exchange(Stream):
    """A stream of ours."""

    __slots__ = ()
    receiver: Caller


class _Fields(NamedTuple):
    """A header block."""

    status: int  # 0: these are trailers
    values: dict[bytes, bytes]

    @classmethod
    def of(cls, headers: Headers) -> Self | None:
        """None if no response may have these headers."""
        if is_response(headers):
            return cls(int(headers[0][1]), dict(headers[1:]))
        return cls(0, dict(headers)) if are_trailers(headers) else None


class ClientConnection(Endpoint[_Exchange]):
    """Makes requests of callers; those that are more than the peer takes at a time wait, in their order.

    It is in `connections` as long as it is open. Callers whose requests the peer has not looked at, for it left or has
    too many, are told so by the code REFUSED_STREAM.
    """

    stream_window, connection_window = STREAM_WINDOW, CONNECTION_WINDOW

    def __init__(self, connections: "set[ClientConnection]") -> None:
        super().__init__(b"")
        self._connections = connections
        self._last = -1
        self.ready: asyncio.Future[None] = self._loop.create_future()  # it can be used, or has ended before
        self.is_leaving = False  # it takes no more requests
        self.why = "the service closed the connection"  # once it has ended
        self._max_streams = frames.STREAM_BITS
        self._waiting: deque[Caller] = deque()
        self._headers: HeaderReader[_Fields | None] = HeaderReader(_Fields.of)
        self._keepalive = Keepalive(self)

    # Its life.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        self._out.write(_START)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.closed.set_result(None)
        self._keepalive.cancel()
        self._give_up(self.why if exc is None else f"the connection was lost: {exc}")

    def close(self) -> None:
        """End all requests, now."""
        self.is_leaving = True
        for caller in [*(stream.receiver for stream in self._streams.values()), *self._take_waiting()]:
            caller.stop()
        self._say_goodbye(frames.NO_ERROR)

    def on_error(self, error: Http2Error) -> None:
        self._say_goodbye(error.code, str(error))
        self._give_up(str(error) if self.is_set else "the peer does not speak HTTP/2")

    def _say_goodbye(self, code: int, reason: str = "") -> None:
        self._out.write(frames.goaway(0, code, reason))
        self._close()
        self._loop.call_later(GOODBYE_SECONDS, self.abort)  # should the peer not take the last of it

    def _give_up(self, why: str) -> None:
        """Tell all who still wait."""
        self.is_leaving, self.why = True, why
        if not self.ready.done():
            self.ready.set_result(None)
        self._refuse_waiting()
        for stream in list(self._streams.values()):
            self._drop(stream, None)

    def _on_goodbye(self, last: int, code: int, reason: str) -> None:
        self.is_leaving = True
        if code:
            self.why = f"the service ended the connection by the code {code}: {reason}"
        self._refuse_waiting()
        for stream in [stream for number, stream in self._streams.items() if number > last]:
            self._drop(stream, frames.REFUSED_STREAM)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.is_leaving and not self._streams:
            self._close()

    def pause_writing(self) -> None:
        self._out.pause()  # but read on: a peer that is not read from need not read, either

    def resume_writing(self) -> None:
        self._out.resume()

    def data_received(self, data: bytes) -> None:
        self._keepalive.heard = self._loop.time()
        if not self._transport.is_closing():
            super().data_received(data)

    def ask(self) -> None:
        self._out.write(frames.frame(frames.PING, 0, 0, _ALIVE))

    def is_waiting(self) -> bool:
        """Whether the peer owes something to any caller."""
        return any(stream.receiver.is_waiting() for stream in self._streams.values())

    def abandon(self) -> None:
        self.is_leaving, self.why = True, "the service does not answer any more"
        self.abort()

    def _on_pong(self, payload: bytes) -> None:
        self._keepalive.answered()

    # Requests.

    def begin(self, caller: Caller) -> None:
        """Have a caller make its request, now or when the peer takes more."""
        if self.is_leaving:
            caller.gone(frames.REFUSED_STREAM)
        elif self._waiting or len(self._streams) >= self._max_streams:
            self._waiting.append(caller)
        else:
            self._begin(caller)

    def cancel(self, stream: Stream) -> None:
        """End a request that nobody wants any more."""
        if stream.is_open:
            self._refuse(stream.number, frames.CANCEL)
            self._forget(stream)

    def _begin(self, caller: Caller) -> None:
        self._last += 2
        if self._last + 2 > frames.STREAM_BITS:
            self.is_leaving = True
        stream = _Exchange(self._last, self._out, self._open_window, STREAM_WINDOW)
        stream.receiver, stream.has_begun = caller, False
        self._streams[self._last] = stream
        self._keepalive.start()
        caller.begin(self, stream)

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._max_streams:
            caller = self._waiting.popleft()
            if not caller.is_over:
                self._begin(caller)

    def _take_waiting(self) -> deque[Caller]:
        waiting, self._waiting = self._waiting, deque()
        return waiting

    def _refuse_waiting(self) -> None:
        for caller in self._take_waiting():
            caller.gone(frames.REFUSED_STREAM)

    def _finish(self, stream: Stream) -> None:
        """All of its request is on its way."""
        stream.is_sent = True

    def _forget(self, stream: Stream) -> None:
        super()._forget(stream)
        if self._waiting:
            self._begin_waiting()
        self._close_if_done()

    def _drop(self, stream: _Exchange, code: int | None) -> None:
        caller = stream.receiver
        if stream.is_open:
            self._forget(stream)
            caller.gone(code)

    # Responses.

    def on_headers(self, number: int, block: bytes, ends: bool) -> None:
        fields = self._headers.read(block)
        stream = self._streams.get(number)
        if stream is None:
            if self._is_idle(number):
                raise Http2Error(frames.PROTOCOL_ERROR, "headers of a stream that was not begun")
            if number not in self._reset:
                raise Http2Error(frames.STREAM_CLOSED, "headers of a stream that has ended")
        elif fields is None or not self._take(stream, fields, ends):
            self._abort(stream, frames.PROTOCOL_ERROR)
        elif ends:
            self._end(stream)

    def _take(self, stream: _Exchange, fields: _Fields, ends: bool) -> bool:
        """Pass headers on, or return False if they may not come now."""
        if not fields.status:
            stream.receiver.trailers(fields.values)
            return stream.has_begun and ends
        if fields.status < 200:  # more is to come, and this says nothing
            return not stream.has_begun and not ends
        if stream.has_begun:
            return False
        stream.has_begun = True
        stream.receiver.head(*fields)
        return True

    def _end(self, stream: _Exchange) -> None:
        """The response is whole."""
        if stream.is_open:
            caller = stream.receiver
            self._forget(stream)
            if not stream.is_sent:
                self._refuse(stream.number, frames.NO_ERROR)  # the rest of the request is of no use
            caller.end()

    def _set(self, setting: int, value: int) -> None:
        if setting == frames.ENABLE_PUSH and value:
            raise Http2Error(frames.PROTOCOL_ERROR, "servers do not say that they take what is pushed")
        if setting == frames.MAX_CONCURRENT_STREAMS:
            self._max_streams = value
        super()._set(setting, value)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        super()._on_settings(flags, number, payload)
        self._begin_waiting()
        if not self.ready.done():
            self.ready.set_result(None)
