"""Calls that are made again, or in two places: the same bits, from whoever answers."""

import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from itertools import count

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from contract_service import answer
from fake_service import FakeService, response_to, serving
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from gumball import AsyncClient, Client, _codec, contract, errors
from gumball._balancer import Balancer
from gumball._credentials import Certificates
from gumball._grpc import GRPCService
from gumball._places import Place
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceServicer
from named_services import balancer_of, request_of
from prometheus_client.parser import text_string_to_metric_families

LOGITS = np.random.default_rng(3).normal(0, 2, (1, 10)).astype(np.float32)


def index_of(seed: int) -> int:
    return int(contract.hard(LOGITS, seed)[0])


def refusing(times: int, reason: str, retry_after: float | None = None) -> FakeService:
    """A service that refuses the first requests."""
    calls = count(1)

    async def respond(request):
        if next(calls) > times:
            return response_to(request)
        return pb.SampleResponse(id=request.id, error=pb.Error(reason=reason, retry_after_seconds=retry_after))

    return FakeService(respond)


async def never(request: pb.SampleRequest) -> pb.SampleResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "OVERLOADED"])
async def test_a_call_that_is_refused_is_made_again_with_its_seed(reason):
    """The client drew the seed before the first try, so that every try draws the same sample."""
    service = refusing(2, reason, retry_after=0.05)
    start = time.monotonic()
    async with serving(service) as address, AsyncClient(address) as client:
        sample = await client.sample(LOGITS)
    assert time.monotonic() - start >= 0.1
    assert [request.seed for request in service.requests] == [sample.seed] * 3
    assert int(sample.index[0, 0]) == index_of(sample.seed)


@pytest.mark.parametrize("retries", [0, 2])
async def test_tries_are_bounded(retries):
    """The last refusal is the caller's."""
    service = refusing(100, "OVERLOADED", retry_after=0.01)
    async with serving(service) as address, AsyncClient(address, retries=retries) as client:
        with pytest.raises(errors.Overloaded):
            await client.sample(LOGITS)
    assert len(service.requests) == retries + 1


async def test_a_call_that_can_never_succeed_is_made_once():
    """Asking again would not help it."""
    service = refusing(100, "INVALID_ARGUMENT")
    async with serving(service) as address, AsyncClient(address) as client:
        with pytest.raises(errors.InvalidArgument):
            await client.sample(LOGITS)
    assert len(service.requests) == 1


async def test_nobody_waits_for_a_try_that_would_come_too_late():
    """The service asks for a minute, the caller has a second."""
    start = time.monotonic()
    service = refusing(100, "OVERLOADED", retry_after=60)
    async with serving(service) as address, AsyncClient(address) as client:
        with pytest.raises(errors.Overloaded) as raised:
            await client.sample(LOGITS, timeout=1)
    assert raised.value.retry_after == 60
    assert time.monotonic() - start < 1


class RefusingUnary(SamplingServiceServicer):
    """A service without streams that refuses its first calls."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        self.code = code
        self.status = Status(code=code.value[0], message="not now")
        self.status.details.add().Pack(ErrorInfo(reason=reason, domain="gumball"))
        self.status.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=50_000_000)))
        self.seeds: list[int] = []

    async def Sample(self, request, context):  # noqa: N802 - as the service is generated
        self.seeds.append(request.seed)
        if len(self.seeds) < 3:
            details = ("grpc-status-details-bin", self.status.SerializeToString())
            await context.abort(self.code, "not now", (details,))
        return response_to(request)

    async def SampleStream(self, messages, context):  # noqa: N802 - as the service is generated
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")


@pytest.mark.parametrize(("code", "reason"), [("UNAVAILABLE", "UNAVAILABLE"), ("RESOURCE_EXHAUSTED", "OVERLOADED")])
async def test_single_calls_are_made_again_too(code, reason):
    """By gRPC's own statuses."""
    service = RefusingUnary(grpc.StatusCode[code], reason)
    async with serving(service) as address, AsyncClient(address) as client:
        sample = await client.sample(LOGITS)
    assert service.seeds == [sample.seed] * 3


def over_http(*failures: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[str]]:
    """A transport that fails like this, one call after another, and then answers; and the seeds that it saw."""
    seeds: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seeds.append(request.url.params["seed"])
        if len(seeds) > len(failures):
            return answer(request)
        failure = failures[len(seeds) - 1]
        if isinstance(failure, Exception):
            raise failure
        return failure

    return httpx.MockTransport(respond), seeds


