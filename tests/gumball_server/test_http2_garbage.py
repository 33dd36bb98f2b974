"""What a request leaves behind in memory once it is answered."""

import asyncio
import gc

from gumball.http2 import frames
from gumball.http2.headers import block
from gumball.http2.stream import Stream
from gumball_server.http2.connection import Connection
from gumball_server.http2.lifetime import Ages

REQUESTS = 1000
REQUEST = block([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/")])
HEAD, TRAILERS = block([(b":status", b"200")]), block([(b"grpc-status", b"0")])


class Answers:
    """A receiver, which knows its stream as all do."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def take(self, data: bytes | memoryview) -> None: ...

    def end(self) -> None:
        self.stream.send_whole(HEAD, b"body", TRAILERS)

    def has_room(self) -> bool:
        return True

    def gone(self, code: int | None) -> None: ...

    def stop(self) -> None: ...


class Sink(asyncio.Transport):
    """A transport that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def test_an_answered_request_is_no_work_for_the_garbage_collector():
    """It would stop the event loop for milliseconds, again and again."""
    connection, sink = Connection(lambda _: Answers, Ages(0, 0, 0), set()), Sink()
    connection.connection_made(sink)
    connection.data_received(frames.PREFACE + frames.settings({}) + frames.window_update(0, 1 << 20))
    before = sink.written
    gc.collect()
    for number in range(1, 2 * REQUESTS, 2):
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, number, REQUEST)
        connection.data_received(head + frames.frame(frames.DATA, frames.END_STREAM, number, b"body"))
    assert sink.written - before == REQUESTS * (3 * frames.HEAD_BYTES + len(HEAD + b"body" + TRAILERS))
    assert gc.collect() < REQUESTS / 10
    connection.connection_lost(None)
