"""A server of HTTP/2 (RFC 9113) that sends what a test tells it, right or wrong, and holds the client to the rules."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack
from fake_service import response_to
from gumball.v1 import sampling_pb2 as pb
from http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    WINDOW,
    Code,
    Kind,
    Setting,
    frame,
    padded,
    ping,
    settings,
    uint32,
    window_update,
)

SECONDS = 5.0  # in which everything that a test waits for must have come
SAMPLE, STREAM, INFO = (f"/gumball.v1.SamplingService/{name}" for name in ("Sample", "SampleStream", "GetInfo"))
_MESSAGE = {SAMPLE: pb.SampleRequest, STREAM: pb.SampleStreamRequest, INFO: pb.GetInfoRequest}
HEAD = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)
VERSION = "of the peer"  # of the server, as it tells of itself
ROOMY = {Setting.INITIAL_WINDOW_SIZE: 1 << 20}

Headers = Iterable[tuple[str, str]]


class Gone(Exception):  # noqa: N818 - it is what happened
    """The connection is closed, so what a script waits for will not come."""


class Asked(NamedTuple):
    """A message of a call."""

    stream: int
    path: str
    message: pb.SampleRequest | pb.SampleStreamRequest | pb.GetInfoRequest

    @property
    def requests(self) -> list[pb.SampleRequest]:
        """None of a call for information."""
        return list(getattr(self.message, "requests", [self.message] if self.path == SAMPLE else []))

    @property
    def seeds(self) -> list[int]:
        return [request.seed for request in self.requests]


def framed(message: bytes, compressed: bool = False) -> bytes:
    """As gRPC has it in data."""
    return bytes([compressed]) + uint32(len(message)) + message


def response(asked: Asked) -> bytes:
    """The right one."""
    if asked.path == INFO:
        return pb.GetInfoResponse(version=VERSION).SerializeToString()
    responses = [response_to(request) for request in asked.requests]
    if asked.path == SAMPLE:
        return responses[0].SerializeToString()
    return pb.SampleStreamResponse(responses=responses).SerializeToString()


@dataclass
class Call:
    """What came of it, and what it was told."""

    window: int  # for what we receive
    headers: dict[str, str]
    data: bytearray = field(default_factory=bytearray)  # of a message that is not whole
    received: int = 0  # bytes of data
    ended: bool = False  # by the client
    code: Code | None = None  # of the client's RST_STREAM
    granted: int = 0  # for what we send, beyond the client's setting
    headed: bool = False  # the response's headers are sent
    done: bool = False  # by us
    reset: bool = False  # by us, of which the client may not know yet

    @property
    def over(self) -> bool:
        return self.code is not None or self.reset or (self.ended and self.done)


class Peer:
    """A connection that a client has opened. What it sends is checked as it is read.

    Unless told otherwise, it answers pings, acknowledges settings, and opens its windows as data come.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader, self.writer = reader, writer
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.grants = self.answers_pings = True
        self.pings = 0  # of the client
        self.reads = asyncio.Event()  # while it is set
        self.reads.set()
        self.calls: dict[int, Call] = {}  # by stream
        self.asked: list[Asked] = []  # all messages, in order
        self.theirs = {Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.MAX_FRAME_SIZE: 16_384}
        self.ours = {Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.MAX_FRAME_SIZE: 16_384}
        self.window = WINDOW  # for what we receive
        self.their_window = WINDOW  # for what we send
        self.prefaced = self.closed = False
        self.goaway: tuple[int, Code] | None = None
        self.pongs: list[bytes] = []
        self.most_open = 0  # streams at a time
        self.unacknowledged: list[Mapping[int, int]] = []  # settings
        self._taken = self._syncs = 0
        self._trickling = self._has_begun = self._is_done = False
        self._due: list[bytes] = []
        self._changed = asyncio.Event()

    # What is sent.

    def send(self, *frames: bytes) -> None:
        """As one write."""
        self._write(b"".join(frames))
        self._reply()

    async def trickle(self, data: bytes, size: int = 1) -> None:
        """In so many writes that the client may see each by itself."""
        self._trickling = True
        for start in range(0, len(data), size):
            self._write(data[start : start + size])
            await asyncio.sleep(0)
        self._trickling = False
        self._reply()

    def _reply(self, *frames: bytes) -> None:
        """What is due to a frame: not before anything else was sent, nor within it."""
        self._due += frames
        if self._has_begun and not self._trickling:
            due, self._due = self._due, []
            self._write(b"".join(due))

    def _write(self, data: bytes) -> None:
        self._has_begun = True
        if not self.closed and not self._is_done and not self.writer.is_closing():
            self.writer.write(data)

    def change(self, ours: Mapping[int, int]) -> None:
        """Announce settings, which hold once they are acknowledged (6.5.3)."""
        self.unacknowledged.append(ours)
        self.send(settings(ours))

    async def greet(self, ours: Mapping[int, int] = ROOMY) -> None:
        """Begin as a server does."""
        self.change(ours)
        await self.until(lambda: self.prefaced)

    def grant(self, stream: int, increment: int) -> None:
        """Open our window, of a stream or of the connection."""
        if stream:
            self.calls[stream].window += increment
        else:
            self.window += increment
        self._reply(window_update(stream, increment))

    def headers(
        self, stream: int, headers: Headers, flags: int = 0, parts: int = 1, padding: int | None = None
    ) -> bytes:
        """The frames of headers, encoded with the dynamic table; they must be sent in the order they are made in."""
        block = self.encoder.encode(headers)
        cuts = [len(block) * part // parts for part in range(parts + 1)]
        pieces = [block[cuts[part] : cuts[part + 1]] for part in range(parts)]
        flags |= END_HEADERS if parts == 1 else 0
        first = pieces[0] if padding is None else padded(pieces[0], padding)
        frames = frame(Kind.HEADERS, flags | (PADDED if padding is not None else 0), stream, first)
        for part, piece in enumerate(pieces[1:], 2):
            frames += frame(Kind.CONTINUATION, END_HEADERS if part == parts else 0, stream, piece)
        self._told(stream, headed=True, done=bool(flags & END_STREAM))
        return frames

    def data(self, stream: int, data: bytes, flags: int = 0) -> bytes:
        """A frame, counted against the client's windows."""
        self.their_window -= len(data)
        if stream in self.calls:
            self.calls[stream].granted -= len(data)
        self._told(stream, done=bool(flags & END_STREAM))
        return frame(Kind.DATA, flags, stream, data)

    def reset(self, stream: int, code: int) -> bytes:
        self._told(stream, done=True)
        if stream in self.calls:
            self.calls[stream].reset = True
        return frame(Kind.RST_STREAM, 0, stream, uint32(code))

    def _told(self, stream: int, headed: bool = False, done: bool = False) -> None:
        if (call := self.calls.get(stream)) is not None:
            call.headed |= headed
            call.done |= done

    def begin(self, stream: int) -> bytes:
        """The response's headers, if they are not sent yet."""
        return b"" if self.calls[stream].headed else self.headers(stream, HEAD)

    def answer(self, asked: Asked) -> bytes:
        """The right answer to a message, all at once; that of a stream leaves it open."""
        frames = self.begin(asked.stream) + self.data(asked.stream, framed(response(asked)))
        return frames if asked.path == STREAM else frames + self.headers(asked.stream, OK, END_STREAM)

    async def upload(self, stream: int, data: bytes, size: int = 16_384) -> None:
        """Send it as the client's windows allow."""
        sent = 0
        while sent < len(data):
            await self.until(lambda: self.room(stream) > 0)
            part = data[sent : sent + min(size, self.room(stream))]
            self.send(self.data(stream, part))
            await self.writer.drain()
            sent += len(part)

    def room(self, stream: int) -> int:
        """That the client's windows leave on a stream."""
        own = self.theirs[Setting.INITIAL_WINDOW_SIZE] + self.calls[stream].granted
        return min(self.their_window, own)

    def goes_away(self, last: int, code: int = Code.NO_ERROR, reason: bytes = b"") -> bytes:
        return frame(Kind.GOAWAY, 0, 0, uint32(last) + uint32(code) + reason)

    def end(self) -> None:
        """Send nothing more, but read on."""
        self._is_done = True
        with contextlib.suppress(OSError):  # the client was quicker
            self.writer.write_eof()

    async def close(self) -> None:
        """Both directions, once all is sent; what comes then is not read."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    # What is received.

    async def next(self) -> Asked:
        """The next message of any call. Raises Gone."""
        await self.until(lambda: len(self.asked) > self._taken)
        self._taken += 1
        return self.asked[self._taken - 1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once it holds. Raises Gone."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                if self.closed:
                    raise Gone
                await self._changed.wait()

    async def sync(self) -> None:
        """Return once the client has seen all that was sent, and we all that it sent until then. Raises Gone."""
        self._syncs += 1
        payload = b"sync" + uint32(self._syncs)
        self.send(ping(payload))
        await self.until(lambda: payload in self.pongs)

    async def gone(self) -> None:
        """Return once the client has closed the connection."""
        with contextlib.suppress(Gone):
            await self.until(lambda: self.closed)

    @property
    def open(self) -> int:
        """Streams."""
        return sum(not call.over for call in self.calls.values())

    @property
    def withdrawn(self) -> list[int]:
        """Seeds of the calls that the client does not wait for any more."""
        messages = [asked.message for asked in self.asked if asked.path == STREAM]
        seeds = {request.id: request.seed for message in messages for request in message.requests}
        return [seeds[number] for message in messages for number in message.withdrawn]

    async def read(self) -> None:
        """Until the client closes."""
        try:
            assert await self._reader.readexactly(len(PREFACE)) == PREFACE
            await self._receive(first=True)
            while await self.reads.wait():
                await self._receive()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed = True
            self._notify()

    def _notify(self) -> None:
        self._changed.set()  # wakes all who wait now
        self._changed.clear()

    async def _receive(self, first: bool = False) -> None:
        head = await self._reader.readexactly(9)
        size, kind, flags = int.from_bytes(head[:3], "big"), Kind(head[3]), head[4]
        stream = int.from_bytes(head[5:], "big")
        assert size <= max(self.ours[Setting.MAX_FRAME_SIZE], *(each.get(5, 0) for each in [{}, *self.unacknowledged]))
        assert not first or (kind == Kind.SETTINGS and not flags & ACK), "a preface without settings"
        payload = await self._reader.readexactly(size)
        if kind == Kind.HEADERS:
            while not flags & END_HEADERS:
                head = await self._reader.readexactly(9)
                assert (head[3], int.from_bytes(head[5:], "big")) == (Kind.CONTINUATION, stream)
                flags |= head[4] & END_HEADERS
                payload += await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        getattr(self, f"_on_{kind.name.lower()}")(flags, stream, payload)
        self.prefaced = True
        self._notify()

    def _on_headers(self, flags: int, stream: int, block: bytes) -> None:
        assert stream % 2 == 1
        assert stream > max(self.calls, default=0), "a client sends headers once, and numbers grow"
        assert not flags & PADDED
        block = block[5:] if flags & PRIORITY else block
        headers = dict(self.decoder.decode(block))
        assert all(name == name.lower() for name in headers)
        self.calls[stream] = Call(self.ours[Setting.INITIAL_WINDOW_SIZE], headers, ended=bool(flags & END_STREAM))
        self.most_open = max(self.most_open, self.open)
        assert self.open <= self.ours.get(Setting.MAX_CONCURRENT_STREAMS, 1 << 31), "more streams than we take"

    def _on_data(self, flags: int, stream: int, data: bytes) -> None:
        call = self.calls[stream]
        assert not call.ended, "data after the end"
        self.window -= len(data)
        call.window -= len(data)
        assert not data or (self.window >= 0 and call.window >= 0), "data beyond our window"
        assert not flags & PADDED
        call.data += data
        call.received += len(data)
        call.ended = bool(flags & END_STREAM)
        if self.grants and data:
            self.grant(0, len(data))
            if not call.over and not call.ended:
                self.grant(stream, len(data))
        while len(call.data) >= 5 and len(call.data) >= 5 + (size := int.from_bytes(call.data[1:5], "big")):
            assert not call.data[0]
            message = _MESSAGE[call.headers[":path"]].FromString(bytes(call.data[5 : 5 + size]))
            self.asked.append(Asked(stream, call.headers[":path"], message))
            del call.data[: 5 + size]

    def _on_rst_stream(self, flags: int, stream: int, payload: bytes) -> None:
        call = self.calls[stream]
        assert call.code is None
        call.code = Code(int.from_bytes(payload, "big"))

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        assert stream == 0
        if flags & ACK:
            acknowledged = self.unacknowledged.pop(0)
            before = self.ours[Setting.INITIAL_WINDOW_SIZE]
            for call in self.calls.values():
                call.window += acknowledged.get(Setting.INITIAL_WINDOW_SIZE, before) - before
            self.ours.update(acknowledged)
            self.decoder.max_allowed_table_size = self.ours.get(Setting.HEADER_TABLE_SIZE, 4096)
            return
        for start in range(0, len(payload), 6):
            key, value = payload[start : start + 2], payload[start + 2 : start + 6]
            self.theirs[int.from_bytes(key, "big")] = int.from_bytes(value, "big")
        self.encoder.header_table_size = min(4096, self.theirs.get(Setting.HEADER_TABLE_SIZE, 4096))
        self._reply(frame(Kind.SETTINGS, ACK))

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        assert (stream, len(payload)) == (0, 8)
        if flags & ACK:
            self.pongs.append(payload)
            return
        self.pings += 1
        if self.answers_pings:
            self._reply(ping(payload, ACK))

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        assert stream == 0
        self.goaway = int.from_bytes(payload[:4], "big"), Code(int.from_bytes(payload[4:8], "big"))

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big")
        assert 0 < increment < 1 << 31
        if stream:
            self.calls[stream].granted += increment
        else:
            self.their_window += increment
            assert self.their_window < 1 << 31

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        assert len(payload) == 5
