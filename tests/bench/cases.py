"""What is asked of every server: one row of logits in each form, and the first answer to it."""

import json
import urllib.request
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import grpc
import numpy as np
from gumball.v1 import sampling_pb2 as pb

METHOD = "/gumball.v1.SamplingService/Sample"
MESSAGE_BYTES = 64 * 2**20
SECONDS = 60


class Form(StrEnum):
    JSON = "json"
    BINARY = "binary"
    GRPC = "grpc"


CONTENT_TYPE = {
    Form.JSON: "application/json",
    Form.BINARY: "application/octet-stream",
    Form.GRPC: "application/grpc",
}


class Mode(StrEnum):
    HARD = "hard"
    SOFT = "soft"


@dataclass(frozen=True)
class Case:
    """One row of `categories` logits, in a form, for a mode."""

    form: Form
    categories: int
    mode: Mode
    rows: int = 1

    def __str__(self) -> str:
        return f"{self.form} {self.categories:,} {self.mode}"

    @property
    def path(self) -> str:
        if self.form is Form.BINARY:
            return f"/sample?shape={self.rows},{self.categories}&dtype=float32&mode={self.mode}"
        return METHOD if self.form is Form.GRPC else "/sample"

    @cached_property
    def message(self) -> bytes:
        """The body, for gRPC without its frame."""
        logits = 2 * np.random.default_rng(0).standard_normal((self.rows, self.categories), np.float32)
        if self.form is Form.JSON:
            numbers = [[float(str(logit)) for logit in row] for row in logits]  # no more digits than float32 has
            return json.dumps({"logits": numbers, "mode": self.mode}, separators=(",", ":")).encode()
        if self.form is Form.BINARY:
            return logits.tobytes()
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=logits.shape, data=logits.tobytes())
        request = pb.SampleRequest(logits=tensor, mode=pb.Mode.Value(f"MODE_{self.mode.upper()}"))
        return bytes(request.SerializeToString())

    @property
    def body(self) -> bytes:
        """What travels: for gRPC with its frame, one byte for no compression and four for the length."""
        frame = b"\0" + len(self.message).to_bytes(4, "big") if self.form is Form.GRPC else b""
        return frame + self.message


def ask(address: str, path: str, case: Case) -> bytes:
    """One answer, by a client other than the load generator. Raises OSError or grpc.RpcError."""
    if case.form is Form.GRPC:
        with grpc.insecure_channel(address, [("grpc.max_receive_message_length", MESSAGE_BYTES)]) as channel:
            answer: bytes = channel.unary_unary(path)(case.message, timeout=SECONDS)
            return answer
    headers = {"content-type": CONTENT_TYPE[case.form]}
    request = urllib.request.Request(f"http://{address}{path}", case.message, headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
        return bytes(response.read())
