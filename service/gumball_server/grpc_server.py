"""The gRPC transport: `gumball.v1.SamplingService`, health and reflection."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import LARGE_BYTES, LARGE_RAW_BYTES, Ask, Call, Count, Exchange, Headers
from gumball_server.grpc_asgi import Check, GrpcApplication
from gumball_server.grpc_protocol import Metadata
from gumball_server.grpc_stream import Streams, deadline_in, deadline_of
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.settings import Settings
from gumball_server.wire import inference, message

SERVICE = pb.DESCRIPTOR.services_by_name["SamplingService"].full_name
SAMPLE = f"{SERVICE}/Sample"

STATUS = {
    Reason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MEDIA_TYPE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
# Errors travel in metadata, of which clients take 8 KiB; a name that is at fault may be longer.
MESSAGE_CHARACTERS = 256
# By how much a caller may see his deadline pass before we do: the time that his request took to get here.
EARLY_SECONDS = 0.05
MIN_PING_INTERVAL_MS = 10_000  # clients behind proxies that drop idle connections ask this often; less is abuse


class SampleCall(Call[bytes]):
    """A small request, or one that is little but logits."""

    __slots__ = ("_body", "_context", "_id", "_outcome", "_waiting")

    operation = SAMPLE

    def __init__(self, exchange: Exchange, body: bytes, context: Any) -> None:
        super().__init__(exchange, LARGE_RAW_BYTES)
        self._body = body
        self._context = context
        self._id = 0
        self._outcome: bytes | SamplingError | None = None  # once it has ended, and is counted
        self._waiting: asyncio.Future[bytes | SamplingError] | None = None  # if that is not at once

    async def response(self) -> bytes:
        """What it comes to. Raises SamplingError; cancelling it withdraws the request."""
        self.exchange.open()
        self.exchange.begin(self)
        outcome = self._outcome
        if outcome is None:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                outcome = await self._waiting
            except asyncio.CancelledError:
                if self._outcome is None and not _is_due(self._context):
                    self.exchange.abandon(self)
                raise
        if isinstance(outcome, SamplingError):
            raise outcome
        return outcome

    def headers(self) -> Headers:
        headers: Headers = self._context.invocation_metadata()
        return headers

    def decode(self) -> tuple[SampleRequest, float | None]:
        if (seen := message.decode_seen(self._body)) is not None:
            request, self._id = seen
            return request, deadline_in(self._context.time_remaining())
        parsed = parse(pb.SampleRequest, self._body)
        self._id = parsed.id
        deadline = deadline_of(parsed, self._context.time_remaining())
        return message.decode(parsed), deadline

    def encode(self, result: SampleResult) -> bytes:
        return message.encode(result, self._id)

    def reply(self, answer: bytes) -> None:
        self._end(answer)

    def refuse(self, error: SamplingError) -> None:
        self._end(error)

    def _end(self, outcome: bytes | SamplingError) -> None:
        self._outcome = outcome
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(outcome)


class LoneCall(SampleCall):
    """One on gRPC's own server, which brings them one a turn of the loop."""

    __slots__ = ()

    comes_alone = True


class SamplingService:
    """The methods of the service, from bytes to bytes: a message that does not parse is ours to refuse."""

    def __init__(self, call: type[SampleCall], exchange: Exchange, streams: Streams, info: Info) -> None:
        self._call = call
        self._exchange = exchange
        self._streams = streams
        self._info = info

    async def sample(self, body: bytes, context: Any) -> bytes:
        asked: SampleCall | Count
        try:
            if len(body) <= LARGE_BYTES or self._is_copied(body):
                asked = self._call(self._exchange, body, context)
                answer = await asked.response()
            else:
                asked = Count(SAMPLE, context.invocation_metadata)
                answer = await self._exchange.answer(partial(_ask, body, context), asked)
        except SamplingError as error:
            await refuse(context, error, _trace_metadata(asked))
        if asked.traceresponse is not None:
            context.set_trailing_metadata(_trace_metadata(asked))
        return answer

    def _is_copied(self, body: bytes) -> bool:
        """Whether a message is read sooner than a thread begins, for all but its logits is short."""
        return len(body) <= LARGE_RAW_BYTES and self._exchange.is_open() and message.is_short(body)

    async def refuse(self, context: Any, error: SamplingError) -> None:
        """End a call that came to no handler."""
        self._exchange.count_refusal(error)
        await refuse(context, error)

    async def sample_stream(self, _messages: object, context: Any) -> None:
        try:
            await self._streams.serve(context)
        except SamplingError as error:
            if error.reason is not Reason.UNAVAILABLE:  # a message is at fault, and none of its requests was counted
                self._exchange.count_refusal(error)
            await refuse(context, error)

    async def get_info(self, body: bytes, context: Any) -> bytes:
        return bytes(_info_message(self._info).SerializeToString())

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Sample": unary(self.sample),
                "SampleStream": stream(self.sample_stream),
                "GetInfo": unary(self.get_info),
            },
        )


