"""What no client may send to the gRPC port, and the error that it is told (RFC 9113, sections 4 to 7)."""

import pytest
from http2_calls import (
    CLOSED,
    ENDING,
    HALF_CLOSED,
    IDLE,
    OPEN,
    assert_stream_error,
    headers,
    in_each_state,
)
from http2_frames import (
    A_PRIORITY,
    ACK,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    PADDED,
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

pytestmark = pytest.mark.usefixtures("others_are_served")


@pytest.fixture
def connection(address):
    with in_each_state(address) as connection:
        yield connection


def head(size: int, kind: int, stream: int = 0) -> bytes:
    """Of a frame whose payload never comes."""
    return size.to_bytes(3, "big") + bytes([kind, 0]) + uint32(stream)


BLOCK = b"\x83"  # :method POST
STREAM_0 = {
    f"{kind.name} with flags {flags} on stream 0": (frame(kind, flags, 0, payload), Code.PROTOCOL_ERROR)
    for kind, flags, payload in (
        (Kind.DATA, 0, b"x"),
        (Kind.HEADERS, ENDING, BLOCK),
        (Kind.PRIORITY, 0, A_PRIORITY),
        (Kind.RST_STREAM, 0, uint32(Code.CANCEL)),
        (Kind.HEADERS, 0, BLOCK),  # though more of it is to come
        (Kind.CONTINUATION, END_HEADERS, BLOCK),
    )
}
NOT_STREAM_0 = {
    f"{kind.name} on a stream": (frame(kind, 0, OPEN, payload), Code.PROTOCOL_ERROR)
    for kind, payload in ((Kind.SETTINGS, b""), (Kind.PING, bytes(8)), (Kind.GOAWAY, bytes(8)))
}
SIZES = {
    f"{kind.name} of {size} bytes": (frame(kind, flags, stream, bytes(size)), Code.FRAME_SIZE_ERROR)
    for kind, flags, stream, sizes in (
        (Kind.RST_STREAM, 0, OPEN, (0, 3, 5)),
        (Kind.SETTINGS, 0, 0, (1, 5, 7)),
        (Kind.SETTINGS, ACK, 0, (6,)),
        (Kind.PING, 0, 0, (0, 7, 9)),
        (Kind.PING, ACK, 0, (7,)),
        (Kind.GOAWAY, 0, 0, (0, 7)),
        (Kind.WINDOW_UPDATE, 0, 0, (0, 3, 5)),
        (Kind.WINDOW_UPDATE, 0, OPEN, (3, 5)),
        (Kind.PRIORITY, 0, OPEN, (4,)),  # that of a stream, in 6.3, which an endpoint may treat so (5.4.2)
    )
    for size in sizes
}
SETTINGS = {
    f"{setting.name} of {value}": (settings({setting: value}), code)
    for setting, value, code in (
        (Setting.ENABLE_PUSH, 2, Code.PROTOCOL_ERROR),
        (Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1, Code.FLOW_CONTROL_ERROR),
        (Setting.MAX_FRAME_SIZE, 16_383, Code.PROTOCOL_ERROR),
        (Setting.MAX_FRAME_SIZE, 1 << 24, Code.PROTOCOL_ERROR),
    )
}
PADDING = {
    "DATA of padding beyond it": (frame(Kind.DATA, PADDED, OPEN, b"\x04abc"), Code.PROTOCOL_ERROR),
    "HEADERS of padding beyond it": (frame(Kind.HEADERS, ENDING | PADDED, IDLE, b"\x02" + BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS of padding over its priority": (
        frame(Kind.HEADERS, ENDING | PADDED | PRIORITY, IDLE, b"\x04" + A_PRIORITY),
        Code.PROTOCOL_ERROR,
    ),
}
STATES = {
    "HEADERS on an even stream": (frame(Kind.HEADERS, ENDING, IDLE + 1, BLOCK), Code.PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(Kind.DATA, 0, IDLE, b"x"), Code.PROTOCOL_ERROR),
    "DATA on an even stream": (frame(Kind.DATA, 0, 2, b"x"), Code.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (reset(IDLE), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (window_update(IDLE, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an even stream": (window_update(2, 1), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(Kind.PUSH_PROMISE, END_HEADERS, OPEN, uint32(2) + BLOCK), Code.PROTOCOL_ERROR),
}
WINDOWS = {
    "WINDOW_UPDATE of 0": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "a window beyond 2^31-1": (window_update(0, LARGEST_WINDOW), Code.FLOW_CONTROL_ERROR),
    "a window beyond 2^31-1 by settings": (
        window_update(HALF_CLOSED, LARGEST_WINDOW - 65_535) + settings({Setting.INITIAL_WINDOW_SIZE: 70_000}),
        Code.FLOW_CONTROL_ERROR,
    ),
}
UNENDED = frame(Kind.HEADERS, END_STREAM, IDLE, BLOCK)
CONTINUATIONS = {
    "CONTINUATION of nothing": (frame(Kind.CONTINUATION, END_HEADERS, OPEN, BLOCK), Code.PROTOCOL_ERROR),
    "CONTINUATION after all headers": (
        frame(Kind.HEADERS, ENDING, IDLE, BLOCK) + frame(Kind.CONTINUATION, END_HEADERS, IDLE, BLOCK),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        UNENDED + frame(Kind.CONTINUATION, END_HEADERS, OPEN, BLOCK),
        Code.PROTOCOL_ERROR,
    ),
} | {
    f"{name} within headers": (UNENDED + between, Code.PROTOCOL_ERROR)
    for name, between in (
        ("DATA", frame(Kind.DATA, 0, OPEN, b"x")),
        ("DATA of the stream", frame(Kind.DATA, 0, IDLE, b"x")),
        ("DATA with padding", frame(Kind.DATA, PADDED, OPEN, padded(b"x", 1))),
        ("HEADERS", frame(Kind.HEADERS, ENDING, IDLE + 2, BLOCK)),
        ("HEADERS of the stream", frame(Kind.HEADERS, ENDING, IDLE, BLOCK)),
        ("PRIORITY", frame(Kind.PRIORITY, 0, OPEN, A_PRIORITY)),
        ("RST_STREAM", reset(IDLE)),
        ("SETTINGS", settings({})),
        ("PING", ping()),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("GOAWAY", frame(Kind.GOAWAY, 0, 0, bytes(8))),
        ("a frame of a kind unknown", frame(0xFA, 0, 0, b"x")),
    )
}
CONNECTION_ERRORS = STREAM_0 | NOT_STREAM_0 | SIZES | SETTINGS | PADDING | STATES | WINDOWS | CONTINUATIONS


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_connection_error_is_told_and_ends_the_connection(connection, name):
    """5.4.1, with the code that the section of the frame names."""
    frames, code = CONNECTION_ERRORS[name]
    assert connection.stream() == IDLE
    connection.unacknowledged.append({})  # some settings are sound, but for what was before
    connection.send(frames)
    assert connection.closed() == code
    assert connection.goaway[0] >= HALF_CLOSED  # the last stream that was taken


@pytest.mark.parametrize(
    "frames",
    [
        frame(Kind.HEADERS, ENDING | PRIORITY, IDLE, A_PRIORITY[:4]),
        frame(Kind.HEADERS, ENDING | PADDED, IDLE),
        frame(Kind.DATA, PADDED, OPEN),
    ],
)
def test_a_frame_too_short_for_its_flags_is_an_error(connection, frames):
    """4.2 and 6.1 may both be meant."""
    connection.send(frames)
    assert connection.closed() in (Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.HEADERS, Kind.SETTINGS, Kind.PING, 0xFA])
def test_a_frame_larger_than_allowed_is_not_waited_for(connection, kind):
    """4.2: its head tells enough."""
    stream = 0 if kind in (Kind.SETTINGS, Kind.PING) else OPEN
    connection.send(head(connection.theirs[Setting.MAX_FRAME_SIZE] + 1, kind, stream))
    assert connection.closed() == Code.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("frames", "codes"),
    [
        (frame(Kind.HEADERS, ENDING, CLOSED, BLOCK), (Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
        (frame(Kind.DATA, END_STREAM, CLOSED, b"x"), (Code.STREAM_CLOSED,)),
        (frame(Kind.DATA, 0, HALF_CLOSED, b"x"), (Code.STREAM_CLOSED,)),
        (frame(Kind.HEADERS, ENDING, HALF_CLOSED, BLOCK), (Code.STREAM_CLOSED,)),
        (
            frame(Kind.HEADERS, 0, HALF_CLOSED, BLOCK) + frame(Kind.CONTINUATION, END_HEADERS, HALF_CLOSED),
            (Code.STREAM_CLOSED,),
        ),
    ],
)
def test_what_follows_the_end_of_a_stream_is_an_error(connection, frames, codes):
    """5.1: of the stream, or of the connection."""
    stream = int.from_bytes(frames[5:9], "big")
    connection.send(frames)
    while connection.answers[stream].code is None and connection.receive() is not None:
        pass
    assert (connection.goaway[1] if connection.goaway else connection.answers[stream].code) in codes


def test_streams_are_opened_in_order(connection):
    """5.1.1: a later one closes all before that were not opened."""
    connection.send(frame(Kind.HEADERS, ENDING, IDLE + 2, connection.encoder.encode(headers())))
    connection.stream()
    connection.stream()
    connection.send(frame(Kind.HEADERS, ENDING, IDLE, connection.encoder.encode(headers())))
    assert connection.closed() in (Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (window_update(OPEN, 0), Code.PROTOCOL_ERROR),
        (window_update(OPEN, LARGEST_WINDOW), Code.FLOW_CONTROL_ERROR),
    ],
)
def test_a_stream_error_ends_the_stream_alone(connection, frames, code):
    """5.4.2."""
    connection.send(frames)
    assert_stream_error(connection, OPEN, code)
    assert not connection.answers[HALF_CLOSED].over
