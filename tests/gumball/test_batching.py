"""Calls of one process travel together, and nobody can tell by the answers."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from asyncio.subprocess import PIPE
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from fake_service import FakeService, response_to, serving
from gumball import AsyncClient, Client, contract, errors
from gumball._background import Background
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceServicer
from named_services import request_of
from prometheus_client.parser import text_string_to_metric_families

LOGITS = np.random.default_rng(3).normal(0, 2, (1, 10)).astype(np.float32)
CALLS = 200


def index_of(seed: int) -> int:
    return int(contract.hard(LOGITS, seed)[0])


def calls_of(server: Server) -> tuple[float, float]:
    """Requests that the server answered over gRPC, and the batches that it made of all requests."""
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    answered = sum(s.value for s in samples if s.name == "gumball_requests_total" and s.labels["transport"] == "grpc")
    return answered, sum(s.value for s in samples if s.name == "gumball_batch_requests_count")


async def test_coroutines_that_call_together_share_messages_and_batches(server):
    """A server that counts requests sees them all, in a few batches; each gets the bits of its seed."""
    answered, batches = calls_of(server)
    async with AsyncClient(server.grpc) as client:
        samples = await asyncio.gather(*(client.sample(LOGITS, seed=seed) for seed in range(CALLS)))
    assert [int(sample.index[0, 0]) for sample in samples] == [index_of(seed) for seed in range(CALLS)]
    answered_then, batches_then = calls_of(server)
    assert answered_then - answered == CALLS
    assert batches_then - batches <= CALLS / 10


async def test_a_message_holds_the_calls_of_one_turn_of_the_loop():
    """Up to a bound on their number, so that some are answered while others are asked."""
    service = FakeService()
    async with serving(service) as address, AsyncClient(address) as client:
        await client.sample(LOGITS)
        await asyncio.gather(*(client.sample(LOGITS, seed=seed) for seed in range(CALLS)))
    assert [len(message.requests) for message in service.messages] == [1, 32, 32, 32, 32, 32, 32, 8]


async def test_a_message_is_bounded_by_its_bytes():
    """Long before any limit of a server."""
    service = FakeService()
    logits = np.zeros((1, 15_000), np.float32)
    async with serving(service) as address, AsyncClient(address) as client:
        await asyncio.gather(*(client.sample(logits, seed=seed) for seed in range(30)))
    assert len(service.requests) == 30
    assert max(message.ByteSize() for message in service.messages) <= 1 << 18


def test_threads_that_call_together_share_a_stream(server):
    """They wait for their own answers only."""
    answered, batches = calls_of(server)
    barrier = threading.Barrier(32)
    with Client(server.grpc) as client, ThreadPoolExecutor(32) as threads:

        def draw(seed: int) -> int:
            barrier.wait()
            return int(client.sample(LOGITS, seed=seed).index[0, 0])

        assert list(threads.map(draw, range(320))) == [index_of(seed) for seed in range(320)]
    answered_then, batches_then = calls_of(server)
    assert answered_then - answered == 320
    assert batches_then - batches < 320


async def test_every_parameter_goes_through_a_stream_as_by_itself(server):
    """Large calls travel alone; small and large rows of one matrix give the same bits."""
    logits = np.random.default_rng(4).normal(0, 2, (20, 2000)).astype(np.float32)
    seeds = np.arange(20, dtype=np.uint64) * np.uint64(2**60 + 7)
    given = {"mode": "straight_through", "tau": 0.5, "temperature": 0.7, "top_k": 50, "draws": 2, "first_draw": 3}
    async with AsyncClient(server.grpc) as client:
        whole = await client.sample(logits, seeds=seeds, **given)
        alone = await asyncio.gather(*(client.sample(logits[r], seeds=seeds[[r]], **given) for r in range(20)))
    assert whole.soft.nbytes > 1 << 16 > alone[0].soft.nbytes
    for r, sample in enumerate(alone):
        assert sample.index.tobytes() == whole.index[r].tobytes()
        assert sample.soft.tobytes() == whole.soft[r].tobytes()


async def test_a_refused_call_leaves_its_neighbours_alone(server):
    """Its error has the field, as by any other way."""
    async with AsyncClient(server.grpc) as client:
        calls = [client.sample(LOGITS, seed=n, tau=-1.0 if n == 5 else 1.0) for n in range(10)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[5], errors.InvalidArgument)
    assert (outcomes[5].field, str(outcomes[5]).count("tau")) == ("tau", 1)
    assert [int(o.index[0, 0]) for n, o in enumerate(outcomes) if n != 5] == [index_of(n) for n in range(10) if n != 5]


async def test_a_broken_answer_leaves_its_neighbours_alone():
    """It is that of one call, and the stream goes on."""

    async def respond(request):
        response = response_to(request)
        if request.seed == 5:
            response.contract = "gumball/0"
        return response

    service = FakeService(respond)
    async with serving(service) as address, AsyncClient(address) as client:
        outcomes = await asyncio.gather(*(client.sample(LOGITS, seed=n) for n in range(10)), return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, errors.InvalidAnswer)] == [5]
    assert [int(o.index[0, 0]) for n, o in enumerate(outcomes) if n != 5] == [index_of(n) for n in range(10) if n != 5]
    assert len(service.messages) == 1


async def never(request: pb.SampleRequest) -> pb.SampleResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_cancelled_call_is_withdrawn():
    """The server is told, and the stream goes on."""

    async def respond(request):
        return await never(request) if request.seed == 1 else response_to(request)

    service = FakeService(respond)
    async with serving(service) as address, AsyncClient(address) as client:
        left = asyncio.create_task(client.sample(LOGITS, seed=1))
        await client.sample(LOGITS, seed=2)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        await client.sample(LOGITS, seed=3)
    assert service.withdrawn == [request.id for request in service.requests if request.seed == 1]


async def test_a_deadline_holds_against_a_service_that_does_not_answer():
    """The service is told of it, and that the call was given up."""
    service = FakeService(never)
    async with serving(service) as address, AsyncClient(address) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.sample(LOGITS, timeout=0.05)
    assert 0 < service.requests[0].timeout_seconds <= 0.05


async def test_a_deadline_of_one_call_is_kept_by_the_service(server):
    """The slow call fails, the quick one beside it does not."""
    slow = np.zeros(16_000, np.float16)
    async with AsyncClient(server.grpc) as client:
        late = client.sample(slow, draws=15_000, timeout=0.01)
        outcomes = await asyncio.gather(late, client.sample(LOGITS, seed=4), return_exceptions=True)
    assert isinstance(outcomes[0], errors.DeadlineExceeded)
    assert int(outcomes[1].index[0, 0]) == index_of(4)


class Unary(SamplingServiceServicer):
    """A service of a version before streams."""

    def __init__(self) -> None:
        self.calls = 0

    async def Sample(self, request, context):  # noqa: N802 - as the service is generated
        self.calls += 1
        return response_to(request)

    async def SampleStream(self, messages, context):  # noqa: N802 - as the service is generated
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")


async def test_a_service_without_streams_is_called_as_before():
    """Nobody notices but by the speed."""
    service = Unary()
    async with serving(service) as address, AsyncClient(address, retries=0) as client:
        for _ in range(2):
            samples = await asyncio.gather(*(client.sample(LOGITS, seed=seed) for seed in range(20)))
            assert [int(sample.index[0, 0]) for sample in samples] == [index_of(seed) for seed in range(20)]
    assert service.calls == 40


async def test_a_server_that_takes_only_short_messages_answers_what_it_can():
    """Calls that are too long in company go by themselves; the one that is too long alone is refused, and no other."""
    server = Server("--max-request-bytes", "1000")
    async with AsyncClient(server.grpc) as client:
        calls = [client.sample(np.zeros(400 if n == 3 else 100, np.float32), seed=n) for n in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert server.stop() == 0
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, errors.TooLarge)] == [3]
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 19


async def test_closing_ends_calls_that_wait_for_their_next_try():
    """However long the service has asked them to."""
    asked = asyncio.Event()

    async def busy(request: pb.SampleRequest) -> pb.SampleResponse:
        asked.set()
        return pb.SampleResponse(id=request.id, error=pb.Error(reason="OVERLOADED", retry_after_seconds=3600))

    async with serving(FakeService(busy)) as address:
        client = AsyncClient(address)
        call = asyncio.create_task(client.sample(LOGITS))
        await asked.wait()
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(errors.Unavailable, match="closed"):
            await asyncio.wait_for(call, 10)


async def test_closing_ends_calls_that_are_under_way():
    """They fail; later ones do, too."""
    service = FakeService(never)
    async with serving(service) as address:
        client = AsyncClient(address)
        call = asyncio.create_task(client.sample(LOGITS))
        await service.received.wait()
        await client.close()
        for failing in (call, client.sample(LOGITS)):
            with pytest.raises(errors.Unavailable):
                await failing


def test_a_client_that_is_closed_or_forgotten_leaves_no_thread(server):
    """The thread of the event loop ends with its last client."""

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "gumball-client"]

    before = names()
    first, second = Client(server.grpc), Client(server.http)
    assert first.sample(LOGITS, seed=1).index == second.sample(LOGITS, seed=1).index
    first.close()
    first.close()
    with pytest.raises(errors.Unavailable):
        first.sample(LOGITS)
    assert second.sample(LOGITS, seed=2).index == index_of(2)
    del second
    gc.collect()
    assert names() == before


def test_closing_leaves_no_thread_waiting(server):
    """Whatever it was at: each has its sample, or learns that the client is closed."""
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.005) * 4:
        client = Client(server.grpc)
        ends: list[str] = []

        def call(client: Client = client, ends: list[str] = ends) -> None:
            try:
                for seed in range(1000):
                    assert client.sample(LOGITS, seed=seed).index == index_of(seed)
            except errors.Unavailable as error:
                ends.append(str(error))

        threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(delay)
        client.close()
        for thread in threads:
            thread.join(20)
        assert ends == ["the client is closed"] * 4


INTERRUPTED = """
import signal, sys
from gumball import Client

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, shells have it ignored
client = Client(sys.argv[1])
try:
    client.sample([0.0, 1.0])
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
"""


async def test_a_caller_that_is_interrupted_withdraws_its_call():
    """As the service sees it."""
    service = FakeService(never)
    async with serving(service) as address, asyncio.timeout(60):
        command = [sys.executable, "-W", "error", "-c", INTERRUPTED, address]
        caller = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        await service.received.wait()
        caller.send_signal(signal.SIGINT)
        assert await caller.stdout.readline() == b"interrupted\n"
        while not service.withdrawn:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        await caller.communicate(b"\n")
        assert caller.returncode == 0


FORGETFUL = """
import sys, gumball
client = gumball.Client(sys.argv[1])
print(client.sample([0.0, 1.0], seed=1).seed, "grpc" in sys.modules)
"""


def test_a_program_may_end_without_closing(server):
    """Quietly, and without grpcio, which would keep threads."""
    for address in (server.http, server.grpc):
        command = [sys.executable, "-W", "error", "-c", FORGETFUL, address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1 False\n", "")


FORK = """
import multiprocessing, sys, threading, time
import gumball
from gumball import Client

