"""The Grafana dashboard: what each of its panels asks, a real Prometheus that scrapes a real server can answer."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dashboard  # deploy/dashboard.py
import grpc
import httpx
import pytest
from conftest import Server
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from live_prometheus import Prometheus, until
from load import load, mixed, over_http

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "5s", "$namespace": ".*", "$instance": ".*"}
REQUESTS = 100.0  # a second


def filled(expr: str) -> str:
    """The query as Grafana sends it when everything is chosen."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def test_the_json_is_what_the_panels_say():
    """`make manifests` makes it so."""
    assert dashboard.dashboard() == DASHBOARD


def test_grafana_knows_every_field():
    """Its own model of a dashboard reads the JSON and writes it again: what it does not know would be gone."""
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))

    def assert_within(part: Any, whole: Any) -> None:
        if isinstance(part, dict):
            assert part.keys() <= whole.keys()
            for name, value in part.items():
                assert_within(value, whole[name])
        elif isinstance(part, list):
            for one, other in zip(part, whole, strict=True):
                assert_within(one, other)
        else:
            assert part == whole

    assert_within(DASHBOARD, written)


def test_panels_have_their_own_number_and_place():
    """Grafana would push overlapping ones about."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < dashboard.COLUMNS


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> Iterator[Prometheus]:
    """It scrapes a server that has traffic of every kind."""
    server = Server("--admin-port", "0")
    target = server.addresses["admin"].removeprefix("http://")
    rules = (DEPLOY / "prometheus/rules.yaml").read_text()
    scraper = Prometheus(tmp_path_factory.mktemp("prometheus"), {"one": target}, rules)
    with httpx.Client(base_url=server.http) as client, grpc.insecure_channel(server.addresses["grpc"]) as channel:
        callers = [*mixed(client, channel), over_http(client, "nonsense", (1, 3))]
        with load(callers, REQUESTS) as outcomes:
            until(lambda: scraper.query("sum(rate(gumball_requests_total[5s])) > 0"))
            yield scraper
    assert outcomes["OK"] > 0
    assert {outcome.split()[0] for outcome in outcomes} == {"OK", "422"}
    scraper.stop()
    assert server.stop() == 0


@pytest.mark.parametrize(
    "query", [q for panel in PANELS for q in panel["targets"]], ids=lambda q: f"{q['legendFormat']}: {q['expr'][:40]}"
)
def test_a_panel_has_data(prometheus, query):
    """A number, from every query, with the labels that its legend speaks of."""

    def numbers() -> list[dict]:
        return [each for each in prometheus.query(filled(query["expr"])) if not math.isnan(float(each["value"][1]))]

    until(numbers, seconds=20)
    wanted = set(re.findall(r"{{(\w+)}}", query["legendFormat"]))
    assert all(wanted <= series["metric"].keys() for series in numbers())


def test_a_query_without_data_is_found(prometheus):
    """The oracle of the test above."""
    assert not prometheus.query(filled("gumball_no_such_metric" + dashboard.OF))
