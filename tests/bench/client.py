"""What gathering calls is worth: concurrent callers of one process, alone and by the client, against the same server.

The server has one core and this process another. Each way runs several times, in turn with the others; the medians are
told: calls a second, and microseconds of CPU time a call here and in the server.

    python tests/bench/client.py [--callers 64] [--seconds 2] [--rounds 5] [--engine native]
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
import numpy as np
from gumball import AsyncClient, Client
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceStub

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import Server

LOGITS = np.random.default_rng(1).normal(0, 2, (1, 10)).astype(np.float32)


class Run(NamedTuple):
    """How fast a way was."""

    calls_per_second: float
    client_us: float
    server_us: float


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def callers(call: Callable[[int], Awaitable[object]], number: int, seconds: float) -> int:
    """Calls that so many coroutines, each awaiting its own, made in a time."""
    end, calls = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            calls += 1
            await call(calls)

    await asyncio.gather(*(caller() for _ in range(number)))
    return calls


def single_calls(server: Server, number: int, seconds: float) -> int:
    """By a plain stub: every call a gRPC call of its own, with a message that is encoded already."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=LOGITS.shape, data=LOGITS.tobytes())
    message = pb.SampleRequest(logits=tensor, seed=1)

    async def run() -> int:
        async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
            stub = SamplingServiceStub(channel)
            await stub.Sample(message)
            return await callers(lambda _: stub.Sample(message), number, seconds)

    return asyncio.run(run())


def gathered_calls(server: Server, number: int, seconds: float) -> int:
    """By the client, which answers with arrays, checked."""

    async def run() -> int:
        async with AsyncClient(server.grpc) as client:
            await client.sample(LOGITS)
            return await callers(lambda seed: client.sample(LOGITS, seed=seed), number, seconds)

    return asyncio.run(run())


def threads(server: Server, number: int, seconds: float) -> int:
    """By the client that blocks, from threads."""
    calls = [0] * number
    with Client(server.grpc) as client:
        client.sample(LOGITS)
        end = time.perf_counter() + seconds

        def caller(own: int) -> None:
            while time.perf_counter() < end:
                client.sample(LOGITS, seed=calls[own])
                calls[own] += 1

        running = [threading.Thread(target=caller, args=(own,)) for own in range(number)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return sum(calls)


def measured(way: Callable[[Server, int, float], int], server: Server, number: int, seconds: float) -> Run:
    wall, here, there = time.perf_counter(), time.process_time(), cpu_seconds(server.process.pid)
    calls = way(server, number, seconds)
    wall, here = time.perf_counter() - wall, time.process_time() - here
    return Run(calls / wall, 1e6 * here / calls, 1e6 * (cpu_seconds(server.process.pid) - there) / calls)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=("aio", "native"), default="native")
    options = parser.parse_args()
    server = Server("--threads", "1", "--grpc-engine", options.engine)
    first, *_, last = sorted(os.sched_getaffinity(0))
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {last})
    os.sched_setaffinity(0, {first})
    ways = {
        f"{options.callers} single gRPC calls": (single_calls, options.callers),
        f"{options.callers} coroutines of AsyncClient": (gathered_calls, options.callers),
        f"{options.callers} threads of Client": (threads, options.callers),
        "1 single gRPC call": (single_calls, 1),
        "1 coroutine of AsyncClient": (gathered_calls, 1),
        "1 thread of Client": (threads, 1),
    }
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    try:
        for _ in range(options.rounds):
            for name, (way, number) in ways.items():
                runs[name].append(measured(way, server, number, options.seconds))
    finally:
        server.stop()
    base = median(run.calls_per_second for run in runs[next(iter(ways))])
    print(f"{'':32} calls/s  client us  server us  times the first")
    for name, several in runs.items():
        calls, client, there = (median(values) for values in zip(*several, strict=True))
        print(f"{name:32} {calls:7.0f} {client:10.1f} {there:10.1f} {calls / base:10.2f}")


if __name__ == "__main__":
    main()
