"""What listens: HTTP on TCP and a Unix socket, gRPC on both, and the admin port."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gumball_server.batcher import Batcher
from gumball_server.exchange import Exchange
from gumball_server.grpc_server import create_application, create_server
from gumball_server.http_protocol import SampleProtocol
from gumball_server.http_sample import HeadReader
from gumball_server.http_server import create_admin_app, create_app
from gumball_server.info import Info, info
from gumball_server.lifecycle import Lifecycle
from gumball_server.metrics import Metrics
from gumball_server.settings import Settings

BACKLOG = 2048
# Longer than the idle time after which clients and load balancers drop a connection, so that they close first.
KEEP_ALIVE_SECONDS = 75
# From the end of a handler to its answer on the wire.
LAST_BYTES_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """Uvicorn on given sockets, with the signals left to the process."""

    def __init__(
        self, app: ASGIApp, sockets: list[socket.socket], protocol: Callable[..., Any] = HttpToolsProtocol
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        super().__init__(config)
        self._running = asyncio.ensure_future(self.serve(sockets))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def stop(self, seconds: float) -> None:
        """Stop accepting, and return when what was accepted is answered, or after `seconds`."""
        self.config.timeout_graceful_shutdown = max(1, round(seconds))
        self.should_exit = True
        await self._running


class GrpcServer(Protocol):
    """What a grpc.aio.Server and an H2cornServer have in common."""

    async def start(self) -> None: ...

    async def stop(self, grace: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Listeners:
    """Everything that listens; as text, where."""

    http: list[HttpServer]
    grpc: GrpcServer
    grpc_exchange: Exchange
    addresses: dict[str, str]
    info: Info

    def __str__(self) -> str:
        return " ".join(f"{name}={address}" for name, address in self.addresses.items())

    async def stop(self, seconds: float) -> None:
        """Stop accepting, and return when what was accepted is answered, or after `seconds`."""
        closing = asyncio.ensure_future(self.grpc.stop(seconds))
        await asyncio.gather(self._grpc_answered(seconds), *(server.stop(seconds) for server in self.http))
        # What is open now is watching health, and would stay so.
        await self.grpc.stop(min(seconds, LAST_BYTES_SECONDS))
        await closing

    async def _grpc_answered(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.grpc_exchange.idle(), seconds)


async def listen(settings: Settings, batcher: Batcher, metrics: Metrics, lifecycle: Lifecycle) -> Listeners:
    """Listen wherever the settings say. Raises OSError for an address that cannot be had."""
    told = info(settings)
    host = _in_url(settings.host)
    sockets = [_tcp(settings.host, settings.http_port)]
    addresses = {"http": f"http://{host}:{sockets[0].getsockname()[1]}"}
    if settings.http_uds:
        sockets.append(_unix(settings.http_uds))
        addresses["http_uds"] = settings.http_uds
    exchange, heads = Exchange("http", batcher, metrics), HeadReader(settings.max_request_bytes)
    app = create_app(exchange, heads, metrics, lifecycle, told, settings.origins)
    servers = [HttpServer(app, sockets, partial(SampleProtocol, exchange, heads, bool(settings.origins)))]
    if settings.admin_port >= 0:
        admin = _tcp(settings.host, settings.admin_port)
        addresses["admin"] = f"http://{host}:{admin.getsockname()[1]}"
        servers.append(HttpServer(create_admin_app(metrics, lifecycle, told), [admin]))
    grpc_exchange = Exchange("grpc", batcher, metrics)
    open_grpc = {"aio": _aio, "h2corn": _h2corn}[settings.grpc_engine]
    grpc_server, port = open_grpc(settings, grpc_exchange, lifecycle, told)
    addresses["grpc"] = f"{host}:{port}"
    if settings.grpc_uds:
        addresses["grpc_uds"] = settings.grpc_uds
    await grpc_server.start()
    return Listeners(servers, grpc_server, grpc_exchange, addresses, told)


def _aio(settings: Settings, exchange: Exchange, lifecycle: Lifecycle, told: Info) -> tuple[GrpcServer, int]:
    """gRPC's own server, and its port."""
    server = create_server(exchange, lifecycle, told)
    host = _in_url(settings.host)
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
        if settings.grpc_uds:
            server.add_insecure_port(f"unix:{settings.grpc_uds}")
    except RuntimeError as error:
        raise OSError(str(error)) from None
    return server, port


def _h2corn(settings: Settings, exchange: Exchange, lifecycle: Lifecycle, told: Info) -> tuple[GrpcServer, int]:
    """The server of the extra `h2corn`, and its port."""
    try:
        from gumball_server.h2corn_server import H2cornServer
    except ModuleNotFoundError as missing:
        raise OSError(f"the gRPC engine h2corn needs pip install 'gumball[h2corn]': {missing}") from None
    sockets = [_tcp(settings.host, settings.grpc_port)]
    port = sockets[0].getsockname()[1]
    if settings.grpc_uds:
        sockets.append(_unix(settings.grpc_uds))
    application = create_application(exchange, lifecycle, told)
    return H2cornServer(application, sockets, KEEP_ALIVE_SECONDS, settings.drain_seconds), port


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _unix(path: str) -> socket.socket:
    """A Unix socket; what an earlier process left at its path is removed, anything else is not."""
    place = Path(path)
    if place.exists() and stat.S_ISSOCK(place.stat().st_mode):
        place.unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(BACKLOG)
    return listener
