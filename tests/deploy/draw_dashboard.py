"""Draw the dashboard's panels from a real Prometheus that scrapes real servers: python draw_dashboard.py PICTURE.png

`make picture` runs it. This is our drawing of what Grafana's queries answer, not Grafana's rendering.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import matplotlib.pyplot as plt
import numpy as np
from conftest import Server
from live_prometheus import Prometheus
from load import load, mixed
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, PercentFormatter
from test_dashboard import DASHBOARD, PANELS, filled

RATES = (40.0, 120.0, 250.0, 80.0)  # requests a second to each server, one after another
SECONDS = 10.0
QUEUE = "800000"  # elements: small enough to refuse some
STEP = 1.0
FORMATS = {
    "s": EngFormatter("s"),
    "percentunit": PercentFormatter(1),
    "reqps": EngFormatter("/s"),
    "ops": EngFormatter("/s"),
}


def measure(folder: Path) -> tuple[Prometheus, float]:
    """A Prometheus that has seen traffic, and when that began."""
    servers = {
        name: Server("--admin-port", "0", "--threads", "1", "--max-queue-elements", QUEUE) for name in ("a", "b")
    }
    targets = {name: server.addresses["admin"].removeprefix("http://") for name, server in servers.items()}
    prometheus = Prometheus(folder, targets, (Path(__file__).parents[2] / "deploy/prometheus/rules.yaml").read_text())
    start = time.time() + 2
    with ExitStack() as stack:
        callers = []
        for server in servers.values():
            client = stack.enter_context(httpx.Client(base_url=server.http))
            callers += mixed(client, stack.enter_context(grpc.insecure_channel(server.addresses["grpc"])))
        for rate in RATES:
            with load(callers, rate * len(servers)) as outcomes:
                time.sleep(SECONDS)
            print(f"{rate} a second: {dict(outcomes.most_common(3))}")
    for server in servers.values():
        server.stop()
    return prometheus, start


def series(prometheus: Prometheus, query: dict[str, Any], start: float) -> list[tuple[str, np.ndarray]]:
    """Each series of a panel's query: its legend, and [times, 2] seconds and values."""
    end = start + SECONDS * len(RATES) - 2
    data = prometheus.ask("query_range", query=filled(query["expr"]), start=str(start), end=str(end), step=str(STEP))

    def legend(labels: dict[str, str]) -> str:
        text = str(query["legendFormat"])
        for name, value in labels.items():
            text = text.replace("{{" + name + "}}", value)
        return text

    return [
        (legend(each["metric"]), np.array(each["values"], float) - [start, 0])
        for each in sorted(data["result"], key=lambda each: str(each["metric"]))
    ]


def draw_heatmap(axes: Axes, buckets: list[tuple[str, np.ndarray]]) -> None:
    """Requests a second by bucket: what falls between a bound and the one below it."""
    buckets = sorted(buckets, key=lambda each: float(each[0]))
    cumulative = np.stack([points[:, 1] for _, points in buckets])
    density = np.diff(cumulative, axis=0, prepend=0)[:-1]
    bounds = [float(bound) for bound, _ in buckets[:-1]]
    times = buckets[0][1][:, 0]
    axes.pcolormesh(times, bounds, np.sqrt(np.maximum(density, 0)), shading="nearest", cmap="inferno")
    axes.set_yscale("log")


def draw(axes: Axes, panel: dict[str, Any], lines: list[tuple[str, np.ndarray]]) -> None:
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    if panel["type"] == "heatmap":
        draw_heatmap(axes, lines)
    elif panel["type"] == "stat":
        axes.axis("off")
        for row, (legend, points) in enumerate(lines):
            axes.text(0.05, 0.7 - 0.25 * row, f"{points[-1, 1]:g}   {legend}", fontsize=12, transform=axes.transAxes)
        return
    else:
        for legend, points in lines:
            axes.plot(points[:, 0], points[:, 1], label=legend, linewidth=1)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=6, loc="upper left", framealpha=0.6)
    axes.yaxis.set_major_formatter(FORMATS.get(panel["fieldConfig"]["defaults"]["unit"], EngFormatter()))


def main(picture: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prometheus, start = measure(Path(folder))
        figure, grid = plt.subplots(-(-len(PANELS) // 3), 3, figsize=(15, 15), layout="constrained")
        for axes, panel in zip(grid.flat, PANELS, strict=True):
            draw(axes, panel, [line for query in panel["targets"] for line in series(prometheus, query, start)])
        prometheus.stop()
    figure.suptitle(f"{DASHBOARD['title']}: the panels' queries, drawn by matplotlib", fontsize=11)
    figure.savefig(picture, dpi=70)


if __name__ == "__main__":
    main(sys.argv[1])
