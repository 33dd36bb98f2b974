"""gRPC through the proxies of the environment, and on the other event loop that people use."""

import asyncio
import socket
import socketserver
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import trustme
import uvloop
from conftest import Server
from gumball import AsyncClient, contract, errors

LOGITS = np.random.default_rng(3).normal(0, 2, (1, 10)).astype(np.float32)
LARGE = np.zeros((1, 1 << 20), np.float32)
INDEX = int(contract.hard(LOGITS, 7)[0])


class Proxy(socketserver.ThreadingTCPServer):
    """Connects to one place, whatever it is asked for, or says a refusal; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, address: str, refusal: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        host, _, port = address.rpartition("://")[2].rpartition(":")
        self.there = host, int(port)
        self.refusal = refusal
        self.requests: list[bytes] = []

    @property
    def place(self) -> str:
        return "{}:{}".format(*self.server_address)


class Tunnel(socketserver.BaseRequestHandler):
    """One connection to it."""

    server: Proxy

    def handle(self) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += self.request.recv(1 << 16)
        self.server.requests.append(request)
        if self.server.refusal:
            self.request.sendall(self.server.refusal)
            return
        with suppress(OSError), socket.create_connection(self.server.there) as there:
            # With the answer comes what the service says first, where it does.
            there.settimeout(0.1)
            with suppress(TimeoutError):
                request = there.recv(9)
            there.settimeout(None)
            first = request if not request.startswith(b"CONNECT") else b""
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n" + first)
            back = threading.Thread(target=copy, args=(there, self.request))
            back.start()
            copy(self.request, there)
            back.join()


def copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxying(address: str, refusal: bytes = b"") -> Iterator[Proxy]:
    """A proxy before the place of an address."""
    with Proxy(address, refusal) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> pytest.MonkeyPatch:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def draw(address: str, **given) -> int:
    async with AsyncClient(address, retries=0, **given) as client, asyncio.timeout(20):
        return int((await client.sample(LOGITS, seed=7)).index[0, 0])


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_proxy_is_asked_for_the_name(server, environment, variable):
    """It alone knows what the name stands for; all calls share the tunnel."""
    with proxying(server.grpc) as proxy:
        environment.setenv(variable, f"http://{proxy.place}")
        async with AsyncClient("grpc://gumball.test:81", retries=0) as client:
            samples = await asyncio.gather(*(client.sample(each, seed=7) for each in (LOGITS, LARGE, LOGITS)))
    assert [int(each.index[0, 0]) for each in samples[::2]] == [INDEX, INDEX]
    assert [request.split(b"\r\n")[:2] for request in proxy.requests] == [
        [b"CONNECT gumball.test:81 HTTP/1.1", b"Host: gumball.test:81"]
    ]


async def test_the_first_of_the_proxies_counts(server, environment):
    """That of gRPC before that of HTTPS, and that before HTTP's. One without a scheme is one of HTTP."""
    with proxying(server.grpc) as proxy:
        environment.setenv("http_proxy", "http://127.0.0.1:9")
        environment.setenv("https_proxy", proxy.place)
        assert await draw("grpc://gumball.test:81") == INDEX
        environment.setenv("https_proxy", "http://127.0.0.1:9")
        environment.setenv("grpc_proxy", proxy.place)
        assert await draw("grpc://gumball.test:81") == INDEX
    assert len(proxy.requests) == 2


async def test_a_proxy_is_shown_who_asks(server, environment):
    """By the user and the password of its address."""
    with proxying(server.grpc) as proxy:
        environment.setenv("grpc_proxy", f"http://me%40home:pass%3Aword@{proxy.place}")
        assert await draw("grpc://gumball.test:81") == INDEX
    assert b"Proxy-Authorization: Basic " + b64encode(b"me@home:pass:word") in proxy.requests[0].split(b"\r\n")


