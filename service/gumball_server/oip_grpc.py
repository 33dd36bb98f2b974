"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from gumball_server.domain import SamplingError
from gumball_server.exchange import Ask, Count, Exchange
from gumball_server.grpc_sample import parse, refuse
from gumball_server.oip_model import Model, Told
from gumball_server.wire import inference, oip_message
from gumball_server.wire.inference import ModelInferRequest, ModelStreamInferResponse

INFER, STREAM_INFER = (f"{inference.SERVICE.full_name}/{name}" for name in ("ModelInfer", "ModelStreamInfer"))
# Requests of one stream that are answered at once; the stream is not read on while there are so many.
STREAM_REQUESTS = 64

Method = Callable[[bytes, Any], Awaitable[bytes]]


class InferenceService:
    """The methods of the service, from bytes to bytes: a message that does not parse is ours to refuse."""

    def __init__(self, exchange: Exchange, model: Model) -> None:
        self._exchange = exchange
        self._tell: dict[str, Callable[[Any], Told]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": model.ready()},
            "ModelReady": lambda asked: {"ready": model.ready(asked.name, asked.version)},
            "ServerMetadata": lambda _: model.server(),
            "ModelMetadata": lambda asked: model.metadata(asked.name, asked.version),
            "ModelConfig": lambda asked: {"config": model.config(asked.name, asked.version)},
            "ModelStatistics": lambda asked: model.statistics(asked.name, asked.version),
            "RepositoryIndex": lambda _: {"models": model.index()},
        }

    async def infer(self, body: bytes, context: Any) -> bytes:
        return await self._answer(body, context, INFER, _bytes)

    async def stream_infer(self, bodies: AsyncIterator[bytes], context: Any) -> None:
        """Answers the requests of a stream together, and tells the answers in the order of the requests."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_REQUESTS)
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                async for body in bodies:
                    await answers.put(group.create_task(self._stream_answer(body, context)))
                await answers.put(None)

            group.create_task(read())
            while answer := await answers.get():
                await context.write(await answer)

    def handlers(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Method] = {name: self._telling(name) for name in self._tell} | {"ModelInfer": self.infer}
        methods = {name: grpc.unary_unary_rpc_method_handler(_aborting(method)) for name, method in unary.items()}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.stream_infer)
        return grpc.method_handlers_generic_handler(inference.SERVICE.full_name, methods)

    async def _answer(self, body: bytes, context: Any, operation: str, finish: Callable[[Any], bytes]) -> bytes:
        async def receive() -> Ask[bytes]:
            remaining = context.time_remaining()
            message = parse(ModelInferRequest, body)
            return Ask(
                body_bytes=len(body),
                decode=lambda: oip_message.decode(message),
                encode=lambda result: finish(oip_message.encode(result, message)),
                deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
            )

        return await self._exchange.answer(receive, Count(operation, context.invocation_metadata))

    async def _stream_answer(self, body: bytes, context: Any) -> bytes:
        """An answer or an error, which does not end the stream."""
        try:
            return await self._answer(body, context, STREAM_INFER, _stream_bytes)
        except SamplingError as error:
            return _bytes(ModelStreamInferResponse(error_message=str(error)))

    def _telling(self, name: str) -> Method:
        method = inference.SERVICE.methods_by_name[name]
        asked, told = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

        async def tell(body: bytes, context: Any) -> bytes:
            return _bytes(told(**self._tell[name](parse(asked, body))))

        return tell


def _aborting(method: Method) -> Method:
    """A method whose refusals reach the caller as its status."""

    async def call(body: bytes, context: Any) -> bytes:
        try:
            return await method(body, context)
        except SamplingError as error:
            await refuse(context, error)

    return call


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _stream_bytes(response: Any) -> bytes:
    """A response as a stream has it: marked as the last to its request, as each is."""
    response.parameters["triton_final_response"].bool_param = True
    return _bytes(ModelStreamInferResponse(infer_response=response))
