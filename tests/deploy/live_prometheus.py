"""A real Prometheus of our own that scrapes servers of our own, sixty times as fast as one in service."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

SCRAPE = "500ms"
UNITS = {"m": (1, "s"), "h": (1, "m"), "d": (24, "m")}


def tool(name: str) -> str:
    """Where prometheus or promtool is; without it a test fails, unless WITHOUT_PROMTOOL is set."""
    if os.environ.get("WITHOUT_PROMTOOL"):
        pytest.skip("WITHOUT_PROMTOOL is set")
    hint = f"{name} is not installed (Debian: apt-get install prometheus); or set WITHOUT_PROMTOOL=1"
    return shutil.which(name) or pytest.fail(hint)


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for what only asking can tell."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def sped_up(rules: str) -> str:
    """The rules with every window and every `for` a sixtieth as long."""

    def shorter(match: re.Match[str]) -> str:
        factor, unit = UNITS[match["unit"]]
        return f"{match['before']}{int(match['number']) * factor}{unit}"

    return re.sub(r"(?P<before>\[|for: )(?P<number>\d+)(?P<unit>[mhd])", shorter, rules)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Prometheus:
    """A Prometheus process: its targets are addresses by the name of their `instance`."""

    def __init__(self, folder: Path, targets: dict[str, str], rules: str, *flags: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        (folder / "rules.yaml").write_text(sped_up(rules))
        (folder / "prometheus.yaml").write_text(self._configuration(targets))
        self.process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=error",
                *flags,
            ]
        )
        until(self._is_ready)

    @staticmethod
    def _configuration(targets: dict[str, str]) -> str:
        static = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
        return yaml.safe_dump(
            {
                "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [{"job_name": "gumball", "static_configs": static}],
            }
        )

    def _is_ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.ConnectError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        assert answer.is_success, answer.text
        return json.loads(answer.text)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        return list(self.ask("query", query=expr)["result"])

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire, each with its instance if it has one."""
        alerts = self.ask("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
