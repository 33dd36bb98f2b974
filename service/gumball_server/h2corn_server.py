"""gRPC on h2corn, a server of HTTP/2 in Rust, on given sockets of this process and its event loop."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from h2corn import Config, Server

from gumball_server.grpc_asgi import GrpcApplication
from gumball_server.security import Certificates

log = logging.getLogger("gumball")

# What h2corn waits longer than we do: for the last bytes to callers who read slowly, or not at all.
LAST_BYTES_SECONDS = 1.0


class H2cornServer:
    """Starts and stops as a `grpc.aio.Server` does; TLS, where there are certificates, is not for Unix sockets.

    h2corn reads certificates once. So those that are renewed get a server of their own on the same socket, and the one
    before ends as all do at the end: its connections are told to come again, and its calls go on for `drain_seconds`.
    """

    def __init__(
        self,
        application: GrpcApplication,
        sockets: list[socket.socket],
        certificates: Certificates | None,
        keep_alive_seconds: float,
        drain_seconds: float,
    ) -> None:
        self._application = application
        self._sockets = sockets
        self._certificates = certificates
        self._config = Config(
            grpc=True,
            http1=False,
            lifespan="off",
            runtime_threads=1,
            access_log=False,
            date_header=False,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=drain_seconds + LAST_BYTES_SECONDS,
        )
        self._servers: list[Server] = []
        self._serving: list[asyncio.Future[None]] = []
        self._renewing: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises OSError."""
        for listener in self._sockets:
            if self._certificates is None or listener.family == socket.AF_UNIX:
                await self._serve(listener)
            else:
                renewed = asyncio.Event()
                self._certificates.listen(renewed.set)
                server = await self._serve(listener, self._certificates)
                self._renewing.append(asyncio.create_task(self._renew(listener, self._certificates, server, renewed)))

    async def stop(self, grace: float) -> None:
        """Stop accepting, and return when all calls have ended; those open after `grace` seconds are cancelled."""
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)
        for listener in self._sockets:
            listener.close()  # h2corn closes its own duplicates
        for server in self._servers:
            server.shutdown()
        await asyncio.wait(self._serving, timeout=grace)
        self._application.cancel_calls()
        await asyncio.gather(*self._serving)

    async def _serve(self, listener: socket.socket, certificates: Certificates | None = None) -> Server:
        """Serve on a socket; returns when it is. Raises OSError, or ValueError for a file that is gone again."""
        config = replace(self._config, bind=(f"fd://{listener.fileno()}",), **_tls(certificates))
        server = Server(self._application, config)
        serving = asyncio.ensure_future(server.serve())
        try:
            with _silence():  # h2corn prints a banner, and has no setting for it
                await server.wait_started()
        except BaseException:
            server.shutdown()
            await asyncio.gather(serving, return_exceptions=True)
            raise
        self._servers.append(server)
        self._serving.append(serving)
        return server

    async def _renew(
        self, listener: socket.socket, certificates: Certificates, server: Server, renewed: asyncio.Event
    ) -> None:
        while await renewed.wait():
            renewed.clear()
            try:
                successor = await self._serve(listener, certificates)
            except (OSError, ValueError) as error:
                log.error("gRPC: %s; what was read before stays in use", error)  # noqa: TRY400 - says all
            else:
                server.shutdown()
                server = successor


def _tls(certificates: Certificates | None) -> dict[str, Any]:
    if certificates is None:
        return {}
    files = {"certfile": Path(certificates.cert), "keyfile": Path(certificates.key)}
    if not certificates.client_ca:
        return files
    return {**files, "ca_certs": Path(certificates.client_ca), "cert_reqs": "required"}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Whatever is written to standard error in the block is lost, also by native code."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as null, os.fdopen(os.dup(2), "wb") as kept:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)