class _Generic:
    """A grpc.aio.Server that is given generic handlers only.

    Generated code registers the same handlers by the names of their methods as well, and for each name the server waits
    anew at every call of any.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        pass


def create_server(
    exchange: Exchange,
    streams: Streams,
    lifecycle: Lifecycle,
    info: Info,
    settings: Settings,
    inference_handlers: grpc.GenericRpcHandler,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server that has no address and is not started yet; `inference_handlers` are those of `inference.SERVICE`."""
    server = grpc.aio.server(interceptors=interceptors, options=_options(settings))
    service = SamplingService(LoneCall, exchange, streams, info)
    _add_services(_Generic(server), service, lifecycle, inference_handlers)
    return server


def create_application(
    exchange: Exchange,
    streams: Streams,
    lifecycle: Lifecycle,
    info: Info,
    settings: Settings,
    inference_handlers: grpc.GenericRpcHandler,
    check: Check | None,
) -> GrpcApplication:
    """The same for a server of ASGI."""
    service = SamplingService(SampleCall, exchange, streams, info)
    application = GrpcApplication(settings.max_request_bytes, service.refuse, check)
    _add_services(application, service, lifecycle, inference_handlers)
    return application


def _add_services(
    server: Any, service: SamplingService, lifecycle: Lifecycle, inference_handlers: grpc.GenericRpcHandler
) -> None:
    """`server` is a grpc.aio.Server, or takes handlers as one does."""
    server.add_generic_rpc_handlers((service.handlers(), inference_handlers))
    _add_health(server, lifecycle)
    _add_reflection(server, (pb.DESCRIPTOR, inference.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR))


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = {
        "grpc.max_receive_message_length": settings.max_request_bytes,
        "grpc.max_send_message_length": -1,  # admission bounds answers
        "grpc.so_reuseport": int(settings.frontend_count > 1),
        "grpc.http2.min_recv_ping_interval_without_data_ms": MIN_PING_INTERVAL_MS,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.max_connection_age_grace_ms": round(1000 * settings.grpc_max_connection_age_grace_seconds),
    }
    if settings.grpc_keepalive_seconds:
        options["grpc.keepalive_time_ms"] = round(1000 * settings.grpc_keepalive_seconds)
    if settings.grpc_max_connection_age_seconds:
        options["grpc.max_connection_age_ms"] = round(1000 * settings.grpc_max_connection_age_seconds)
    return list(options.items())


def _add_reflection(server: Any, files: Sequence[Any]) -> None:
    """Tell of the services in these files, which may come from several pools."""
    pool = DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.serialized_pb)
    services = [service.full_name for file in files for service in file.services_by_name.values()]
    servicer = reflection.aio.ReflectionServicer(services, pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


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
    parsed = parse(pb.SampleRequest, body)
    return Ask(
        body_bytes=len(body),
        decode=lambda: message.decode(parsed),
        encode=lambda result: message.encode(result, parsed.id),
        large_answer=LARGE_RAW_BYTES,
        deadline=deadline_of(parsed, context.time_remaining()),
        attend=partial(_until_due, context),
    )


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


def _is_due(context: Any) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining < EARLY_SECONDS


def parse(kind: Any, body: bytes) -> Any:
    """A message of this class."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise MalformedError(f"the message does not parse as {kind.DESCRIPTOR.full_name}") from None


async def refuse(context: Any, error: SamplingError, metadata: Metadata = ()) -> NoReturn:
    """End a call with an error: its status for people, and google.rpc.Status for programs."""
    details = _details(error).SerializeToString()
    trailing = (("grpc-status-details-bin", details), *metadata)
    await context.abort(STATUS[error.reason], str(error)[:MESSAGE_CHARACTERS], trailing)
    raise error  # abort has raised already


def _trace_metadata(asked: SampleCall | Count) -> Metadata:
    return () if asked.traceresponse is None else (("traceresponse", asked.traceresponse),)


def _details(error: SamplingError) -> Status:
    status = Status(code=STATUS[error.reason].value[0], message=str(error)[:MESSAGE_CHARACTERS])
    metadata = {"field": error.field[:MESSAGE_CHARACTERS]} if error.field else {}
    status.details.add().Pack(ErrorInfo(reason=error.reason.value, domain="gumball", metadata=metadata))
    if error.retry_seconds is not None:
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=error.retry_seconds)))
    return status


def _info_message(info: Info) -> pb.GetInfoResponse:
    return pb.GetInfoResponse(
        version=info.version,
        contracts=info.contracts,
        devices=[pb.Device(**asdict(device)) for device in info.devices],
        limits=pb.Limits(**asdict(info.limits)),
    )
