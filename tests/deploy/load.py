"""Steady mixed traffic over HTTP and gRPC, every outcome counted."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc

MODES = ("hard", "soft", "straight_through")
# Rows and categories of the requests: some of a token, some of a batch.
SHAPES = ((1, 10), (4, 1000), (8, 32_000))
TIMEOUT = 20.0

# Asks once more each time it is called, and says what came of it: OK or what went wrong.
Caller = Callable[[], str]


def logits(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def post(client: httpx.Client, query: str, body: bytes, kind: str = "application/octet-stream") -> Caller:
    """The same request over HTTP, on connections that are kept."""

    def call() -> str:
        try:
            answer = client.post(f"/sample?{query}", content=body, headers={"content-type": kind}, timeout=TIMEOUT)
        except httpx.HTTPError as error:
            return repr(error)
        return "OK" if answer.is_success else f"{answer.status_code} {answer.text}"

    return call


def over_http(client: httpx.Client, mode: str, shape: tuple[int, int], dtype: str = "float32") -> Caller:
    query = f"shape={shape[0]},{shape[1]}&dtype={dtype}&mode={mode}"
    return post(client, query, logits(shape).astype(dtype).tobytes())


def over_grpc(channel: grpc.Channel, mode: str, shape: tuple[int, int]) -> Caller:
    sample = sampling_pb2_grpc.SamplingServiceStub(channel).Sample
    tensor = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=shape, data=logits(shape).tobytes())
    request = pb.SampleRequest(logits=tensor, mode=f"MODE_{mode.upper()}")

    def call() -> str:
        error = sample.future(request, timeout=TIMEOUT).exception()
        return "OK" if error is None else f"{error.code()} {error.details()}"

    return call


def mixed(client: httpx.Client, channel: grpc.Channel) -> list[Caller]:
    """A caller for each mode and shape over each transport."""
    pairs = [(mode, shape) for mode in MODES for shape in SHAPES]
    return [over_http(client, *pair) for pair in pairs] + [over_grpc(channel, *pair) for pair in pairs]


@contextmanager
def load(callers: list[Caller], rate: float) -> Iterator[Counter[str]]:
    """Call, `rate` times a second in all, while the block runs. The outcomes are complete when it ends."""
    outcomes: Counter[str] = Counter()
    lock, over = threading.Lock(), threading.Event()
    period = len(callers) / rate

    def keep_calling(caller: Caller) -> None:
        due = time.monotonic()
        while not over.is_set():
            outcome = caller()
            with lock:
                outcomes[outcome] += 1
            due = max(due + period, time.monotonic())
            over.wait(due - time.monotonic())

    with ThreadPoolExecutor(len(callers)) as threads:
        running = [threads.submit(keep_calling, caller) for caller in callers]
        try:
            yield outcomes
        finally:
            over.set()
    for each in running:
        each.result()
