"""What is particular to the server whose gRPC is its own."""

import re
import tempfile
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from gumball import Client, contract
from gumball.errors import Unauthenticated
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc

LOGITS = np.array([[0.0, 1.0, 2.0]], np.float32)
REQUEST = pb.SampleRequest(
    logits=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=LOGITS.shape, data=LOGITS.tobytes()), seed=7
)
INDEX = contract.hard(LOGITS, 7, [0]).tobytes()
LIMIT = 1 << 12


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server with a limit that is soon reached, on a Unix socket as well."""
    with tempfile.TemporaryDirectory(prefix="gumball-") as folder:
        flags = ("--grpc-engine", "native", "--grpc-uds", f"{folder}/grpc")
        server = Server(*flags, "--max-request-bytes", str(LIMIT))
        yield server
        assert server.stop() == 0
    assert [line for line in server.log if " INFO " not in line] == []


@pytest.fixture
def stub(own_server) -> Iterator[sampling_pb2_grpc.SamplingServiceStub]:
    with grpc.insecure_channel(own_server.addresses["grpc"]) as channel:
        yield sampling_pb2_grpc.SamplingServiceStub(channel)


def test_a_unix_socket_serves_too(own_server):
    """The same service without a network."""
    with grpc.insecure_channel(f"unix:{own_server.addresses['grpc_uds']}") as channel:
        assert sampling_pb2_grpc.SamplingServiceStub(channel).Sample(REQUEST).index.data == INDEX


@pytest.mark.parametrize("size", [LIMIT, 1000 * LIMIT])  # in one frame, or in many
def test_a_message_over_the_limit_is_refused_with_its_reason_and_counted(own_server, stub, size):
    """Where grpc.aio refuses it unseen, here it is a request like others."""
    counter = 'gumball_requests_total{code="TOO_LARGE",mode="invalid",transport="grpc"} '

    def counted() -> float:
        told = re.findall(re.escape(counter) + "(.*)", httpx.get(f"{own_server.http}/metrics").text)
        return float(told[0]) if told else 0.0

    before = counted()
    call = stub.Sample.future(pb.SampleRequest(logits=pb.Tensor(data=bytes(size))))
    error = call.exception()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in error.details()
    info = ErrorInfo()
    assert Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("TOO_LARGE", "gumball")
    assert counted() == before + 1
    assert stub.Sample(REQUEST).index.data == INDEX


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_sampled_from_unless_it_is_too_large_then(stub, compression):
    """Whatever few bytes it had before."""
    assert stub.Sample(REQUEST, compression=compression).index.data == INDEX
    with pytest.raises(grpc.RpcError) as raised:
        stub.Sample(pb.SampleRequest(logits=pb.Tensor(data=bytes(1000 * LIMIT))), compression=compression)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_tokens_are_asked_for_on_this_engine_too(tmp_path):
    """By every method but those that tell whether the service is well; what is refused is counted."""
    tokens = tmp_path / "tokens"
    tokens.write_text("right\n")
    server = Server("--grpc-engine", "native", "--token-file", str(tokens))
    try:
        with Client(server.grpc, token="right") as right:  # noqa: S106
            assert right.sample([0.0, 1.0], seed=1).index.shape == (1, 1)
        with Client(server.grpc, token="wrong") as wrong, pytest.raises(Unauthenticated):  # noqa: S106
            wrong.info()
        with grpc.insecure_channel(server.addresses["grpc"]) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                sampling_pb2_grpc.SamplingServiceStub(channel).Sample(REQUEST)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        metrics = httpx.get(f"{server.http}/metrics", headers={"authorization": "Bearer right"}).text
        (counted,) = re.findall(r'gumball_requests_total{code="UNAUTHENTICATED",.*transport="grpc"} (.*)', metrics)
        assert counted == "2.0"
    finally:
        assert server.stop() == 0
