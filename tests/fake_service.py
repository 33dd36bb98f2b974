"""Small real gRPC services that answer by the NumPy contract, and fail as a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceServicer, add_SamplingServiceServicer_to_server


def response_to(request: pb.SampleRequest) -> pb.SampleResponse:
    """The hard sample of one row by the contract."""
    logits = np.frombuffer(request.logits.data, "<f4").reshape(tuple(request.logits.shape))
    index = contract.hard(logits, request.seed)[:, None].astype("<i4")
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=index.shape, data=index.tobytes())
    return pb.SampleResponse(id=request.id, contract=contract.VERSION, seed=request.seed, tau=[1.0], index=tensor)


Respond = Callable[[pb.SampleRequest], Awaitable[pb.SampleResponse]]


class FakeService(SamplingServiceServicer):
    """Answers each request of a stream by `respond`, and keeps what it received."""

    def __init__(self, respond: Respond | None = None) -> None:
        self._respond = respond
        self.messages: list[pb.SampleStreamRequest] = []
        self.withdrawn: list[int] = []
        self.received = asyncio.Event()

    @property
    def requests(self) -> list[pb.SampleRequest]:
        return [request for message in self.messages for request in message.requests]

    async def SampleStream(self, messages, context):  # noqa: N802 - as the service is generated
        writing = asyncio.Lock()  # gRPC writes one message at a time
        async with asyncio.TaskGroup() as tasks:
            async for message in messages:
                self.messages.append(message)
                self.received.set()
                self.withdrawn += message.withdrawn
                for request in message.requests:
                    tasks.create_task(self._answer(request, context, writing))

    async def _answer(self, request, context, writing):
        response = await self._respond(request) if self._respond else response_to(request)
        async with writing:
            await context.write(pb.SampleStreamResponse(responses=[response]))


@asynccontextmanager
async def serving(service: SamplingServiceServicer, place: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The address of a service, while the block runs; at its end, its streams are cut off."""
    server = grpc.aio.server()
    add_SamplingServiceServicer_to_server(service, server)
    port = server.add_insecure_port(place)
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        await server.stop(None)
