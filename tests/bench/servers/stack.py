"""The servers that Gumball stands on, around another application: uvicorn for HTTP, grpc.aio for gRPC, on one loop."""

import argparse
import asyncio
import signal
import socket

import grpc
import uvloop
from gumball.v1 import sampling_pb2 as pb
from gumball_server.listeners import BACKLOG, HttpServer
from starlette.types import ASGIApp

SERVICE = pb.DESCRIPTOR.services_by_name["SamplingService"].full_name
MESSAGE_BYTES = 64 * 2**20


def serve(app: ASGIApp, sample: grpc.RpcMethodHandler) -> None:
    """Serve both on the ports of the command line until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(_serve(app, sample, arguments.http_port, arguments.grpc_port))


async def _serve(app: ASGIApp, sample: grpc.RpcMethodHandler, http_port: int, grpc_port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    http_server = HttpServer(app, [socket.create_server(("127.0.0.1", http_port), backlog=BACKLOG)])
    grpc_server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    )
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Sample": sample}),))
    grpc_server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await grpc_server.start()
    await stop.wait()
    await asyncio.gather(http_server.stop(1), grpc_server.stop(1))
