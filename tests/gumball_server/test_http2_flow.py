"""Flow control on the gRPC port, both ways (RFC 9113, 5.2 and 6.9). The client's own checks hold in every test."""

import pytest
from gumball.v1 import sampling_pb2 as pb
from http2_calls import (
    BODY,
    EMPTY,
    NOWHERE,
    SAMPLE,
    SAMPLE_STREAM,
    assert_sampled,
    assert_serves,
    assert_serves_others,
    begin,
    call,
    framed,
    headers,
    message,
    soft,
)
from http2_connection import Answer, Connection
from http2_frames import END_STREAM, LARGEST_WINDOW, PADDED, WINDOW, Code, Kind, Setting, frame, padded, reset

DRAWS = 64
LARGE = DRAWS * 4096  # bytes of soft samples
MOST = 64 << 20  # of what any client may have the server keep


pytestmark = pytest.mark.usefixtures("others_are_served")


@pytest.fixture(scope="module")
def large(address) -> bytes:
    """The soft samples of the large answer, from a client that lets all come at once."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}) as connection:
        connection.grant(0, LARGEST_WINDOW - WINDOW)
        return samples(connection.answer(call(connection, body=soft(DRAWS))))


def samples(answer: Answer, draws: int = DRAWS) -> bytes:
    data = pb.SampleResponse.FromString(message(answer)).soft.data
    assert len(data) == 4096 * draws
    return data


def take(connection: Connection, stream: int, size: int) -> None:
    """Read until so much data has come on a stream, and assert that it is not more."""
    while len(connection.answers[stream].data) < size:
        assert connection.receive() is not None
    connection.sync()
    assert len(connection.answers[stream].data) == size


# What the server sends.


def test_data_comes_as_the_window_of_its_stream_opens(address):
    """Which is 0 at first: headers alone are not counted (5.2.1)."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 0}) as connection:
        stream = call(connection)
        while not connection.answers[stream].headers:
            connection.receive()
        size = 0
        for increment in (1, 1, 3, 1, 10):
            take(connection, stream, size)
            connection.grant(stream, increment)
            size += increment
        take(connection, stream, size)
        connection.grant(stream, 1000)
        assert_sampled(connection.answer(stream))


def test_an_answer_without_data_needs_no_window(address):
    """Its status comes in headers."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 0}) as connection:
        assert connection.answer(call(connection, NOWHERE, EMPTY)).status == "12"


@pytest.mark.parametrize(("draws", "calls"), [(DRAWS, 3), (2, 20)])
def test_data_comes_as_the_window_of_the_connection_opens(address, draws, calls):
    """It is shared by all streams, and no setting changes it (6.9.2); the answers have many frames each, or one."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}) as connection:
        streams = [call(connection, body=soft(draws)) for _ in range(calls)]
        answers = [connection.answers[each] for each in streams]
        while sum(len(answer.data) for answer in answers) < WINDOW:
            connection.receive()
        connection.sync()
        assert sum(len(answer.data) for answer in answers) == WINDOW
        connection.grant(0, 10 * LARGE)
        assert len({samples(connection.answer(each), draws) for each in streams}) == 1


def test_a_stream_without_window_holds_up_no_other(address, large):
    """Nor does one that is reset while it waits."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 1000}) as connection:
        connection.grant(0, 10 * LARGE)
        stuck, leaving = call(connection, body=soft(DRAWS)), call(connection, body=soft(DRAWS))
        take(connection, stuck, 1000)
        take(connection, leaving, 1000)
        connection.send(reset(leaving))
        for _ in range(3):
            assert_serves(connection)
        connection.grant(stuck, LARGE)
        assert samples(connection.answer(stuck)) == large


def test_a_setting_changes_the_windows_of_open_streams(address, large):
    """6.9.2: by the difference, so that one may become negative."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 1000}) as connection:
        connection.grant(0, 10 * LARGE)
        stream = call(connection, body=soft(DRAWS))
        take(connection, stream, 1000)
        connection.change({Setting.INITIAL_WINDOW_SIZE: 1500})
        take(connection, stream, 1500)
        connection.change({Setting.INITIAL_WINDOW_SIZE: 300})
        connection.sync()
        assert connection.answers[stream].window == -1200
        connection.grant(stream, 1200)
        take(connection, stream, 1500)
        connection.grant(stream, 1)
        take(connection, stream, 1501)
        connection.change({Setting.INITIAL_WINDOW_SIZE: 0})
        connection.change({Setting.INITIAL_WINDOW_SIZE: 400})
        take(connection, stream, 1601)
        connection.change({Setting.INITIAL_WINDOW_SIZE: LARGE + 1000})
        assert samples(connection.answer(stream)) == large


