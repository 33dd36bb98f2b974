"""`POST /sample` has two routes through the server: the short one and ASGI. Whichever a request takes, it is the same.

What decides is how the request is sent, so these tests speak HTTP/1.1 over sockets of their own.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from random import Random

import httpx
import numpy as np
import pytest
from conftest import Server
from gumball import contract
from prometheus_client.parser import text_string_to_metric_families

LOGITS = [0.5, 1.0, -0.5, 2.0]
TIMEOUT = 30


def body_of(seed: int) -> bytes:
    return json.dumps({"logits": LOGITS, "seed": seed}).encode()


def index_of(seed: int) -> list[list[int]]:
    return [[int(contract.hard(np.array(LOGITS, np.float32), seed, 0, 0)[0])]]


def request(body: bytes, *headers: str, path: str = "/sample", version: str = "1.1", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: x", "content-type: application/json", *headers]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def index(self) -> list[list[int]]:
        return json.loads(self.body)["index"]


class Connection:
    """A connection that says and hears just what it is told to."""

    def __init__(self, server) -> None:
        port = int(server.http.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._heard = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> Response:
        """The next response; interim ones (100) too."""
        while b"\r\n\r\n" not in self._heard:
            self._hear()
        head, _, self._heard = self._heard.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._heard) < length:
            self._hear()
        body, self._heard = self._heard[:length], self._heard[length:]
        return Response(int(status.split()[1]), headers, body)

    def is_closed(self) -> bool:
        return not self._heard and self.socket.recv(1) == b""

    def _hear(self) -> None:
        data = self.socket.recv(1 << 16)
        assert data, "the connection was closed"
        self._heard += data


@pytest.fixture
def connection(server) -> Iterator[Connection]:
    with closing(Connection(server)) as connection:
        yield connection


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# As Java's own client and curl --http2 make with every request.
OFFER_OF_HTTP2 = ("connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB")

WAYS = {
    "short": lambda body: request(body),
    "a chunked body": lambda body: request(chunked(body, 7), "transfer-encoding: chunked", length=False),
    "HTTP/1.0": lambda body: request(body, "connection: keep-alive", version="1.0"),
    "a percent sign in the path": lambda body: request(body, path="/s%61mple"),
    "an offer of HTTP/2": lambda body: request(body, *OFFER_OF_HTTP2),
    "an absolute target": lambda body: request(body, path="http://x/sample"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_the_same_however_it_was_asked_for(connection: Connection, way: str):
    """The same headers but for the date and the connection, the same body but for the time it took."""
    connection.send(WAYS[way](body_of(5)))
    answer = connection.receive()
    assert answer.status == 200
    assert answer.index == index_of(5)
    assert answer.headers.keys() - {"connection"} == {"date", "content-type", "content-length"}
    assert answer.headers["content-type"] == "application/json"


def test_an_offer_of_another_protocol_is_left(connection: Connection):
    """Again and again, on every path, and if the body comes later."""
    for seed in range(3):
        head, _, body = request(body_of(seed), *OFFER_OF_HTTP2).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        time.sleep(0.05)
        connection.send(body)
        assert connection.receive().index == index_of(seed)
    connection.send(request(b"{}", *OFFER_OF_HTTP2, path="/v2/models/gumball/infer"))
    assert "inputs" in json.loads(connection.receive().body)["error"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"logits":[0,1],"tau":-1}', 422, "tau"),
        (b'{"logits":[[0,1],[2]]}', 422, "logits[1]"),
        (b'{"logits":[null]}', 422, "logits[0]"),
        (b'{"logits":[0,1]', 400, None),
        (b'{"logits":[0,1],"draws":4294967296}', 413, "outputs"),
    ],
)
def test_an_error_is_the_same_however_it_was_asked_for(connection, server, way, body, status, field):
    """The problem that a plain client is told of."""
    connection.send(WAYS[way](body))
    answer = connection.receive()
    plain = httpx.post(f"{server.http}/sample", content=body, headers={"content-type": "application/json"})
    assert (answer.status, plain.status_code) == (status, status)
    assert json.loads(answer.body) == plain.json()
    assert json.loads(answer.body).get("field") == field
    assert answer.headers["content-type"] == "application/problem+json"


LONG = [round(0.25 * (i % 37), 2) for i in range(40_000)]  # parsed in a thread


@pytest.mark.parametrize("way", ["short", "a chunked body"])
def test_a_long_body_is_answered_on_either_route(connection: Connection, way: str):
    """And its errors name the field as ever, and the connection serves on."""
    connection.send(WAYS[way](json.dumps({"logits": LONG, "seed": 3}).encode()))
    assert connection.receive().index == [[int(contract.hard(np.array(LONG, np.float32), 3, 0, 0)[0])]]
    connection.send(WAYS[way](json.dumps({"logits": [LONG, [1.0]]}).encode()))
    answer = connection.receive()
    assert (answer.status, json.loads(answer.body)["field"]) == (422, "logits[1]")
    connection.send(WAYS[way](json.dumps({"logits": LONG})[:-1].encode()))
    assert connection.receive().status == 400
    connection.send(WAYS[way](body_of(1)))
    assert connection.receive().index == index_of(1)


@pytest.mark.parametrize("way", ["short", "a chunked body"])
def test_a_client_that_leaves_while_its_long_body_is_parsed_is_counted_once(server, way: str):
    """Whether that was noticed in time or not."""
    before = sum(counted(server).values())
    for _ in range(5):
        with closing(Connection(server)) as leaver:
            leaver.send(WAYS[way](json.dumps({"logits": LONG, "seed": 3}).encode()))
    until(lambda: sum(counted(server).values()) == before + 5)
    assert "gumball_inflight_requests 0.0" in httpx.get(f"{server.http}/metrics").text


def test_requests_that_arrive_in_one_piece_are_answered_in_order(connection: Connection):
    """Pipelined ones, short and long and of other paths, of which the first takes longest."""
    slow = json.dumps({"logits": [[0.0] * 4096] * 8, "seed": 1, "draws": 50}).encode()
    other = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    connection.send(
        request(slow) + request(body_of(2)) + other + request(body_of(3)) + request(b"{") + request(body_of(4))
    )
    assert len(connection.receive().index) == 8
    assert connection.receive().index == index_of(2)
    assert connection.receive().body == b'{"status":"alive"}'
    assert connection.receive().index == index_of(3)
    assert connection.receive().status == 400
    assert connection.receive().index == index_of(4)


def test_many_requests_that_are_refused_may_arrive_in_one_piece(connection: Connection):
    """Each is answered as soon as it is read, before the next."""
    connection.send(request(body_of(4)))
    assert connection.receive().index == index_of(4)
    connection.send(request(body_of(4).replace(b"{", b"[")) * 600 + request(body_of(4)))
    assert {connection.receive().status for _ in range(600)} == {422}
    assert connection.receive().index == index_of(4)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_request_may_arrive_in_pieces(connection: Connection, size: int):
    """However the network cuts it, also two of them."""
    data = request(body_of(8)) + request(body_of(9))
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(0, len(data), size):
        connection.send(data[i : i + size])
    assert [connection.receive().index, connection.receive().index] == [index_of(8), index_of(9)]


@pytest.mark.parametrize("cuts", range(20))
def test_requests_with_the_same_head_are_answered_in_order_however_they_are_cut(connection: Connection, cuts: int):
    """The head is parsed once; the network may part it from its body, and join that with the next head."""
    seeds = range(10, 60)
    requests = [request(body_of(seed)) for seed in seeds]
    head = requests[0].index(b"\r\n\r\n") + 4
    assert {each[:head] for each in requests} == {requests[0][:head]}
    data, random = b"".join(requests), Random(cuts)
    size = len(requests[0])
    ends = {i * size + random.choice([0, head - 2, head, head + 9, random.randrange(size)]) for i in range(len(seeds))}
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    start = answered = 0
    for end in sorted({*ends, len(data)}):
        connection.send(data[start:end])
        start = end
        while random.random() < 0.7 and answered < end // size:
            assert connection.receive().index == index_of(seeds[answered])
            answered += 1
    for seed in seeds[answered:]:
        assert connection.receive().index == index_of(seed)


def test_a_long_body_is_answered_under_a_head_that_was_seen(connection: Connection):
    """It comes in many pieces, the next request in one with the last of them."""
    body = json.dumps({"logits": LONG, "seed": 3}).encode()
    for _ in range(3):
        connection.send(request(body) + request(body_of(7)))
        assert connection.receive().index == [[int(contract.hard(np.array(LONG, np.float32), 3, 0, 0)[0])]]
        assert connection.receive().index == index_of(7)


@pytest.mark.parametrize("way", ["bare line feeds", "line feeds that end the head early", "an empty line before it"])
def test_a_head_that_parsers_may_read_in_two_ways_is_read_alike_each_time(server, way: str):
    """What was remembered of the first must not change what the second is."""
    body = body_of(5)
    data = {
        "bare line feeds": request(body).replace(b"\r\n", b"\n"),
        "line feeds that end the head early": request(body).replace(b"\r\n\r\n", b"\n\n") + b"\r\n\r\n" + body,
        "an empty line before it": b"\r\n\r\n" + request(body),
    }[way]
    answers = []
    for _ in range(3):
        with closing(Connection(server)) as connection:
            connection.send(data)
            answer = connection.receive()
            answers.append((answer.status, answer.status == 200 and answer.index))
    assert answers[1:] == answers[:1] * 2


@pytest.mark.parametrize("way", ["short", "a chunked body"])
def test_a_client_that_wants_no_more_is_closed_on(connection: Connection, way: str):
    """After its answer, which says so."""
    connection.send(WAYS[way](body_of(5)).replace(b"host: x", b"host: x\r\nconnection: close", 1))
    answer = connection.receive()
    assert answer.index == index_of(5)
    assert answer.headers["connection"] == "close"
    assert connection.is_closed()


@pytest.mark.parametrize("way", ["short", "a chunked body"])
def test_a_connection_is_closed_once_it_was_idle_for_long_enough(way: str):
    """Each answer begins that time anew, and requests that come within it are answered."""
    server = Server("--idle-seconds", "1")
    try:
        with closing(Connection(server)) as connection:
            for _ in range(5):
                time.sleep(0.5)
                connection.send(WAYS[way](body_of(5)))
                assert connection.receive().index == index_of(5)
            answered = time.monotonic()
            assert connection.is_closed()
            assert 0.9 < time.monotonic() - answered < 5
    finally:
        server.stop()


def test_a_client_that_asks_whether_to_go_on_is_told_to(connection: Connection):
    """Expect: 100-continue, as curl sends with larger bodies."""
    body = body_of(6)
    connection.send(request(b"", "expect: 100-continue", f"content-length: {len(body)}", length=False))
    assert connection.receive().status == 100
    connection.send(body)
    assert connection.receive().index == index_of(6)


def counted(server) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    (requests,) = (family for family in families if family.name == "gumball_requests")
    http = [sample for sample in requests.samples if sample.labels["transport"] == "http"]
    return {(sample.labels["mode"], sample.labels["code"]): sample.value for sample in http}


@pytest.mark.parametrize("way", ["short", "a chunked body"])
def test_a_client_that_leaves_before_its_request_is_whole_is_counted_and_harms_nobody(server, way: str):
    """As cancelled, in no mode, on either route; others are answered, and nothing stays under way."""
    before = counted(server)
    whole = WAYS[way](body_of(1))
    for _ in range(3):
        with closing(Connection(server)) as leaver:
            leaver.send(whole[:-6])
    with closing(Connection(server)) as stayer:
        stayer.send(whole)
        assert stayer.receive().index == index_of(1)
    until(lambda: counted(server).get(("invalid", "CANCELLED"), 0) == before.get(("invalid", "CANCELLED"), 0) + 3)
    assert "gumball_inflight_requests 0.0" in httpx.get(f"{server.http}/metrics").text


def until(condition) -> None:
    """Wait for what only asking can tell."""
    for _ in range(1000):
        if condition():
            return
    raise AssertionError("it did not come to be")


def test_a_parameter_in_the_query_of_a_json_request_is_refused_on_the_short_route(connection: Connection):
    """As on the other; and the next request on the connection is served."""
    connection.send(request(body_of(5), path="/sample?seed=1"))
    answer = connection.receive()
    assert (answer.status, json.loads(answer.body)["field"]) == (422, "seed")
    connection.send(request(body_of(5)))
    assert connection.receive().index == index_of(5)


def test_another_path_that_begins_alike_is_not_taken_for_it(connection: Connection):
    """/samples is nowhere."""
    connection.send(request(body_of(5), path="/samples"))
    assert connection.receive().status == 404
