"""The gRPC transport: `gumball.v1.SamplingService`, health and reflection."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import SamplingError
from gumball_server.exchange import Exchange, Headers
from gumball_server.grpc_sample import SERVICE, SampleCall, refuse
from gumball_server.grpc_stream import Streams
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.settings import Settings
from gumball_server.wire import inference

MIN_PING_INTERVAL_MS = 10_000  # clients behind proxies that drop idle connections ask this often; less is abuse


class LoneCall(SampleCall):
    """One on gRPC's own server, which brings them one a turn of the loop, each to a coroutine of its own."""

    __slots__ = ("_context", "_outcome", "_waiting")

    comes_alone = True

    def __init__(self, exchange: Exchange, body: bytes, context: Any) -> None:
        super().__init__(exchange, body, context.time_remaining())
        self._context = context
        self._outcome: bytes | SamplingError | None = None  # once it has ended, and is counted
        self._waiting: asyncio.Future[bytes | SamplingError] | None = None  # if that is not at once

    async def response(self) -> bytes:
        """What it comes to. Raises SamplingError; cancelling it withdraws the request."""
        self.exchange.open()
        self.begin()
        outcome = self._outcome
        if outcome is None:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                outcome = await self._waiting
            except asyncio.CancelledError:
                if self._outcome is None and not self.is_due():  # else its deadline ends it
                    self.exchange.abandon(self)
                raise
        if isinstance(outcome, SamplingError):
            raise outcome
        return outcome

    def headers(self) -> Headers:
        headers: Headers = self._context.invocation_metadata()
        return headers

    def reply(self, answer: bytes) -> None:
        self._end(answer)

    def refuse(self, error: SamplingError) -> None:
        self._end(error)

    def _end(self, outcome: bytes | SamplingError) -> None:
        self._outcome = outcome
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(outcome)


class SamplingService:
    """The methods of the service, from bytes to bytes: a message that does not parse is ours to refuse."""

    def __init__(self, exchange: Exchange, streams: Streams, info: Info) -> None:
        self._exchange = exchange
        self._streams = streams
        self._info = info

    async def sample(self, body: bytes, context: Any) -> bytes:
        call = LoneCall(self._exchange, body, context)
        try:
            answer = await call.response()
        except SamplingError as error:
            await refuse(context, error, call.trace_metadata())
        if call.traceresponse is not None:
            context.set_trailing_metadata(call.trace_metadata())
        return answer

    async def refuse(self, context: Any, error: SamplingError) -> None:
        """End a call that came to no handler."""
        self._exchange.count_refusal(error)
        await refuse(context, error)

    async def sample_stream(self, _messages: object, context: Any) -> None:
        try:
            await self._streams.serve(context)
        except SamplingError as error:
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
    service = SamplingService(exchange, streams, info)
    add_services(_Generic(server), service, lifecycle, inference_handlers)
    return server


def add_services(
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


def _info_message(info: Info) -> pb.GetInfoResponse:
    return pb.GetInfoResponse(
        version=info.version,
        contracts=info.contracts,
        devices=[pb.Device(**asdict(device)) for device in info.devices],
        limits=pb.Limits(**asdict(info.limits)),
    )
