"""A client of HTTP/2 (RFC 9113) that sends what it is told, right or wrong, and holds the server to the rules."""

import contextlib
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import hpack
from http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    WINDOW,
    Code,
    Frame,
    Kind,
    Setting,
    frame,
    padded,
    ping,
    settings,
    uint32,
    window_update,
)

SECONDS = 10  # in which the server must have sent something
MOST_SECONDS = 60  # of any connection


@dataclass
class Answer:
    """What came back on a stream."""

    window: int
    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    code: Code | None = None  # of RST_STREAM
    ended: bool = False

    @property
    def over(self) -> bool:
        return self.ended or self.code is not None

    @property
    def status(self) -> str:
        """Of gRPC."""
        return (self.trailers or self.headers)["grpc-status"]


def connected(address: str) -> socket.socket:
    """A connection to a TCP address or the path of a Unix socket."""
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(address)
    else:
        host, port = address.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Connection:
    """One connection; whatever it receives is checked as it is read.

    `ours` are the settings it announces; `theirs` those of the server. Unless it `greets`, its user sends the
    preface and empty settings; unless it `acks`, it acknowledges nothing.
    """

    def __init__(
        self, address: str, ours: Mapping[int, int] | None = None, *, greets: bool = True, acks: bool = True
    ) -> None:
        self.socket = connected(address)
        self.acks = acks
        self._end = time.monotonic() + MOST_SECONDS
        self.indexes = True  # headers that it encodes; not so where a user has encoded some that did
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.theirs = {Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.MAX_FRAME_SIZE: 16_384}
        self.answers: dict[int, Answer] = {}  # by stream
        self.goaway: tuple[int, Code] | None = None  # last stream and error
        self.pongs: list[bytes] = []
        self.pinged = 0
        self._buffer = bytearray()
        self._ours = {Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.MAX_FRAME_SIZE: 16_384}
        self.unacknowledged: list[Mapping[int, int]] = []
        self._window = WINDOW  # for what we receive
        self._their_window = WINDOW  # for what we send
        self._their_windows: dict[int, int] = {}  # what they added to that of a stream
        self._next_stream = 1
        self._block_of = 0  # the stream whose headers go on in the next frame
        self._pings = 0
        if greets:
            self.send(PREFACE)
            self.change(ours or {})
        else:
            self.unacknowledged.append({})

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    # What is sent.

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def change(self, ours: Mapping[int, int]) -> None:
        """Announce settings, which hold once they are acknowledged (6.5.3)."""
        self.unacknowledged.append(ours)
        self.send(settings(ours))

    def stream(self) -> int:
        """A new one."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.answers[stream] = Answer(self._ours[Setting.INITIAL_WINDOW_SIZE])
        return stream

    def open(self, headers: Iterable[tuple[str, str]], flags: int = END_HEADERS) -> int:
        """A new stream with these headers."""
        if not self.indexes:
            headers = [hpack.NeverIndexedHeaderTuple(*each) for each in headers]
        return self.begin(self.encoder.encode(headers), flags)

    def begin(self, block: bytes, flags: int = END_HEADERS) -> int:
        """A new stream whose headers have this block."""
        stream = self.stream()
        self.send(frame(Kind.HEADERS, flags, stream, block))
        return stream

    def grant(self, stream: int, increment: int) -> None:
        """Open our window, of a stream or of the connection."""
        self.send(window_update(stream, increment))
        if stream:
            self.answers[stream].window += increment
        else:
            self._window += increment

    def upload(self, stream: int, body: bytes, end: bool = True, padding: int | None = None) -> None:
        """Send it as the server's windows allow, maybe with so much padding in each frame."""
        sent, more = 0, 0 if padding is None else padding + 1
        while sent < len(body):
            room = min(self.room(stream), self.theirs[Setting.MAX_FRAME_SIZE]) - more
            if room <= 0:
                assert self.receive() is not None
                assert not self.answers[stream].over
                continue
            part = body[sent : sent + room]
            if padding is None:
                self.data(stream, part)
            else:
                self.data(stream, padded(part, padding), PADDED)
            sent += len(part)
        if end:
            self.data(stream, b"", END_STREAM)

    def data(self, stream: int, payload: bytes, flags: int = 0) -> None:
        self.spend(stream, len(payload))
        self.send(frame(Kind.DATA, flags, stream, payload))

    def spend(self, stream: int, size: int) -> None:
        """Count what is sent against the server's windows."""
        self._their_window -= size
        self._their_windows[stream] = self._their_windows.get(stream, 0) - size

    def room(self, stream: int) -> int:
        """That the server's windows leave on a stream, or for 0 that of the connection."""
        if not stream:
            return self._their_window
        own = self.theirs[Setting.INITIAL_WINDOW_SIZE] + self._their_windows.get(stream, 0)
        return min(self._their_window, own)

    # What is received.

    def answer(self, stream: int) -> Answer:
        """The whole answer on a stream."""
        while not self.answers[stream].over:
            assert self.receive() is not None, f"closed without an answer on stream {stream}: {self.goaway}"
        return self.answers[stream]

    def sync(self) -> None:
        """Return once the server has seen all that was sent, and we all that it sent until then."""
        self._pings += 1
        payload = b"sync" + uint32(self._pings)
        self.send(ping(payload))
        while payload not in self.pongs:
            assert self.receive() is not None, f"closed: {self.goaway}"

    def closed(self) -> Code | None:
        """The error of GOAWAY, if any, once the server has closed the connection."""
        while self.receive() is not None:
            pass
        return self.goaway and self.goaway[1]

    def receive(self) -> Frame | None:
        """The next frame, or None at the end."""
        assert time.monotonic() < self._end, "what should have come did not come"
        head = self._read(9)
        if not head:
            return None
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        assert size <= self._ours[Setting.MAX_FRAME_SIZE], "a frame larger than we take"
        received = Frame(kind, flags, int.from_bytes(head[5:], "big"), self._read(size))
        assert kind <= Kind.CONTINUATION, "a kind of frame that there is not"
        if kind in (Kind.DATA, Kind.HEADERS, Kind.RST_STREAM, Kind.CONTINUATION):
            assert received.stream in self.answers, "a stream that was not opened"
        elif kind != Kind.WINDOW_UPDATE:
            assert received.stream == 0
        getattr(self, f"_on_{Kind(kind).name.lower()}")(received)
        return received

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._buffer or self.goaway, "the connection ends within a frame"
                return b""
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _on_data(self, received: Frame) -> None:
        answer = self.answers[received.stream]
        assert answer.headers, "data before headers"
        assert not answer.over, "data after the end"
        self._window -= len(received.payload)
        answer.window -= len(received.payload)
        assert not received.payload or (self._window >= 0 and answer.window >= 0), "data beyond our window"
        padding = received.payload[0] + 1 if received.flags & PADDED else 0
        answer.data += received.payload[1 : -padding + 1 or None] if padding else received.payload
        answer.ended = bool(received.flags & END_STREAM)

    def _on_headers(self, received: Frame) -> None:
        answer = self.answers[received.stream]
        assert not answer.over, "headers after the end"
        assert not received.flags & (PADDED | PRIORITY)
        block, flags = received.payload, received.flags
        while not flags & END_HEADERS:
            self._block_of = received.stream
            following = self.receive()
            assert following is not None
            assert following.kind == Kind.CONTINUATION, "an interrupted block"
            block, flags = block + following.payload, following.flags
        self._block_of = 0
        headers = dict(self.decoder.decode(block))
        assert all(name == name.lower() for name in headers)
        answer.ended = bool(received.flags & END_STREAM)
        if answer.headers:
            assert answer.ended, "trailers do not end the stream"
            assert not any(name.startswith(":") for name in headers), "a pseudo-header in trailers"
            answer.trailers = headers
        else:
            assert [name for name in headers if name.startswith(":")] == [":status"]
            answer.headers = headers

    def _on_continuation(self, received: Frame) -> None:
        assert received.stream == self._block_of != 0

    def _on_rst_stream(self, received: Frame) -> None:
        assert len(received.payload) == 4
        answer = self.answers[received.stream]
        if answer.code is None:  # another may answer what was sent before the first was read
            answer.code = Code(int.from_bytes(received.payload, "big"))

    def _on_settings(self, received: Frame) -> None:
        if received.flags & ACK:
            assert not received.payload
            acknowledged = self.unacknowledged.pop(0)
            change = acknowledged.get(Setting.INITIAL_WINDOW_SIZE, self._ours[Setting.INITIAL_WINDOW_SIZE])
            for answer in self.answers.values():
                answer.window += change - self._ours[Setting.INITIAL_WINDOW_SIZE]
            self._ours.update(acknowledged)
            self.decoder.max_allowed_table_size = self._ours.get(Setting.HEADER_TABLE_SIZE, 4096)
            return
        assert len(received.payload) % 6 == 0
        for start in range(0, len(received.payload), 6):
            key, value = received.payload[start : start + 2], received.payload[start + 2 : start + 6]
            self.theirs[int.from_bytes(key, "big")] = int.from_bytes(value, "big")
        self._acknowledge(frame(Kind.SETTINGS, ACK))

    def _on_ping(self, received: Frame) -> None:
        assert len(received.payload) == 8
        if received.flags & ACK:
            self.pongs.append(received.payload)
        else:
            self.pinged += 1
            self._acknowledge(ping(received.payload, ACK))

    def _acknowledge(self, answer: bytes) -> None:
        if self.acks:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # of a server that has closed since
                self.send(answer)

    def _on_goaway(self, received: Frame) -> None:
        last, code = (int.from_bytes(received.payload[start : start + 4], "big") for start in (0, 4))
        assert self.goaway is None or last <= self.goaway[0], "the last stream may not grow (6.8)"
        self.goaway = last, Code(code)

    def _on_window_update(self, received: Frame) -> None:
        increment = int.from_bytes(received.payload, "big")
        assert 0 < increment <= LARGEST_WINDOW
        if received.stream:
            self._their_windows[received.stream] = self._their_windows.get(received.stream, 0) + increment
        else:
            self._their_window += increment
            assert self._their_window <= LARGEST_WINDOW
