"""Proxies of the environment, as gRPC honours them, and the tunnel through one."""

import asyncio
import socket
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

_VARIABLES = ("grpc", "https", "http")  # with _proxy; the first that is set, whether there is TLS or not
_MAX_ANSWER_BYTES = 1 << 14


def proxy_for(host: str) -> SplitResult | None:
    """The proxy by which a host is to be reached, if any."""
    proxies = getproxies()
    proxy = next((proxies[name] for name in _VARIABLES if name in proxies), None)
    if proxy is None or proxy_bypass(host):
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts if parts.scheme == "http" and parts.hostname else None  # gRPC, too, knows no other


async def tunnel(way: socket.socket, proxy: SplitResult, host: str, port: int) -> None:
    """Have a proxy go on with what comes by this way to a host. Raises OSError."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        await asyncio.get_running_loop().sock_sendall(way, _request(proxy, target))
        _check(await _answer(way))
    except BaseException:
        way.close()
        raise


def _request(proxy: SplitResult, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username is not None:
        user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def _check(answer: bytes) -> None:
    status = answer.partition(b"\r\n")[0].decode(errors="replace")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy answers {status!r}")


async def _answer(way: socket.socket) -> bytes:
    """The head of the answer, byte by byte, for what follows is the host's."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = await asyncio.get_running_loop().sock_recv(way, 1)
        if not byte or len(head) > _MAX_ANSWER_BYTES:
            raise OSError("the proxy does not answer as HTTP does")
        head += byte
    return head
