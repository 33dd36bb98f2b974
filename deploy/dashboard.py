"""The Grafana dashboard: its panels here, its JSON in deploy/grafana/dashboard.json, which `make manifests` writes."""

import json
from dataclasses import dataclass
from itertools import count
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = '{job="gumball", namespace=~"$namespace", instance=~"$instance"}'
OF_JOB = '{job="gumball", namespace=~"$namespace"}'
INTERVAL = "[$__rate_interval]"
COLUMNS = 24
WIDTH, HEIGHT = 8, 8


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how Grafana names each series of it."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: what it shows, of which kind and unit (Grafana's names for both)."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"


def rate(metric: str, by: str = "", more: str = "") -> str:
    """A counter's rate a second, summed over replicas."""
    of = OF[:-1] + more + "}"
    return f"sum by ({by}) (rate({metric}{of}{INTERVAL}))" if by else f"sum(rate({metric}{of}{INTERVAL}))"


def quantile(q: float, histogram: str, by: str = "") -> str:
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', ', '.join(filter(None, [by, 'le'])))})"


def mean(histogram: str) -> str:
    return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}"


PHASES = ("decode", "queue", "compute", "encode")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel(
            "Requests by transport and mode",
            "invalid: requests that were not understood.",
            (Query(rate("gumball_requests_total", "transport, mode"), "{{transport}} {{mode}}"),),
            "reqps",
        ),
        Panel(
            "Outcomes",
            "OK, or the reason of the refusal.",
            (Query(rate("gumball_requests_total", "code"), "{{code}}"),),
            "reqps",
        ),
        Panel(
            "Burn rate of the budgets, 1 hour",
            "1 spends the budget of 30 days in 30 days; 14.4 wakes somebody.",
            (
                Query(f"job:gumball_errors:ratio_rate1h{OF_JOB} / 0.001", "errors"),
                Query(f"job:gumball_slow:ratio_rate1h{OF_JOB} / 0.01", "slow answers"),
            ),
        ),
        Panel(
            "Rows and draws",
            "What was answered: draws are rows times the draws of each.",
            (Query(rate("gumball_rows_total"), "rows"), Query(rate("gumball_draws_total"), "draws")),
            "ops",
        ),
        Panel(
            "Refused at admission",
            "OVERLOADED: the queue was full. TOO_LARGE: over a limit. UNAVAILABLE: not ready.",
            (Query(rate("gumball_rejected_total", "reason"), "{{reason}}"),),
            "reqps",
        ),
        Panel(
            "Dropped before they were computed",
            "Their caller went away, or their deadline passed.",
            (Query(rate("gumball_dropped_total", "reason"), "{{reason}}"),),
            "reqps",
        ),
    ),
    "Latency": (
        Panel(
            "Latency",
            "From the whole request to its answer.",
            (Query(rate("gumball_request_duration_seconds_bucket", "le"), "{{le}}"),),
            "s",
            "heatmap",
        ),
        Panel(
            "Latency by transport",
            "Quantiles, to the accuracy of the buckets, which double.",
            tuple(
                Query(quantile(q, "gumball_request_duration_seconds", "transport"), f"{{{{transport}}}} p{q * 100:g}")
                for q in (0.5, 0.9, 0.99)
            ),
            "s",
        ),
        Panel(
            "Where the time goes, mean",
            "Decode, queue and encode of a request, compute of a batch.",
            tuple(Query(mean(f"gumball_{phase}_duration_seconds"), phase) for phase in PHASES),
            "s",
        ),
        Panel(
            "Where the time goes, p99",
            "Decode, queue and encode of a request, compute of a batch.",
            tuple(Query(quantile(0.99, f"gumball_{phase}_duration_seconds"), phase) for phase in PHASES),
            "s",
        ),
        Panel(
            "Requests and rows of a batch, mean",
            "1 request a batch: replicas have time to spare.",
            (Query(mean("gumball_batch_requests"), "requests"), Query(mean("gumball_batch_rows"), "rows")),
        ),
        Panel(
            "Elements of a batch",
            "Rows x draws x categories, against max_batch_elements.",
            tuple(Query(quantile(q, "gumball_batch_elements"), f"p{q * 100:g}") for q in (0.5, 0.99)),
        ),
    ),
    "Replicas": (
        Panel(
            "Queue and its limit",
            "Rows x draws x categories admitted and not yet finished.",
            (
                Query(f"gumball_queue_elements{OF}", "{{instance}}"),
                Query(f"min(gumball_queue_limit_elements{OF})", "limit"),
            ),
        ),
        Panel(
            "Saturation of the queue",
            "Of elements or of requests, whichever is fuller; over 0.8 it will soon refuse.",
            (Query(f"instance:gumball_queue:saturation{OF}", "{{instance}}"),),
            "percentunit",
        ),
        Panel(
            "In flight",
            "Requests received and not yet answered.",
            (Query(f"gumball_inflight_requests{OF}", "{{instance}}"),),
        ),
        Panel(
            "Computing",
            "Share of the time that a replica's worker computes.",
            (Query(rate("gumball_compute_duration_seconds_sum", "instance, device"), "{{instance}} {{device}}"),),
            "percentunit",
        ),
        Panel(
            "Processor",
            "Cores that a replica keeps busy, all its processes together.",
            (Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Resident, of all processes of a replica together.",
            (Query(f"process_resident_memory_bytes{OF}", "{{instance}}"),),
            "bytes",
        ),
        Panel(
            "Open files",
            "Connections, for the most part, of what a process may have; at 1 it accepts no more.",
            (Query(f"process_open_fds{OF} / process_max_fds{OF}", "{{instance}}"),),
            "percentunit",
        ),
        Panel(
            "Workers that can compute",
            "1 for each replica that is ready.",
            (Query(f"gumball_worker_up{OF}", "{{instance}} {{device}}"),),
            kind="stat",
        ),
        Panel(
            "Versions",
            "Replicas by version and contract: more than one contract only during an upgrade.",
            (Query(f"count by (version, contract) (gumball_build_info{OF})", "{{version}} {{contract}}"),),
            kind="stat",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "gumball",
        "title": "Gumball",
        "tags": ["gumball"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the crosshair is shared
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                _variable("namespace", 'label_values(gumball_build_info{job="gumball"}, namespace)'),
                _variable(
                    "instance", 'label_values(gumball_build_info{job="gumball", namespace=~"$namespace"}, instance)'
                ),
            ]
        },
        "panels": _laid_out(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def _variable(name: str, query: str) -> dict[str, Any]:
    """A choice of labels; all of them are also none, where there is no such label."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _laid_out() -> list[dict[str, Any]]:
    """Titles of rows, and below each its panels, three abreast."""
    numbers, placed, y = count(1), [], 0
    for title, panels in ROWS.items():
        grid = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        placed.append({"id": next(numbers), "type": "row", "title": title, "gridPos": grid, "panels": []})
        y += 1
        for index, panel in enumerate(panels):
            down, across = divmod(index * WIDTH, COLUMNS)
            grid = {"x": across, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            placed.append({"id": next(numbers), "gridPos": grid, **_panel(panel)})
        y += -(-len(panels) * WIDTH // COLUMNS) * HEIGHT
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    heatmap = panel.kind == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": "heatmap" if heatmap else "time_series",
            "exemplar": panel.unit == "s",  # what takes time has traces to show, where they are on
        }
        for index, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"calculate": False, "yAxis": {"unit": panel.unit}} if heatmap else {},
        "targets": targets,
    }
