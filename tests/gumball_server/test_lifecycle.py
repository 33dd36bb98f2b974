"""From the first start to the last answer: readiness, full queues, deadlines, leaving callers, signals and settings."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from gumball_server.settings import Settings, SettingsError, flag, read_settings, variable
from prometheus_client.parser import text_string_to_metric_families

SERVICE = "gumball.v1.SamplingService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
RAW = {"content-type": "application/octet-stream"}

# Requests of one row of 16,384 equal logits. One thread is busy for about a second with the slow one; the quick one is
# quick, but still too large for the event loop, so that it waits behind slow ones.
CATEGORIES = 1 << 14
SLOW_DRAWS, QUICK_DRAWS = 150_000, 20
BODY = bytes(2 * CATEGORIES)
SMALL = {"logits": [0.0, 1.0, 2.0], "seed": 7, "draws": 9}
SMALL_INDEX = [[int(contract.hard([0.0, 1.0, 2.0], 7, 0, d)[0]) for d in range(9)]]


def message(draws: int, **fields) -> pb.SampleRequest:
    logits = pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[1, CATEGORIES], data=BODY)
    return pb.SampleRequest(logits=logits, draws=draws, seed=7, **fields)


ENGINES = ["native", "aio"]
each_engine = pytest.mark.parametrize("engine", ENGINES)

SLOW, QUICK = message(SLOW_DRAWS), message(QUICK_DRAWS)
QUERY = f"shape=1,{CATEGORIES}&dtype=float16&seed=7&draws="


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what only asking can tell."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Caller:
    """Both transports of a server, and its metrics."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.http, timeout=60)
        self.channel = grpc.insecure_channel(server.addresses["grpc"])
        self.stub = sampling_pb2_grpc.SamplingServiceStub(self.channel)

    def close(self) -> None:
        self.http.close()
        self.channel.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels."""
        exposition = self.http.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and s.labels.items() >= labels.items())

    def small(self) -> httpx.Response:
        return self.http.post("/sample", json=SMALL)

    @contextmanager
    def busy(self) -> Iterator[grpc.Future]:
        """While the worker has one slow request and the next ready; gives the one that it computes.

        Both are answered in the end, and nothing stays behind.
        """
        computed, ready = (self.stub.Sample.future(SLOW) for _ in range(2))
        until(lambda: self.metric("gumball_queue_elements") == 2 * SLOW_DRAWS * CATEGORIES)
        yield computed
        for call in (computed, ready):
            assert call.result().shape.draws == SLOW_DRAWS
        until(lambda: self.metric("gumball_queue_elements") == 0)
        until(lambda: self.metric("gumball_inflight_requests") == 0)


@pytest.fixture(scope="module", params=ENGINES)
def narrow(request) -> Iterator[Caller]:
    """A server with one thread, a batch a request, and little room."""
    server = Server(
        *("--grpc-engine", request.param),
        *("--threads", "1", "--max-batch-elements", "1", "--max-queue-requests", "8"),
        *("--max-queue-elements", str(3 * SLOW_DRAWS * CATEGORIES - 1)),
        *("--max-request-bytes", "100000", "--max-response-bytes", "2000000"),
    )
    caller = Caller(server)
    yield caller
    caller.close()
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line]


def status_in(error: grpc.RpcError) -> Status:
    return Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


def reason_in(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    info = ErrorInfo()
    status_in(error).details[0].Unpack(info)
    return error.code(), info.reason, info.metadata["field"]


# While the worker is busy.


def test_a_small_request_is_answered_while_a_large_one_is_computed(narrow):
    """It waits behind nobody, on either transport."""
    with narrow.busy() as computed:
        assert narrow.small().json()["index"] == SMALL_INDEX
        logits = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=[3], data=np.array([0, 1, 2], np.float32).tobytes())
        answer = narrow.stub.Sample(pb.SampleRequest(logits=logits, seed=7, draws=9))
        assert np.frombuffer(answer.index.data, np.int32).tolist() == SMALL_INDEX[0]
        assert not computed.done()


def test_a_deadline_that_passes_in_the_queue_is_answered_then_and_not_after_the_batch(narrow):
    """Nobody waits for an answer that is late already; what was late is not computed."""
    batches = narrow.metric("gumball_batch_requests_count")
    with narrow.busy() as computed:
        response = narrow.http.post(
            f"/sample?{QUERY}{QUICK_DRAWS}", content=BODY, headers=RAW | {"request-timeout": "0.05"}
        )
        call = narrow.stub.Sample.future(QUICK, timeout=0.05)
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: narrow.metric("gumball_requests_total", code="DEADLINE") == 2)
        assert not computed.done()
        assert (response.status_code, response.json()["reason"]) == (504, "DEADLINE")
        assert response.headers["content-type"] == "application/problem+json"
    assert narrow.metric("gumball_dropped_total", reason="deadline") == 2
    assert narrow.metric("gumball_batch_requests_count") == batches + 2


def test_a_deadline_that_passes_in_the_batch_is_answered_then(narrow):
    """A computation that takes too long is not waited for either."""
    dropped = narrow.metric("gumball_dropped_total")
    headers = RAW | {"request-timeout": "0.1"}
    response = narrow.http.post(f"/sample?{QUERY}{SLOW_DRAWS}", content=BODY, headers=headers)
    assert (response.status_code, response.json()["reason"]) == (504, "DEADLINE")
    assert narrow.metric("gumball_queue_elements") == SLOW_DRAWS * CATEGORIES
    until(lambda: narrow.metric("gumball_queue_elements") == 0)
    assert narrow.metric("gumball_dropped_total") == dropped


def test_a_client_that_leaves_the_queue_is_dropped_and_counted(narrow):
    """A closed connection and a cancelled call free their place; neither is computed."""
    batches = narrow.metric("gumball_batch_requests_count")
    host, port = narrow.server.http.removeprefix("http://").split(":")
    head = f"POST /sample?{QUERY}{QUICK_DRAWS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    with narrow.busy() as computed:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
            call = narrow.stub.Sample.future(QUICK)
            until(lambda: narrow.metric("gumball_inflight_requests") == 4)
        call.cancel()
        until(lambda: narrow.metric("gumball_requests_total", code="CANCELLED") == 2)
        assert narrow.metric("gumball_inflight_requests") == 2
        assert not computed.done()
    assert narrow.metric("gumball_dropped_total", reason="cancelled") == 2
    assert narrow.metric("gumball_batch_requests_count") == batches + 2


def test_a_client_that_leaves_while_it_sends_is_counted(narrow):
    """Half a request is no request, and nobody waits for its rest."""
    host, port = narrow.server.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        until(lambda: narrow.metric("gumball_inflight_requests") == 1)
    until(lambda: narrow.metric("gumball_inflight_requests") == 0)
    assert narrow.metric("gumball_requests_total", transport="http", mode="invalid", code="CANCELLED") == 1


def assert_overloaded(narrow: Caller, response: httpx.Response, error: grpc.RpcError) -> None:
    assert (response.status_code, response.json()["reason"]) == (429, "OVERLOADED")
    assert int(response.headers["retry-after"]) >= 1
    assert reason_in(error) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "")
    retry = RetryInfo()
    assert status_in(error).details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0


def test_a_queue_full_of_requests_refuses_at_once_and_recovers(narrow):
    """Every further request is told when to come back; those inside are answered."""
    rejected = narrow.metric("gumball_rejected_total", reason="OVERLOADED")
    with narrow.busy() as computed:
        inside = [narrow.stub.Sample.future(QUICK) for _ in range(6)]
        until(lambda: narrow.metric("gumball_inflight_requests") == 8)
        response, call = narrow.small(), narrow.stub.Sample.future(QUICK)
        assert_overloaded(narrow, response, call.exception())
        assert not computed.done()
    assert len({call.result().index.data for call in inside}) == 1
    assert narrow.metric("gumball_rejected_total", reason="OVERLOADED") == rejected + 2
    assert narrow.small().json()["index"] == SMALL_INDEX


def test_a_queue_full_of_elements_refuses_what_has_no_room_and_takes_what_has(narrow):
    """Work is what is bounded, so a large request may be refused where a small one is not."""
    with narrow.busy() as computed:
        response = narrow.http.post(f"/sample?{QUERY}{SLOW_DRAWS}", content=BODY, headers=RAW)
        assert_overloaded(narrow, response, narrow.stub.Sample.future(SLOW).exception())
        assert narrow.small().json()["index"] == SMALL_INDEX
        assert not computed.done()


# Limits.


@pytest.mark.parametrize(
    ("draws", "outputs", "field"),
    [(500_001, "index", "outputs"), (31, "soft", "outputs"), (31, "one_hot", "outputs")],
)
def test_an_answer_over_the_limit_is_refused(narrow, draws, outputs, field):
    """Its size is known before anything is computed."""
    response = narrow.http.post(f"/sample?{QUERY}{draws}&outputs={outputs}", content=BODY, headers=RAW)
    assert response.status_code == 413
    assert (response.json()["reason"], response.json()["field"]) == ("TOO_LARGE", field)
    call = narrow.stub.Sample.future(message(draws, outputs=[f"OUTPUT_{outputs.upper()}"]))
    assert reason_in(call.exception()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", field)


def test_a_request_larger_than_the_whole_queue_is_too_large_rather_than_asked_to_come_back(narrow):
    """Waiting would not help it."""
    query = f"shape=3,{CATEGORIES}&dtype=float16&draws="
    assert narrow.http.post(f"/sample?{query}1", content=3 * BODY, headers=RAW).status_code == 200
    response = narrow.http.post(f"/sample?{query}{SLOW_DRAWS}", content=3 * BODY, headers=RAW)
    assert (response.status_code, response.json()["reason"]) == (413, "TOO_LARGE")


def test_a_body_over_the_limit_is_refused_on_both_transports(narrow):
    """The limit that /info tells is the limit."""
    assert narrow.http.get("/info").json()["limits"]["max_request_bytes"] == 100_000
    over = narrow.http.post("/sample", content=bytes(100_001), headers=RAW)
    assert (over.status_code, over.json()["reason"]) == (413, "TOO_LARGE")
    assert narrow.http.post("/sample", content=bytes(100_000), headers=RAW).status_code == 422
    with pytest.raises(grpc.RpcError) as raised:
        narrow.stub.Sample(pb.SampleRequest(logits=pb.Tensor(data=bytes(100_001))))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# The start.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


def test_until_the_kernels_are_ready_it_lives_and_asks_for_no_traffic(tmp_path: Path):
    """A first start compiles for seconds: it says so to health checks and to callers, and then serves."""
    http_port, grpc_port = free_port(), free_port()
    http = f"http://127.0.0.1:{http_port}"
    flags = ("--http-port", str(http_port), "--grpc-port", str(grpc_port), "--cache-dir", str(tmp_path / "cold"))
    with ThreadPoolExecutor(1) as thread, grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        starting = thread.submit(Server, *flags)
        until(lambda: answers(f"{http}/livez"))
        ready = httpx.get(f"{http}/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "starting"})
        inference = {path: httpx.get(f"{http}/v2/{path}").status_code for path in ("health/live", "health/ready")}
        assert inference == {"health/live": 200, "health/ready": 503}
        refused = httpx.post(f"{http}/sample", json=SMALL)
        assert (refused.status_code, refused.json()["reason"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["retry-after"]) >= 1
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watched).status == NOT_SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
        stub = sampling_pb2_grpc.SamplingServiceStub(channel)
        (unready,) = next(stub.SampleStream(iter([pb.SampleStreamRequest(requests=[message(1, id=9)])]))).responses
        assert (unready.id, unready.error.reason) == (9, "UNAVAILABLE")
        error = stub.Sample.future(QUICK).exception()
        assert reason_in(error) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "")
        assert [detail.Is(RetryInfo.DESCRIPTOR) for detail in status_in(error).details] == [False, True]
        assert not starting.done(), "the machine was too fast for this test"
        assert next(watched).status == SERVING
        server = starting.result()
        watched.cancel()
    assert httpx.post(f"{http}/sample", json=SMALL).json()["index"] == SMALL_INDEX
    assert server.stop() == 0


@each_engine
def test_a_signal_ends_it_while_it_compiles(engine, tmp_path: Path):
    """Ctrl-C on a first start does not wait for kernels that nobody wants any more."""
    command = [sys.executable, "-m", "gumball_server", "--http-port", "0", "--grpc-port", "0", "--grpc-engine", engine]
    with subprocess.Popen([*command, "--cache-dir", str(tmp_path)], stderr=subprocess.PIPE, text=True) as process:
        assert "loading kernels" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=10) == 0  # compiling takes longer
        finally:
            process.kill()


def test_debug_logs_are_its_own():
    """What the libraries beneath would say at that level is megabytes."""
    server = Server("--log-level", "debug")
    assert server.stop() == 0
    assert not [line for line in server.log if " DEBUG " in line and " gumball" not in line]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that is to end by itself."""
    command = [sys.executable, "-m", "gumball_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "engine"),
    [("http-port", "native"), ("grpc-port", "aio"), ("grpc-port", "native"), ("admin-port", "native")],
)
def test_a_port_that_is_taken_ends_it_with_a_clear_message(name, engine):
    """The message has the port, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = {"http-port": "0", "grpc-port": "0", "grpc-engine": engine} | {name: port}
        ended = run(*(text for flag, value in flags.items() for text in (f"--{flag}", value)))
    assert ended.returncode == 1
    assert "cannot listen" in ended.stderr
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_cache_that_cannot_be_written_ends_it_with_a_clear_message(tmp_path: Path):
    """Otherwise every start would compile anew; the message is about the cache."""
    (tmp_path / "file").write_text("")
    ended = run("--http-port", "0", "--grpc-port", "0", "--cache-dir", str(tmp_path / "file"))
    assert ended.returncode == 1
    assert str(tmp_path / "file") in ended.stderr
    assert "cannot listen" not in ended.stderr
    assert "Traceback" not in ended.stderr


# Settings.


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--http-port", "70000"], {}, "http_port"),
        (["--http-port", "-1"], {}, "http_port"),
        ([], {"GUMBALL_HTTP_PORT": "70000"}, "http_port"),
        ([], {"GUMBALL_HTTP_PORT": "tcp://10.0.0.1:8000"}, "GUMBALL_HTTP_PORT"),
        ([], {"GUMBALL_THREADS": ""}, "GUMBALL_THREADS"),
        (["--threads", "-1"], {}, "threads"),
        (["--device", "tpu"], {}, "device"),
        (["--log-level", "loud"], {}, "log_level"),
        (["--grpc-engine", "twisted"], {}, "grpc_engine"),
        (["--grace-seconds", "nan"], {}, "grace_seconds"),
        (["--drain-seconds", "inf"], {}, "drain_seconds"),
        (["--max-queue-requests", "0"], {}, "max_queue_requests"),
    ],
)
def test_an_impossible_setting_is_named(arguments, environment, named):
    """Whether it came as a flag or as a variable."""
    with pytest.raises(SettingsError, match=named):
        read_settings(arguments, environment)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--http-port", "abc"], "--http-port"),
        (["--nonsense", "1"], "--nonsense"),
        (["--thr", "1"], "--thr"),
        (["--http-port"], "--http-port"),
        (["serve"], "serve"),
    ],
)
def test_an_impossible_flag_ends_with_usage(capsys, arguments, named):
    """Flags are never guessed."""
    with pytest.raises(SystemExit) as raised:
        read_settings(arguments, {})
    assert raised.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--http-port", "70000"), ("--http-port", "abc")])
def test_wrong_settings_end_the_process_with_status_2(arguments):
    """One line says why."""
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "http" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_help_shows_every_setting():
    """Flag, variable and default."""
    shown = " ".join(run("--help").stdout.split())
    for each in fields(Settings):
        assert f"{flag(each.name)} " in shown
        assert f"[{variable(each.name)}]" in shown
        assert each.default == "" or f"(default: {each.default})" in shown


def test_variables_are_settings_flags_beat_them_and_foreign_ones_are_harmless():
    """Kubernetes sets GUMBALL_PORT and GUMBALL_SERVICE_... beside a Service named gumball; a typo is warned of."""
    environment = {
        "GUMBALL_THREADS": "1",
        "GUMBALL_MAX_QUEUE_REQUESTS": "17",
        "GUMBALL_MAX_REQUEST_BYTES": "1000",
        "GUMBALL_HTTP_PORT": "1",
        "GUMBALL_PORT": "tcp://10.0.0.1:8000",
        "GUMBALL_PORT_8000_TCP_ADDR": "10.0.0.1",
        "GUMBALL_SERVICE_HOST": "10.0.0.1",
        "GUMBALL_THREDS": "3",
    }
    server = Server("--max-request-bytes", "2000", environment=environment)
    info = httpx.get(f"{server.http}/info").json()
    assert server.stop() == 0
    assert info["devices"] == [{"name": "cpu", "threads": 1}]
    assert (info["limits"]["max_queue_requests"], info["limits"]["max_request_bytes"]) == (17, 2000)
    (warning,) = (line for line in server.log if "GUMBALL_" in line)
    assert " WARNING " in warning
    assert "GUMBALL_THREDS" in warning


# The end.


@each_engine
def test_sigterm_turns_traffic_away_serves_on_for_a_while_and_loses_nothing(engine):
    """Readiness first, then the grace delay, then no more connections; whatever was accepted is answered."""
    flags = ("--grpc-engine", engine, "--grace-seconds", "1", "--threads", "1")
    server = Server(*flags, "--max-queue-elements", str(1 << 40))
    caller = Caller(server)
    health = health_pb2_grpc.HealthStub(caller.channel)
    watched = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(watched).status == SERVING
    with ThreadPoolExecutor(2) as threads:
        url = f"{server.http}/sample?{QUERY}{SLOW_DRAWS}"
        over_http = [threads.submit(httpx.post, url, content=BODY, headers=RAW, timeout=60) for _ in range(2)]
        over_grpc = [caller.stub.Sample.future(SLOW) for _ in range(2)]
        until(lambda: caller.metric("gumball_queue_elements") == 4 * SLOW_DRAWS * CATEGORIES)
        server.signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        ready = caller.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert httpx.get(f"{server.http}/livez").status_code == 200
        assert httpx.post(f"{server.http}/sample", json=SMALL).json()["index"] == SMALL_INDEX
        until(lambda: not answers(f"{server.http}/livez"))
        indices = [call.result().content for call in over_http] + [call.result().index.data for call in over_grpc]
    assert len(set(indices)) == 1
    assert len(indices[0]) == 4 * SLOW_DRAWS
    caller.close()
    assert server.wait() == 0
    assert "stopped" in server.log[-1]
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


def test_all_requests_are_answered_until_the_grace_has_passed():
    """Callers that connect anew for every request notice nothing of the signal before the drain begins."""
    server = Server("--grace-seconds", "0.5")
    with ThreadPoolExecutor(8) as threads:
        ends = [threads.submit(call_until_refused, server.http) for _ in range(8)]
        until(lambda: "gumball_requests_total" in httpx.get(f"{server.http}/metrics").text)
        server.signal(signal.SIGTERM)
    assert server.wait() == 0
    (drain,) = (line for line in server.log if line.endswith("draining\n"))
    began = datetime.strptime(drain[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    assert min(end.result() for end in ends) >= began
    assert not [line for line in server.log if " ERROR " in line]


def call_until_refused(http: str) -> float:
    """The time at which a request was not answered, after any number that were, each on its own connection."""
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while True:
            try:
                response = client.post(f"{http}/sample", json=SMALL)
            except httpx.TransportError:
                return time.time()
            assert response.json()["index"] == SMALL_INDEX


@each_engine
def test_a_second_signal_ends_the_grace(engine):
    """Who asks twice means it; neither the grace of an hour is waited for nor those who only watch its health."""
    server = Server("--grpc-engine", engine, "--grace-seconds", "3600", "--drain-seconds", "3600")
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watched).status == SERVING
        server.signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_sigint_ends_it_without_a_grace():
    """A person at a terminal does not wait."""
    server = Server("--grace-seconds", "3600")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
