"""The published test vectors, `proto/vectors/gumball-1.json`, as arrays."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DOCUMENT = json.loads((Path(__file__).parents[1] / "proto/vectors/gumball-1.json").read_text())

# Rows too long to list are given by a rule (the document's `note`).
_BY_RULE = {
    "k mod 97": lambda k: (k % 97) / 8,
    "k mod 97, row 15": lambda k: (k % 97) / 8,
    "coarse word zero at 113393": lambda k: k * 0.0,
    "uniform, tau 1000: the sum passes 2^53": lambda k: k * 0.0,
    "2^18": lambda k: ((k * 2654435761) % 4096) / 512,
}


@dataclass(frozen=True)
class Vector:
    """One published draw: its inputs, and its results as given."""

    name: str
    seed: int
    row: int
    draw: int
    temperature: float
    tau: float
    logits: np.ndarray  # [categories] float32
    index: int
    results: dict[str, Any]

    def assert_equal(self, output: str, values: np.ndarray) -> None:
        """`values` [categories] have the published bits of `output`: soft, scores or noise, where published."""
        values = np.ascontiguousarray(values, "<f4")
        if output in self.results:
            assert [f"{bits:08x}" for bits in values.view("<u4")] == self.results[output], self.name
        elif f"{output}_crc32" in self.results:
            assert f"{zlib.crc32(values.tobytes()):08x}" == self.results[f"{output}_crc32"], self.name


def _vector(case: dict[str, Any]) -> Vector:
    if "logits" in case:
        logits = np.array([float(x) for x in case["logits"]], np.float32)
    else:
        logits = _BY_RULE[case["name"]](np.arange(case["categories"], dtype=np.int64)).astype(np.float32)
    inputs = {name: case[name] for name in ("name", "row", "draw", "temperature", "tau", "index")}
    return Vector(seed=int(case["seed"]), logits=logits, results=case, **inputs)


VECTORS = [_vector(case) for case in DOCUMENT["cases"]]
