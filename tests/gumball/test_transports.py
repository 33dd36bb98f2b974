"""Both transports against services that fail on purpose: every reason arrives as its own class."""

import asyncio
import http.server
import json
import socket
import socketserver
import threading
from concurrent import futures

import grpc
import httpx
import numpy as np
import pytest
import uvloop
from contract_service import answer
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from gumball import AsyncClient, Client, Sample, contract, errors
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc

LOGITS = [[0.5, 1.5, -0.5]]
INFO = {
    "version": "0.1.0",
    "contracts": ["gumball/1"],
    "devices": [{"name": "cpu", "threads": 2}],
    "limits": {
        "max_request_bytes": 1,
        "max_response_bytes": 2,
        "max_categories": 3,
        "max_queue_elements": 4,
        "max_queue_requests": 5,
    },
}
REASONS = [
    (errors.InvalidArgument, 422, "INVALID_ARGUMENT"),
    (errors.TooLarge, 413, "RESOURCE_EXHAUSTED"),
    (errors.NotFound, 404, "UNIMPLEMENTED"),
    (errors.MethodNotAllowed, 405, "UNIMPLEMENTED"),
    (errors.UnsupportedMediaType, 415, "UNIMPLEMENTED"),
    (errors.Overloaded, 429, "RESOURCE_EXHAUSTED"),
    (errors.DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
    (errors.Unavailable, 503, "UNAVAILABLE"),
    (errors.Unauthenticated, 401, "UNAUTHENTICATED"),
    (errors.Internal, 500, "INTERNAL"),
]
each_reason = pytest.mark.parametrize(("kind", "status", "code"), REASONS)


def over_http(respond) -> Client:
    return Client("http://gumball", http_transport=httpx.MockTransport(respond), retries=0)


def problem(kind, status: int) -> httpx.Response:
    document = {"title": "refused", "status": status, "detail": "because", "reason": kind.reason, "field": "tau[3]"}
    headers = {"content-type": "application/problem+json", "retry-after": "2"}
    return httpx.Response(status, headers=headers, content=json.dumps(document))


@each_reason
def test_http_problems_become_their_errors(kind, status, code):
    """Reason, detail, field and the time to wait."""
    with over_http(lambda request: problem(kind, status)) as client, pytest.raises(errors.GumballError) as raised:
        client.sample(LOGITS)
    error = raised.value
    assert (type(error), error.detail, error.field, error.retry_after) == (kind, "because", "tau[3]", 2.0)


@each_reason
async def test_http_problems_become_their_errors_when_awaited(kind, status, code):
    """The asynchronous client raises the same."""
    transport = httpx.MockTransport(lambda request: problem(kind, status))
    async with AsyncClient("http://gumball", http_transport=transport, retries=0) as client:
        with pytest.raises(kind):
            await client.sample(LOGITS)


@pytest.mark.parametrize(
    ("status", "kind"), [(502, errors.Unavailable), (403, errors.Unauthenticated), (302, errors.InvalidAnswer)]
)
def test_a_proxys_page_is_read_by_its_status(status, kind):
    """There is no problem document where something in between answers."""
    with over_http(lambda request: httpx.Response(status, text="<html>")) as client, pytest.raises(kind):
        client.sample(LOGITS)


def test_a_retry_after_that_is_a_date_is_no_number_of_seconds():
    """HTTP allows dates there."""
    response = httpx.Response(429, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with over_http(lambda request: response) as client, pytest.raises(errors.Overloaded) as raised:
        client.sample(LOGITS)
    assert raised.value.retry_after is None


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("refused"), errors.Unavailable),
        (httpx.ConnectTimeout("silence"), errors.Unavailable),
        (httpx.RemoteProtocolError("disconnected"), errors.Unavailable),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded),
    ],
)
def test_a_failed_exchange_is_an_error_of_gumball(failure, kind):
    """No exception of httpx gets out."""

    def fail(request):
        raise failure

    with over_http(fail) as client, pytest.raises(kind):
        client.sample(LOGITS)


def test_a_timeout_is_told_to_the_service_and_kept_by_the_transport():
    """The transport waits a little longer, so that the service can say itself what happened."""
    seen = []

    def respond(request):
        seen.append((request.headers["request-timeout"], request.extensions["timeout"]["read"]))
        return answer(request)

    with over_http(respond) as client:
        client.sample(LOGITS, timeout=1.5)
    [(told, kept)] = seen
    assert 1.4 < float(told) <= 1.5
    assert 1.5 < kept < 2.5


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout):
    """Before any call."""
    with over_http(answer) as client, pytest.raises(errors.InvalidArgument) as raised:
        client.sample(LOGITS, timeout=timeout)
    assert raised.value.field == "timeout"


