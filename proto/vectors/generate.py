"""Writes gumball-1-parameters.json from the NumPy contract: draws with every parameter, and every output.

Run with the client installed: python proto/vectors/generate.py. The file is published; a changed bit is a new contract.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from gumball import contract
from gumball._codec import SampleRequest
from gumball.reference import answer

EVERYTHING = ["index", "score", "log_prob", "soft", "log_soft", "probs", "entropy"]
NO_NOISE = ["index", "log_prob", "probs", "entropy"]
TEN = [2.5, -1.25, 0.5, 3.0, 3.0, -0.75, 1.0, 0.0, 2.0, -4.0]
TIES = [1.0] * 8
MASKED = [0.5, None, 2.0, None, -1.0, 0.25]
THOUSAND = "k mod 97"  # logits (k mod 97) / 8 of 1000 categories

CASES: dict[str, dict[str, Any]] = {
    "plain": {"logits": TEN, "seed": "1"},
    "probs, not normalised": {"probs": [3.0, 0.0, 1.5, 1e-3, 7.25], "seed": "2"},
    "probs below 2^-126 mask": {"probs": [1.0, 1e-38, 1e-40, 2.0], "seed": "3"},
    "probs from 1e-30 to 1e30": {"probs": [1e-30, 1.0, 1e30], "seed": "4"},
    "bias": {"logits": TEN, "seed": "5", "logit_bias": {"0": 1.5, "3": -2.25, "9": 6.0}},
    "bias masks, and unmasks nothing": {"logits": MASKED, "seed": "6", "logit_bias": {"1": 5.0, "2": None}},
    "bias to less than 2^-60 is zero": {
        "logits": [0.1, 0.0, -0.1],
        "seed": "7",
        "logit_bias": {"0": -0.10000000149011612},
    },
    "bias rounds to a float first": {
        "logits": [1.0, 1.0000001192092896],
        "seed": "8",
        "logit_bias": {"0": 5.96046448e-8},
        "temperature": 0.0,
        "outputs": NO_NOISE,
    },
    "the bias comes before 2^-60": {
        "logits": [0.0, 2.0**-61, -(2.0**-61)],
        "seed": "43",
        "logit_bias": {"1": 2.0**-60, "2": -(2.0**-60)},
        "temperature": 2.0**-40,
    },
    "2^-60 itself is not zero": {"logits": [0.0, 2.0**-60, -(2.0**-60)], "seed": "44", "temperature": 2.0**-40},
    "weights round to nearest": {"logits": [0.0, -28.3, -28.3], "seed": "45", "top_p": 0.9999999999999999},
    "weights round to even": {"logits": [0.0, -11.800008773803711], "seed": "46", "top_p": 0.9999924955640573},
    "top_p comes before min_p": {"logits": [0.0, -1.0] + [-5.0] * 60, "seed": "47", "top_p": 0.6, "min_p": 0.05},
    "tau is a double": {"logits": [0.0, 1.0, 2.0], "seed": "1", "tau": 1.7},
    "exp32 at -64 and below": {"logits": [0.0, -64.0, -64.00000762939453], "seed": "48"},
    "ties of scores go to the lowest": {"logits": [0.0, -1e8, -1e8, -1e8], "seed": "1", "without_replacement": 4},
    "min_p at its threshold": {"logits": [0.0, -2.3025851249694824, -2.3025853633880615], "seed": "49", "min_p": 0.1},
    "probs around the square root of a half": {
        "probs": [0.7071067094802856, 0.70710676908493, 0.7071068286895752],
        "seed": "50",
    },
    "logits so far apart that d overflows": {"logits": [3e38, -3e38, 2.9e38], "seed": "51"},
    "minus zero is zero": {"probs": [-0.0, 1.0, 1.0], "seed": "52"},
    "top_k 3": {"logits": TEN, "seed": "9", "top_k": 3},
    "top_k of ties keeps the lowest": {"logits": TIES, "seed": "10", "top_k": 3},
    "top_k at a tie": {"logits": TEN, "seed": "11", "top_k": 1},
    "top_k beyond what there is": {"logits": MASKED, "seed": "12", "top_k": 100},
    "top_p 0.5": {"logits": TEN, "seed": "13", "top_p": 0.5},
    "top_p 0.9": {"logits": TEN, "seed": "14", "top_p": 0.9},
    "top_p of ties": {"logits": TIES, "seed": "15", "top_p": 0.5},
    "top_p just above an eighth": {"logits": TIES, "seed": "16", "top_p": 0.125001},
    "top_p 1 keeps what weighs nothing": {"logits": [0.0, -70.0], "seed": "17", "top_p": 1.0},
    "top_p just below 1": {"logits": [0.0, -20.0, -70.0], "seed": "18", "top_p": 0.9999999999999999},
    "top_p near 0": {"logits": TEN, "seed": "19", "top_p": 5e-324},
    "min_p 0.1": {"logits": TEN, "seed": "20", "min_p": 0.1},
    "min_p 0": {"logits": TEN, "seed": "21", "min_p": 0.0},
    "min_p 1 keeps the ties of the best": {"logits": TEN, "seed": "22", "min_p": 1.0},
    "min_p below 2^-126 is off": {"logits": [0.0, -200.0], "seed": "23", "min_p": 1e-40},
    "all filters, temperature and tau": {
        "logits": TEN,
        "seed": "24",
        "temperature": 0.7,
        "tau": 0.5,
        "top_k": 8,
        "top_p": 0.95,
        "min_p": 0.05,
    },
    "filters act after the temperature": {"logits": TEN, "seed": "25", "temperature": 2.0, "top_p": 0.8},
    "filters act after the bias": {"logits": TEN, "seed": "26", "logit_bias": {"9": 10.0}, "top_k": 2},
    "3 of 5 without replacement": {"logits": [0.0, 1.0, 2.0, -1.0, 0.5], "seed": "27", "without_replacement": 3},
    "as many as are left": {"logits": MASKED, "seed": "28", "without_replacement": 4},
    "without replacement, after top_k": {"logits": TEN, "seed": "29", "top_k": 4, "without_replacement": 2},
    "temperature 0": {"logits": TEN, "seed": "30", "temperature": 0.0, "outputs": NO_NOISE, "top_log_probs": 3},
    "top_log_probs": {"logits": TEN, "seed": "31", "top_log_probs": 4},
    "top_log_probs of masked": {"logits": MASKED, "seed": "32", "top_log_probs": 6},
    "top_log_probs after top_p": {"logits": TEN, "seed": "33", "top_p": 0.6, "top_log_probs": 5},
    "several draws": {"logits": TEN, "seed": "34", "draws": 3, "first_draw": 4294967293, "without_replacement": 2},
    "rows with their own parameters": {
        "logits": [TEN, TEN[::-1], [0.0] * 10],
        "seeds": ["35", "18446744073709551615", "0"],
        "tau": [1.0, 0.1, 40.0],
        "temperature": [1.0, 0.5, 3.0],
        "top_k": [10, 2, 5],
        "top_p": [0.9, 1.0, 0.5],
        "min_p": [0.0, 0.3, 0.0],
        "first_draw": [0, 7, 9],
    },
    "rows of one seed": {"logits": [TEN, [*TIES, 0.0, -1.0]], "seed": "36", "first_row": 4294967294},
    "small tau": {"logits": TEN, "seed": "37", "tau": 0.01},
    "large tau": {"logits": TEN, "seed": "38", "tau": 1099511627776.0},
    "a thousand": {"logits": THOUSAND, "seed": "39", "top_log_probs": 5},
    "a thousand, top_k": {"logits": THOUSAND, "seed": "40", "top_k": 100, "without_replacement": 10},
    "a thousand, top_p": {"logits": THOUSAND, "seed": "41", "top_p": 0.9, "temperature": 3.0},
    "a thousand, min_p": {"logits": THOUSAND, "seed": "42", "min_p": 0.01, "temperature": 3.0, "tau": 0.25},
}
LISTED = 64  # longer arrays are given as the CRC-32 of their bytes

NOTE = (
    "given: the parameters of a request; null masks; logits and probs are rounded to the nearest float32, every other "
    "number is a float64; where logits is 'k mod 97' they are (k mod 97)/8 for k from 0 to 999. answer: outputs by "
    "name, row-major without brackets; floats as float32 bit patterns in hexadecimal, integers as they are; arrays of "
    "more than 64 numbers as the crc32 (zlib) of their little-endian bytes."
)


def numbers(name: str, values: Any) -> np.ndarray:
    """[rows, categories] float32 as a case gives them."""
    if values == THOUSAND:
        return (np.arange(1000) % 97 / 8).astype(np.float32)[None]
    masked = -np.inf if name == "logits" else 0.0
    rows = values if isinstance(values[0], list) else [values]
    return np.array([[masked if x is None else x for x in row] for row in rows], np.float64).astype(np.float32)


def request(given: dict[str, Any]) -> SampleRequest:
    """The request of a case."""
    parameters: dict[str, Any] = {
        "logits": None,
        "mode": "hard",
        "tau": 1.0,
        "temperature": 1.0,
        "seed": None,
        "seeds": None,
        "draws": 1,
        "first_draw": 0,
        "first_row": 0,
        "outputs": EVERYTHING,
    } | given
    for name in ("logits", "probs"):
        if parameters.get(name) is not None:
            parameters[name] = numbers(name, parameters[name])
    if parameters["seed"] is not None:
        parameters["seed"] = int(parameters["seed"])
    if parameters["seeds"] is not None:
        parameters["seeds"] = [int(seed) for seed in parameters["seeds"]]
    if "logit_bias" in parameters:
        parameters["logit_bias"] = {int(category): x for category, x in parameters["logit_bias"].items()}
    return SampleRequest.of(**parameters)


def shown(array: np.ndarray) -> Any:
    """An output as the file has it."""
    array = np.ascontiguousarray(array)
    if array.size > LISTED:
        return {"crc32": f"{zlib.crc32(array.astype(array.dtype.newbyteorder('<')).tobytes()):08x}"}
    if array.dtype == np.int32:
        return array.ravel().tolist()
    return [f"{bits:08x}" for bits in array.view(np.uint32).ravel()]


def main() -> None:
    cases = [
        {"name": name, "given": given, "answer": {key: shown(array) for key, array in answer(request(given)).items()}}
        for name, given in CASES.items()
    ]
    document = {"contract": contract.VERSION, "note": NOTE, "cases": cases}
    lines = ",\n".join(f"  {json.dumps(case)}" for case in document.pop("cases"))
    text = json.dumps(document, indent=1)[:-2] + f',\n "cases": [\n{lines}\n ]\n}}\n'
    Path(__file__).with_name("gumball-1-parameters.json").write_text(text)


if __name__ == "__main__":
    main()