importing = threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ("gumball._grpc", "gumball._http") and threading.current_thread() is not threading.main_thread():
            importing.set()
            time.sleep(1)

def draw():
    print(int(client.sample([0.0, 1.0, 2.0], seed=9).index[0, 0]), flush=True)

client = Client(sys.argv[1])
if sys.argv[2] == "used":
    client.sample([0.0, 1.0, 2.0], seed=9)
if sys.argv[2] == "in its first call":
    sys.meta_path.insert(0, Slow())
    threading.Thread(target=client.info).start()
    importing.wait(1)
child = multiprocessing.get_context("fork").Process(target=draw)
child.start()
child.join(20)
draw()
client.close()
sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("way", ["http", "grpc"])
@pytest.mark.parametrize("used", ["unused", "used", "in its first call"])
def test_both_sides_of_a_fork_call_on(server, way, used):
    """The child opens connections of its own, and the parent keeps its own."""
    command = [sys.executable, "-c", FORK, getattr(server, way), used]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    expected = str(contract.hard([0.0, 1.0, 2.0], 9)[0])
    assert (ended.returncode, ended.stdout.split()) == (0, [expected, expected]), ended.stderr


LOOPS = """
import asyncio, sys
from gumball import AsyncClient

client = AsyncClient(sys.argv[1])

async def draw(categories):
    sample = await asyncio.wait_for(client.sample([0.0] * categories + [90.0], seed=9), 10)
    print(int(sample.index[0, 0]), flush=True)

for categories in (2, 30_000, 30_000, 2):
    asyncio.run(draw(categories))
asyncio.run(client.close())
"""


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_client_goes_on_after_its_event_loop_has_ended(server, way):
    """By connections of the next one."""
    command = [sys.executable, "-c", LOOPS, getattr(server, way)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["2", "30000", "30000", "2"]), ended.stderr


