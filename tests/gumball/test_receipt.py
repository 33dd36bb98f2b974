"""Receipts, and the command that redoes what they tell of."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from gumball import Client, receipt_of, verify_receipt

EVERYTHING = {
    "mode": "straight_through",
    "outputs": ["index", "score", "log_prob", "soft", "log_soft", "probs", "entropy"],
    "draws": 2,
    "first_draw": 3,
    "temperature": 0.8,
    "tau": 0.5,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.001,
    "logit_bias": {"3": 1.5, "7": None},
    "without_replacement": 3,
    "top_log_probs": 4,
}


def logits(rows: int = 3) -> np.ndarray:
    return (2 * np.random.default_rng(4).standard_normal((rows, 60))).astype(np.float16)


LIGHT = """
import sys
sys.modules |= dict.fromkeys(["gumball_server", "numba", "torch", "fastapi", "uvicorn", "msgspec", "pydantic"])
from gumball.cli import main
sys.exit(main(sys.argv[1:]))
"""


def verify(*files: Path) -> subprocess.CompletedProcess[str]:
    """By an interpreter that finds nothing but the light client."""
    command = [sys.executable, "-c", LIGHT, "verify", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def arguments() -> dict:
    """Everything as the Python client takes it."""
    return EVERYTHING | {"logit_bias": {int(k): x for k, x in EVERYTHING["logit_bias"].items()}}


@pytest.mark.parametrize("seeds", [{}, {"seed": 2**64 - 1}, {"seeds": [1, 2**63, 3]}], ids=["drawn", "seed", "seeds"])
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_receipt_redoes_its_sample(server, way: str, seeds: dict):
    """After a journey through JSON, with the logits kept in another type."""
    with Client(getattr(server, way)) as client:
        sample = client.sample(logits(), **arguments(), **seeds)
    receipt = json.loads(json.dumps(receipt_of(sample, logits())))
    assert verify_receipt(receipt, logits().astype(np.float32)) == []


def test_a_schedule_is_redone_with_the_tau_it_gave(server):
    """The tau used is in the sample."""
    schedule = {"kind": "exponential", "initial": 2.0, "rate": 0.01, "floor": 0.1, "step": 100}
    with Client(server.grpc) as client:
        sample = client.sample(logits(), mode="soft", tau_schedule=schedule)
    assert sample.tau.tolist() == [pytest.approx(2 / np.e)]
    assert verify_receipt(receipt_of(sample, logits()), logits()) == []


def test_a_receipt_tells_what_was_changed(server):
    """The logits, the seed, or a bit of the answer."""
    with Client(server.http) as client:
        sample = client.sample(logits(), mode="straight_through", seed=1)
    receipt = receipt_of(sample, logits())
    assert verify_receipt(receipt, -logits()) == ["logits: not those of the receipt"]
    other = ["index: other bits than those of the receipt", "soft: other bits than those of the receipt"]
    assert verify_receipt(receipt | {"seed": "2"}, logits()) == other
    sample.soft[2, 0, 59] = np.nextafter(sample.soft[2, 0, 59], np.float32(1))
    assert verify_receipt(receipt_of(sample, logits()), logits()) == other[1:]


def test_the_command_redoes_a_receipt_and_a_saved_answer(server, tmp_path: Path):
    """Status 0 and "equal", or 1 and the first difference."""
    request = {"logits": logits().tolist(), "seed": "99", **EVERYTHING}
    answer = httpx.post(f"{server.http}/sample", json=request).json()
    (asked := tmp_path / "request.json").write_text(json.dumps(request))
    (told := tmp_path / "answer.json").write_text(json.dumps(answer))
    ended = verify(asked, told)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "equal\n", "")
    answer["index"][1][0][2] += 1
    answer["seed"] = "98"
    told.write_text(json.dumps(answer))
    ended = verify(asked, told)
    assert ended.returncode == 1
    assert "seed: not the one that was asked for" in ended.stdout


def test_what_is_no_receipt_is_refused(tmp_path: Path):
    """Status 2 and one line."""
    (document := tmp_path / "receipt.json").write_text('{"receipt": 1, "contract": "gumball/1"}')
    np.save(tmp_path / "logits.npy", logits())
    ended = verify(document, tmp_path / "logits.npy")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is no receipt" in ended.stderr
