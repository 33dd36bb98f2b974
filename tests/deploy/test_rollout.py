"""Replicas are replaced one after another, killed and added under traffic, and no caller notices."""

import asyncio
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import httpx
import pytest
import yaml
from conftest import Server
from gumball import AsyncClient, Client
from live_prometheus import free_port, until
from named_services import balancer_of
from prometheus_client.parser import text_string_to_metric_families
from traffic import TIMEOUT, Call, mixed, over_balancer, over_binary, over_client, over_grpc, over_json, traffic

REPLICAS = 3
REQUESTS = 500.0  # a second
SHARE_SECONDS = 10  # in which a new replica has its share
FAIR = 0.75  # of what it would be if all had the same
# As in a cluster, readiness says no for longer than whoever balances takes to notice.
FLAGS = ("--grace-seconds", "1.5", "--drain-seconds", "20", "--threads", "1")
CHECK = "0.25s"
EXAMPLES = Path(__file__).parent.parent.parent / "deploy/examples"


class Replica:
    """A server that is to the others as one pod to another: on the same ports of an address of its own."""

    def __init__(self, host: str, ports: dict[str, int]) -> None:
        self.host, self.ports = host, ports
        self.start()

    def start(self) -> None:
        ports = [text for name, port in self.ports.items() for text in (f"--{name}-port", str(port))]
        self.server = Server(*FLAGS, "--host", self.host, *ports)  # of a flag that is given twice, the last counts

    def end(self, number: signal.Signals, status: int) -> None:
        self.server.signal(number)
        assert self.server.wait() == status

    def at(self, way: str) -> str:
        return f"{self.host}:{self.ports[way]}"

    def answered(self) -> float:
        """Requests that this process has answered well."""
        text = httpx.get(f"http://{self.at('http')}/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(s.value for s in samples if s.name == "gumball_requests_total" and s.labels["code"] == "OK")


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Replica]]:
    ports = {"http": free_port(), "grpc": free_port()}
    with ThreadPoolExecutor(REPLICAS) as threads:
        replicas = list(threads.map(lambda number: Replica(f"127.0.0.{2 + number}", ports), range(REPLICAS)))
        yield replicas
        assert list(threads.map(lambda replica: replica.server.stop(), replicas)) == [0] * REPLICAS


def are_even(replicas: Sequence[Replica]) -> bool:
    """Whether each of them has its share of a second's calls."""
    before = [replica.answered() for replica in replicas]
    time.sleep(1)
    calls = [replica.answered() - count for replica, count in zip(replicas, before, strict=True)]
    return min(calls) > FAIR * REQUESTS / len(replicas)


def replace_all_and_kill_one(replicas: Sequence[Replica]) -> None:
    """One after another as Kubernetes does: SIGTERM, the end, a new one that is ready; the last without a warning."""
    for number, replica in ((signal.SIGTERM, each) for each in replicas):
        replica.end(number, 0)
        replica.start()
        until(lambda: are_even(replicas), SHARE_SECONDS)
    replicas[0].end(signal.SIGKILL, -signal.SIGKILL)
    replicas[0].start()
    until(lambda: are_even(replicas), SHARE_SECONDS)


async def assert_unnoticed(calls: list[Call], events: Callable[[], None]) -> None:
    """Of the calls during the events, whatever they are, none fails."""
    async with traffic(calls, REQUESTS) as outcome:
        await asyncio.to_thread(events)
    outcome.assert_no_call_failed()