async def test_a_client_is_for_one_event_loop_at_a_time():
    """Another is told so, and does no harm."""
    async with serving(FakeService()) as address, AsyncClient(address) as client:
        await client.sample(LOGITS, seed=1)
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client._transport.sample(request_of(LOGITS, "hard", 2), None))
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.close())
        assert (await client.sample(LOGITS, seed=3)).index == index_of(3)


def test_closing_what_another_thread_just_opens_closes_it():
    """Nothing stays open that nobody would close any more."""
    closed = threading.Event()

    class Made:
        async def close(self) -> None:
            closed.set()

    def make() -> Made:
        closing.start()
        closing.join(0.2)
        return Made()

    background = Background(make)
    closing = threading.Thread(target=background.close)
    with suppress(errors.Unavailable):
        background.run(lambda _: asyncio.sleep(0))
    closing.join(10)
    assert closed.is_set()


def test_a_call_that_comes_while_the_thread_ends_is_told_so(monkeypatch):
    """It has found the client open, and comes when the event loop only waits for what was left on it."""
    ending = threading.Event()

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ending.set()
            await asyncio.sleep(0.2)

    class Made:
        async def close(self) -> None:
            self.left = asyncio.create_task(linger())

    process = os.getpid()

    def getpid() -> int:
        if threading.current_thread().name == "late":
            ending.wait()
        return process

    background = Background(Made)
    background.run(lambda _: asyncio.sleep(0))
    monkeypatch.setattr("gumball._background.os.getpid", getpid)
    told: list[str] = []

    def call() -> None:
        try:
            background.run(lambda _: asyncio.sleep(60))
        except errors.Unavailable as error:
            told.append(str(error))

    late = threading.Thread(target=call, name="late", daemon=True)
    late.start()
    background.close()
    late.join(10)
    assert told == ["the client is closed"]


@pytest.mark.parametrize("turns", range(6))
async def test_closing_at_once_leaves_no_call_waiting(turns):
    """However few turns of the loop a call and its stream had before."""
    async with serving(FakeService(never)) as address:
        client = AsyncClient(address)
        call = asyncio.create_task(client.sample(LOGITS))
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(call, 10)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
async def test_closing_ends_a_call_that_is_still_to_connect(scheme):
    """And its connection with it, rather than when that is found to take too long."""
    come, gone = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        come.set()
        while await reader.read(1 << 16):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server, asyncio.timeout(4):
        client = AsyncClient(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        call = asyncio.create_task(client.sample(LOGITS))
        await come.wait()
        await client.close()
        with pytest.raises(errors.Unavailable):
            await call
        await gone.wait()
