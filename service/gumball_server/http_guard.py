"""Tokens over HTTP: whoever shows none of them comes to no application behind a guard."""

from collections.abc import Callable, Collection, Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gumball_server.domain import SamplingError
from gumball_server.exchange import Exchange
from gumball_server.http_sample import Reply
from gumball_server.security import Tokens

# Whoever asks whether the service is well shows no token: no probe could. Nor does a browser that opens a page, and its
# documents tell nothing of a server that they do not tell of all.
_PROBES = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
_PAGES = ("/", "/docs", "/docs/oauth2-redirect", "/openapi.json")
PAGE_FILES = "/docs/files"  # what the page of /docs loads
OPEN_PATHS = frozenset(
    (*_PROBES, *_PAGES, *(f"{PAGE_FILES}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")))
)


class Guard:
    """An ASGI application that lets those through who show a token, and all to the paths that are open."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        exchange: Exchange,
        tell: Callable[[SamplingError], Reply],
        open_paths: Collection[str],
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._exchange = exchange
        self._tell = tell
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] not in self._open_paths:
                self._tokens.check(authorization(scope["headers"]))
        except SamplingError as error:
            self._exchange.count_refusal(error)
            reply = self._tell(error)
            await Response(reply.body, reply.status, reply.headers, reply.content_type)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def guard(
    tokens: Tokens | None,
    exchange: Exchange,
    tell: Callable[[SamplingError], Reply],
    open_paths: Collection[str] = OPEN_PATHS,
) -> Callable[[ASGIApp], ASGIApp]:
    """What puts a guard before an application, where there are tokens."""
    return lambda app: app if tokens is None else Guard(app, tokens, exchange, tell, open_paths)


def authorization(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The value of that header."""
    return next((value for name, value in headers if name == b"authorization"), b"")
