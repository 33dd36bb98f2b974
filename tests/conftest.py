"""A real server process on real ports, and the published real logits."""

import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

START_SECONDS = 120


class Server:
    """A `gumball_server` process of our own, or that of a script which is one."""

    command: Sequence[str | Path] = (sys.executable, "-m", "gumball_server")

    def __init__(
        self, *flags: str, environment: dict[str, str] | None = None, command: Sequence[str | Path] | None = None
    ) -> None:
        arguments = ("--http-port", "0", "--grpc-port", "0", *flags)
        self.process = subprocess.Popen(
            [*(command or self.command), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.log: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not self.addresses:
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def _read_log(self) -> None:
        """Follow the log to its end, so that the process never waits for a reader."""
        for line in self.process.stderr:
            self.log.append(line)
            if " ready " in line:
                self._ready.set()
        self._ready.set()

    @property
    def addresses(self) -> dict[str, str]:
        """What the ready line says: http, grpc and so on."""
        ready = next((line for line in self.log if " ready " in line), "")
        return dict(re.findall(r"(\w+)=(\S+)", ready))

    @property
    def http(self) -> str:
        return self.addresses["http"]

    @property
    def grpc(self) -> str:
        return "grpc://" + self.addresses["grpc"]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        status = self.process.wait(timeout=START_SECONDS)
        self._reader.join()
        self.process.stderr.close()
        return status

    def stop(self) -> int:
        """End it as an operator would, and give the exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
        return self.wait()


def shared(*flags: str) -> Iterator[Server]:
    """A server that many tests share; it must survive all of them and end well."""
    server = Server(*flags)
    yield server
    assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server as it is by default."""
    yield from shared()


@pytest.fixture(scope="session")
def aio_server() -> Iterator[Server]:
    """A server with the other engine for gRPC."""
    yield from shared("--grpc-engine", "aio")


@pytest.fixture(scope="session", params=["native", "aio"])
def grpc_server(request) -> Server:
    """A server with each engine for gRPC."""
    return request.getfixturevalue({"native": "server", "aio": "aio_server"}[request.param])


@pytest.fixture(scope="session")
def address(server) -> str:
    """Where our own HTTP/2 is."""
    return server.addresses["grpc"]


@pytest.fixture
def others_are_served(address):
    """Whatever a test has done there."""
    from http2_calls import assert_serves_others  # which needs more than tests of kernels have on a GPU

    yield
    assert_serves_others(address)


@pytest.fixture(scope="session")
def real_logits() -> np.ndarray:
    """Next-token logits of a language model, [32, 49152] float16."""
    return np.load(Path(__file__).parent / "data/smollm2-135m-logits.npy")


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a Unix socket's."""
    with tempfile.TemporaryDirectory(prefix="gumball-") as folder:
        yield Path(folder)


@pytest.fixture
def nothing_is_lost(caplog) -> Iterator[None]:
    """No exception goes where nobody looks: into the log of asyncio."""
    yield
    gc.collect(1)  # what is as young as the test
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []
