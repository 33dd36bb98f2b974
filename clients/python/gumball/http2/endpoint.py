"""One end of a connection of HTTP/2, what servers and clients do alike (RFC 9113, 5 and 6)."""

import asyncio
from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from gumball.http2 import frames
from gumball.http2.frames import ACK, PING, Http2Error
from gumball.http2.framing import FrameProtocol
from gumball.http2.outflow import Outflow
from gumball.http2.stream import NOBODY, Stream

StreamT = TypeVar("StreamT", bound=Stream)

MOST_RESET = 1 << 10  # streams of which is remembered that they were reset
GOODBYE_SECONDS = 1.0  # in which a peer learns that the connection ends


class Endpoint(FrameProtocol, Generic[StreamT]):
    """Streams, flow control, settings and pings; what begins streams and what ends them is told by each end."""

    stream_window: ClassVar[int]  # bytes that a peer may send on a stream, and on all of them, before we take them
    connection_window: ClassVar[int]

    def __init__(self, preface: bytes) -> None:
        super().__init__(preface)
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: Any = None
        self._out: Outflow  # from `connection_made` on
        self._streams: dict[int, StreamT] = {}
        self._last = 0  # the last stream that was opened
        self._has_left = False  # what the peer opens from now on is not looked at, and it knows, or will
        self._reset: dict[int, None] = {}  # streams that we reset, of which more may still come
        self._receive_window = self.connection_window
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

    # What each end has of its own.

    @abstractmethod
    def _finish(self, stream: Stream) -> None:
        """All that we send on a stream is on its way."""

    @abstractmethod
    def _drop(self, stream: StreamT, code: int | None) -> None:
        """A stream has ended before its time, by a code of section 7 or with the connection."""

    @abstractmethod
    def _end(self, stream: StreamT) -> None:
        """All that the peer sends on a stream has come."""

    @abstractmethod
    def _on_goodbye(self, last: int, code: int, reason: str) -> None:
        """The peer will not look at streams after the last."""

    def _on_pong(self, payload: bytes) -> None:
        """The answer to a ping of ours."""

    # Its life.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._out = Outflow(transport, self._finish)

    def abort(self) -> None:
        self._transport.abort()

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()

    # Streams.

    def on_data(self, number: int, charge: int, data: bytes | memoryview, ends: bool) -> None:
        self._receive_window -= charge
        if self._receive_window < self.connection_window // 2:
            if self._receive_window < 0:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "more data than the connection's window has room for")
            self._out.write(frames.window_update(0, self.connection_window - self._receive_window))
            self._receive_window = self.connection_window
        stream = self._streams.get(number)
        if stream is None or stream.has_ended or not stream.has_begun:
            self._on_stray_data(number, stream)
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

    def _is_idle(self, number: int) -> bool:
        """Whether nobody can have sent anything on a stream yet."""
        return (number > self._last and not self._has_left) or not number % 2

    def _open_window(self, stream: Stream) -> None:
        """Let a stream send more, if it may and needs it."""
        if stream.receive_window < self.stream_window // 2 and stream.receiver.has_room():
            self._out.write(frames.window_update(stream.number, self.stream_window - stream.receive_window))
            stream.receive_window = self.stream_window

    def _on_stray_data(self, number: int, stream: StreamT | None) -> None:
        """Data before the headers, or after the end."""
        if stream is not None:
            self._abort(stream, frames.STREAM_CLOSED if stream.has_begun else frames.PROTOCOL_ERROR)
        elif self._is_idle(number):
            raise Http2Error(frames.PROTOCOL_ERROR, "data of a stream that has no headers")
        elif number <= self._last and number not in self._reset:
            self._refuse(number, frames.STREAM_CLOSED)

    def _refuse(self, number: int, code: int) -> None:
        """Reset a stream, whatever may still come of it."""
        self._reset[number] = None
        if len(self._reset) > MOST_RESET:
            del self._reset[next(iter(self._reset))]
        self._out.write(frames.reset(number, code))

    def _abort(self, stream: StreamT, code: int) -> None:
        self._refuse(stream.number, code)
        self._drop(stream, code)

    def _forget(self, stream: Stream) -> None:
        stream.is_open = False
        stream.receiver = NOBODY  # the other knows the stream, and such a cycle costs a tenth of a call to collect
        del self._streams[stream.number]
        self._out.forget(stream)

    # Other frames.

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a priority has five bytes")
        if not number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a priority is of a stream")

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        code = frames.four_bytes(payload)
        if self._is_idle(number):
            raise Http2Error(frames.PROTOCOL_ERROR, "the end of a stream that was not begun")
        if (stream := self._streams.get(number)) is not None:
            self._drop(stream, code)

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
        raise Http2Error(frames.PROTOCOL_ERROR, "nothing is to be promised")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a ping is of the connection")
        if len(payload) != 8:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a ping has eight bytes")
        if flags & ACK:
            self._on_pong(payload)
        else:
            self._out.write(frames.frame(PING, ACK, 0, payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "a goodbye is of the connection")
        if len(payload) < 8:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a goodbye has eight bytes at least")
        last, code = (int.from_bytes(payload[at : at + 4], "big") for at in (0, 4))
        self._on_goodbye(last & frames.STREAM_BITS, code, payload[8:].decode(errors="replace"))

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
            if self._is_idle(number):
                raise Http2Error(frames.PROTOCOL_ERROR, "the window of a stream that was not begun")
        elif not size:
            self._abort(stream, frames.PROTOCOL_ERROR)
        else:
            stream.credit += size
            if self._out.window_of(stream) > frames.MAX_WINDOW:
                self._abort(stream, frames.FLOW_CONTROL_ERROR)
            else:
                self._out.flush(stream)
