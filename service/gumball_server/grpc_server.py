"""The gRPC transport: `gumball.v1.SamplingService`, health and reflection."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import LARGE_BYTES, Ask, Call, Exchange
from gumball_server.grpc_asgi import GrpcApplication
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.wire import message

SERVICE = pb.DESCRIPTOR.services_by_name["SamplingService"].full_name

STATUS = {
    Reason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MEDIA_TYPE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
RETRY_SECONDS = 1
# By how much a caller may see his deadline pass before we do: the time that his request took to get here.
EARLY_SECONDS = 0.05


class SampleCall(Call[bytes]):
    """A small request."""

    __slots__ = ("_body", "_context", "_ended", "_id", "_response")

    def __init__(self, exchange: Exchange, body: bytes, context: Any) -> None:
        super().__init__(exchange, LARGE_BYTES)
        self._body = body
        self._context = context
        self._id = 0
        self._response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._ended = False  # and counted

    async def response(self) -> bytes:
        """What it comes to. Raises SamplingError; cancelling it withdraws the request."""
        self.exchange.open()
        self.exchange.begin(self)
        try:
            return await self._response
        except asyncio.CancelledError:
            if not (self._ended or _is_due(self._context)):
                self.exchange.abandon(self)
            raise

    def decode(self) -> tuple[SampleRequest, float | None]:
        parsed = _parse(self._body)
        self._id = parsed.id
        return message.decode(parsed), _deadline(self._context)

    def encode(self, result: SampleResult) -> bytes:
        return bytes(message.encode(result, self._id).SerializeToString())

    def reply(self, answer: bytes) -> None:
        self._ended = True
        if not self._response.done():
            self._response.set_result(answer)

    def refuse(self, error: SamplingError) -> None:
        self._ended = True
        if not self._response.done():
            self._response.set_exception(error)


class SamplingService:
    """The methods of the service, from bytes to bytes: a message that does not parse is ours to refuse."""

    def __init__(self, exchange: Exchange, info: Info) -> None:
        self._exchange = exchange
        self._info = info

    async def sample(self, body: bytes, context: Any) -> bytes:
        try:
            if len(body) <= LARGE_BYTES:
                return await SampleCall(self._exchange, body, context).response()
            return await self._exchange.answer(partial(_ask, body, context))
        except SamplingError as error:
            return await _abort(context, error)

    async def refuse(self, context: Any, error: SamplingError) -> None:
        """End a call that came to no handler."""
        with contextlib.suppress(SamplingError):
            await self._exchange.answer(partial(_fail, error))  # counts it
        await _abort(context, error)

    async def get_info(self, body: bytes, context: Any) -> bytes:
        return bytes(_info_message(self._info).SerializeToString())

    def handlers(self) -> grpc.GenericRpcHandler:
        methods: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
            "Sample": self.sample,
            "GetInfo": self.get_info,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        )


def create_server(exchange: Exchange, lifecycle: Lifecycle, info: Info) -> grpc.aio.Server:
    """A server that has no address and is not started yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", info.limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),  # admission bounds answers
            ("grpc.so_reuseport", 0),
        ]
    )
    _add_services(server, SamplingService(exchange, info), lifecycle)
    return server


def create_application(exchange: Exchange, lifecycle: Lifecycle, info: Info) -> GrpcApplication:
    """The same for a server of ASGI."""
    service = SamplingService(exchange, info)
    application = GrpcApplication(info.limits.max_request_bytes, service.refuse)
    _add_services(application, service, lifecycle)
    return application


def _add_services(server: Any, service: SamplingService, lifecycle: Lifecycle) -> None:
    """`server` is a grpc.aio.Server, or takes handlers as one does."""
    server.add_generic_rpc_handlers((service.handlers(),))
    _add_health(server, lifecycle)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)


def _add_health(server: Any, lifecycle: Lifecycle) -> None:
    """Health of "" is liveness, that of the service is readiness."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references

    def tell(state: State) -> None:
        for name, status in (("", serving), (SERVICE, serving if state is State.READY else not_serving)):
            task = asyncio.get_running_loop().create_task(servicer.set(name, status))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    lifecycle.listen(tell)


async def _ask(body: bytes, context: Any) -> Ask[bytes]:
    parsed = _parse(body)
    return Ask(
        body_bytes=len(body),
        decode=lambda: message.decode(parsed),
        encode=lambda result: message.encode(result, parsed.id).SerializeToString(),
        deadline=_deadline(context),
        attend=partial(_until_due, context),
    )


async def _fail(error: SamplingError) -> Ask[bytes]:
    raise error


async def _until_due(context: Any, sampling: Coroutine[None, None, SampleResult]) -> SampleResult:
    """The result. A caller who leaves when his call is due does not cancel it: its deadline ends it."""
    result = asyncio.ensure_future(sampling)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if _is_due(context):
            return await result
        result.cancel()
        raise


def _deadline(context: Any) -> float | None:
    """In the loop's time."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def _is_due(context: Any) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining < EARLY_SECONDS


def _parse(body: bytes) -> pb.SampleRequest:
    try:
        return pb.SampleRequest.FromString(body)
    except DecodeError:
        raise MalformedError("the message does not parse as gumball.v1.SampleRequest") from None


async def _abort(context: Any, error: SamplingError) -> NoReturn:
    """End a call with an error, told to people and as google.rpc.Status to programs."""
    await context.abort(STATUS[error.reason], str(error), (("grpc-status-details-bin", _details(error)),))
    raise error  # abort has raised already


def _details(error: SamplingError) -> bytes:
    status = Status(code=STATUS[error.reason].value[0], message=str(error))
    metadata = {"field": error.field} if error.field else {}
    status.details.add().Pack(ErrorInfo(reason=error.reason.value, domain="gumball", metadata=metadata))
    if error.reason in (Reason.OVERLOADED, Reason.UNAVAILABLE):
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=RETRY_SECONDS)))
    return bytes(status.SerializeToString())


def _info_message(info: Info) -> pb.GetInfoResponse:
    return pb.GetInfoResponse(
        version=info.version,
        contracts=info.contracts,
        devices=[pb.Device(**asdict(device)) for device in info.devices],
        limits=pb.Limits(**asdict(info.limits)),
    )