def test_http_calls_are_made_again_when_the_service_says():
    """429 and 503 with Retry-After, a proxy's page, and a connection that breaks."""
    transport, seeds = over_http(
        httpx.Response(429, headers={"retry-after": "0.1"}),
        httpx.Response(503, headers={"retry-after": "0.1"}, text="<html>"),
        httpx.ConnectError("refused"),
    )
    start = time.monotonic()
    with Client("http://gumball", http_transport=transport) as client:
        sample = client.sample(LOGITS)
    assert time.monotonic() - start >= 0.2
    assert seeds == [str(sample.seed)] * 4
    assert sample.index == index_of(sample.seed)


async def test_a_stream_that_breaks_is_opened_again():
    """The service goes away with the call unanswered, and comes back at the same address."""
    first, second = FakeService(never), FakeService()
    async with serving(first) as address:
        client = AsyncClient(address, retries=20)
        call = asyncio.create_task(client.sample(LOGITS, seed=5))
        await first.received.wait()
    async with serving(second, address.removeprefix("grpc://")):
        assert int((await call).index[0, 0]) == index_of(5)
        await client.close()
    assert [request.seed for request in second.requests] == [5]


@pytest.mark.parametrize("engine", ["native", "aio"])
async def test_calls_move_on_from_a_connection_that_grows_old(engine):
    """To a stream on another one, before the service cuts theirs off; so none has to be made again."""
    ages = ("--grpc-max-connection-age-seconds", "0.2", "--grpc-max-connection-age-grace-seconds", "0.5")
    server = Server("--grpc-engine", engine, *ages)
    try:
        async with AsyncClient(server.grpc, retries=0) as client:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                samples = await asyncio.gather(*(client.sample(LOGITS, seed=seed) for seed in range(5)))
                assert [int(sample.index[0, 0]) for sample in samples] == [index_of(seed) for seed in range(5)]
    finally:
        assert await asyncio.to_thread(server.stop) == 0


def grpc_requests(server: Server) -> float:
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(s.value for s in samples if s.name == "gumball_requests_total" and s.labels["transport"] == "grpc")


