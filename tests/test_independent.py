"""Programs in JavaScript: the contract, written from its text alone, and calls of gRPC by another HTTP/2."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gumball import contract
from gumball.v1 import sampling_pb2 as pb

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tests/independent"


def node(script: str, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Without Node.js this fails, unless WITHOUT_NODE is set."""
    if not (program := shutil.which("node")):
        if os.environ.get("WITHOUT_NODE"):
            pytest.skip("WITHOUT_NODE is set")
        pytest.fail("node is not installed; or set WITHOUT_NODE=1")
    command = [program, SCRIPTS / script, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def test_the_text_is_enough_to_get_every_published_bit():
    """Of the contract."""
    files = sorted((ROOT / "proto/vectors").glob("*.json"))
    done = node("check.mjs", *files)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(" 0 failed\n")
    assert len(files) == 2


def test_calls_by_another_http2_get_the_same_bits(grpc_server):
    """Many at once on one connection, of any size, with windows that are small; one of them is refused."""
    shapes = [(1, 3), (2, 10), (1, 100_000), *[(1, 5)] * 100, (3, 50_000)]
    logits = [
        np.random.default_rng(number).normal(size=shape).astype(np.float32) for number, shape in enumerate(shapes)
    ]
    requests = [
        pb.SampleRequest(
            logits=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=each.shape, data=each.tobytes()),
            mode="MODE_STRAIGHT_THROUGH",
            seed=seed,
        )
        for seed, each in enumerate(logits)
    ]
    messages = [request.SerializeToString().hex() for request in (*requests, pb.SampleRequest())]
    address = f"http://{grpc_server.addresses['grpc']}"
    done = node("call.mjs", address, "/gumball.v1.SamplingService/Sample", given=json.dumps(messages))
    assert done.returncode == 0, done.stderr
    *answers, refused = json.loads(done.stdout)
    assert (refused["http"], refused["grpc"], refused["message"]) == (200, "3", "")
    for seed, (each, answer) in enumerate(zip(logits, answers, strict=True)):
        assert (answer["http"], answer["grpc"], answer["whole"]) == (200, "0", True)
        response = pb.SampleResponse.FromString(bytes.fromhex(answer["message"]))
        rows = np.arange(len(each))
        assert response.index.data == contract.hard(each, seed, rows).tobytes()
        assert response.soft.data == contract.soft(each, seed, rows).tobytes()
