"""The HTTP transport: `POST /sample` as a thin ASGI endpoint in front of a FastAPI application with the rest."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gumball_server.domain import Reason, SampleResult, SamplingError
from gumball_server.exchange import Ask, Count, Exchange
from gumball_server.http_guard import PAGE_FILES
from gumball_server.http_sample import OPERATION, PATH, STATUS, HeadReader, Reply, problem, traced
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.metrics import Metrics
from gumball_server.openapi import DESCRIPTION, add_sample

REASON = {status: reason for reason, status in STATUS.items()}


class DisconnectedError(SamplingError):
    """The client is gone; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__(Reason.CANCELLED, "the client is gone")


class Endpoint(ABC):
    """What answers requests through an exchange, as an ASGI application."""

    operation: str  # for traces

    def __init__(self, exchange: Exchange, heads: HeadReader) -> None:
        self._exchange = exchange
        self.heads = heads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        count = Count(self.operation, lambda: scope["headers"])
        try:
            reply = await self._exchange.answer(partial(self.ask, scope, receive), count)
        except DisconnectedError:
            return
        except SamplingError as error:
            reply = self.refusal(error)
        await send_reply(traced(reply, count.traceresponse), send)

    @abstractmethod
    async def ask(self, scope: Scope, receive: Receive) -> Ask[Reply]:
        """Receive a request. Raises SamplingError."""

    @abstractmethod
    def refusal(self, error: SamplingError) -> Reply:
        """An error as this endpoint tells it."""


class SampleEndpoint(Endpoint):
    """`POST /sample`."""

    operation = OPERATION

    async def ask(self, scope: Scope, receive: Receive) -> Ask[Reply]:
        started = asyncio.get_running_loop().time()
        if scope["method"] != "POST":
            raise SamplingError(Reason.METHOD, f"{scope['method']} is not offered here, only POST")
        head = self.heads.read(scope["headers"])
        body = await read_body(receive, self.heads)
        return Ask(
            body_bytes=len(body),
            decode=lambda: head.body.decode(body, scope["query_string"]),
            encode=head.answer.encode,
            deadline=None if head.timeout is None else started + head.timeout,
            attend=partial(while_connected, receive),
            large_body=head.body.large,
            large_answer=head.answer.large,
        )

    def refusal(self, error: SamplingError) -> Reply:
        return problem(error)


class Front:
    """Sends the hot path straight to its endpoint, /v2 to its application, and everything else to the other."""

    def __init__(self, sample: ASGIApp, v2: ASGIApp, rest: ASGIApp) -> None:
        self._sample = sample
        self._v2 = v2
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == PATH:
            await self._sample(scope, receive, send)
        elif path == "/v2" or path.startswith("/v2/"):
            await self._v2(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


def create_app(
    exchange: Exchange,
    heads: HeadReader,
    metrics: Metrics,
    lifecycle: Lifecycle,
    info: Info,
    origins: list[str],
    v2: ASGIApp,
    guard: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> ASGIApp:
    """The whole HTTP service; `v2` answers what is below /v2, and `guard` stands before everything else."""
    app = create_admin_app(metrics, lifecycle, info)
    add_sample(app)
    front = Front(guard(SampleEndpoint(exchange, heads)), v2, guard(app))
    if not origins:
        return front
    return CORSMiddleware(front, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"])


def create_admin_app(metrics: Metrics, lifecycle: Lifecycle, info: Info) -> FastAPI:
    """Health, metrics and information, without sampling."""
    app = FastAPIOffline(
        title="Gumball", version=info.version, description=DESCRIPTION, redoc_url=None, static_url=PAGE_FILES
    )
    app.add_exception_handler(HTTPException, _http_problem)

    @app.head("/livez", include_in_schema=False)  # some load balancers ask so
    @app.get("/livez", summary="Whether the process is alive")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        summary="Whether it wants traffic",
        responses={503: {"description": "Starting, draining, or degraded"}},
    )
    async def readyz(response: Response) -> dict[str, str]:
        if lifecycle.state is not State.READY:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return {"status": lifecycle.state.value}

    @app.get("/info", summary="Versions, devices and limits")
    async def get_info() -> Info:
        return info

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def get_metrics(request: Request) -> Response:
        await asyncio.to_thread(metrics.processes.read)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))  # exemplars are for OpenMetrics alone
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("docs")

    return app


async def _http_problem(_: Request, raised: Exception) -> Response:
    """FastAPI's own refusals (no such path, no such method) in the form of all others."""
    if not isinstance(raised, HTTPException):
        raise raised
    reason = REASON.get(HTTPStatus(raised.status_code), Reason.INTERNAL)
    reply = problem(SamplingError(reason, str(raised.detail)))
    return Response(reply.body, reply.status, raised.headers, reply.content_type)


async def send_reply(reply: Reply, send: Send) -> None:
    headers = [(b"content-type", reply.content_type.encode()), (b"content-length", b"%d" % len(reply.body))]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in (reply.headers or {}).items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def read_body(receive: Receive, heads: HeadReader) -> bytes:
    """The whole body. Of one that is too large, the server discards what its sender still sends."""
    chunks, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise DisconnectedError
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
        if size > heads.max_bytes:
            raise heads.too_large
        more = event.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def while_connected(receive: Receive, sampling: Coroutine[None, None, SampleResult]) -> SampleResult:
    """The result, unless the client goes away first; then the request is withdrawn."""
    result = asyncio.ensure_future(sampling)
    gone = asyncio.ensure_future(receive())  # after the body, the only event is the disconnect
    try:
        await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise DisconnectedError
    finally:
        gone.cancel()
        result.cancel()
