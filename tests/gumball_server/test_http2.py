"""HTTP/2 as any client may speak it to the gRPC port: frames and streams (RFC 9113, sections 3 to 6)."""

import time

import hpack
import pytest
from http2_calls import (
    BODY,
    CLOSED,
    EMPTY,
    ENDING,
    HALF_CLOSED,
    OK,
    OPEN,
    SAMPLE_STREAM,
    WATCH,
    assert_sampled,
    assert_serves,
    begin,
    call,
    headers,
    in_each_state,
)
from http2_connection import Connection, connected
from http2_frames import (
    A_PRIORITY,
    ACK,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    Code,
    Kind,
    Setting,
    frame,
    padded,
    ping,
    reset,
    settings,
    uint32,
    window_update,
)

GREETING = PREFACE + settings({})


pytestmark = pytest.mark.usefixtures("others_are_served")


# 3.4: the preface.


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        PREFACE[:-1] + b"\r" + settings({}),
        b"\0" + GREETING,
        PREFACE + ping(),
        PREFACE + frame(Kind.SETTINGS, ACK),
        PREFACE + frame(Kind.HEADERS, ENDING, 1, b"\x83"),
        bytes(100_000),
    ],
)
def test_what_is_no_preface_is_cut_off(address, sent):
    """At once, and not by a timer."""
    with connected(address) as connection:
        connection.sendall(sent)
        connection.settimeout(3)
        received = b""
        try:
            while data := connection.recv(1 << 16):
                received += data
        except ConnectionResetError:
            pass
    assert b"HTTP/1" not in received


@pytest.mark.parametrize("sent", [b"", PREFACE[:1], PREFACE[:-1], PREFACE, GREETING, GREETING + ping()[:-1]])
def test_a_client_may_leave_at_any_byte(address, sent):
    """Its connection is closed as well."""
    with connected(address) as connection:
        connection.sendall(sent)
        connection.shutdown(1)
        while connection.recv(1 << 16):
            pass


# 4.1, 5.5: frames.


def a_call_on_the_wire() -> bytes:
    """From the first byte: headers and data with padding, data in two frames, and a ping."""
    block = hpack.Encoder().encode(headers())
    return b"".join(
        (
            GREETING,
            frame(Kind.HEADERS, END_HEADERS | PADDED | PRIORITY, 1, padded(A_PRIORITY + block, 3)),
            frame(Kind.DATA, PADDED, 1, padded(BODY[:7], 2)),
            frame(0xFA, 0xFF, 1, b"of a kind unknown"),
            frame(Kind.DATA, END_STREAM, 1, BODY[7:]),
            ping(),
        )
    )


def assert_answered(connection: Connection) -> None:
    """What `a_call_on_the_wire` asks for."""
    assert_sampled(connection.answer(1))
    while not connection.pongs:
        connection.receive()


def test_frames_may_arrive_in_two_pieces(address):
    """Wherever they are cut."""
    wire = a_call_on_the_wire()
    for cut in range(1, len(wire)):
        with Connection(address, greets=False) as connection:
            connection.stream()
            connection.send(wire[:cut])
            time.sleep(0.001)
            connection.send(wire[cut:])
            assert_answered(connection)


def test_frames_may_arrive_byte_by_byte(address):
    """Those of several calls."""
    with Connection(address, greets=False) as connection:
        connection.stream()
        for byte in a_call_on_the_wire():
            connection.send(bytes([byte]))
            time.sleep(0.0005)
        assert_answered(connection)


def test_many_frames_may_arrive_at_once(address):
    """A hundred calls in one segment, and each is answered."""
    with Connection(address) as connection:
        connection.sync()
        streams = [connection.stream() for _ in range(100)]
        for stream in streams:
            connection.spend(stream, len(BODY))
        blocks = [connection.encoder.encode(headers()) for _ in streams]
        connection.send(
            *(
                frame(Kind.HEADERS, END_HEADERS, stream, block) + frame(Kind.DATA, END_STREAM, stream, BODY)
                for stream, block in zip(streams, blocks, strict=True)
            )
        )
        for stream in streams:
            assert_sampled(connection.answer(stream))


# Streams, in whatever state.


@pytest.fixture
def connection(address):
    with in_each_state(address) as connection:
        yield connection


