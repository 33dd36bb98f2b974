"""Clients of the gRPC port that mean harm, or that anything at all comes from (RFC 9113, 10.5)."""

import contextlib
import itertools
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import pytest
from conftest import Server
from gumball.v1 import sampling_pb2 as pb
from http2_calls import (
    BODY,
    EMPTY,
    ENDING,
    INFO,
    SAMPLE_STREAM,
    assert_serves,
    assert_serves_others,
    begin,
    call,
    framed,
    headers,
    soft,
)
from http2_connection import Connection, connected
from http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    PADDED,
    PLAIN,
    PREFACE,
    WINDOW,
    Kind,
    Setting,
    frame,
    literal,
    padded,
    ping,
    reset,
    settings,
    uint32,
    window_update,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

MEBIBYTE = 1 << 20
MOST = 32 * MEBIBYTE  # that a flood may cost


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """With a Unix socket, in which little fits that nobody reads."""
    with tempfile.TemporaryDirectory(prefix="gumball-") as folder:
        server = Server("--grpc-engine", "native", "--grpc-uds", f"{folder}/grpc")
        yield server
        assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
        assert server.stop() == 0
    assert [line for line in server.log if " INFO " not in line] == []


@pytest.fixture(scope="module")
def address(own_server) -> str:
    return own_server.addresses["grpc_uds"]


def resident(server: Server) -> int:
    """Bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture(autouse=True)
def _no_memory_is_kept_and_others_are_served(own_server, address):
    """Whatever a test has done."""
    before = resident(own_server)
    yield
    assert_serves_others(address)
    assert resident(own_server) - before < MOST


# Floods: what is sent again and again on a connection whose stream 1 is open and whose next is 3, by a client that
# reads nothing.

BLOCK = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*each) for each in headers(INFO)])
MALFORMED = BLOCK + b"\x00\x01A\x00"
LARGE = literal(PLAIN, "x", "y" * 16_000)


def begun(stream: int, flags: int = END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, flags, stream, BLOCK)


def again(frames: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.repeat(frames * 4000)


def after(first: bytes, frames: bytes, at_once: int = 4000) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([first], itertools.repeat(frames * at_once))


def of_streams(make: Callable[[int], bytes]) -> Callable[[], Iterator[bytes]]:
    """What is made of new streams."""
    return lambda: (b"".join(map(make, range(first, first + 1000, 2))) for first in itertools.count(3, 1000))


ENDLESS = {
    "CONTINUATION of nothing": after(begun(1, 0), frame(Kind.CONTINUATION, 0, 1)),
    "CONTINUATION of headers": after(begun(1, 0), frame(Kind.CONTINUATION, 0, 1, b"\x00\x01x\x00")),
    "CONTINUATION of a large one": after(begun(1, 0), frame(Kind.CONTINUATION, 0, 1, LARGE), at_once=1),
}
ANSWERED = {
    "PING": again(ping()),
    "SETTINGS": again(settings({Setting.INITIAL_WINDOW_SIZE: 1000})),
    "calls without a message": of_streams(lambda n: frame(Kind.HEADERS, ENDING, n, BLOCK)),
}
UNANSWERED = {  # or by little, or by what waits for windows
    "calls": of_streams(lambda n: begun(n) + frame(Kind.DATA, END_STREAM, n, EMPTY)),
    "malformed calls": of_streams(lambda n: frame(Kind.HEADERS, ENDING, n, MALFORMED)),
    "calls that the server must reset": of_streams(lambda n: begun(n) + window_update(n, 0)),
    "calls that are reset": of_streams(lambda n: begun(n) + reset(n)),
    "calls that are reset when whole": of_streams(
        lambda n: begun(n) + frame(Kind.DATA, END_STREAM, n, EMPTY) + reset(n)
    ),
    "acknowledged PING": again(ping(flags=ACK)),
    "WINDOW_UPDATE": again(window_update(1, 1)),
    "PRIORITY": again(frame(Kind.PRIORITY, 0, 99, bytes(5))),
    "DATA of nothing": again(frame(Kind.DATA, 0, 1)),
    "DATA of padding": again(frame(Kind.DATA, PADDED, 1, padded(b"", 0))),
    "frames of a kind unknown": again(frame(0xFA, 0, 1)),
    "RST_STREAM": again(reset(1)),
    "GOAWAY": again(frame(Kind.GOAWAY, 0, 0, bytes(8))),
}


def flood(connection: Connection, batches: Iterator[bytes], other: Connection, seconds: float) -> str:
    """How it ends: cut off, blocked, or taken, to 8 MiB or as much as goes in these seconds."""
    connection.socket.settimeout(0.3)
    sent, end = 0, time.monotonic() + seconds
    try:
        while sent < 8 * MEBIBYTE and time.monotonic() < end:
            batch = next(batches)
            connection.send(batch)
            sent += len(batch)
            assert_serves(other)
    except TimeoutError:
        return "blocked"
    except (BrokenPipeError, ConnectionResetError):
        return "cut off"
    return "taken"


@pytest.mark.parametrize("name", ENDLESS)
def test_headers_without_end_are_cut_off(address, name):
    """Though they were to say nothing more (6.10)."""
    with Connection(address) as connection, Connection(address) as other:
        assert flood(connection, ENDLESS[name](), other, 60) == "cut off"


@pytest.mark.parametrize("name", ANSWERED)
def test_who_does_not_read_is_not_answered_without_end(address, name):
    """It is not read from either, or is cut off; and holds up nobody."""
    with Connection(address) as connection, Connection(address) as other:
        assert flood(connection, ANSWERED[name](), other, 60) != "taken"
        assert_serves(other)


@pytest.mark.parametrize("name", UNANSWERED)
def test_a_flood_costs_little_and_holds_up_nobody(address, name):
    """Of what needs no answer, or a short one."""
    with Connection(address) as connection, Connection(address) as other:
        begin(connection)
        flood(connection, UNANSWERED[name](), other, 0.5)
        assert_serves(other)


@pytest.mark.parametrize(
    "frames",
    [
        window_update(0, 1) * 40_000,
        (settings({Setting.INITIAL_WINDOW_SIZE: 1}) + settings({Setting.INITIAL_WINDOW_SIZE: 0})) * 10_000,
        frame(Kind.SETTINGS, payload=(settings({4: 1})[9:] + settings({4: 0})[9:]) * 80_000),
    ],
    ids=["WINDOW_UPDATE", "SETTINGS", "one SETTINGS"],
)
def test_many_streams_that_wait_make_nothing_slow(address, frames):
    """What may set all of them going, and does not, again and again."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 0}) as connection, Connection(address) as other:
        connection.sync()
        streams = [call(connection) for _ in range(min(connection.theirs[Setting.MAX_CONCURRENT_STREAMS], 1000))]
        while not all(connection.answers[each].headers for each in streams):
            connection.receive()
        connection.socket.settimeout(2)
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):  # it may be cut off, or not read
            connection.send(frames)
        begun = time.monotonic()
        assert_serves(other)
        assert time.monotonic() - begun < 2


