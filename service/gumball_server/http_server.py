"""The HTTP transport: `POST /sample` as a thin ASGI endpoint in front of a FastAPI application with the rest."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError, invalid
from gumball_server.exchange import Ask, Exchange
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.metrics import Metrics
from gumball_server.openapi import DESCRIPTION, add_sample
from gumball_server.wire import binary_form, json_form, text

STATUS = {
    Reason.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    Reason.MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.DEADLINE: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
REASON = {status: reason for reason, status in STATUS.items()}
RETRY_SECONDS = 1

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
PROBLEM = "application/problem+json"


class NotAcceptableError(SamplingError):
    """Accept allows none of the forms of an answer."""

    def __init__(self) -> None:
        super().__init__(Reason.MEDIA_TYPE, f"must allow one of {JSON}, {RAW}, {NPY}", "Accept")


class DisconnectedError(SamplingError):
    """The client is gone; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__(Reason.CANCELLED, "the client is gone")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    async def send(self, send: Send) -> None:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def problem(error: SamplingError) -> Reply:
    """An error as RFC 9457 tells it."""
    status = STATUS[error.reason]
    if isinstance(error, MalformedError):
        status = HTTPStatus.BAD_REQUEST
    if isinstance(error, NotAcceptableError):
        status = HTTPStatus.NOT_ACCEPTABLE
    body = {
        "type": f"urn:gumball:error:{error.reason.value.lower()}",
        "title": status.phrase,
        "status": status.value,
        "detail": str(error),
        "reason": error.reason.value,
    }
    if error.field:
        body["field"] = error.field
    headers = {"content-type": PROBLEM}
    if error.reason in (Reason.OVERLOADED, Reason.UNAVAILABLE):
        headers["retry-after"] = str(RETRY_SECONDS)
    return Reply(status, headers, orjson.dumps(body))