TOLERATED = {
    f"PRIORITY on stream {stream}": frame(Kind.PRIORITY, 0, stream, A_PRIORITY)
    for stream in (CLOSED, OPEN, HALF_CLOSED, 99, 100)
} | {
    "WINDOW_UPDATE on a closed stream": window_update(CLOSED, 1),
    "RST_STREAM on a closed stream": reset(CLOSED),
    "RST_STREAM twice": reset(HALF_CLOSED) * 2,
    "WINDOW_UPDATE after RST_STREAM": reset(HALF_CLOSED) + window_update(HALF_CLOSED, 1),
    "a reserved bit in a window": frame(Kind.WINDOW_UPDATE, 0, 0, uint32(1 << 31 | 1)),
    "a reserved bit in a stream": frame(Kind.WINDOW_UPDATE, 0, 1 << 31 | OPEN, uint32(1)),
    "PING with flags unknown": ping(flags=0xFE),
    "PING that is acknowledged unasked": ping(flags=ACK),
    "a frame of a kind unknown": frame(0xFA, 0xFF, 0, b"x") + frame(0xFA, 0, 98, bytes(10_000)),
    "GOAWAY": frame(Kind.GOAWAY, 0, 0, uint32(0) + uint32(Code.NO_ERROR) + b"bye"),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_what_is_no_error_disturbs_nothing(connection, name):
    """4.1, 5.1, 5.5, 6.3, 6.7 to 6.9: a call that is under way is answered."""
    connection.send(TOLERATED[name])
    connection.sync()
    connection.upload(OPEN, BODY)
    assert_sampled(connection.answer(OPEN))


def test_data_may_have_no_bytes(connection):
    """6.1: of the call, or of padding alone."""
    connection.data(OPEN, b"")
    connection.data(OPEN, padded(b"", 255), PADDED)
    connection.upload(OPEN, BODY, end=False)
    connection.data(OPEN, padded(b"", 0), PADDED | END_STREAM)
    assert_sampled(connection.answer(OPEN))


def test_settings_are_acknowledged_one_by_one(connection):
    """6.5.3, be they empty, unknown or said before; none comes back before the ping."""
    several = {}, {0xFFFF: 0xFFFF_FFFF, 0: 1}, {Setting.MAX_FRAME_SIZE: 1 << 20}, {Setting.HEADER_TABLE_SIZE: 0}, {}
    for each in several:
        connection.change(each)
    connection.sync()
    assert connection.unacknowledged == []
    assert_serves(connection)


def test_the_server_tells_sound_settings(connection):
    """6.5.2: and first of all."""
    assert connection.theirs.get(Setting.ENABLE_PUSH, 0) == 0  # a server may not say 1
    assert 16_384 <= connection.theirs[Setting.MAX_FRAME_SIZE] < 1 << 24
    assert connection.theirs[Setting.INITIAL_WINDOW_SIZE] <= LARGEST_WINDOW
    assert connection.theirs[Setting.MAX_CONCURRENT_STREAMS] >= 100  # 6.5.2 recommends no less


def test_a_ping_is_answered_with_its_own_bytes(connection):
    """6.7: in order, ahead of nothing that was asked before."""
    connection.pongs.clear()
    payloads = [bytes([n]) * 8 for n in range(20)]
    connection.send(*map(ping, payloads))
    connection.sync()
    assert connection.pongs[:-1] == payloads


# 5.1.2: concurrency.


def test_streams_beyond_the_limit_are_refused_and_those_before_are_answered(address):
    """Each by itself; when some have ended there is room again."""
    with Connection(address) as connection:
        connection.sync()
        limit = connection.theirs[Setting.MAX_CONCURRENT_STREAMS]
        streams = [begin(connection) for _ in range(limit)]
        connection.sync()
        refused = [call(connection) for _ in range(3)]
        connection.sync()
        assert [connection.answers[each].code for each in refused] == [Code.REFUSED_STREAM] * 3
        for each in streams:
            connection.upload(each, BODY)
        for each in streams:
            assert_sampled(connection.answer(each))
        assert_serves(connection)


def test_a_reset_withdraws_a_call_and_no_other(address):
    """5.4.2: with its body still to come, with its answer, or between the two."""
    with Connection(address) as connection:
        begun, watched, kept = begin(connection), call(connection, WATCH, EMPTY), begin(connection, SAMPLE_STREAM)
        while not connection.answers[watched].data:
            connection.receive()
        connection.send(reset(begun), reset(watched))
        assert_serves(connection)
        connection.data(kept, b"", END_STREAM)
        assert connection.answer(kept).status == OK
        assert not connection.answers[begun].headers
