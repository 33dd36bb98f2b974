"""`SampleStream` as a client with nothing but the stubs sees it."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceStub
from prometheus_client.parser import text_string_to_metric_families

LOGITS = np.array([[0.5, -1.0, -np.inf, 2.0], [1.0, 0.0, -2.0, 0.25], [3.0, 3.0, 3.0, -np.inf]], np.float32)
MODES = ("hard", "soft", "straight_through")

# One thread is busy for about a second with the slow one. The quick one is too large for the event loop, though its
# request is small: it waits behind slow ones.
SLOW = {"logits": np.zeros((1, 1 << 14), np.float16), "draws": 150_000}
QUICK = {"logits": np.zeros((1, 3), np.float16), "draws": 8_000}


def request(number: int, logits: np.ndarray = LOGITS, mode: str = "hard", **fields: Any) -> pb.SampleRequest:
    dtype = f"DATA_TYPE_{logits.dtype.name.upper()}"
    tensor = pb.Tensor(dtype=dtype, shape=logits.shape, data=logits.tobytes())
    return pb.SampleRequest(**{"id": number, "logits": tensor, "mode": f"MODE_{mode.upper()}", "seed": number} | fields)


def message(*requests: pb.SampleRequest, **fields: Any) -> pb.SampleStreamRequest:
    return pb.SampleStreamRequest(requests=requests, **fields)


async def answers(call: grpc.aio.StreamStreamCall, number: int) -> list[pb.SampleResponse]:
    """The next `number` responses in the order in which they came."""
    received: list[pb.SampleResponse] = []
    while len(received) < number:
        response = await asyncio.wait_for(call.read(), 60)
        assert response is not grpc.aio.EOF
        received += response.responses
    assert len(received) == number
    return received


async def end(call: grpc.aio.StreamStreamCall) -> tuple[grpc.StatusCode, str]:
    """Status and reason of a stream that has nothing more to say."""
    try:
        assert await asyncio.wait_for(call.read(), 60) is grpc.aio.EOF
    except grpc.aio.AioRpcError as error:
        info = ErrorInfo()
        Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(info)
        return error.code(), info.reason
    return await call.code(), ""


def samples(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of the samples with this name and these labels."""
    return sum(v for (n, told), v in samples(server).items() if n == name and labels.items() <= dict(told).items())


async def until(server: Server, wanted: float, name: str, **labels: str) -> None:
    """Wait for what only asking can tell."""
    async with asyncio.timeout(60):
        while await asyncio.to_thread(metric, server, name, **labels) != wanted:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.005)


@asynccontextmanager
async def connection(server: Server) -> AsyncIterator[SamplingServiceStub]:
    async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
        yield SamplingServiceStub(channel)


@pytest.fixture
async def stub(server) -> AsyncIterator[SamplingServiceStub]:
    async with connection(server) as stub:
        yield stub


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """A server with one thread and a batch a request."""
    server = Server("--threads", "1", "--max-batch-elements", "1", "--max-queue-elements", str(1 << 40))
    yield server
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


@asynccontextmanager
async def busy(server: Server, stub: SamplingServiceStub) -> AsyncIterator[grpc.aio.UnaryUnaryCall]:
    """While the worker has one slow request and the next ready; gives the one that it computes. Then all is quiet."""
    computed, ready = (stub.Sample(request(n, **SLOW)) for n in range(2))
    await until(server, 2, "gumball_inflight_requests")
    yield computed
    await asyncio.gather(computed, ready)
    await until(server, 0, "gumball_inflight_requests")


async def test_a_stream_gives_the_bits_of_single_calls_and_of_the_contract(stub):
    """In every mode, whoever shares the message; the id is echoed."""
    requests = [request(n, LOGITS[: 1 + n % 3], MODES[n % 3], tau=[0.5], draws=1 + n % 2) for n in range(60)]
    call = stub.SampleStream()
    for start in range(0, 60, 20):
        await call.write(message(*requests[start : start + 20]))
    streamed = {response.id: response for response in await answers(call, 60)}
    for asked in requests:
        alone, response = await stub.Sample(asked), streamed[asked.id]
        for each in (alone, response):
            each.ClearField("timings")
        assert response == alone
        rows = len(response.index.data or response.soft.data) and response.shape.rows
        drawn = contract.straight_through(LOGITS[:rows], asked.id, np.arange(rows), tau=0.5)
        if response.HasField("index"):
            assert np.frombuffer(response.index.data, "<i4").reshape(rows, -1)[:, 0].tolist() == drawn.index.tolist()
        if response.HasField("soft"):
            first = np.frombuffer(response.soft.data, "<f4").reshape(rows, -1, 4)[:, 0]
            assert first.tobytes() == drawn.soft.tobytes()