async def test_calls_go_round_two_servers_and_survive_the_end_of_one(server):
    """Each gets half; when one stops, gracefully or not, every call is answered all the same."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        other = Server()
        before = grpc_requests(server)
        async with AsyncClient(f"{server.grpc},{other.grpc.removeprefix('grpc://')}") as client:
            await asyncio.gather(*(client.sample(LOGITS, seed=n) for n in range(100)))
            assert grpc_requests(server) - before == grpc_requests(other) == 50
            calls = [asyncio.create_task(client.sample(LOGITS, seed=n)) for n in range(500)]
            await calls[0]
            other.signal(number)
            samples = await asyncio.gather(*calls)
            samples += [await client.sample(LOGITS, seed=n) for n in range(500, 600)]
        assert [int(sample.index[0, 0]) for sample in samples] == [index_of(n) for n in range(600)]
        assert await asyncio.to_thread(other.wait) == (0 if number == signal.SIGTERM else -signal.SIGKILL)


async def test_a_slow_service_is_hedged_by_another():
    """The first answer counts, and the slow service is told that its own is not wanted."""
    slow, quick = FakeService(never), FakeService()
    async with serving(slow) as one, serving(quick) as two, AsyncClient([one, two], hedge=0.02) as client:
        samples = [await client.sample(LOGITS, seed=seed) for seed in range(6)]
        assert [int(sample.index[0, 0]) for sample in samples] == [index_of(seed) for seed in range(6)]
        await client.sample(LOGITS, seed=7)
    assert len(slow.requests) >= 3
    assert set(slow.withdrawn) >= {request.id for request in slow.requests[:3]}


async def test_a_hedged_call_outlives_the_failure_of_either():
    """The one that fails does not take the other along; if both do, the caller learns it."""

    async def late(request):
        await asyncio.sleep(0.2)
        return response_to(request)

    slow, broken = FakeService(late), refusing(10**6, "UNAVAILABLE", retry_after=0.01)
    async with serving(slow) as one, serving(broken) as two, serving(broken) as three:
        async with AsyncClient([one, two], hedge=0.02, retries=1) as client:
            assert int((await client.sample(LOGITS, seed=0)).index[0, 0]) == index_of(0)
            assert broken.requests
        async with AsyncClient([two, three], hedge=0.02, retries=0) as client:
            with pytest.raises(errors.Unavailable):
                await client.sample(LOGITS)


async def test_a_name_is_called_at_each_of_its_addresses_and_looked_up_again():
    """As that of a headless Service is. Of those that are gone the calls go to the others, and new ones are found."""
    arguments = {"tau": None, "temperature": 1.0, "seeds": None, "draws": 1, "first_draw": 0, "first_row": 0}
    request = _codec.SampleRequest.of(LOGITS, mode="hard", seed=3, outputs=None, **arguments)
    first, second, third = FakeService(), FakeService(), FakeService()
    known = ["127.0.0.2", "127.0.0.3"]

    async def resolve(host: str, port: int | None) -> Sequence[str]:
        assert host == "gumball.test"
        if not known:
            raise OSError("no name server")
        return known

    def connect(place: Place) -> GRPCService:
        return GRPCService(place.address, {}, Certificates(), place.name)

    async with serving(first, "127.0.0.2:0") as address:
        port = address.rpartition(":")[2]
        balancer = Balancer([f"grpc://gumball.test:{port}"], connect, retries=3, resolve=resolve)
        async with serving(second, f"127.0.0.3:{port}"):
            for _ in range(10):
                await balancer.sample(request, None)
            assert (len(first.requests), len(second.requests)) == (5, 5)
        known.clear()
        async with serving(third, f"127.0.0.4:{port}"):
            for _ in range(10):
                await balancer.sample(request, None)
            assert len(first.requests) == 15
            known += ["127.0.0.2", "127.0.0.4"]
            async with asyncio.timeout(10):
                while not third.requests:
                    await balancer.sample(request, None)
        await balancer.close()


async def test_names_are_looked_up_again_after_certificates_could_not_be_read(monkeypatch):
    """They may be on their way to be replaced. Until they are there, those who are known are called."""
    monkeypatch.setattr("gumball._balancer.LOOK_AGAIN", 0.0)
    first, second = FakeService(), FakeService()
    known = ["127.0.0.2", "127.0.0.3"]
    are_there = False

    def connect(place: Place) -> GRPCService:
        if not are_there:
            raise errors.InvalidArgument("no certificate", "ca")
        return GRPCService(place.address, {}, Certificates(), place.name)

    async def resolve(host: str, port: int | None) -> Sequence[str]:
        return known

    async with serving(first, "127.0.0.2:0") as address:
        port = address.rpartition(":")[2]
        balancer = Balancer([f"grpc://gumball.test:{port}"], connect, retries=3, resolve=resolve)
        async with serving(second, f"127.0.0.4:{port}"):
            with pytest.raises(errors.InvalidArgument):
                await balancer.sample(request_of(LOGITS, "hard", 1), None)
            are_there = True
            await balancer.sample(request_of(LOGITS, "hard", 1), None)
            known[1] = "127.0.0.4"
            are_there = False
            for _ in range(4):
                await balancer.sample(request_of(LOGITS, "hard", 1), None)
                await asyncio.sleep(0.01)
            assert not second.requests
            are_there = True
            async with asyncio.timeout(10):
                while not second.requests:
                    await balancer.sample(request_of(LOGITS, "hard", 1), None)
        await balancer.close()


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_a_call_to_a_service_that_its_name_drops_is_made_elsewhere(server, way):
    """It was not answered there; those who called learn nothing of it."""
    port = int(server.addresses[way].rpartition(":")[2])
    known = ["127.0.0.1", "127.0.0.2", "127.0.0.9"]  # the second is silent, the last is nobody's
    balancer = balancer_of(f"{way}://gumball.test:{port}", known)
    large = np.zeros((1, 1 << 15), np.float32)  # by itself, not in a stream
    calls: list[asyncio.Task] = []
    with socket.create_server(("127.0.0.2", port)) as silent:
        asked = asyncio.create_task(asyncio.to_thread(silent.accept))
        async with asyncio.timeout(20):
            while not calls or not all(call.done() for call in calls):
                requests = [request_of(each, "hard", 5) for each in (large, LOGITS)]
                calls += [asyncio.create_task(balancer.sample(request, None)) for request in requests]
                await asyncio.wait(calls, timeout=0.1)
                if asked.done() and "127.0.0.2" in known:
                    known.remove("127.0.0.2")
        asked.result()[0].close()
    await balancer.close()
    assert {int(call.result().index[0, 0]) for call in calls[1::2]} == {index_of(5)}
    assert {int(call.result().index[0, 0]) for call in calls[::2]} == {int(contract.hard(large, 5)[0])}


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("retries", {"retries": -1}),
        ("retries", {"retries": 1.5}),
        ("hedge", {"hedge": 0}),
        ("address", {"address": []}),
        ("address", {"address": ["local:", "http://a"]}),
        ("address", {"address": "grpc://a,"}),
    ],
)
def test_options_that_are_none_are_refused_by_name(field, given):
    """Before any call."""
    with pytest.raises(errors.InvalidArgument) as raised:
        Client(**({"address": "http://gumball"} | given))
    assert raised.value.field == field
