"""Devices that several front ends share: real processes, with the CPU kernels in place of GPUs.

Whatever dies, every request is answered, and with the bits of the contract.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
from conftest import Server
from device_service import FAILS_AT, IS_LOST_AT
from grpc_health.v1 import health_pb2, health_pb2_grpc
from gumball import Client, GumballError, contract
from gumball_server.domain import Output, Parameters, SampleRequest
from gumball_server.validation import sample_request
from gumball_server.worker import DeviceLostError
from gumball_server.worker_process import SPARE_BYTES, Channel, RemoteWorker
from kernel_cases import DENSE, DISTINCT, DISTRIBUTION, Case, bfloat16, normal
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = (sys.executable, Path(__file__).parents[1] / "device_service.py")
FRONTENDS, DEVICES = 2, ("cuda:0", "cuda:1")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

# Large enough for a device, as everything here.
CATEGORIES = 50_000
LOGITS = normal(4, CATEGORIES)
EXPECTED = [contract.hard(LOGITS, seed, np.arange(4), 0).tolist() for seed in range(16)]


@pytest.fixture(scope="module")
def victim() -> Iterator[Server]:
    """Front ends that share devices, and of which each test may kill some; it ends well all the same."""
    server = Server("--frontends", str(FRONTENDS), command=PROGRAM)
    yield server
    assert server.stop() == 0


@pytest.fixture
def several(victim: Server) -> Server:
    """The same, once all its processes are there."""
    until(lambda: is_whole(victim))
    return victim


@pytest.fixture(scope="module", params=[1, FRONTENDS], ids=["in process", "front ends"])
def server(request) -> Iterator[Server]:
    """The devices in the process of the server, and in processes of their own."""
    server = Server("--frontends", str(request.param), command=PROGRAM)
    yield server
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line]


def children_of(server: Server) -> set[int]:
    """The process ids of its front ends and workers."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return set(map(int, children.split()))


def frontends_of(server: Server) -> set[int]:
    """The processes with an event loop."""
    return {pid for pid in children_of(server) if any("eventpoll" in os.readlink(fd) for fd in fds_of(pid))}


def workers_of(server: Server) -> set[int]:
    return children_of(server) - frontends_of(server)


def fds_of(*pids: int) -> list[Path]:
    return [fd for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]


def held_by(pids: set[int]) -> int:
    """How many files and pieces of shared memory processes have."""
    maps = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return len(fds_of(*pids)) + sum("/dev/zero" in line for line in maps)  # as Linux calls what has no name


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what only asking can tell."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def metric(server: Server, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"gumball_{name}"]
    return sum(sample.value for sample in samples if sample.labels.items() >= labels.items())


def batches_of(server: Server, device: str) -> float:
    return metric(server, "compute_duration_seconds_count", device=device)


def is_whole(server: Server) -> bool:
    """Every process is there, and every front end has every device."""
    try:
        return len(children_of(server)) == FRONTENDS + len(DEVICES) and are_up(server)
    except httpx.TransportError:  # from a front end that is being killed
        return False


def are_up(server: Server) -> bool:
    """Every device, for every front end."""
    return all(metric(server, "worker_up", device=device) == 1 for device in DEVICES)


def ask(server: Server, seed: int, **parameters: int) -> list[int]:
    """The draws of a seed, over a connection of its own, and so by any of the front ends."""
    query = {"shape": f"4,{CATEGORIES}", "dtype": "float32", "seed": seed} | parameters
    headers = {"content-type": "application/octet-stream"}
    response = httpx.post(f"{server.http}/sample", params=query, content=LOGITS.tobytes(), headers=headers, timeout=60)
    response.raise_for_status()
    return np.frombuffer(response.content, np.int32).tolist()


