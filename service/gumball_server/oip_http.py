"""The Open Inference Protocol over HTTP: everything below /v2."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope

from gumball_server.domain import MalformedError, SampleResult, SamplingError
from gumball_server.exchange import Ask, Exchange
from gumball_server.http_sample import JSON, RAW, HeadReader, Reply, problem, request_timeout
from gumball_server.http_server import REASON, Endpoint, read_body, while_connected
from gumball_server.oip_model import Model
from gumball_server.wire import oip
from gumball_server.wire.oip_json import Inference

HEAD_LENGTH = "inference-header-content-length"

Handler = Callable[[Request], Awaitable[Response]]


def create_inference_app(exchange: Exchange, model: Model, heads: HeadReader) -> ASGIApp:
    """The application below /v2."""
    routes = [
        Route("/v2", _telling(model.server)),
        Route("/v2/health/live", _telling(lambda: {"live": True})),
        Route("/v2/health/ready", _telling_ready(model)),
        Route("/v2/models/stats", _telling(model.statistics)),
        Route("/v2/repository/index", _telling(model.index), methods=["POST"]),
    ]
    for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(f"{place}/infer", InferEndpoint(exchange, heads), methods=["POST"]),
            Route(f"{place}/ready", _telling_ready(model)),
            Route(f"{place}/config", _telling(model.config)),
            Route(f"{place}/stats", _telling(model.statistics)),
            Route(place, _telling(model.metadata)),
        ]
    return Starlette(routes=routes, exception_handlers={SamplingError: _refuse, HTTPException: _refuse})


class InferEndpoint(Endpoint):
    """Inference."""

    operation = "POST /v2/models/{name}/infer"

    async def ask(self, scope: Scope, receive: Receive) -> Ask[Reply]:
        started = asyncio.get_running_loop().time()
        oip.check_model(**scope["path_params"])
        headers = dict(scope["headers"])
        self.heads.check(headers)
        timeout = request_timeout(headers)
        body = await read_body(receive, self.heads)
        inference = Inference(body, _head_bytes(headers.get(HEAD_LENGTH.encode())))
        return Ask(
            body_bytes=len(body),
            decode=inference.decode,
            encode=lambda result: _reply(inference, result),
            deadline=None if timeout is None else started + timeout,
            attend=partial(while_connected, receive),
        )

    def refusal(self, error: SamplingError) -> Reply:
        return refusal(error)


def refusal(error: SamplingError) -> Reply:
    """An error as the protocol tells it, and its reason and field for programs."""
    body = {"error": str(error), "reason": error.reason.value}
    if error.field:
        body["field"] = error.field
    return problem(error)._replace(content_type=JSON, body=orjson.dumps(body))


def _head_bytes(header: bytes | None) -> int | None:
    if header is None:
        return None
    if not (header.isdigit() and len(header) < 20):
        raise MalformedError("must be a number of bytes", "Inference-Header-Content-Length")
    return int(header)


def _reply(inference: Inference, result: SampleResult) -> Reply:
    body, head_bytes = inference.encode(result)
    if head_bytes is None:
        return Reply(HTTPStatus.OK, JSON, body)
    return Reply(HTTPStatus.OK, RAW, body, {HEAD_LENGTH: str(head_bytes)})


def _telling(tell: Callable[..., Any]) -> Handler:
    """Answers what `tell` says, given the model and version of the path."""

    async def endpoint(request: Request) -> Response:
        return _json(tell(**request.path_params))

    return endpoint


def _telling_ready(model: Model) -> Handler:
    async def endpoint(request: Request) -> Response:
        if request.path_params:
            oip.check_model(**request.path_params)
        ready = model.ready()
        told = {"ready": ready} | ({"name": oip.MODEL} if request.path_params else {})
        return _json(told, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    return endpoint


def _json(told: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(told), status, media_type=JSON)


async def _refuse(request: Request, error: Exception) -> Response:
    """What is refused outside of inference: a model that is not there, a path, a method."""
    headers: Mapping[str, str] = {}
    if isinstance(error, HTTPException):
        headers = error.headers or {}
        reason = REASON[HTTPStatus(error.status_code)]
        error = SamplingError(reason, f"{request.method} {request.url.path} is not offered")
    if not isinstance(error, SamplingError):
        raise error
    reply = refusal(error)
    return Response(reply.body, reply.status, headers, reply.content_type)