def test_a_problem_with_members_of_other_types_is_read_by_its_status():
    """Whatever its sender meant."""
    response = httpx.Response(429, json={"reason": ["OVERLOADED"], "detail": {"a": 1}, "field": 7})
    with over_http(lambda request: response) as client, pytest.raises(errors.Overloaded) as raised:
        client.sample(LOGITS)
    assert (raised.value.detail, raised.value.field) == ("HTTP status 429", None)


def test_headers_go_with_every_call():
    """Such as a token."""
    seen = []

    def respond(request):
        seen.append(request.headers["authorization"])
        return answer(request)

    transport = httpx.MockTransport(respond)
    with Client("http://gumball", headers={"authorization": "Bearer t"}, http_transport=transport) as client:
        client.sample(LOGITS)
    assert seen == ["Bearer t"]


def test_http_information_is_typed():
    """As the service tells it."""
    with over_http(lambda request: httpx.Response(200, json=INFO)) as client:
        assert client.info() == INFO


@pytest.mark.parametrize(
    "address",
    ["ftp://gumball", "gumball:8000", "", "http://host:port", "http:host", "grpc://", "grpc+unix://", "http://["],
)
def test_an_address_that_is_none_is_refused(address):
    """By name, before any call."""
    with pytest.raises(errors.InvalidArgument) as raised:
        Client(address)
    assert raised.value.field == "address"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_refused_connection_is_unavailable(scheme, unused_tcp_port):
    """Over both transports, in the same words."""
    with Client(f"{scheme}://127.0.0.1:{unused_tcp_port}") as client, pytest.raises(errors.Unavailable):
        client.sample(LOGITS)


class Script(sampling_pb2_grpc.SamplingServiceServicer):
    """A service that does what a test says."""

    def __init__(self, sample) -> None:
        self._sample = sample

    def Sample(self, request, context):  # noqa: N802 - as the service is generated
        return self._sample(request, context)

    def GetInfo(self, request, context):  # noqa: N802 - as the service is generated
        return pb.GetInfoResponse(
            version=INFO["version"],
            contracts=INFO["contracts"],
            devices=[pb.Device(**device) for device in INFO["devices"]],
            limits=pb.Limits(**INFO["limits"]),
        )


@pytest.fixture
def over_grpc(tmp_path):
    """The address of a gRPC service that answers as told, over a Unix socket."""
    servers = []

    def serve(sample, **options) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(1), **options)
        sampling_pb2_grpc.add_SamplingServiceServicer_to_server(Script(sample), server)
        server.add_insecure_port(f"unix:{tmp_path}/grpc.sock")
        server.start()
        servers.append(server)
        return f"grpc+unix://{tmp_path}/grpc.sock"

    yield serve
    for server in servers:
        server.stop(None).wait()


def refuse(code: str, *details):
    """A servicer's method that fails with google.rpc details."""
    status = Status(code=grpc.StatusCode[code].value[0], message="because")
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)

    def sample(request, context):
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(grpc.StatusCode[code], "because")

    return sample


@each_reason
async def test_grpc_details_become_their_errors(kind, status, code, over_grpc):
    """Reason, detail, field and the time to wait, in both clients."""
    info = ErrorInfo(reason=kind.reason, domain="gumball", metadata={"field": "tau[3]"})
    address = over_grpc(refuse(code, info, RetryInfo(retry_delay=Duration(nanos=250_000_000))))
    with Client(address, retries=0) as client, pytest.raises(errors.GumballError) as raised:
        client.sample(LOGITS)
    error = raised.value
    assert (type(error), error.detail, error.field, error.retry_after) == (kind, "because", "tau[3]", 0.25)
    async with AsyncClient(address, retries=0) as asynchronous:
        with pytest.raises(kind):
            await asynchronous.sample(LOGITS)


def test_a_grpc_status_without_our_details_is_read_by_its_code(over_grpc):
    """Another domain's reason, or a truncated status, says nothing about Gumball."""
    address = over_grpc(refuse("UNAVAILABLE", ErrorInfo(reason="INVALID_ARGUMENT", domain="proxy")))
    with Client(address) as client, pytest.raises(errors.Unavailable) as raised:
        client.sample(LOGITS)
    assert raised.value.field is None


