"""The servers that Gumball stands on, around another application, on one loop: uvicorn, and grpc.aio or our own."""

import argparse
import asyncio
import signal
import socket

import grpc
import uvloop
from gumball.v1 import sampling_pb2 as pb
from gumball_server.domain import SamplingError
from gumball_server.grpc_calls import Context, GrpcApplication
from gumball_server.grpc_native import NativeServer
from gumball_server.http2.lifetime import Ages
from gumball_server.listeners import BACKLOG, GrpcServer, HttpServer
from starlette.types import ASGIApp

SERVICE = pb.DESCRIPTOR.services_by_name["SamplingService"].full_name
MESSAGE_BYTES = 64 * 2**20
IDLE_SECONDS = 75.0


def serve(app: ASGIApp, sample: grpc.RpcMethodHandler) -> None:
    """Serve both on the ports of the command line until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--grpc-engine", choices=("native", "aio"), default="native")
    uvloop.run(_serve(app, sample, parser.parse_args()))


async def _serve(app: ASGIApp, sample: grpc.RpcMethodHandler, arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    http_server = HttpServer(app, [_listener(arguments.http_port)], IDLE_SECONDS)
    handler = grpc.method_handlers_generic_handler(SERVICE, {"Sample": sample})
    grpc_server = {"aio": _aio, "native": _native}[arguments.grpc_engine](handler, arguments.grpc_port)
    await grpc_server.start()
    await stop.wait()
    await asyncio.gather(http_server.stop(1), grpc_server.stop(1))


def _aio(handler: grpc.GenericRpcHandler, port: int) -> GrpcServer:
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    return server


def _native(handler: grpc.GenericRpcHandler, port: int) -> GrpcServer:
    async def refuse(context: Context, error: SamplingError) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, str(error))

    application = GrpcApplication(MESSAGE_BYTES, refuse)
    application.add_generic_rpc_handlers((handler,))
    return NativeServer(application, [_listener(port)], None, Ages(0, 0, 0))


def _listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
