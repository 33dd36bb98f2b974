"""What listens: HTTP on TCP and a Unix socket, gRPC on both, and the admin port."""

import asyncio
import contextlib
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gumball_server.batcher import Batcher
from gumball_server.exchange import Exchange
from gumball_server.grpc_calls import GrpcApplication
from gumball_server.grpc_guard import Guard as GrpcGuard
from gumball_server.grpc_guard import credentials
from gumball_server.grpc_native import NativeServer, create_application
from gumball_server.grpc_server import create_server
from gumball_server.grpc_stream import Streams
from gumball_server.http2.lifetime import Ages
from gumball_server.http_guard import OPEN_PATHS, guard
from gumball_server.http_protocol import SampleProtocol
from gumball_server.http_sample import HeadReader, problem
from gumball_server.http_server import create_admin_app, create_app
from gumball_server.info import Info, info
from gumball_server.lifecycle import Lifecycle
from gumball_server.metrics import Metrics
from gumball_server.oip_grpc import InferenceService
from gumball_server.oip_http import create_inference_app, refusal
from gumball_server.oip_model import Model
from gumball_server.security import Certificates, Security
from gumball_server.settings import Settings

BACKLOG = 2048
# From the end of a handler to its answer on the wire.
LAST_BYTES_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """Uvicorn on given sockets, with the signals left to the process."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: list[socket.socket],
        idle_seconds: float,
        protocol: Callable[..., Any] = HttpToolsProtocol,
        tls: ssl.SSLContext | None = None,
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
            timeout_keep_alive=idle_seconds,  # type: ignore[arg-type] # only ever given to call_later
        )
        config.load()
        config.ssl = tls
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
    """What a grpc.aio.Server and a NativeServer have in common."""

    async def start(self) -> None: ...

    async def stop(self, grace: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Listeners:
    """Everything that listens; as text, where."""

    http: list[HttpServer]
    grpc: GrpcServer
    grpc_exchanges: list[Exchange]
    grpc_streams: Streams
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
            async with asyncio.timeout(seconds):
                await self.grpc_streams.drain()
                await asyncio.gather(*(exchange.idle() for exchange in self.grpc_exchanges))


async def listen(
    settings: Settings,
    batcher: Batcher,
    metrics: Metrics,
    lifecycle: Lifecycle,
    security: Security,
    exchange_of: Callable[[str, Batcher, Metrics], Exchange] = Exchange,
) -> Listeners:
    """Listen wherever the settings say; `exchange_of` makes the exchange of a transport.

    Raises OSError for an address that cannot be had.
    """
    told = info(settings)
    host = _in_url(settings.host)
    certificates, tokens = security.certificates, security.tokens
    http = _tcp(settings, settings.http_port)
    addresses = {"http": f"http{'s' if certificates else ''}://{host}:{http.getsockname()[1]}"}
    model = Model(lifecycle, metrics)
    exchange, heads = exchange_of("http", batcher, metrics), HeadReader(settings.max_request_bytes)
    v2_exchange = exchange_of("oip_http", batcher, metrics)
    v2 = guard(tokens, v2_exchange, refusal)(create_inference_app(v2_exchange, model, heads))
    open_paths = OPEN_PATHS | ({"/metrics"} if settings.open_metrics else set())
    guarded = guard(tokens, exchange, problem, open_paths)
    app = create_app(exchange, heads, metrics, lifecycle, told, settings.origins, v2, guarded)
    protocol = partial(SampleProtocol, exchange, heads, {}, bool(settings.origins), tokens)
    servers = [HttpServer(app, [http], settings.idle_seconds, protocol, certificates.http if certificates else None)]
    if settings.http_uds:
        addresses["http_uds"] = settings.http_uds
        servers.append(HttpServer(app, [_unix(settings.http_uds)], settings.idle_seconds, protocol))
    if settings.admin_port >= 0:
        admin = _tcp(settings, settings.admin_port)
        addresses["admin"] = f"http://{host}:{admin.getsockname()[1]}"
        servers.append(HttpServer(create_admin_app(metrics, lifecycle, told), [admin], settings.idle_seconds))
    grpc_exchange, oip_exchange = (exchange_of(transport, batcher, metrics) for transport in ("grpc", "oip_grpc"))
    streams = Streams(grpc_exchange, tokens)
    inference = InferenceService(oip_exchange, model)
    handlers = (grpc_exchange, streams, lifecycle, told, settings, inference.handlers())
    guard_of_grpc = GrpcGuard(tokens, grpc_exchange, oip_exchange) if tokens else None
    if settings.grpc_engine == "aio":
        server = create_server(*handlers, [guard_of_grpc] if guard_of_grpc else [])
        grpc_server, port = _aio(settings, server, certificates)
    else:
        application = create_application(*handlers, guard_of_grpc and guard_of_grpc.check)
        grpc_server, port = _native(settings, application, certificates)
    addresses["grpc"] = f"{host}:{port}"
    if settings.grpc_uds:
        addresses["grpc_uds"] = settings.grpc_uds
    await grpc_server.start()
    return Listeners(servers, grpc_server, [grpc_exchange, oip_exchange], streams, addresses, told)


def _aio(settings: Settings, server: Any, certificates: Certificates | None) -> tuple[GrpcServer, int]:
    """gRPC's own server with its addresses, and its port."""
    address = f"{_in_url(settings.host)}:{settings.grpc_port}"
    try:
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials(certificates))
        if settings.grpc_uds:
            server.add_insecure_port(f"unix:{settings.grpc_uds}")
    except RuntimeError as error:
        raise OSError(str(error)) from None
    return server, port


def _native(
    settings: Settings, application: GrpcApplication, certificates: Certificates | None
) -> tuple[GrpcServer, int]:
    """Our own with its addresses, and its port."""
    sockets = [_tcp(settings, settings.grpc_port)]
    port = sockets[0].getsockname()[1]
    if settings.grpc_uds:
        sockets.append(_unix(settings.grpc_uds))
    ages = Ages(
        settings.grpc_keepalive_seconds,
        settings.grpc_max_connection_age_seconds,
        settings.grpc_max_connection_age_grace_seconds,
    )
    return NativeServer(application, sockets, certificates, ages), port


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tcp(settings: Settings, port: int) -> socket.socket:
    address, family = (settings.host, port), _family(settings.host)
    return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=settings.frontend_count > 1)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reserve_ports(settings: Settings) -> tuple[Settings, contextlib.ExitStack]:
    """The settings with the ports that several front ends are to share, and what keeps these from others.

    Raises OSError for a port that is taken.
    """
    ports: dict[str, Any] = {}
    with contextlib.ExitStack() as reserved:
        for name in ("http_port", "grpc_port", "admin_port"):
            if (port := getattr(settings, name)) >= 0:
                # Another's SO_REUSEPORT would let us in beside it; this does not.
                with socket.create_server((settings.host, port), family=_family(settings.host)) as probe:
                    ports[name] = probe.getsockname()[1]
                keeper = reserved.enter_context(socket.socket(_family(settings.host)))
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the probe and all listeners do
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                keeper.bind((settings.host, ports[name]))
        return replace(settings, **ports), reserved.pop_all()


def _unix(path: str) -> socket.socket:
    """A Unix socket; what an earlier process left at its path is removed, anything else is not."""
    place = Path(path)
    if place.exists() and stat.S_ISSOCK(place.stat().st_mode):
        place.unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(BACKLOG)
    return listener