async def test_a_name_that_needs_no_proxy_is_called_directly(server, environment):
    """By its name, or that of its domain."""
    environment.setenv("grpc_proxy", "http://127.0.0.1:9")
    with pytest.raises(errors.Unavailable, match=r"proxy 127\.0\.0\.1:9"):
        await draw(server.grpc)
    environment.setenv("no_proxy", "example.com,127.0.0.1")
    assert await draw(server.grpc) == INDEX


@pytest.mark.parametrize(
    ("refusal", "words"),
    [(b"HTTP/1.1 407 Who is it?\r\n\r\n", "407 Who is it"), (b"", "HTTP"), (b"?" * 100_000, "HTTP")],
)
async def test_a_proxy_that_refuses_is_told_of(environment, refusal, words):
    """In its own words."""
    with proxying("grpc://127.0.0.1:9", refusal) as proxy:
        environment.setenv("grpc_proxy", f"http://{proxy.place}")
        with pytest.raises(errors.Unavailable, match=words):
            await draw("grpc://gumball.test:81")


@pytest.fixture(scope="module")
def secure(tmp_path_factory) -> Iterator[tuple[Server, str]]:
    """A server with TLS for the name gumball.test, on TCP and a Unix socket, and whom to believe."""
    folder, authority = tmp_path_factory.mktemp("secure"), trustme.CA()
    issued = authority.issue_cert("gumball.test")
    authority.cert_pem.write_to_path(folder / "ca")
    issued.private_key_pem.write_to_path(folder / "key")
    issued.cert_chain_pems[0].write_to_path(folder / "cert")
    flags = ("--tls-cert", str(folder / "cert"), "--tls-key", str(folder / "key"), "--grpc-uds", str(folder / "socket"))
    server = Server(*flags)
    yield server, str(folder)
    assert server.stop() == 0


async def test_tls_goes_through_a_proxy(secure, environment):
    """To the service, whose name is checked; the proxy sees nothing of it."""
    server, folder = secure
    with proxying("grpc://" + server.addresses["grpc"]) as proxy:
        environment.setenv("grpc_proxy", f"http://{proxy.place}")
        assert await draw("grpcs://gumball.test:81", ca=f"{folder}/ca") == INDEX
        with pytest.raises(errors.Unavailable, match="certificate"):
            await draw("grpcs://other.test:81", ca=f"{folder}/ca")


async def test_a_peer_that_has_no_http2_under_tls_is_told_of(secure, environment):
    """One that takes the connection all the same, and speaks HTTP/1."""
    _, folder = secure
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/cert", f"{folder}/key")

    def listen(listener: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as peer:
            peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = asyncio.create_task(asyncio.to_thread(listen, listener))
        with proxying("grpc://{}:{}".format(*listener.getsockname())) as proxy:
            environment.setenv("grpc_proxy", proxy.place)
            with pytest.raises(errors.Unavailable, match="HTTP/2"):
                await draw("grpcs://gumball.test:81", ca=f"{folder}/ca")
        await listening


@pytest.mark.parametrize("way", ["plain", "unix", "tls through a proxy"])
def test_the_client_runs_on_uvloop(server, secure, environment, way):
    """Large calls, too, and many at a time."""
    behind, folder = secure

    async def run(address: str, **given) -> None:
        async with AsyncClient(address, retries=0, **given) as client, asyncio.timeout(60):
            await client.sample(LARGE)
            calls = [client.sample(LOGITS, seed=7) for _ in range(100)]
            assert {int(sample.index[0, 0]) for sample in await asyncio.gather(*calls)} == {INDEX}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if way == "tls through a proxy":
            with proxying("grpc://" + behind.addresses["grpc"]) as proxy:
                environment.setenv("grpc_proxy", proxy.place)
                runner.run(run("grpcs://gumball.test:81", ca=f"{folder}/ca"))
        else:
            runner.run(run(server.grpc if way == "plain" else f"grpc+unix://{folder}/socket"))