CASES = [
    Case(LOGITS[:3], DENSE, given={"tau": [0.5, 1.0, 2.0], "seeds": [1, 2**64 - 1, 3]}),
    Case(LOGITS.astype(np.float16), DISTRIBUTION, given={"top_k": 40, "logit_bias": {7: 2.0, 9: None}}),
    Case(bfloat16(LOGITS), DISTINCT, given={"without_replacement": 5, "top_log_probs": 3, "draws": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=["dense", "filtered", "distinct"])
def test_devices_draw_the_bits_of_the_contract(server: Server, case: Case):
    """Tensors of every kind, there and back; over connections enough that each front end has had some."""
    request = case.request()
    logits, given = np.asarray(case.logits), {"seed": 7, **case.given}
    if logits.dtype == np.uint16:
        logits = logits.view(ml_dtypes.bfloat16)
    if "seeds" in given:
        del given["seed"]
    for _ in range(4):
        with Client(server.grpc) as client:
            sample = client.sample(logits, outputs=case.outputs, **given)
            case.check({output.value: getattr(sample, output.value) for output in request.plan.outputs})


def test_each_device_has_its_share_and_the_cpu_what_is_small(server: Server):
    """By the metrics, which count what all front ends did."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: ask(server, seed), range(16))) == EXPECTED
    before = {device: batches_of(server, device) for device in (*DEVICES, "cpu")}
    assert all(before[device] > 0 for device in DEVICES)
    assert httpx.post(f"{server.http}/sample", json={"logits": [0, 1]}).status_code == 200
    assert batches_of(server, "cpu") == before["cpu"] + 1
    assert are_up(server)
    assert [each["name"] for each in httpx.get(f"{server.http}/info").json()["devices"]] == list(DEVICES)


def test_an_error_is_that_of_its_request_and_names_its_field(server: Server):
    """Also through another process."""
    logits = LOGITS.copy()
    logits[2, 11] = np.nan
    with Client(server.grpc) as client:
        with pytest.raises(GumballError) as raised:
            client.sample(logits, seed=1)
        assert (raised.value.reason, raised.value.field) == ("INVALID_ARGUMENT", "logits[2][11]")
        assert client.sample(LOGITS, seed=3).index[:, 0].tolist() == EXPECTED[3]


def keep_asking(server: Server, stop: threading.Event, number: int) -> int:
    """How many requests were answered until told to stop, each with the bits that it must have."""
    answered = 0
    while not stop.is_set():
        seed = (number + answered) % len(EXPECTED)
        assert ask(server, seed) == EXPECTED[seed]
        answered += 1
    return answered


def replace_workers(server: Server, victims: set[int]) -> None:
    """Kill workers, and return when their successors draw."""
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not victims & children_of(server) and is_whole(server))
    before = {device: batches_of(server, device) for device in DEVICES}
    until(lambda: all(batches_of(server, device) > before[device] for device in DEVICES))


def test_workers_that_are_killed_under_load_cost_no_request_and_come_back(several: Server):
    """The CPU draws what they had in hand and what comes until they are back; nothing leaks."""
    frontends, stop = frontends_of(several), threading.Event()
    held = held_by(frontends)
    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(keep_asking, several, stop, number) for number in range(6)]
        try:
            replace_workers(several, {min(workers_of(several))})
            replace_workers(several, workers_of(several))
        finally:
            stop.set()
        assert all(caller.result() > 0 for caller in callers)
    assert frontends_of(several) == frontends
    until(lambda: held_by(frontends) <= held)


def test_front_ends_that_are_killed_leave_the_workers_as_they_were(several: Server):
    """Whatever they had in hand; their successors reach the same workers, which keep nothing of them."""
    frontends, workers = frontends_of(several), workers_of(several)
    held = held_by(workers)
    over = threading.Event()
    callers = [threading.Thread(target=ask_on, args=(several, over)) for _ in range(6)]
    for caller in callers:
        caller.start()
    until(lambda: metric(several, "inflight_requests") > 0)
    for pid in frontends:
        os.kill(pid, signal.SIGKILL)
    over.set()
    for caller in callers:
        caller.join()
    until(lambda: not frontends & children_of(several) and is_whole(several))
    assert [ask(several, seed) for seed in range(8)] == EXPECTED[:8]
    assert workers_of(several) == workers
    until(lambda: held_by(workers) <= held)


def ask_on(server: Server, over: threading.Event) -> None:
    """For many draws, again and again; connections may break, and a front end that starts refuses."""
    while not over.is_set():
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
            ask(server, 1, draws=200)


def test_without_a_device_it_is_not_ready_and_draws_on_the_cpu(several: Server):
    """What comes is answered all the same; with the first device it is ready again."""
    with grpc.insecure_channel(several.addresses["grpc"]) as channel:
        request = health_pb2.HealthCheckRequest(service="gumball.v1.SamplingService")
        watched = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=60)
        assert next(watched).status == SERVING
        for pid in workers_of(several):
            os.kill(pid, signal.SIGKILL)
        assert next(watched).status == NOT_SERVING
        assert ask(several, 5) == EXPECTED[5]
        assert next(watched).status == SERVING


def expected_at(first_draw: int) -> list[int]:
    return contract.hard(LOGITS, 9, np.arange(4), first_draw).tolist()


def test_what_a_worker_fails_at_the_cpu_draws(several: Server):
    """A defect of a batch costs nothing but that; a worker whose device is lost ends, and another takes its place."""
    workers = workers_of(several)
    for _ in range(4):
        assert ask(several, 9, first_draw=FAILS_AT) == expected_at(FAILS_AT)
    assert workers_of(several) == workers
    for _ in range(2):
        assert ask(several, 9, first_draw=IS_LOST_AT) == expected_at(IS_LOST_AT)
    until(lambda: workers - children_of(several) and is_whole(several))


def test_what_a_device_fails_at_in_this_process_the_cpu_draws():
    """A defect of a batch costs nothing but that; when all devices are lost, the server says so and answers."""
    server = Server(command=PROGRAM)
    for _ in range(4):
        assert ask(server, 9, first_draw=FAILS_AT) == expected_at(FAILS_AT)
    assert are_up(server)
    for _ in range(3):
        assert ask(server, 9, first_draw=IS_LOST_AT) == expected_at(IS_LOST_AT)
    assert [metric(server, "worker_up", device=device) for device in (*DEVICES, "cpu")] == [0, 0, 1]
    ready = httpx.get(f"{server.http}/readyz")
    assert (ready.status_code, ready.json()) == (503, {"status": "degraded"})
    assert server.stop() == 0


def test_what_is_accepted_is_drawn_before_the_workers_end():
    """SIGTERM to the supervisor; front ends drain first, and the devices compute to the end."""
    server = Server("--frontends", str(FRONTENDS), "--max-queue-elements", str(1 << 40), command=PROGRAM)
    until(lambda: is_whole(server))
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(ask, server, 1, draws=1500) for _ in range(6)]
        until(lambda: metric(server, "inflight_requests") == 6)
        assert not any(call.done() for call in calls), "the machine was too fast for this test"
        server.signal(signal.SIGTERM)
        assert len({tuple(call.result()) for call in calls}) == 1
    assert server.wait() == 0
    assert not [line for line in server.log if " ERROR " in line]


def test_nothing_outlives_the_supervisor():
    """Also when it is killed."""
    server = Server("--frontends", str(FRONTENDS), command=PROGRAM)
    children = children_of(server)
    server.process.kill()
    assert server.wait() == -signal.SIGKILL  # once the last of them has closed the log
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children))


def test_a_device_that_is_not_there_ends_the_start():
    """The message names it; nothing goes on running."""
    command = [sys.executable, "-m", "gumball_server", "--frontends", "2", "--device", "cuda:15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "device cuda:15" in done.stderr.splitlines()[-1]


# One front end, whose other side is the test.


class Cpu:
    """Keeps what it gets."""

    device = "cpu"

    def __init__(self) -> None:
        self.drawn: list[SampleRequest] = []

    def run(self, requests):
        self.drawn.extend(requests)
        return [{Output.INDEX: np.zeros((request.plan.rows, 1), np.int32)} for request in requests]

    def close(self) -> None: ...


def test_a_worker_that_hangs_is_given_up():
    """After a while; and its link is ended, so that it is not taken for one that computes."""
    channel, cpu, states, changed = Channel(SPARE_BYTES + (1 << 20)), Cpu(), [], threading.Semaphore(0)
    worker = RemoteWorker("cuda:0", channel, cpu, worth_the_way=0, seconds=0.05)
    worker.watch(lambda state: (states.append(state), changed.release()))
    request = sample_request(np.zeros(10, np.float32), Parameters(seed=1))
    with pytest.raises(DeviceLostError):  # it has not greeted yet
        worker.run([request])
    with channel.accept() as link:
        link.send_bytes(b"hello")
        assert changed.acquire(timeout=10)
        with pytest.raises(DeviceLostError, match=r"0\.05"):
            worker.run([request])
        assert changed.acquire(timeout=10)
        assert states == [True, False]
    assert not cpu.drawn


HANGING = """
import ctypes, os, time
import numpy as np
from gumball_server.domain import Parameters
from gumball_server.validation import sample_request
from gumball_server.worker import DeviceLostError
from gumball_server.worker_process import SPARE_BYTES, Channel, RemoteWorker, serve_worker

class Hanging:
    device = "cuda:0"
    def run(self, requests):
        {hang}

channel, seen = Channel(SPARE_BYTES + (1 << 20)), []
process = os.fork()
if not process:
    serve_worker(Hanging, [channel], print, 1 << 22, seconds=1.0)
worker = RemoteWorker("cuda:0", channel, None, worth_the_way=0)
worker.watch(seen.append)
while not seen:
    time.sleep(0.01)
try:
    worker.run([sample_request(np.zeros(10, np.float32), Parameters(seed=1))])
except DeviceLostError as error:
    print(error, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.parametrize("hang", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"], ids=["alone", "with the GIL"])
def test_a_worker_that_hangs_ends_so_that_another_can_be_started(hang: str):
    """And says where it hung."""
    script = HANGING.format(hang=hang)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.splitlines() == ["cuda:0", "the worker of cuda:0 is gone 1"]
    assert "Timeout" in ran.stderr
    assert "in run" in ran.stderr


@pytest.mark.parametrize(
    ("categories", "outputs"), [(1000, ("index",)), (200_000, ("index",)), (140_000, ("soft", "log_soft"))]
)
def test_what_is_small_and_what_is_too_large_for_the_memory_is_drawn_here(categories: int, outputs: tuple[str, ...]):
    """Without a word to the other process, which is not there."""
    channel, cpu, up = Channel(SPARE_BYTES + 400_000), Cpu(), threading.Event()
    worker = RemoteWorker("cuda:0", channel, cpu)
    worker.watch(lambda state: up.set())
    with channel.accept() as link:
        link.send_bytes(b"hello")
        assert up.wait(10)
        request = sample_request(np.zeros((2, categories), np.float32), Parameters(seed=1, outputs=outputs))
        worker.run([request])
    assert cpu.drawn == [request]
