"""Calls of the service in frames of HTTP/2, and what must come of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from http2_connection import Answer, Connection
from http2_frames import END_HEADERS, END_STREAM

SAMPLE, SAMPLE_STREAM, INFO = (f"/gumball.v1.SamplingService/{name}" for name in ("Sample", "SampleStream", "GetInfo"))
WATCH = "/grpc.health.v1.Health/Watch"
NOWHERE = "/nowhere.Service/Method"
OK, UNIMPLEMENTED = "0", "12"  # grpc-status

_LOGITS = np.array([[0.0, 1.0, 2.0]], np.float32)
_INDEX = contract.hard(_LOGITS, 7, [0]).tobytes()


def framed(message: bytes) -> bytes:
    """A message as gRPC has it in data."""
    return b"\0" + len(message).to_bytes(4, "big") + message


REQUEST = pb.SampleRequest(
    logits=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=_LOGITS.shape, data=_LOGITS.tobytes()), seed=7
)
BODY = framed(REQUEST.SerializeToString())


def soft(draws: int) -> bytes:
    """The body of a call of 3 KiB that is answered with `draws` times 4 KiB."""
    logits = pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[1, 1024], data=bytes(2048))
    return framed(pb.SampleRequest(logits=logits, mode="MODE_SOFT", seed=7, draws=draws).SerializeToString())


def headers(path: str = SAMPLE, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """Of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def begin(connection: Connection, path: str = SAMPLE, more: Iterable[tuple[str, str]] = ()) -> int:
    """The stream of a call whose body is still to come."""
    return connection.open(headers(path, *more))


def call(connection: Connection, path: str = SAMPLE, body: bytes = BODY) -> int:
    """The stream of a call that is sent."""
    stream = begin(connection, path)
    connection.upload(stream, body)
    return stream


def message(answer: Answer) -> bytes:
    """The one of an answer that has one."""
    assert (answer.headers[":status"], answer.headers["content-type"], answer.status) == ("200", "application/grpc", OK)
    assert answer.data[:5] == framed(answer.data[5:])[:5]
    return bytes(answer.data[5:])


def assert_sampled(answer: Answer) -> None:
    """With the bits of the contract."""
    assert pb.SampleResponse.FromString(message(answer)).index.data == _INDEX


def assert_serves(connection: Connection) -> None:
    assert_sampled(connection.answer(call(connection)))


def assert_serves_others(address: str) -> None:
    with Connection(address) as other:
        assert_serves(other)


def assert_closed(connection: Connection, *codes: int | None) -> None:
    """By the server, with GOAWAY of one of these errors, or for None without."""
    assert connection.closed() in codes


def assert_stream_error(connection: Connection, stream: int, *codes: int) -> None:
    """The stream is reset with one of these errors, and the connection serves on."""
    while connection.answers[stream].code is None:
        assert connection.receive() is not None, f"closed: {connection.goaway}"
    assert connection.answers[stream].code in codes
    assert_serves(connection)


EMPTY = framed(b"")
ENDING = END_HEADERS | END_STREAM


# Streams of a connection, each in another state (RFC 9113, 5.1).
CLOSED, OPEN, HALF_CLOSED, IDLE = 1, 3, 5, 7


@contextmanager
def in_each_state(address: str) -> Iterator[Connection]:
    """A connection with these streams; that which is half-closed is so by the client, and its answer never ends."""
    with Connection(address) as connection:
        connection.answer(call(connection))
        begin(connection)
        call(connection, WATCH, EMPTY)
        while not connection.answers[HALF_CLOSED].data:
            connection.receive()
        connection.sync()
        yield connection
