"""Prometheus's rules: by its own unit tests, and in a real Prometheus that scrapes real servers."""

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from conftest import Server
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from live_prometheus import Prometheus, free_port, sped_up, tool, until
from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
UNIT_TESTS = DEPLOY / "prometheus/rules_test.yaml"
GUIDE = DEPLOY / "README.md"

# Of the small queue, a request takes a twelfth; 16 callers ask at once.
ELEMENTS = 40_000 << 13
CALLERS, ROOM = 16, 12


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules():
    """As they are shipped, and as the tests below speed them up."""
    promtool("check", "rules", RULES)


def test_the_rules_do_what_their_unit_tests_say():
    """Each alert fires where it should, tells what it should, and stops."""
    promtool("test", "rules", UNIT_TESTS)


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not():
    """Else a rule could be broken unseen."""
    cases = [case for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} <= names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_paragraph_in_the_guide(rule):
    """Whoever is woken finds what to do."""
    name = rule["alert"]
    assert rule["annotations"]["runbook"] == f"deploy/README.md#{name.lower()}"
    paragraph = re.search(rf"^#+ {name}\n\n(.+?)\n\n", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert paragraph
    assert len(paragraph[1]) > 100
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_metric_of_the_rules_is_exported(server):
    """And the bound of the objective is one of the histogram's."""
    httpx.post(f"{server.http}/sample", json={"logits": [0, 1]}).raise_for_status()
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    known = {sample.name for sample in samples} | {rule["record"] for rule in rules() if "record" in rule}
    assert {name for rule in rules() for name in re.findall(r"[a-z_:]*gumball_[a-z0-9_:]+", rule["expr"])} <= known
    bounds = set(re.findall(r'le="([^"]+)"', RULES.read_text()))
    assert bounds
    assert bounds <= {s.labels["le"] for s in samples if s.name == "gumball_request_duration_seconds_bucket"}


def test_speeding_up_changes_durations_alone():
    """Names of records keep their window."""
    assert sped_up("a:ratio_rate5m [5m] [3d] for: 2m [6h]") == "a:ratio_rate5m [5s] [72m] for: 2s [6m]"


@contextmanager
def overload(address: str) -> Iterator[None]:
    """More callers than the queue has room for, for as long as the block runs."""
    over = threading.Event()
    request = pb.SampleRequest(
        logits=pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[1, 1 << 13], data=bytes(2 << 13)), draws=ELEMENTS >> 13
    )

    def call(_: int) -> None:
        with grpc.insecure_channel(address) as channel:
            sample = sampling_pb2_grpc.SamplingServiceStub(channel).Sample
            while not over.is_set():
                try:
                    sample(request)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - success is expected too
                    over.wait(0.1)

    with ThreadPoolExecutor(CALLERS) as threads:
        calls = threads.map(call, range(CALLERS))
        yield
        over.set()
        assert len(list(calls)) == CALLERS


def test_alerts_fire_and_stop(tmp_path):
    """A replica that is killed is missed until it is back; a queue that is full is told until it is not."""
    port = str(free_port())
    killed = Server("--admin-port", port)
    full = Server("--admin-port", "0", "--threads", "1", "--max-queue-elements", str(ELEMENTS * ROOM))
    targets = {"killed": f"127.0.0.1:{port}", "full": full.addresses["admin"].removeprefix("http://")}
    expected = {("GumballTargetMissing", "killed"), ("GumballQueueSaturated", "full"), ("GumballRefusing", "")}
    prometheus = Prometheus(tmp_path, targets, RULES.read_text())
    try:
        until(lambda: len(prometheus.query('up{job="gumball"} == 1')) == len(targets) and not prometheus.firing())
        killed.signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        with overload(full.addresses["grpc"]):
            until(lambda: expected <= prometheus.firing())
        killed = Server("--admin-port", port)
        until(lambda: not expected & prometheus.firing())
    finally:
        prometheus.stop()
        killed.stop()
        full.stop()