async def test_requests_of_one_message_are_answered_together(stub):
    """That is what makes a stream cheap."""
    call = stub.SampleStream()
    await call.write(message(*map(request, range(64))))
    messages = received = 0
    while received < 64:
        received += len((await call.read()).responses)
        messages += 1
    assert messages <= 4


async def test_answers_come_in_the_order_of_completion(narrow):
    """A small request does not wait for the large one that came before it."""
    async with connection(narrow) as stub:
        call = stub.SampleStream()
        await call.write(message(request(1, **SLOW), request(2)))
        await call.write(message(request(3)))
        assert [response.id for response in await answers(call, 3)] == [2, 3, 1]


BAD = {
    "logits": pb.SampleRequest(id=100),
    "logits[0][1]": request(101, np.array([[0, np.nan]], np.float32)),
    "tau": request(102, tau=[0.0]),
    "mode": pb.SampleRequest.FromString(request(103).SerializeToString() + b"\x20\x63"),
    "77": pb.SampleRequest.FromString(request(104).SerializeToString() + b"\xe8\x04\x01"),
    "timeout_seconds": request(105, timeout_seconds=-1.0),
}


async def test_a_bad_request_is_answered_with_its_own_error_and_touches_no_other(stub):
    """Reason and field are those of a single call; neighbours get their bits, and the stream goes on."""
    good = [request(n) for n in range(1, 20)]
    mixed = [each for pair in zip(good, BAD.values(), strict=False) for each in pair]
    call = stub.SampleStream()
    await call.write(message(*mixed, *good[len(BAD) :], request(200, draws=2**32)))
    received = {response.id: response for response in await answers(call, len(good) + len(BAD) + 1)}
    for field, asked in BAD.items():
        error = received[asked.id].error
        assert (error.reason, error.field) == ("INVALID_ARGUMENT", field)
        assert error.detail.startswith(f"{field}: ")
        assert not error.HasField("retry_after_seconds")
    assert (received[200].error.reason, received[200].error.field) == ("TOO_LARGE", "outputs")
    for asked in good:
        drawn = contract.hard(LOGITS, asked.id, np.arange(3))
        assert np.frombuffer(received[asked.id].index.data, "<i4").tolist() == drawn.tolist()
    await call.done_writing()
    assert await end(call) == (grpc.StatusCode.OK, "")


async def test_requests_that_ask_alike_are_a_batch_and_each_keeps_its_bits_and_its_error(server, stub):
    """Ids and seeds of any length, all types of logits; one that cannot be drawn is told so alone."""
    numbers = [0, 1, 127, 128, 2**32, 2**64 - 1]
    for dtype in (np.float32, np.float16):
        rows = [np.array([[n % 7, 0.5, -np.inf, 1]], dtype) for n in numbers]
        asked = [
            request(n, row, "straight_through", tau=[0.5], draws=2, timeout_seconds=60.0)
            for n, row in zip(numbers, rows, strict=True)
        ]
        requests, drawn = (metric(server, f"gumball_{name}") for name in ("batch_requests_sum", "draws_total"))
        call = stub.SampleStream()
        await call.write(message(*asked))
        received = {response.id: response for response in await answers(call, len(asked))}
        assert metric(server, "gumball_batch_requests_sum") == requests + len(asked)
        assert metric(server, "gumball_draws_total") == drawn + 2 * len(asked)
        for n, row in zip(numbers, rows, strict=True):
            assert received[n].seed == n
            assert received[n].shape == pb.Shape(rows=1, draws=2, categories=4)
            for draw in range(2):
                wanted = contract.straight_through(row.astype(np.float32), n, draw=draw, tau=0.5)
                assert np.frombuffer(received[n].index.data, "<i4")[draw] == wanted.index
                assert (
                    np.frombuffer(received[n].soft.data, "<f4").reshape(2, 4)[draw].tobytes() == wanted.soft.tobytes()
                )
        asked[2].logits.data = np.array([[0, np.nan, 0, 0]], dtype).tobytes()
        await call.write(message(*asked))
        again = {response.id: response for response in await answers(call, len(asked))}
        assert (again[127].error.reason, again[127].error.field) == ("INVALID_ARGUMENT", "logits[0][1]")
        assert all(again[n].soft == received[n].soft for n in numbers if n != 127)
        call.cancel()