async def test_round_robin(replicas):
    """By our client, which asks elsewhere what one replica could not take, and by gRPC with the examples' config."""
    http = [f"http://{replica.at('http')}" for replica in replicas]
    places = ",".join(replica.at("grpc") for replica in replicas)
    config = (EXAMPLES / "grpc-service-config.json").read_text()
    options = [("grpc.service_config", config), ("grpc.per_rpc_retry_buffer_size", 1 << 26)]
    async with (
        AsyncClient(http) as http_client,
        AsyncClient(f"grpc://{places}") as grpc_client,
        grpc.aio.insecure_channel(f"ipv4:{places}", options) as channel,
    ):
        with Client(http) as blocking_http, Client(f"grpc://{places}") as blocking_grpc:
            # httpx takes several times as long as the others, and a thread as long again: of those there are fewer.
            parts = {grpc_client: 9, http_client: 4, blocking_grpc: 2, blocking_http: 1}
            calls = [call for client, part in parts.items() for call in mixed(over_client, client, part)]
            await assert_unnoticed(calls + mixed(over_grpc, channel, 6), lambda: replace_all_and_kill_one(replicas))


async def test_a_name_that_stands_for_more_and_for_fewer(replicas):
    """As that of a headless Service does, whose replica is there before its address is, and goes after it."""
    known = [replica.host for replica in replicas[:2]]
    ports = replicas[0].ports

    def grow_and_shrink() -> None:
        until(lambda: are_even(replicas[:2]), SHARE_SECONDS)
        known.append(replicas[2].host)
        until(lambda: are_even(replicas), SHARE_SECONDS)
        known.remove(replicas[0].host)
        replicas[0].end(signal.SIGTERM, 0)
        until(lambda: are_even(replicas[1:]), SHARE_SECONDS)
        replicas[0].start()

    async with AsyncExitStack() as stack:
        calls: list[Call] = []
        for way, part in (("grpc", 3), ("http", 1)):
            balancer = balancer_of(f"{way}://gumball.test:{ports[way]}", known)
            stack.push_async_callback(balancer.close)
            calls += mixed(over_balancer, balancer, part)
        await assert_unnoticed(calls, grow_and_shrink)


def configuration(replicas: list[Replica], port: int, admin: int) -> str:
    """The Envoy of the examples, in front of these replicas instead of a Service, and quicker to notice."""
    whole = yaml.safe_load((EXAMPLES / "envoy.yaml").read_text())
    for address, number in ((whole["admin"], admin), (whole["static_resources"]["listeners"][0], port)):
        address["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": number}
    for cluster in whole["static_resources"]["clusters"]:
        cluster["type"] = "STATIC"
        cluster["health_checks"][0] |= {"interval": CHECK, "no_traffic_interval": CHECK}
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": each.host, "port_value": each.ports[name]}}}}
            for name, each in ((cluster["name"], replica) for replica in replicas)
        ]
    return yaml.safe_dump(whole)


@pytest.fixture
def proxy(replicas, tmp_path) -> Iterator[str]:
    """The address of an Envoy in front of the replicas."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("there is no package of Envoy for this machine")
    port, admin = free_port(), free_port()
    (tmp_path / "envoy.yaml").write_text(configuration(replicas, port, admin))
    command = [Path(sys.executable).parent / "envoy", "--config-path", tmp_path / "envoy.yaml", "--concurrency", "1"]
    process = subprocess.Popen([*command, "--log-level", "error", "--use-dynamic-base-id"])

    def healthy() -> bool:
        assert process.poll() is None
        try:
            text = httpx.get(f"http://127.0.0.1:{admin}/clusters").text
        except httpx.ConnectError:
            return False
        return text.count("health_flags::healthy") == 2 * REPLICAS

    until(healthy)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


async def test_behind_a_proxy(replicas, proxy):
    """JSON, bytes and gRPC through the Envoy of the examples, by clients that know nothing of more tries."""
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    async with (
        aiohttp.ClientSession(f"http://{proxy}", timeout=timeout) as session,
        grpc.aio.insecure_channel(proxy, [("grpc.enable_retries", 0)]) as channel,
    ):
        calls = mixed(over_json, session, 5) + mixed(over_binary, session, 5) + mixed(over_grpc, channel, 5)
        await assert_unnoticed(calls, lambda: replace_all_and_kill_one(replicas))
