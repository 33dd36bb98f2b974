"""The published test vectors of `gumball/1`, as arrays: what every implementation must give, bit for bit."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

DOCUMENT: dict[str, Any] = json.loads(files("gumball").joinpath("data/gumball-1.json").read_text())

# Rows too long to list are given by a rule (the document's `note`).
_BY_RULE: dict[str, Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]] = {
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
    logits: npt.NDArray[np.float32]  # [categories]
    index: int
    results: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of a request that draws it, and its soft sample."""
        return {
            "mode": "straight_through",
            "seed": self.seed,
            "first_row": self.row,
            "first_draw": self.draw,
            "temperature": self.temperature,
            "tau": self.tau,
        }

    def agrees(self, output: str, values: npt.NDArray[np.float32]) -> bool:
        """Whether `values` [categories] have the published bits of `output`: "noise", "scores" or "soft".

        Long rows are published as a checksum; the noise of long rows is not published, and agrees.
        """
        values = np.ascontiguousarray(values, "<f4")
        if output in self.results:
            return bool([f"{bits:08x}" for bits in values.view("<u4")] == self.results[output])
        if output != "noise":
            return bool(f"{zlib.crc32(values.tobytes()):08x}" == self.results[f"{output}_crc32"])
        return True


def _vector(case: dict[str, Any]) -> Vector:
    if "logits" in case:
        logits = np.array([float(x) for x in case["logits"]], np.float32)
    else:
        logits = _BY_RULE[case["name"]](np.arange(case["categories"], dtype=np.int64)).astype(np.float32)
    inputs = {name: case[name] for name in ("name", "row", "draw", "temperature", "tau", "index")}
    return Vector(seed=int(case["seed"]), logits=logits, results=case, **inputs)


VECTORS = [_vector(case) for case in DOCUMENT["cases"]]
