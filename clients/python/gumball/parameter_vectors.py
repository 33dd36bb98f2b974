"""The published vectors of every parameter of `gumball/1`: requests, and the arrays that answer them, bit for bit."""

import json
import zlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

DOCUMENT: dict[str, Any] = json.loads(files("gumball").joinpath("data/gumball-1-parameters.json").read_text())

_BY_RULE = {"k mod 97": np.arange(1000) % 97 / 8}  # logits too long to list


@dataclass(frozen=True)
class ParameterVector:
    """One published request: its numbers, its parameters by their names in a request, and its answer as given."""

    name: str
    source: str  # "logits" or "probs"
    values: npt.NDArray[np.float32]  # [rows, categories]
    parameters: dict[str, Any]
    answer: dict[str, Any]

    @property
    def outputs(self) -> list[str]:
        """The outputs to ask for by name; those of top_log_probs come by themselves."""
        return [name for name in self.answer if not name.startswith("top_")]

    def agrees(self, outputs: dict[str, npt.NDArray[Any]]) -> bool:
        """Whether the outputs are the published ones, by name and bit for bit."""
        return {name: _as_published(array) for name, array in outputs.items()} == {
            name: published["crc32"] if isinstance(published, dict) else published
            for name, published in self.answer.items()
        }


def _as_published(array: npt.NDArray[Any]) -> Any:
    """Short arrays number by number, floats as bit patterns; long ones as a checksum."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if array.size > 64:
        return f"{zlib.crc32(array.tobytes()):08x}"
    if array.dtype.kind == "i":
        return array.ravel().tolist()
    return [f"{bits:08x}" for bits in array.view("<u4").ravel()]


def _vector(case: dict[str, Any]) -> ParameterVector:
    given = dict(case["given"])
    given.pop("outputs", None)
    source = "logits" if "logits" in given else "probs"
    numbers = given.pop(source)
    wide = _BY_RULE[numbers] if isinstance(numbers, str) else np.array(numbers, np.float64)  # null is NaN
    values = np.atleast_2d(np.where(np.isnan(wide), -np.inf, wide)).astype(np.float32)
    for name in ("seed", "seeds"):
        if name in given:
            given[name] = [int(seed) for seed in given[name]] if name == "seeds" else int(given[name])
    if "logit_bias" in given:
        given["logit_bias"] = {int(category): amount for category, amount in given["logit_bias"].items()}
    return ParameterVector(case["name"], source, values, given, case["answer"])


PARAMETER_VECTORS = [_vector(case) for case in DOCUMENT["cases"]]
