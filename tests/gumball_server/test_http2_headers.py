"""Requests as any client may make them of the gRPC port (RFC 9113, section 8)."""

import pytest
from http2_calls import (
    BODY,
    EMPTY,
    ENDING,
    INFO,
    OK,
    assert_sampled,
    assert_serves,
    assert_stream_error,
    begin,
    framed,
    headers,
)
from http2_connection import Connection
from http2_frames import END_HEADERS, END_STREAM, PADDED, PLAIN, Code, Kind, frame, literal, padded

pytestmark = pytest.mark.usefixtures("others_are_served")


@pytest.fixture
def connection(address):
    with Connection(address) as connection:
        yield connection


# 8.2, 8.3: headers.

CALL = headers(INFO)


def without(*names: str) -> list[tuple[str, str]]:
    return [each for each in CALL if each[0] not in names]


BAD_HEADERS = {
    **{f"no {name}": without(name) for name in (":method", ":scheme", ":path")},  # 8.3.1
    **{f"two {name}": [(name, dict(CALL)[name]), *CALL] for name in (":method", ":scheme", ":path", ":authority")},
    "an empty :path": [(":path", ""), *without(":path")],
    ":status": [(":status", "200"), *CALL],
    "a pseudo-header unknown": [(":protocols", "x"), *CALL],
    ":path last": [*without(":path"), (":path", INFO)],
    "no header": [],
    "two lengths": [*CALL, ("content-length", "5"), ("content-length", "6")],  # 8.1.1
    **{  # 8.2.2
        f"{name}: {value}": [*CALL, (name, value)]
        for name, value in (
            ("connection", "close"),
            ("connection", "te"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        )
    },
    "te of more than trailers": [*without("te"), ("te", "gzip")],
    **{f"a name of {name!r}": [*CALL, (name, "x")] for name in ("Upper", "", "a b", "a\0", "a:b", "a\n", "ä")},  # 8.2.1
    **{f"a value of {value!r}": [*CALL, ("x", value)] for value in ("a\0", "a\r\nb: c", "a\n", " a", "a ", "\ta")},
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_malformed_request_is_a_stream_error(connection, name):
    """8.1.1: other requests are none of its business, and what was on its way is no further error (5.1)."""
    stream = connection.begin(connection.encoder.encode(BAD_HEADERS[name]))
    connection.data(stream, BODY)
    connection.send(frame(Kind.HEADERS, ENDING, stream, connection.encoder.encode([("x", "y")])))
    assert_stream_error(connection, stream, Code.PROTOCOL_ERROR)
    assert not connection.answers[stream].headers


GOOD_HEADERS = {
    "no authority": without(":authority"),
    "a host instead": [*without(":authority"), ("host", "x")],
    "https": [(":scheme", "https"), *without(":scheme")],
    "a name of signs": [*CALL, ("!#$%&'*+-.^_`|~09az", "x")],
    "an empty value": [*CALL, ("x", "")],
    "a value beyond ASCII": [*CALL, ("x", "größer")],
    "a value with spaces within": [*CALL, ("x", "a \t b")],
    "several cookies": [*CALL, ("cookie", "a=b"), ("cookie", "c=d")],
    "long headers": [*CALL, *((f"x-{n}", "y" * 500) for n in range(10))],
    "another order": [CALL[2], CALL[3], CALL[1], CALL[0], CALL[5], CALL[4]],
}


@pytest.mark.parametrize("name", GOOD_HEADERS)
def test_a_sound_request_is_served(connection, name):
    """Be it unusual."""
    stream = connection.begin(connection.encoder.encode(GOOD_HEADERS[name]))
    connection.upload(stream, EMPTY)
    assert connection.answer(stream).status == OK


@pytest.mark.parametrize(
    ("listed", "status"),
    [
        ([(":method", "GET"), *without(":method")], "405"),
        ([(":method", "PATCH"), *without(":method")], "405"),
        (without("content-type"), "415"),
        ([*without("content-type"), ("content-type", "application/json")], "415"),
        ([(":method", "GET"), *without(":method", "content-type")], "415"),
    ],
)
@pytest.mark.parametrize("flags", [ENDING, END_HEADERS])
def test_what_is_no_call_of_grpc_is_told_by_http(connection, listed, status, flags):
    """Whether or not a body is to come; what was begun and is not wanted is reset, without an error (8.1)."""
    stream = connection.begin(connection.encoder.encode(listed), flags)
    answer = connection.answer(stream)
    assert answer.headers[":status"] == status
    if flags != ENDING:
        connection.data(stream, BODY, END_STREAM)
    connection.sync()
    assert answer.code in ((None,) if flags == ENDING else (None, Code.NO_ERROR))
    assert_serves(connection)


# 8.1: trailers, and 8.1.1: the length of the body.


def test_trailers_end_a_request(connection):
    """They may change the table as any headers do."""
    stream = begin(connection)
    connection.upload(stream, BODY, end=False)
    connection.send(frame(Kind.HEADERS, ENDING, stream, connection.encoder.encode([("x", "y")])))
    assert_sampled(connection.answer(stream))
    stream = begin(connection, more=[("x", "y")])  # which are one byte now
    connection.upload(stream, BODY)
    assert_sampled(connection.answer(stream))


@pytest.mark.parametrize(
    ("block", "flags"),
    [
        (literal(PLAIN, "x", "y"), END_HEADERS),
        (literal(PLAIN, ":method", "POST"), ENDING),
        (literal(PLAIN, "X", "y"), ENDING),
        (literal(PLAIN, "connection", "close"), ENDING),
    ],
)
def test_malformed_trailers_are_a_stream_error(connection, block, flags):
    """Those that end nothing, too."""
    stream = begin(connection)
    connection.upload(stream, BODY, end=False)
    connection.send(frame(Kind.HEADERS, flags, stream, block))
    assert_stream_error(connection, stream, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("length", [str(len(BODY) - 1), str(len(BODY) + 1), "0", "-1", "x", "", "1" * 30, "1" * 5000])
def test_a_body_has_the_length_that_was_told(connection, length):
    """Not more, and not less."""
    stream = begin(connection, more=[("content-length", length)])
    for start in range(0, len(BODY), 10):
        connection.data(stream, BODY[start : start + 10], END_STREAM if start + 10 >= len(BODY) else 0)
    assert_stream_error(connection, stream, Code.PROTOCOL_ERROR)


def test_a_request_without_data_has_no_length(connection):
    """Its headers end it."""
    stream = connection.open(headers(INFO, ("content-length", "5")), ENDING)
    assert_stream_error(connection, stream, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("ends", ["data", "padding", "trailers"])
def test_the_length_is_that_of_data_without_padding(connection, ends):
    """However it ends."""
    stream = begin(connection, more=[("content-length", str(len(BODY)))])
    connection.data(stream, padded(BODY[:3], 9), PADDED)
    connection.data(stream, BODY[3:], END_STREAM if ends == "data" else 0)
    if ends == "padding":
        connection.data(stream, padded(b"", 9), PADDED | END_STREAM)
    if ends == "trailers":
        connection.send(frame(Kind.HEADERS, ENDING, stream, literal(PLAIN, "x", "y")))
    assert_sampled(connection.answer(stream))


def test_an_answer_s_headers_come_in_frames_that_the_client_takes(connection):
    """4.2, 6.10: one that echoes what it was asked may be long."""
    stream = begin(connection, "/inference.GRPCInferenceService/ModelMetadata")
    connection.upload(stream, framed(b"\x0a\xa0\x9c\x01" + b"n" * 20_000))  # the name of a model
    assert connection.answer(stream).status == "5"
    assert_serves(connection)
