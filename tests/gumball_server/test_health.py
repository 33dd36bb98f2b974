"""The health check of the image, as a process beside a server."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from conftest import Server
from live_prometheus import free_port


def health(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gumball_server.health", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def port(address: str) -> str:
    return str(urlsplit(address).port)


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> list[str]:
    """Flags to serve with TLS, for a name that is not this machine's address."""
    folder: Path = tmp_path_factory.mktemp("tls")
    certificate = trustme.CA().issue_cert("gumball.example")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert")
    certificate.private_key_pem.write_to_path(folder / "key")
    return ["--tls-cert", str(folder / "cert"), "--tls-key", str(folder / "key")]


def test_a_server_that_is_ready_is_well(server):
    """And the check says no more than the service does."""
    done = health("--http-port", port(server.http))
    assert (done.returncode, done.stdout, done.stderr) == (0, '200 {"status":"ready"}\n', "")


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    with ExitStack() as servers:

        def start(*flags: str) -> Server:
            server = Server(*flags)
            servers.callback(server.stop)
            return server

        yield start


def test_behind_tls(start, tls):
    """Whatever name the certificate is for."""
    assert health(*tls, "--http-port", port(start(*tls).http)).returncode == 0


def test_by_the_admin_port(start, tls):
    """Which is plain, and open where certificates are asked of everyone else, this check included."""
    server = start(*tls, "--tls-client-ca", tls[1], "--admin-port", "0")
    assert health(*tls, "--http-port", port(server.http)).returncode == 1
    assert health(*tls, "--admin-port", port(server.addresses["admin"])).returncode == 0


def test_where_nothing_listens_it_is_not():
    """One line says why, and one names a setting that cannot be."""
    done = health("--http-port", str(free_port()))
    assert (done.returncode, done.stdout, done.stderr) == (1, "[Errno 111] Connection refused\n", "")
    done = health("--device", "abacus")
    assert (done.returncode, done.stderr) == (2, "")
    assert "device" in done.stdout
