"""Replicas are replaced one after another under traffic, and no caller notices."""

import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from conftest import Server
from live_prometheus import free_port, until
from load import MODES, SHAPES, load, mixed, over_grpc
from prometheus_client.parser import text_string_to_metric_families

REPLICAS = 3
REQUESTS = 200.0  # a second
# As in a cluster, readiness says no for longer than whoever balances takes to notice.
FLAGS = ("--grace-seconds", "1.5", "--drain-seconds", "20", "--threads", "1")
CHECK = "0.25s"
EXAMPLES = Path(__file__).parent.parent.parent / "deploy/examples"


class Replica:
    """A server on ports of its own, which its successor takes over."""

    def __init__(self) -> None:
        self.ports = {"http": free_port(), "grpc": free_port()}
        self.start()

    def start(self) -> None:
        ports = [text for name, port in self.ports.items() for text in (f"--{name}-port", str(port))]
        self.server = Server(*FLAGS, *ports)  # of a flag that is given twice, the last counts

    def replace(self) -> None:
        """As Kubernetes does: SIGTERM, the end, a new one that is ready."""
        self.server.signal(signal.SIGTERM)
        assert self.server.wait() == 0
        self.start()

    def answered(self) -> float:
        """Requests that this process has answered well."""
        text = httpx.get(f"http://127.0.0.1:{self.ports['http']}/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(s.value for s in samples if s.name == "gumball_requests_total" and s.labels["code"] == "OK")


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Replica]]:
    with ThreadPoolExecutor(REPLICAS) as threads:
        replicas = list(threads.map(lambda _: Replica(), range(REPLICAS)))
        yield replicas
        assert list(threads.map(lambda replica: replica.server.stop(), replicas)) == [0] * REPLICAS


def replace_all(replicas: list[Replica], outcomes: Counter[str]) -> None:
    """One after another, each once the one before has its share of the traffic."""
    for replica in replicas:
        replica.replace()
        until(lambda replica=replica: replica.answered() > REQUESTS / REPLICAS)
    assert set(outcomes) == {"OK"}, outcomes


def test_client_side_balancing(replicas):
    """gRPC's own, by the service config of the examples: round robin over the replicas that say they are ready."""
    target = "ipv4:" + ",".join(f"127.0.0.1:{replica.ports['grpc']}" for replica in replicas)
    config = (EXAMPLES / "grpc-service-config.json").read_text()
    with grpc.insecure_channel(target, [("grpc.service_config", config)]) as channel:
        callers = [over_grpc(channel, mode, shape) for mode in MODES for shape in SHAPES]
        with load(callers, REQUESTS) as outcomes:
            replace_all(replicas, outcomes)
    assert set(outcomes) == {"OK"}, outcomes


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
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": each}}}}
            for each in (replica.ports[cluster["name"]] for replica in replicas)
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


def test_behind_a_proxy(replicas, proxy):
    """HTTP and gRPC through the Envoy of the examples."""
    with (
        httpx.Client(base_url=f"http://{proxy}") as client,
        grpc.insecure_channel(proxy) as channel,
        load(mixed(client, channel), REQUESTS) as outcomes,
    ):
        replace_all(replicas, outcomes)
    assert set(outcomes) == {"OK"}, outcomes