class SampleEndpoint:
    """`POST /sample`, as an ASGI application."""

    def __init__(self, exchange: Exchange, max_bytes: int) -> None:
        self._exchange = exchange
        self._max_bytes = max_bytes
        self._decoders: dict[str, Callable[[bytes, bytes], SampleRequest]] = {
            JSON: _decode_json,
            RAW: binary_form.decode_raw,
            NPY: partial(binary_form.decode_npy, max_bytes=max_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._exchange.answer(partial(self._ask, scope, receive))
        except DisconnectedError:
            return
        except SamplingError as error:
            reply = problem(error)
            if error.reason is Reason.METHOD:
                reply.headers["allow"] = "POST"
        await reply.send(send)

    async def _ask(self, scope: Scope, receive: Receive) -> Ask[Reply]:
        started = asyncio.get_running_loop().time()
        if scope["method"] != "POST":
            raise SamplingError(Reason.METHOD, f"{scope['method']} is not offered here, only POST")
        headers = dict(scope["headers"])
        check_encoding(headers)
        form = _form_of_body(headers.get(b"content-type", b""))
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        answer_form = _form_of_answer(accept, form)
        timeout = request_timeout(headers.get(b"request-timeout"))
        body = await read_body(headers.get(b"content-length", b"0"), receive, self._max_bytes)
        return Ask(
            body_bytes=len(body),
            decode=lambda: self._decoders[form](body, scope["query_string"]),
            encode=_ENCODERS[answer_form],
            deadline=None if timeout is None else started + timeout,
            attend=partial(while_connected, receive),
        )


class Front:
    """Sends the hot path straight to its endpoint, /v2 to its application, and everything else to the other."""

    def __init__(self, sample: ASGIApp, v2: ASGIApp, rest: ASGIApp) -> None:
        self._sample = sample
        self._v2 = v2
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == "/sample":
            await self._sample(scope, receive, send)
        elif path == "/v2" or path.startswith("/v2/"):
            await self._v2(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


def create_app(
    exchange: Exchange, metrics: Metrics, lifecycle: Lifecycle, info: Info, origins: list[str], v2: ASGIApp
) -> ASGIApp:
    """The whole HTTP service; `v2` answers what is below /v2."""
    app = create_admin_app(metrics, lifecycle, info)
    add_sample(app)
    front = Front(SampleEndpoint(exchange, info.limits.max_request_bytes), v2, app)
    if not origins:
        return front
    return CORSMiddleware(front, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"])


def create_admin_app(metrics: Metrics, lifecycle: Lifecycle, info: Info) -> FastAPI:
    """Health, metrics and information, without sampling."""
    app = FastAPI(title="Gumball", version=info.version, description=DESCRIPTION, redoc_url=None)
    app.add_exception_handler(HTTPException, _http_problem)

    @app.head("/livez", include_in_schema=False)  # some load balancers ask so
    @app.get("/livez", summary="Whether the process is alive")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether it wants traffic", responses={503: {"description": "Starting or draining"}})
    async def readyz(response: Response) -> dict[str, str]:
        if lifecycle.state is not State.READY:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return {"status": lifecycle.state.value}

    @app.get("/info", summary="Versions, devices and limits")
    async def get_info() -> Info:
        return info

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def get_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

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
    return Response(reply.body, reply.status, {**reply.headers, **(raised.headers or {})})


def _decode_json(body: bytes, query: bytes) -> SampleRequest:
    if query:
        name = query.decode("latin-1").partition("=")[0]
        raise invalid(name, "with a JSON body, every parameter goes into the body")
    return json_form.decode(body)


def _encode_json(result: SampleResult) -> Reply:
    return Reply(HTTPStatus.OK, {"content-type": JSON}, json_form.encode(result))


def _encode_raw(result: SampleResult) -> Reply:
    body, headers = binary_form.encode_raw(result)
    return Reply(HTTPStatus.OK, {"content-type": RAW, **headers}, body)


def _encode_npy(result: SampleResult) -> Reply:
    body, headers = binary_form.encode_npy(result)
    return Reply(HTTPStatus.OK, {"content-type": NPY, **headers}, body)


_ENCODERS = {JSON: _encode_json, RAW: _encode_raw, NPY: _encode_npy}


@lru_cache
def _form_of_body(content_type: bytes) -> str:
    form = content_type.partition(b";")[0].strip().lower().decode("latin-1") or JSON
    if form not in _ENCODERS:
        raise SamplingError(Reason.MEDIA_TYPE, f"must be one of {JSON}, {RAW}, {NPY}, is {form}", "Content-Type")
    return form


@lru_cache
def _form_of_answer(accept: bytes, form_of_body: str) -> str:
    """The form that Accept likes best; among equals, the form of the body."""
    qualities = dict(_media_ranges(accept.decode("latin-1") or "*/*"))

    def quality(form: str) -> float:  # the most specific range decides (RFC 9110, 12.5.1)
        return next((qualities[each] for each in (form, "application/*", "*/*") if each in qualities), 0.0)

    best = max((form_of_body, *_ENCODERS), key=quality)
    if not quality(best):
        raise NotAcceptableError
    return best


def _media_ranges(accept: str) -> Iterable[tuple[str, float]]:
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            yield media_range, text.number(quality)
        except ValueError as error:
            raise invalid("Accept", f"the quality {error}") from None


def check_encoding(headers: dict[bytes, bytes]) -> None:
    """Refuse a compressed body: it would have to be bounded as it unfolds."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise SamplingError(Reason.MEDIA_TYPE, "must be identity: compressed bodies are not read", "Content-Encoding")


def request_timeout(header: bytes | None) -> float | None:
    """Request-Timeout, in seconds."""
    if header is None:
        return None
    try:
        seconds = text.number(header.decode("latin-1"))
    except ValueError as error:
        raise invalid("Request-Timeout", str(error)) from None
    if not 0 < seconds < float("inf"):
        raise invalid("Request-Timeout", f"must be a number of seconds above 0, is {seconds}")
    return seconds


async def read_body(content_length: bytes, receive: Receive, max_bytes: int) -> bytes:
    """The whole body. One that is too large is refused at once; the server discards what its sender still sends."""
    too_large = SamplingError(Reason.TOO_LARGE, f"the body may have {max_bytes} bytes", "body")
    if content_length.isdigit() and int(content_length) > max_bytes:
        raise too_large
    chunks, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise DisconnectedError
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise too_large
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
