"""Where the services of an address are: each place that it names, and each that the name of one stands for."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

from gumball._proxy import proxy_for


class Place(NamedTuple):
    """A place to call, and the name by which it was asked for."""

    address: str
    name: str  # host and port

    @classmethod
    def of(cls, address: str) -> Self:
        """The place of an address that stands for itself."""
        return cls(address, urlsplit(address).netloc.rpartition("@")[2])


Resolve = Callable[[str, int | None], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int | None) -> list[str]:
    """The IP addresses of a name. Raises OSError or UnicodeError where it cannot be found, or not now."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for _, _, _, _, place in found]


async def unresolved(host: str, port: int | None) -> list[str]:
    """Nothing: of names that something else looks up."""
    return []


async def places_of(address: str, resolve: Resolve = resolve) -> list[Place]:
    """The places of an address: several where a name has several IP addresses, as that of a headless Service.

    A name with one address a family is left to the library of the transport, which knows about IPv6 and IPv4, and one
    that is reached through a proxy of the environment to the proxy.
    """
    parts = urlsplit(address)
    if parts.hostname is None or _is_ip(parts.hostname) or _is_proxied(parts.scheme, parts.hostname):
        return [Place.of(address)]
    found = sorted(set(await resolve(parts.hostname, parts.port)))
    port = "" if parts.port is None else f":{parts.port}"
    user, at, name = parts.netloc.rpartition("@")
    for family in ([ip for ip in found if ":" not in ip], [f"[{ip}]" for ip in found if ":" in ip]):
        if len(family) > 1:
            return [Place(parts._replace(netloc=f"{user}{at}{ip}{port}").geturl(), name) for ip in family]
    return [Place.of(address)]


def _is_proxied(scheme: str, host: str) -> bool:
    if scheme.startswith("grpc"):
        return proxy_for(host) is not None
    proxies = getproxies()
    return scheme in proxies or "all" in proxies


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
