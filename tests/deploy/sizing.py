"""The figures of the guide's section on sizing, measured here: processor time of a request, memory of a full queue.

`make sizing` runs it; it takes some two minutes.
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import httpx
from conftest import Server
from load import Caller, logits, over_grpc, over_http, post

SECONDS, REPEATS, CALLERS = 1.2, 3, 4
SMALL, LARGE = (1, 1000), (32, 32_000)
MEBIBYTE = 1 << 20


def processor_seconds(server: Server) -> float:
    user, system = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(server: Server, name: str) -> int:
    """VmRSS, now, or VmHWM, at most so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def repeat(caller: Caller, seconds: float) -> int:
    """How often it was answered; refusals do not count."""
    end, answered = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        answered += caller() == "OK"
    return answered


def cost(server: Server, caller: Caller) -> float:
    """Processor seconds of a request, the least of several measurements."""

    def once() -> float:
        before = processor_seconds(server)
        with ThreadPoolExecutor(CALLERS) as threads:
            answered = sum(threads.map(lambda _: repeat(caller, SECONDS), range(CALLERS)))
        return (processor_seconds(server) - before) / answered

    return min(once() for _ in range(REPEATS))


def tell_costs(name: str, server: Server, caller: Callable[[tuple[int, int]], Caller]) -> None:
    small, large = (cost(server, caller(shape)) for shape in (SMALL, LARGE))
    each = (large - small) / (LARGE[0] * LARGE[1] - SMALL[0] * SMALL[1])
    print(f"{name:28} {small * 1e3:6.2f} ms a request of {SMALL}, {each * 1e9:6.1f} ns each element more")


def tell_memory(outputs: str, elements: int) -> None:
    """Of a server whose queue more callers fill than it admits."""
    server = Server("--threads", "1", "--max-queue-elements", str(elements))
    idle, callers = resident_bytes(server, "VmRSS"), elements * 3 // 2 // (LARGE[0] * LARGE[1])
    with httpx.Client(base_url=server.http, limits=httpx.Limits(max_connections=callers)) as client:
        query = f"shape={LARGE[0]},{LARGE[1]}&dtype=float32&outputs={outputs}"
        caller = post(client, query, logits(LARGE).tobytes())
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(lambda _: repeat(caller, 8), range(callers)))
    more = resident_bytes(server, "VmHWM") - idle
    server.stop()
    print(
        f"{outputs}, queue of {elements}: {idle / MEBIBYTE:.0f} MiB idle, {more / elements:.1f} bytes an element more"
    )


def over_json(client: httpx.Client, mode: str, shape: tuple[int, int]) -> Caller:
    numbers = logits(shape).round(4).astype(float).tolist()
    return post(client, "", json.dumps({"logits": numbers, "mode": mode}).encode(), "application/json")


def main() -> None:
    server = Server("--threads", "1")
    unbounded = [("grpc.max_receive_message_length", -1)]
    with (
        httpx.Client(base_url=server.http) as client,
        grpc.insecure_channel(server.addresses["grpc"], unbounded) as channel,
    ):
        for mode in ("hard", "soft"):
            for dtype in ("float16", "float32"):
                tell_costs(f"{mode}, {dtype}, HTTP", server, partial(over_http, client, mode, dtype=dtype))
            tell_costs(f"{mode}, float32, gRPC", server, partial(over_grpc, channel, mode))
            tell_costs(f"{mode}, JSON", server, partial(over_json, client, mode))
    server.stop()
    for outputs, elements in (("soft", 1 << 25), ("soft", 1 << 26), ("soft,log_soft,one_hot,probs", 1 << 26)):
        tell_memory(outputs, elements)


if __name__ == "__main__":
    main()
