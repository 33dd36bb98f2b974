"""The servers that are compared, as processes on one core."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError

import grpc
from cases import MESSAGE_BYTES, Case, Form, ask
from prometheus_client.parser import text_string_to_metric_families

AIO = ("--grpc-engine=aio",)
SERVERS = Path(__file__).parent / "servers"
START_SECONDS = 180
STOP_SECONDS = 10
PAUSE_SECONDS = 0.2
LOG_CHARACTERS = 3000


@dataclass(frozen=True)
class Contestant:
    """A program that serves on given ports."""

    name: str
    program: tuple[str, ...]
    forms: frozenset[Form] = frozenset(Form)
    counts: bool = False  # in /metrics, how many it has answered

    def path(self, case: Case) -> str:
        return case.path

    def command(self, http_port: int, grpc_port: int) -> list[str]:
        return [sys.executable, *self.program, f"--http-port={http_port}", f"--grpc-port={grpc_port}"]


class Mosec(Contestant):
    def path(self, case: Case) -> str:
        return f"/{case.mode}" if case.form is Form.BINARY else case.path  # its workers do not see the query string

    def command(self, http_port: int, grpc_port: int) -> list[str]:
        flags = ("--address=127.0.0.1", f"--port={http_port}", f"--max-request-size={MESSAGE_BYTES}")
        return [sys.executable, *self.program, *flags, "--log-level=warning"]


CONTESTANTS = (
    Contestant("gumball", ("-m", "gumball_server"), counts=True),
    Contestant("echo", (str(SERVERS / "echo.py"),)),
    Contestant("gumball-aio", ("-m", "gumball_server", *AIO), frozenset({Form.GRPC}), counts=True),
    Contestant("echo-aio", (str(SERVERS / "echo.py"), *AIO), frozenset({Form.GRPC})),
    Contestant("naive", (str(SERVERS / "naive.py"), *AIO), frozenset({Form.JSON, Form.GRPC})),
    Mosec("mosec", (str(SERVERS / "batching.py"),), frozenset({Form.JSON, Form.BINARY})),
)


class Running:
    """A contestant that runs, on a core of its own; a context manager that ends it."""

    def __init__(self, contestant: Contestant, core: int) -> None:
        self.contestant = contestant
        ports = _free_ports(2)
        self._addresses = [f"127.0.0.1:{port}" for port in ports]
        command = ["taskset", "-c", str(core), *contestant.command(*ports)]
        self._log = tempfile.TemporaryFile(prefix="gumball-bench-")  # noqa: SIM115 - closed on leaving
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session is ours: workers that it left
        self._process.wait()
        self._log.close()

    def _log_text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def address(self, form: Form) -> str:
        return self._addresses[form is Form.GRPC]

    def ask(self, case: Case) -> bytes:
        return ask(self.address(case.form), self.contestant.path(case), case)

    def first_answer(self, case: Case) -> bytes:
        """The answer to one request, as soon as the server is up."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.ask(case)
            except (OSError, grpc.RpcError) as error:
                if not _is_starting(error) or self._process.poll() is not None or time.monotonic() > deadline:
                    log = self._log_text()[-LOG_CHARACTERS:]
                    raise RuntimeError(f"{self.contestant.name} does not answer {case}: {error}\n{log}") from error
            time.sleep(PAUSE_SECONDS)

    def answered(self, form: Form) -> int | None:
        """How many requests it says it has answered well, if it says."""
        if not self.contestant.counts:
            return None
        transport = "grpc" if form is Form.GRPC else "http"
        with urllib.request.urlopen(f"http://{self._addresses[0]}/metrics") as response:
            metrics = text_string_to_metric_families(response.read().decode())
        return sum(
            int(sample.value)
            for family in metrics
            for sample in family.samples
            if sample.name == "gumball_requests_total"
            and (sample.labels["transport"], sample.labels["code"]) == (transport, "OK")
        )

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # some process has ended
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid:  # the session
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _is_starting(error: Exception) -> bool:
    """Whether a server that is not up yet may answer so."""
    if isinstance(error, grpc.RpcError):
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return not isinstance(error, HTTPError) or error.code == HTTPStatus.SERVICE_UNAVAILABLE


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