@pytest.mark.parametrize("size", [16_384, 20_000, (1 << 24) - 1])
def test_frames_are_no_larger_than_the_client_takes(address, large, size):
    """4.2, which the client checks; and what it says later holds as well."""
    windows = {Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    with Connection(address, windows | {Setting.MAX_FRAME_SIZE: size}) as connection:
        connection.grant(0, LARGEST_WINDOW - WINDOW)
        assert samples(connection.answer(call(connection, body=soft(DRAWS)))) == large
        connection.change({Setting.MAX_FRAME_SIZE: 16_384})
        assert samples(connection.answer(call(connection, body=soft(DRAWS)))) == large


def test_the_largest_windows_may_be_used_up_and_filled_again(address, large):
    """2^31-1 is no error, again and again."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}) as connection:
        connection.grant(0, LARGEST_WINDOW - WINDOW)
        for _ in range(3):
            answer = connection.answer(call(connection, body=soft(DRAWS)))
            assert samples(answer) == large
            connection.grant(0, len(answer.data))


# What the server takes.


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
@pytest.mark.parametrize("padding", [None, 0, 255])
def test_windows_open_again_while_a_body_comes(address, size, padding):
    """Larger than any of them; padding counts as data does (6.1)."""
    rows = size // 16_384
    request = pb.SampleRequest(
        logits=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=[rows, 4096], data=bytes(rows * 16_384)), seed=7
    )
    body = framed(request.SerializeToString())
    with Connection(address) as connection:
        stream = begin(connection)
        connection.upload(stream, body, padding=padding)
        answer = pb.SampleResponse.FromString(message(connection.answer(stream)))
        assert len(answer.index.data) == 4 * rows


def test_padding_takes_windows_as_data_does(address):
    """6.1: and opens them again, that of the stream and that of the connection."""
    with Connection(address) as connection:
        connection.sync()
        stream = begin(connection)
        padding = frame(Kind.DATA, PADDED, stream, padded(b"", 255))
        left = connection.room(0) * 5 // 4
        while left > 0:
            while (frames := connection.room(stream) // 256) == 0:
                assert connection.receive() is not None
            connection.spend(stream, 256 * frames)
            connection.send(padding * frames)
            left -= 256 * frames
        connection.upload(stream, BODY)
        assert_sampled(connection.answer(stream))


def drop(connection: Connection, kind: str, size: int) -> None:
    """Send data that nobody will read."""
    listed = [each for each in headers(SAMPLE) if kind != "no call" or each[0] != "content-type"]
    if kind == "malformed":
        listed.append(("connection", "close"))
    stream = connection.open(listed)
    body = framed(b"" if kind == "two messages" else bytes(size)).ljust(size, b"\0")[:size]
    frames = [frame(Kind.DATA, 0, stream, body[n : n + 16_384]) for n in range(0, size, 16_384)]
    frames.append(reset(stream) if kind == "reset" else frame(Kind.DATA, END_STREAM, stream))
    connection.spend(stream, size)
    connection.send(*frames)


@pytest.mark.parametrize(
    "kind", ["reset", "malformed", "no call", "half a message", "two messages", "too many streams"]
)
def test_the_window_of_the_connection_is_restored_for_data_that_nobody_reads(address, kind):
    """6.9, of streams that are reset, refused or over: else a connection would starve in the end."""
    with Connection(address) as connection:
        connection.sync()
        if kind == "too many streams":
            for _ in range(connection.theirs[Setting.MAX_CONCURRENT_STREAMS]):
                begin(connection)
        whole = connection.room(0)
        size = min(whole, connection.theirs[Setting.INITIAL_WINDOW_SIZE]) // 2
        for _ in range(3 * whole // size):
            while connection.room(0) < size:
                assert connection.receive() is not None, "starved"
            drop(connection, kind, size)
        connection.sync()
        assert connection.room(0) >= whole // 2
        if kind != "too many streams":
            assert_serves(connection)


def test_data_beyond_the_window_is_an_error(address):
    """6.9.1. A stream of whose answers nothing is taken is not read without end, and then not granted any window."""
    with Connection(address, {Setting.INITIAL_WINDOW_SIZE: 0}) as connection:
        connection.sync()
        stream, sent = begin(connection, SAMPLE_STREAM), 0
        request = pb.SampleRequest.FromString(BODY[5:])
        body = framed(pb.SampleStreamRequest(requests=[request] * 200).SerializeToString())
        connection.socket.settimeout(0.5)
        try:
            while sent < MOST:
                while connection.room(stream) < len(body):
                    connection.receive()
                connection.upload(stream, body, end=False)
                sent += len(body)
        except TimeoutError:  # it is waiting for us to take some
            pass
        assert sent < MOST
        assert_serves_others(address)
        beyond = bytes(connection.room(stream) + 1)
        connection.send(*(frame(Kind.DATA, 0, stream, beyond[n : n + 16_384]) for n in range(0, len(beyond), 16_384)))
        while connection.answers[stream].code is None and connection.receive() is not None:
            pass
        assert (
            connection.goaway[1] if connection.goaway else connection.answers[stream].code
        ) == Code.FLOW_CONTROL_ERROR
