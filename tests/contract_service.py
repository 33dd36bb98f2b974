"""The service in a function: answers HTTP requests by the NumPy contract, for tests of what stands in front of it."""

import io
import json

import httpx
import numpy as np
from gumball import contract

DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
OUTPUTS_OF_MODE = {"hard": "index", "soft": "soft", "straight_through": "index,soft"}


def answer(request: httpx.Request) -> httpx.Response:
    """The answer to a binary `POST /sample`, worked out from its documented form."""
    query, logits, arrays = decode(request)
    shape = (logits.shape[0], int(query["draws"]))
    seed = None if "seeds" in arrays else int(query.get("seed", 20171103))
    seeds = arrays.get("seeds", seed)
    row = int(query["first_row"]) + np.arange(shape[0]) if seed is not None else 0
    drawn = [
        contract.straight_through(logits, seeds, row, arrays["first_draw"] + d, arrays["temperature"], arrays["tau"])
        for d in range(shape[1])
    ]
    index = np.stack([draw.index for draw in drawn], axis=1)
    soft = np.stack([draw.soft for draw in drawn], axis=1)
    one_hot = (index[..., None] == np.arange(logits.shape[1])).astype(np.float32)
    by_name = {"index": index, "soft": soft, "one_hot": one_hot}
    outputs = query.get("outputs", OUTPUTS_OF_MODE[query["mode"]]).split(",")
    return encode({name: by_name[name] for name in outputs}, seed, arrays["tau"])


def decode(request: httpx.Request):
    """Query, logits [rows, categories], and the parameters that may be lists, wherever they travelled."""
    query = dict(request.url.params)
    if request.headers["content-type"] == "application/x-npy":
        arrays = dict(np.load(io.BytesIO(request.content)))
        logits = arrays.pop("logits")
    else:
        arrays = {}
        shape = [int(n) for n in query["shape"].split(",")]
        logits = np.frombuffer(request.content, DTYPES[query["dtype"]]).reshape(shape)
        if query["dtype"] == "bfloat16":
            logits = (logits.astype(np.uint32) << 16).view(np.float32)
    for name, dtype in (("seeds", "u8"), ("first_draw", "u4"), ("tau", "f8"), ("temperature", "f8")):
        if name in query:
            read = float if dtype == "f8" else int
            arrays[name] = np.array([read(text) for text in query[name].split(",")], dtype)
    return query, logits, arrays


def encode(outputs, seed, tau, **headers: str) -> httpx.Response:
    """Outputs one after another, and what describes them."""
    described = [{"name": name, "dtype": str(a.dtype), "shape": a.shape} for name, a in outputs.items()]
    told = {
        "content-type": "application/octet-stream",
        "gumball-contract": "gumball/1",
        "gumball-tau": ",".join(repr(float(value)) for value in np.atleast_1d(tau)),
        "gumball-queue-ns": "41000",
        "gumball-compute-ns": "5200",
        "gumball-outputs": json.dumps(described),
    }
    if seed is not None:
        told["gumball-seed"] = str(seed)
    content = b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in outputs.values())
    return httpx.Response(200, headers=told | headers, content=content)
