"""From the address of a service to a connection of HTTP/2: TCP, TLS, Unix sockets, and through proxies."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from aiohappyeyeballs import start_connection

from gumball._proxy import proxy_for, tunnel
from gumball._status import Code, RpcError
from gumball.http2.client import ClientConnection

SECONDS = 5.0  # that a connection may take
_NEXT_SECONDS = 0.25  # after which the next address is tried, too (RFC 8305)
_PORT = 443  # where none is given, as gRPC has it


class Target(NamedTuple):
    """Where a service is, and by which name it was asked for."""

    address: str  # for people
    host: str
    port: int
    path: str  # of a Unix socket instead
    authority: str
    is_tls: bool

    @classmethod
    def of(cls, address: str, name: str = "") -> Self:
        """The target of an address that was found for a name (host and port), if it is not the name itself."""
        parts = urlsplit(address)
        authority = name or parts.netloc.rpartition("@")[2] or "localhost"
        is_tls, path = parts.scheme == "grpcs", parts.path if parts.scheme == "grpc+unix" else ""
        return cls(address, parts.hostname or "", parts.port or _PORT, path, authority, is_tls)

    @property
    def asked_host(self) -> str:
        """The host that was asked for."""
        return urlsplit(f"//{self.authority}").hostname or self.host


async def connect(
    target: Target, context: ssl.SSLContext | None, connections: set[ClientConnection]
) -> ClientConnection:
    """A connection that can be used. Raises RpcError."""
    try:
        async with asyncio.timeout(SECONDS):
            return await _connected(target, context, lambda: ClientConnection(connections))
    except TimeoutError:
        why = f"no connection in {SECONDS:g} s"
    except Exception as error:  # whatever it is, those who wait must learn of it
        why = str(error)
    raise RpcError(Code.UNAVAILABLE, f"{target.address}: {why}")


async def _connected(
    target: Target, context: ssl.SSLContext | None, make: Callable[[], ClientConnection]
) -> ClientConnection:
    transport, connection = await _reached(target, context, make)
    try:
        if context is not None and transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            connection.why = "the service does not choose HTTP/2 (by ALPN)"
        else:
            await connection.ready
    finally:
        if not connection.is_set:
            connection.abort()
    if not connection.is_set:
        raise OSError(connection.why)
    return connection


async def _reached(
    target: Target, context: ssl.SSLContext | None, make: Callable[[], ClientConnection]
) -> tuple[asyncio.BaseTransport, ClientConnection]:
    loop = asyncio.get_running_loop()
    if target.path:
        return await loop.create_unix_connection(make, target.path)
    host = target.asked_host
    proxy = proxy_for(host)
    way = await (_socket(target.host, target.port) if proxy is None else _through(proxy, target))
    return await loop.create_connection(make, sock=way, ssl=context, server_hostname=host if context else None)


async def _through(proxy: SplitResult, target: Target) -> socket.socket:
    try:
        way = await _socket(proxy.hostname or "", proxy.port or 80)
    except OSError as error:
        raise OSError(f"cannot connect to the proxy {proxy.netloc.rpartition('@')[2]}: {error}") from error
    await tunnel(way, proxy, target.host, target.port)
    return way


async def _socket(host: str, port: int) -> socket.socket:
    """The first connection to any of a host's addresses. Raises OSError."""
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await start_connection(addresses, happy_eyeballs_delay=_NEXT_SECONDS)
