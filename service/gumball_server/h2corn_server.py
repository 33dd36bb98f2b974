"""gRPC on h2corn, a server of HTTP/2 in Rust, on given sockets of this process and its event loop."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator

from h2corn import Config, Server

from gumball_server.grpc_asgi import GrpcApplication

# What h2corn waits longer than we do: for the last bytes to callers who read slowly, or not at all.
LAST_BYTES_SECONDS = 1.0


class H2cornServer:
    """Starts and stops as a `grpc.aio.Server` does."""

    def __init__(
        self,
        application: GrpcApplication,
        sockets: list[socket.socket],
        keep_alive_seconds: float,
        drain_seconds: float,
    ) -> None:
        self._application = application
        self._sockets = sockets
        config = Config(
            bind=tuple(f"fd://{each.fileno()}" for each in sockets),
            grpc=True,
            http1=False,
            lifespan="off",
            runtime_threads=1,
            access_log=False,
            date_header=False,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=drain_seconds + LAST_BYTES_SECONDS,
        )
        self._server = Server(application, config)

    async def start(self) -> None:
        with _silence():  # h2corn prints a banner, and has no setting for it
            self._serving = asyncio.ensure_future(self._server.serve())
            await self._server.wait_started()
        for each in self._sockets:
            each.close()  # h2corn has its own duplicates, which it closes when it stops accepting

    async def stop(self, grace: float) -> None:
        """Stop accepting, and return when all calls have ended; those open after `grace` seconds are cancelled."""
        self._server.shutdown()
        await asyncio.wait((self._serving,), timeout=grace)
        self._application.cancel_calls()
        await self._serving


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