DAMAGED = Status(details=[Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")])


@pytest.mark.parametrize("damaged", [b"\xff\xff", DAMAGED.SerializeToString()])
def test_a_damaged_grpc_status_is_read_by_its_code(over_grpc, damaged):
    """What does not parse is passed over."""

    def sample(request, context):
        context.set_trailing_metadata([("grpc-status-details-bin", damaged)])
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who?")

    with Client(over_grpc(sample)) as client, pytest.raises(errors.Unauthenticated):
        client.sample(LOGITS)


def test_a_message_longer_than_the_server_takes_is_too_large(over_grpc):
    """The gRPC library refuses it before the service can, with a status that also means overload."""
    address = over_grpc(None, options=[("grpc.max_receive_message_length", 1000)])
    with Client(address) as client, pytest.raises(errors.TooLarge):
        client.sample(np.zeros((1, 1000), np.float32))


def test_a_grpc_deadline_is_kept(over_grpc):
    """A service that never answers is given up at the deadline."""
    gone = threading.Event()

    def sample(request, context):
        context.add_callback(gone.set)
        gone.wait()

    with Client(over_grpc(sample)) as client, pytest.raises(errors.DeadlineExceeded):
        client.sample(LOGITS, timeout=0.05)
    assert gone.wait(5)


def test_an_answer_longer_than_grpcs_default_limit_arrives(over_grpc):
    """4 MiB is the library's limit, not the client's."""
    soft = np.full((1, 2, 1_000_000), 0.5, np.float32)

    def sample(request, context):
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=soft.shape, data=soft.tobytes())
        return pb.SampleResponse(contract="gumball/1", seed=1, tau=[1.0], soft=tensor)

    with Client(over_grpc(sample)) as client:
        np.testing.assert_array_equal(client.sample(np.zeros(1_000_000), mode="soft", draws=2, seed=1).soft, soft)


async def test_grpc_metadata_and_information(over_grpc):
    """Headers become metadata; the information is that of HTTP."""
    seen = []

    def sample(request, context):
        seen.append(dict(context.invocation_metadata())["authorization"])
        index = pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[1, 1], data=b"\0" * 4)
        return pb.SampleResponse(contract="gumball/1", seed=1, tau=[1.0], index=index)

    address = over_grpc(sample)
    with Client(address, headers={"Authorization": "Bearer t"}) as client:
        assert client.info() == INFO
        assert client.sample(LOGITS, seed=1).seed == 1
    async with AsyncClient(address, headers={"authorization": "Bearer t"}) as asynchronous:
        assert await asynchronous.info() == INFO
        assert (await asynchronous.sample(LOGITS, seed=1)).seed == 1
    assert seen == ["Bearer t", "Bearer t"]


class UnixService(http.server.BaseHTTPRequestHandler):
    """The contract service on a real socket."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        url = f"http://localhost{self.path}"
        response = answer(httpx.Request("POST", url, headers=dict(self.headers), content=body))
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *args):
        """Quiet."""


async def test_http_goes_over_a_unix_socket(tmp_path):
    """Both clients, with the bits of the contract."""
    expected = contract.hard(np.array(LOGITS, np.float32), seed=3)
    path = f"{tmp_path}/http.sock"
    with socketserver.ThreadingUnixStreamServer(path, UnixService) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http+unix://{path}") as client:
            assert client.sample(LOGITS, seed=3).index.ravel() == expected
        async with AsyncClient(f"http+unix://{path}") as asynchronous:
            assert (await asynchronous.sample(LOGITS, seed=3)).index.ravel() == expected
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_an_address_that_does_not_answer_is_not_waited_for(server, monkeypatch, run):
    """Of a name that has one of IPv6 and one of IPv4, as a network that lacks the one would have it."""
    port = int(server.addresses["grpc"].rpartition(":")[2])
    known = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
    found = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for family, place in known]

    async def draw() -> Sample:
        loop = type(asyncio.get_running_loop())
        really = loop.getaddrinfo

        async def getaddrinfo(self, host, *args, **more):
            return found if host == "gumball.test" else await really(self, host, *args, **more)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        async with AsyncClient(f"grpc://gumball.test:{port}", retries=0) as client:
            return await client.sample([0.0, 1.0, 2.0], seed=9)

    with socket.socket(socket.AF_INET6) as mute, socket.socket(socket.AF_INET6) as waiting:
        mute.bind(("::1", port))
        mute.listen(0)
        waiting.connect(("::1", port))  # takes the only place, so that the next one hears nothing
        assert run(draw()).index[0, 0] == contract.hard([0.0, 1.0, 2.0], 9)[0]
