"""The tables of the README are those of the code, and its example for tritonclient runs."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from gumball import contract
from gumball_server.settings import Settings, flag, variable
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

README = Path(__file__).parent.parent / "README.md"


def table(*columns: str) -> Iterator[tuple[str, ...]]:
    """The rows of the one table with these columns, without the code marks."""
    lines = iter(README.read_text().splitlines())
    header = "| " + " | ".join(columns) + " |"
    assert header in lines, f"README.md has no table {header}"
    next(lines)  # the rule below the header
    for line in lines:
        if not line.startswith("|"):
            return
        yield tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|"))


def exported(server) -> dict[str, Metric]:
    """The metrics of a server by the names that a query uses."""
    exposition = httpx.get(f"{server.http}/metrics").text
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(exposition)
    }


def test_the_settings_are_told_as_they_are():
    """Every setting with its flag, variable, default and help, in the order of the code, and no other."""
    told = list(table("flag", "variable", "default", "meaning"))
    settings = [
        (flag(each.name), variable(each.name), str(each.default), each.metadata["help"]) for each in fields(Settings)
    ]
    assert told == settings


def test_the_metrics_are_told_as_they_are(server):
    """Every metric with its type and help, and no other."""
    told = {name: (kind, help_text) for name, kind, _, help_text in table("metric", "type", "labels", "meaning")}
    assert told == {name: (metric.type, metric.documentation) for name, metric in exported(server).items()}


def test_the_labels_of_metrics_are_told_as_they_are(server):
    """Every label that a sample has, of those metrics that have samples after a request and a refusal."""
    httpx.post(f"{server.http}/sample", json={"logits": [0, 1]}).raise_for_status()
    assert httpx.post(f"{server.http}/sample", json={"logits": [0, 1], "draws": 2**32}).status_code == 413
    told = {
        name: set(re.findall(r"\w+", labels)) for name, _, labels, _ in table("metric", "type", "labels", "meaning")
    }
    for name, metric in exported(server).items():
        for sample in metric.samples:
            assert sample.labels.keys() - {"le"} == told[name]


def test_the_example_for_tritonclient_draws_the_bits_of_the_contract(server, monkeypatch, real_logits):
    """As it stands but for the port, in the folder of the README."""
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "infer(" in code
    )
    monkeypatch.chdir(README.parent)
    names: dict[str, Any] = {}
    exec(example.replace("localhost:8001", server.addresses["grpc"]), names)  # noqa: S102 - our own text
    expected = contract.straight_through(real_logits, np.arange(32, dtype=np.uint64), 0, tau=0.5)
    assert names["result"].as_numpy("index").tolist() == expected.index[:, None].tolist()
    assert names["result"].as_numpy("soft").tobytes() == expected.soft.tobytes()
