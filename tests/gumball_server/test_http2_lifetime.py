"""How connections to the gRPC port end: the quiet, the old, and all at last (RFC 9113, 6.7 and 6.8)."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server
from http2_calls import BODY, EMPTY, WATCH, assert_sampled, assert_serves, assert_serves_others, begin, call
from http2_connection import Connection, connected
from http2_frames import LARGEST_WINDOW, PREFACE, Code, ping, settings

IMPATIENT = sys.executable, Path(__file__).parents[1] / "impatient_service.py"
KEEPALIVE, AGE, GRACE = 0.5, 2.5, 1.0
UNAVAILABLE = "14"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """With little patience: half a second for a handshake or an answer to a ping."""
    server = Server(
        *("--grpc-engine", "native", "--grpc-keepalive-seconds", str(KEEPALIVE)),
        *("--grpc-max-connection-age-seconds", str(AGE), "--grpc-max-connection-age-grace-seconds", str(GRACE)),
        command=IMPATIENT,
    )
    yield server
    assert server.stop() == 0
    assert [line for line in server.log if " INFO " not in line] == []


@pytest.fixture(scope="module")
def address(own_server) -> str:
    return own_server.addresses["grpc"]


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE, PREFACE + settings({})[:5]])
def test_a_connection_that_does_not_begin_is_closed(address, sent):
    """Soon, and not because a ping is not answered."""
    with connected(address) as connection:
        connection.settimeout(AGE - 1)
        connection.sendall(sent)
        begun = time.monotonic()
        received = b""
        while data := connection.recv(1000):
            received += data
        assert time.monotonic() - begun > 0.2
        assert ping()[:5] not in received
    assert_serves_others(address)


def test_a_client_that_does_not_answer_a_ping_is_gone(address):
    """It is not kept."""
    with Connection(address, acks=False) as connection:
        assert_serves(connection)
        begun = time.monotonic()
        while connection.receive() is not None:
            pass
        assert 0.9 < time.monotonic() - begun < AGE - 0.5
        assert connection.pinged == 1
    assert_serves_others(address)


def test_a_client_that_answers_pings_is_kept_until_it_is_old(address):
    """Then it is told to go, what is under way is answered, and only what lasts longer is ended."""
    with Connection(address) as connection:
        begun = time.monotonic()
        stream, watched = begin(connection), call(connection, WATCH, EMPTY)
        while connection.goaway is None:
            assert connection.receive() is not None
        assert time.monotonic() - begun > AGE - 0.5
        assert connection.pinged >= 2
        assert connection.goaway == (LARGEST_WINDOW, Code.NO_ERROR)
        assert_serves(connection)  # it could not know
        while connection.goaway[0] == LARGEST_WINDOW:
            assert connection.receive() is not None
        assert connection.goaway == (max(connection.answers), Code.NO_ERROR)
        late = call(connection)
        connection.upload(stream, BODY)
        assert_sampled(connection.answer(stream))
        assert connection.answer(watched).status == UNAVAILABLE
        assert connection.closed() == Code.NO_ERROR
        assert not connection.answers[late].headers
        assert AGE + GRACE - 0.5 < time.monotonic() - begun < AGE + GRACE + 2
    assert_serves_others(address)


def test_at_the_end_of_the_server_every_client_is_told_to_go():
    """What is under way is answered before; those with nothing under way go at once; nobody new comes in."""
    server = Server("--grpc-engine", "native")
    address = server.addresses["grpc"]
    with Connection(address) as idle, Connection(address) as busy:
        assert_serves(idle)
        stream = begin(busy)
        busy.sync()
        server.signal(signal.SIGTERM)
        assert idle.closed() == Code.NO_ERROR
        while busy.goaway is None:
            assert busy.receive() is not None
        busy.upload(stream, BODY)
        assert_sampled(busy.answer(stream))
        assert busy.closed() == Code.NO_ERROR
        with pytest.raises(ConnectionRefusedError):
            connected(address)
    assert server.wait() == 0
    assert [line for line in server.log if " INFO " not in line] == []
