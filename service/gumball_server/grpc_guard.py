"""Certificates and tokens over gRPC."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from gumball_server.domain import SamplingError
from gumball_server.exchange import Exchange
from gumball_server.grpc_sample import refuse
from gumball_server.grpc_stream import authorization_of
from gumball_server.security import Certificates, Tokens
from gumball_server.wire import inference

# Whoever asks whether the service is well shows no token: no probe could.
OPEN_METHODS = (
    "/grpc.health.v1.Health/",
    f"/{inference.SERVICE.full_name}/ServerLive",
    f"/{inference.SERVICE.full_name}/ServerReady",
)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Lets calls through that show a token, and all to the methods that are open."""

    def __init__(self, tokens: Tokens, exchange: Exchange, inference_exchange: Exchange) -> None:
        self._tokens = tokens
        self._exchange = exchange
        self._inference_exchange = inference_exchange

    def check(self, method: str, metadata: Iterable[tuple[str, Any]]) -> None:
        """Raise SamplingError unless a call of this method may go on."""
        if not method.startswith(OPEN_METHODS):
            self._tokens.check(authorization_of(metadata))

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        try:
            self.check(details.method, details.invocation_metadata)
        except SamplingError as error:
            is_inference = details.method.startswith(f"/{inference.SERVICE.full_name}/")
            (self._inference_exchange if is_inference else self._exchange).count_refusal(error)
            return _refusing(error)
        return await continuation(details)


def _refusing(error: SamplingError) -> Any:
    """What answers a call of any kind with the error, and reads nothing of it."""

    async def method(_: Any, context: Any) -> None:
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(method)


def credentials(certificates: Certificates) -> Any:
    """What a secure port of gRPC needs; each handshake is with the certificates of the day."""
    given = certificates.pem

    def renewed() -> Any:
        nonlocal given
        if certificates.pem is given:
            return None
        given = certificates.pem
        return configuration()

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration([(given.key, given.chain)], given.client_ca)

    return grpc.dynamic_ssl_server_credentials(
        configuration(), renewed, require_client_authentication=given.client_ca is not None
    )
