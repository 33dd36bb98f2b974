"""The floor under Gumball: its own servers, answering the body that they were sent."""

from typing import Any

import grpc
from stack import serve
from starlette.types import Receive, Scope, Send


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    chunks, more = [], True
    while more:
        event = await receive()
        chunks.append(event.get("body", b""))
        more = event.get("more_body", False)
    body = b"".join(chunks)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo_message(body: bytes, context: Any) -> bytes:
    return body


if __name__ == "__main__":
    serve(echo, grpc.unary_unary_rpc_method_handler(echo_message))
