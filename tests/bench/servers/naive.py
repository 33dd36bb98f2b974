"""What one writes first: a typed FastAPI route and a grpc.aio method, which call PyTorch's gumbel_softmax."""

from typing import Any, Literal

import grpc
import numpy as np
import torch
from fastapi import FastAPI
from gumball.v1 import sampling_pb2 as pb
from pydantic import BaseModel
from stack import serve
from torch.nn.functional import gumbel_softmax

torch.set_num_threads(1)  # it is given one core
app = FastAPI()


class SampleRequest(BaseModel):
    logits: list[list[float]]
    mode: Literal["hard", "soft"] = "hard"
    tau: float = 1.0


class SampleResponse(BaseModel):
    index: list[int] | None = None
    soft: list[list[float]] | None = None


@app.post("/sample")
async def sample(request: SampleRequest) -> SampleResponse:
    logits = torch.tensor(request.logits)
    if request.mode == "hard":
        return SampleResponse(index=gumbel_softmax(logits, request.tau, hard=True).argmax(-1).tolist())
    return SampleResponse(soft=gumbel_softmax(logits, request.tau).tolist())


async def sample_message(request: pb.SampleRequest, context: Any) -> pb.SampleResponse:
    shape = tuple(request.logits.shape)
    logits = torch.from_numpy(np.frombuffer(request.logits.data, np.float32).reshape(shape).copy())
    if request.mode == pb.MODE_HARD:
        index = gumbel_softmax(logits, hard=True).argmax(-1).numpy().astype(np.int32)
        return pb.SampleResponse(index=pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=index.shape, data=index.tobytes()))
    soft = gumbel_softmax(logits).numpy()
    return pb.SampleResponse(soft=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=soft.shape, data=soft.tobytes()))


if __name__ == "__main__":
    serve(
        app,
        grpc.unary_unary_rpc_method_handler(
            sample_message, pb.SampleRequest.FromString, pb.SampleResponse.SerializeToString
        ),
    )
