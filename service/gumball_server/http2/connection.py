"""A connection of HTTP/2 at the server: its streams, settings, flow control and end (RFC 9113, 5 and 6)."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gumball.http2 import frames
from gumball.http2.frames import ACK, PING, Http2Error
from gumball.http2.framing import MAX_FRAME_BYTES, FrameProtocol
from gumball.http2.headers import MAX_LIST_BYTES, HeaderReader, Headers, are_trailers, is_request
from gumball.http2.outflow import Outflow
from gumball.http2.stream import NOBODY, Open, Stream

from gumball_server.http2.lifetime import Ages, Lifetime

MAX_STREAMS = 1024  # of a connection at a time
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24
MOST_RESET = 1 << 10  # streams of which is remembered that they were reset

GOODBYE_SECONDS = 1.0  # in which a peer learns that the connection ends

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


class Connection(FrameProtocol):
    """Serves each request by what `route` finds for its headers; it is in `connections` as long as it is open.

    A peer that does not take what it is sent is not read from, either: nothing that it makes us answer piles up.
    """

    def __init__(self, route: Callable[[Headers], Open], ages: Ages, connections: "set[Connection]") -> None:
        super().__init__()
        self._route = route
        self._ages = ages
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: Any = None
        self._out: Outflow  # this and the next from `connection_made` on
        self._lifetime: Lifetime
        self._is_leaving = self._has_left = False
        self._headers: HeaderReader[_Head | None] = HeaderReader(self._head)
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the last stream that was opened
        self._reset: dict[int, None] = {}  # streams that we reset, of which more may still come
        self._cancelled = 0  # streams that the peer reset in this turn of the loop
        self._receive_window = CONNECTION_WINDOW
        self._is_to_check = False  # whether the peer's windows are as large as they may be
        self._on = {
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
        }

    # Its life.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._out = Outflow(transport, self._finish)
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

    def abort(self) -> None:
        self._transport.abort()

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

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()

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

    def on_data(self, number: int, charge: int, data: bytes | memoryview, ends: bool) -> None:
        self._receive_window -= charge
        if self._receive_window < CONNECTION_WINDOW // 2:
            if self._receive_window < 0:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "more data than the connection's window has room for")
            self._out.write(frames.window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW
        stream = self._streams.get(number)
        if stream is None or stream.has_ended:
            self._on_late_data(number, stream)
            return
        stream.receive_window -= charge
        if stream.receive_window < 0:
            self._abort(stream, frames.FLOW_CONTROL_ERROR)
            return
        if stream.missing is not None:
            stream.missing -= len(data)
        if len(data):
            stream.receiver.take(data)
        if ends:
            self._end(stream)
        elif stream.is_open:
            self._open_window(stream)

    def on_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if (on := self._on.get(kind)) is not None:  # what we do not know is to be ignored
            on(flags, number, payload)

    def _open_window(self, stream: Stream) -> None:
        """Let a stream send more, if it may and needs it."""
        if stream.receive_window < STREAM_WINDOW // 2 and stream.receiver.has_room():
            self._out.write(frames.window_update(stream.number, STREAM_WINDOW - stream.receive_window))
            stream.receive_window = STREAM_WINDOW

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

    def _on_late_data(self, number: int, stream: Stream | None) -> None:
        """Data after the end of its request."""
        if stream is not None:
            self._abort(stream, frames.STREAM_CLOSED)
        elif number > self._last or not number % 2:
            if not self._has_left or not number % 2:
                raise Http2Error(frames.PROTOCOL_ERROR, "data of a request that has no headers")
        elif number not in self._reset:
            self._refuse(number, frames.STREAM_CLOSED)

    def _end(self, stream: Stream) -> None:
        """The request is whole."""
        stream.has_ended = True
        if not stream.is_open:  # it was answered before
            return
        if stream.missing:
            self._abort(stream, frames.PROTOCOL_ERROR)
        else:
            stream.receiver.end()

    def _refuse(self, number: int, code: int) -> None:
        """Reset a stream, whatever may still come of it."""
        self._reset[number] = None
        if len(self._reset) > MOST_RESET:
            del self._reset[next(iter(self._reset))]
        self._out.write(frames.reset(number, code))

    def _abort(self, stream: Stream, code: int) -> None:
        self._refuse(stream.number, code)
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """The peer is not interested any more, or must not be."""
        if stream.is_open:
            receiver = stream.receiver
            self._forget(stream)
            receiver.gone()
            self._close_if_done()

    def _forget(self, stream: Stream) -> None:
        stream.is_open = False
        stream.receiver = NOBODY  # the other knows the stream, and such a cycle costs a tenth of a call to collect
        del self._streams[stream.number]
        self._out.forget(stream)

    def _drop_all(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream)

    def _finish(self, stream: Stream) -> None:
        """All of its response is on its way."""
        self._forget(stream)
        if not stream.has_ended:
            self._refuse(stream.number, frames.NO_ERROR)  # the rest of the request is of no use
        self._close_if_done()

    # Other frames.

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a priority has five bytes")
        if not number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a priority is of a stream")

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        frames.four_bytes(payload)
        if not number % 2 or number > self._last:
            if not self._has_left:
                raise Http2Error(frames.PROTOCOL_ERROR, "the end of a stream that was not begun")
        elif (stream := self._streams.get(number)) is not None:
            # Until the loop has gone round, it counts: nobody begins more than so many in a turn.
            if not self._cancelled:
                self._loop.call_soon(self._forget_cancelled)
            self._cancelled += 1
            self._drop(stream)

    def _forget_cancelled(self) -> None:
        self._cancelled = 0

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "settings are of the connection")
        if len(payload) % frames.SETTING.size or (flags & ACK and payload):
            raise Http2Error(frames.FRAME_SIZE_ERROR, "settings have six bytes each")
        if flags & ACK:
            if not self.is_set:
                raise Http2Error(frames.PROTOCOL_ERROR, "the first settings are the peer's own")
            return
        for setting, value in frames.SETTING.iter_unpack(payload):
            self._set(setting, value)
        self.is_set = True
        self._out.write(frames.frame(frames.SETTINGS, ACK, 0))

    def _set(self, setting: int, value: int) -> None:
        if setting == frames.ENABLE_PUSH and value > 1:
            raise Http2Error(frames.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if setting == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
                raise Http2Error(frames.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
            self._out.frame_bytes = value
        if setting == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is out of its range")
            self._out.first_window = value
            self._out.flush_soon()
            if not self._is_to_check:
                self._is_to_check = True
                self._loop.call_soon(self._check_windows)

    def _check_windows(self) -> None:
        """Once in a turn of the loop, for there are many."""
        self._is_to_check = False
        if any(self._out.window_of(stream) > frames.MAX_WINDOW for stream in self._streams.values()):
            self.on_error(Http2Error(frames.FLOW_CONTROL_ERROR, "a window is larger than it may be"))

    def _on_push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise Http2Error(frames.PROTOCOL_ERROR, "clients promise nothing")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a ping is of the connection")
        if len(payload) != 8:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a ping has eight bytes")
        if not flags & ACK:
            self._out.write(frames.frame(PING, ACK, 0, payload))
        elif payload == _LEAVING and self._is_leaving:
            self._leave()

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a goodbye is of the connection")
        if len(payload) < 8:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a goodbye has eight bytes at least")
        self._leave()  # when all is answered

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        size = frames.four_bytes(payload) & frames.STREAM_BITS
        stream = self._streams.get(number)
        if not number:
            if not size:
                raise Http2Error(frames.PROTOCOL_ERROR, "a window is opened by at least one byte")
            self._out.window += size
            if self._out.window > frames.MAX_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "the connection's window is larger than it may be")
            self._out.flush_soon()
        elif stream is None:
            if (number > self._last and not self._has_left) or not number % 2:
                raise Http2Error(frames.PROTOCOL_ERROR, "the window of a stream that was not begun")
        elif not size:
            self._abort(stream, frames.PROTOCOL_ERROR)
        else:
            stream.credit += size
            if self._out.window_of(stream) > frames.MAX_WINDOW:
                self._abort(stream, frames.FLOW_CONTROL_ERROR)
            else:
                self._out.flush(stream)