async def test_what_follows_requests_that_ask_alike_is_done_as_if_it_came_alone(stub, server):
    """Others, a withdrawal, or what cannot be understood."""
    alike = [request(n, LOGITS[:1]) for n in range(10)]
    others = [request(n, LOGITS, draws=n) for n in range(10, 14)]
    call = stub.SampleStream()
    await call.write(message(*alike, *others, withdrawn=[3, 99]))
    assert {response.id for response in await answers(call, 14)} == set(range(14))
    await call.done_writing()
    assert await end(call) == (grpc.StatusCode.OK, "")
    async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
        raw = channel.stream_stream("/gumball.v1.SamplingService/SampleStream")()
        await raw.write(message(*alike).SerializeToString() + b"\x0a\xff")
        assert len(pb.SampleStreamResponse.FromString(await raw.read()).responses) == 10
        assert await end(raw) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_message_that_does_not_parse_ends_its_stream_once_the_rest_is_answered(server):
    """Nobody can tell whose answer is missing. Another stream of the connection does not notice."""
    async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
        raw, other = channel.stream_stream("/gumball.v1.SamplingService/SampleStream"), SamplingServiceStub(channel)
        before = metric(server, "gumball_requests_total", transport="grpc", mode="invalid", code="INVALID_ARGUMENT")
        for broken in (b"\x0a\xff", b"\x0a\x02\xff\xff", b"\x18\x01"):
            neighbour, call = other.SampleStream(), raw()
            await call.write(message(request(1)).SerializeToString())
            await call.write(broken)
            assert [r.id for r in pb.SampleStreamResponse.FromString(await call.read()).responses] == [1]
            assert await end(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
            await neighbour.write(message(request(2)))
            assert [response.id for response in await answers(neighbour, 1)] == [2]
    after = metric(server, "gumball_requests_total", transport="grpc", mode="invalid", code="INVALID_ARGUMENT")
    assert after == before + 3


async def test_a_stream_is_not_read_on_while_too_much_is_unanswered(narrow):
    """1,024 are taken, the rest waits with the client; all are answered in the end."""
    async with connection(narrow) as stub, busy(narrow, stub) as computed:
        call = stub.SampleStream()
        for start in range(0, 3000, 500):
            await call.write(message(*(request(n, **QUICK) for n in range(start, start + 500))))
        await until(narrow, 2 + 1024, "gumball_inflight_requests")
        assert (await stub.Sample(request(5))).id == 5  # time has passed
        assert metric(narrow, "gumball_inflight_requests") == 2 + 1024
        assert not computed.done()
        await call.done_writing()
        assert {response.id for response in await answers(call, 3000)} == set(range(3000))
        assert await end(call) == (grpc.StatusCode.OK, "")


async def test_a_half_closed_stream_answers_all_and_ends_well(narrow):
    """However long it takes."""
    async with connection(narrow) as stub:
        call = stub.SampleStream()
        await call.write(message(request(1, **SLOW), *(request(n, **QUICK) for n in range(2, 20))))
        await call.done_writing()
        assert {response.id for response in await answers(call, 19)} == set(range(1, 20))
        assert await end(call) == (grpc.StatusCode.OK, "")


async def test_what_a_cancelled_stream_asked_for_is_dropped_and_counted(narrow):
    """It is not computed; other streams go on."""
    dropped = metric(narrow, "gumball_dropped_total", reason="cancelled")
    cancelled = metric(narrow, "gumball_requests_total", transport="grpc", code="CANCELLED")
    async with connection(narrow) as stub, busy(narrow, stub):
        left, stays = stub.SampleStream(), stub.SampleStream()
        await left.write(message(*(request(n, **QUICK) for n in range(5))))
        await stays.write(message(request(9, **QUICK)))
        await until(narrow, 8, "gumball_inflight_requests")
        left.cancel()
        await until(narrow, 3, "gumball_inflight_requests")
        assert [response.id for response in await answers(stays, 1)] == [9]
        stays.cancel()
    assert metric(narrow, "gumball_dropped_total", reason="cancelled") == dropped + 5
    assert metric(narrow, "gumball_requests_total", transport="grpc", code="CANCELLED") == cancelled + 5


KILLED = """
import asyncio, os, signal, sys
import numpy as np
from gumball import AsyncClient

async def main():
    client = AsyncClient(sys.argv[1])
    calls = [asyncio.create_task(client.sample(np.zeros(10), draws=1500)) for _ in range(2000)]
    await calls[0]
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_client_that_dies_leaves_nothing_behind(narrow):
    """No request in flight, and no complaint of the server, while it writes to a connection that is gone."""
    for _ in range(3):
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, narrow.grpc)
        assert await killed.wait() == -signal.SIGKILL
    await until(narrow, 0, "gumball_inflight_requests")
    assert metric(narrow, "gumball_queue_elements") == 0


async def test_a_request_can_be_withdrawn(narrow):
    """Its neighbours are answered; it is not, and an id that is unknown or answered is no matter."""
    cancelled = metric(narrow, "gumball_requests_total", transport="grpc", code="CANCELLED")
    async with connection(narrow) as stub, busy(narrow, stub):
        call = stub.SampleStream()
        await call.write(message(*(request(n, **QUICK) for n in range(5))))
        await until(narrow, 7, "gumball_inflight_requests")
        await call.write(message(withdrawn=[2, 77]))
        await until(narrow, 6, "gumball_inflight_requests")
        await call.done_writing()
        assert sorted(response.id for response in await answers(call, 4)) == [0, 1, 3, 4]
        assert await end(call) == (grpc.StatusCode.OK, "")
    assert metric(narrow, "gumball_requests_total", transport="grpc", code="CANCELLED") == cancelled + 1


async def test_a_request_has_a_deadline_of_its_own(narrow):
    """Alone or in a stream, where it passes for one request and not for its neighbours."""
    async with connection(narrow) as stub, busy(narrow, stub) as computed:
        late = request(1, **QUICK, timeout_seconds=0.05)
        call = stub.SampleStream()
        await call.write(message(late, request(2, **QUICK, timeout_seconds=60)))
        [response] = await answers(call, 1)
        assert (response.id, response.error.reason) == (1, "DEADLINE")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Sample(late)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not computed.done()
        [response] = await answers(call, 1)
        assert (response.id, response.HasField("index")) == (2, True)
        call.cancel()


async def test_a_full_queue_refuses_each_request_with_the_time_to_come_back():
    """Those that had room are answered."""
    server = Server("--threads", "1", "--max-batch-elements", "1", "--max-queue-requests", "4")
    async with connection(server) as stub:
        call = stub.SampleStream()
        await call.write(message(*(request(n, **QUICK) for n in range(10))))
        received = {response.id: response for response in await answers(call, 10)}
        refused = [number for number, response in received.items() if response.HasField("error")]
        assert sorted(refused) == [4, 5, 6, 7, 8, 9]
        for number in refused:
            error = received[number].error
            assert (error.reason, error.field) == ("OVERLOADED", "")
            assert error.retry_after_seconds > 0
        call.cancel()
    assert server.stop() == 0


async def test_sigterm_answers_what_was_received_and_ends_every_stream():
    """With a status that sends the client to another server."""
    server = Server("--threads", "1", "--max-batch-elements", "1", "--max-queue-elements", str(1 << 40))
    async with connection(server) as stub:
        idle, call = stub.SampleStream(), stub.SampleStream()
        await idle.write(message(request(1)))
        await answers(idle, 1)
        await call.write(message(request(1, **SLOW), *(request(n, **QUICK) for n in range(2, 50))))
        await until(server, 49, "gumball_inflight_requests")
        server.signal(signal.SIGTERM)
        assert await end(idle) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert {response.id for response in await answers(call, 49)} == set(range(1, 50))
        assert await end(call) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert await asyncio.to_thread(server.wait) == 0
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


async def test_a_connection_that_is_old_is_ended_and_the_next_one_serves():
    """So that clients spread over the servers that came later."""
    server = Server("--grpc-max-connection-age-seconds", "0.5", "--grpc-max-connection-age-grace-seconds", "0.5")
    async with connection(server) as stub:
        call = stub.SampleStream()
        await call.write(message(request(1)))
        await answers(call, 1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(call.read(), 30)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        again = stub.SampleStream()
        await again.write(message(request(2)))
        assert [response.id for response in await answers(again, 1)] == [2]
        again.cancel()
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


async def test_every_request_of_a_stream_is_counted_once(server, stub):
    """By mode and outcome, as single calls are, and each has its durations."""
    before = samples(server)
    requests = [request(n, mode=MODES[n % 3]) for n in range(100)] + [request(7, tau=[-1.0])] * 5
    call = stub.SampleStream()
    for start in range(0, len(requests), 10):
        await call.write(message(*requests[start : start + 10]))
    await answers(call, len(requests))
    await call.done_writing()
    assert await end(call) == (grpc.StatusCode.OK, "")
    counted = Counter({key: value - before.get(key, 0) for key, value in samples(server).items()})

    def count(name: str, **labels: str) -> float:
        return counted[f"gumball_{name}", frozenset(labels.items())]

    for mode, number in zip(MODES, (34, 33, 33), strict=True):
        assert count("requests_total", transport="grpc", mode=mode, code="OK") == number
        assert count("request_duration_seconds_count", transport="grpc", mode=mode) == number
    assert count("requests_total", transport="grpc", mode="invalid", code="INVALID_ARGUMENT") == 5
    assert count("encode_duration_seconds_count", transport="grpc") == 100
    assert count("queue_duration_seconds_count") == 100
    assert metric(server, "gumball_inflight_requests") == 0