def test_messages_that_nobody_reads_are_not_taken_without_end(address):
    """Though they have no bytes of their own."""
    request = pb.SampleRequest.FromString(BODY[5:])
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 0}) as connection:
        stream = begin(connection, SAMPLE_STREAM)
        connection.upload(
            stream, framed(pb.SampleStreamRequest(requests=[request] * 5000).SerializeToString()), end=False
        )
        connection.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.upload(stream, EMPTY * 2 * MEBIBYTE, end=False)


def test_a_body_keeps_nothing_else_in_memory(address):
    """Each of its bytes comes in a frame of its own, and that in two pieces, with much that is of no use before it."""
    junk = ping(flags=ACK) * 6000
    with Connection(address) as connection:
        stream = begin(connection)
        connection.data(stream, b"\0" + uint32(MEBIBYTE))
        for _ in range(500):
            connection.send(junk + frame(Kind.DATA, 0, stream, b"xy")[:-1])
            time.sleep(0.001)
            connection.send(b"y")


def test_half_frames_cost_little(own_server, address):
    """Of headers, be they as large as the server takes any."""
    before = resident(own_server)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(Connection(address))
            connection.sync()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(frame(Kind.HEADERS, ENDING, 1, bytes(connection.theirs[Setting.MAX_FRAME_SIZE]))[:-1])
        assert_serves_others(address)
        assert resident(own_server) - before < MOST


def test_a_few_bytes_do_not_become_many_headers(address):
    """RFC 7541, 7.3: an entry of the table that is named again and again."""
    with Connection(address) as connection:
        stream = connection.stream()
        entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000  # RFC 7541, 5.1: 127 + 33 + 30 * 128
        connection.send(frame(Kind.HEADERS, END_HEADERS, stream, BLOCK + entry + b"\xbe" * 10_000))
        while not connection.answers[stream].over and connection.receive() is not None:
            pass
        assert (
            connection.goaway
            or connection.answers[stream].code
            or connection.answers[stream].headers[":status"] == "431"
        )


# Anything.

KINDS = st.one_of(st.sampled_from(Kind), st.integers(0, 255))
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([BLOCK, MALFORMED, EMPTY, BODY, b"\x00" + BLOCK, bytes(5) + BLOCK, bytes(4), bytes(8)]),
    st.builds(lambda value: uint32(value), st.sampled_from([0, 1, 8, WINDOW, LARGEST_WINDOW, 2**32 - 1])),
    st.builds(
        lambda key, value: key.to_bytes(2, "big") + uint32(value),
        st.integers(0, 7),
        st.sampled_from([0, 1, 2, 100, 16_384, LARGEST_WINDOW, 2**32 - 1]),
    ),
)
FLAGS = st.one_of(st.sampled_from([0, END_STREAM, END_HEADERS, ENDING, PADDED, 0x20]), st.integers(0, 255))
FRAMES = st.builds(frame, KINDS, FLAGS, st.integers(0, 9), PAYLOADS)
CALLS = st.builds(
    lambda stream, body: begun(stream) + frame(Kind.DATA, END_STREAM, stream, body),
    st.sampled_from([1, 3, 5, 7, 9]),
    st.sampled_from([EMPTY, BODY, soft(2)]),
)


def until_closed(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass


@given(st.lists(st.one_of(FRAMES, FRAMES, CALLS), max_size=12), st.integers(0, 30))
@hypothesis_settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_frames_are_survived(address, frames, cut):
    """Once they are sent, or all but the last bytes of them, and no more come, the connection ends."""
    wire = PREFACE + settings({}).join(frames)
    with connected(address) as connection:
        connection.sendall(wire[: len(wire) - cut])
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)


@given(st.binary(max_size=200), st.integers(0, 60))
@hypothesis_settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_survived(address, noise, at):
    """From anywhere in a call."""
    wire = PREFACE + settings({}) + begun(1) + frame(Kind.DATA, END_STREAM, 1, EMPTY)
    with connected(address) as connection:
        connection.sendall(wire[:at] + noise + wire[at:])
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)
