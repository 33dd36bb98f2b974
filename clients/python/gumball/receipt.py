"""Receipts: what is needed to redo a sample, and to see that neither the logits nor the answer were changed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gumball import contract
from gumball._codec import Array, Sample, SampleRequest
from gumball.errors import InvalidArgument
from gumball.reference import answer, float32_of

FORMAT = 1


def receipt_of(sample: Sample, logits: npt.ArrayLike) -> dict[str, Any]:
    """The receipt of a sample of these logits (or probs), ready for JSON.

    It holds the contract, the seed and tau used, all other parameters, and SHA-256 hashes: of the logits as float32, so
    that it does not matter in which type they are kept, and of every array of the answer.
    """
    request = request_of(sample.parameters, logits, sample.seed, sample.seeds, sample.tau)
    used = {"seed": str(sample.seed)} if sample.seeds is None else {"seeds": [str(seed) for seed in sample.seeds]}
    return {
        "receipt": FORMAT,
        "contract": sample.contract,
        **used,
        "tau": sample.tau.tolist(),
        "parameters": dict(sample.parameters),
        request.parameters.source: _described(float32_of(request)),
        "outputs": {name: _described(array) for name, array in sample.outputs.items()},
    }


def verify_receipt(receipt: Mapping[str, Any], logits: npt.ArrayLike) -> list[str]:
    """What is not as the receipt says, after drawing again by the NumPy contract; nothing, if all is.

    Raises InvalidArgument for what is no receipt.
    """
    try:
        if receipt["receipt"] != FORMAT or receipt["contract"] != contract.VERSION:
            raise InvalidArgument(f"is of format {receipt['receipt']} and contract {receipt['contract']}", "receipt")
        seeds = [int(seed) for seed in receipt["seeds"]] if "seeds" in receipt else None
        seed = None if seeds else int(receipt["seed"])
        request = request_of(receipt["parameters"], logits, seed, seeds, receipt["tau"])
        source, outputs = receipt[request.parameters.source], receipt["outputs"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"is no receipt of Gumball: {error!r}", "receipt") from error
    if _described(float32_of(request)) != source:
        return [f"{request.parameters.source}: not those of the receipt"]
    redone = {name: _described(array) for name, array in answer(request).items()}
    if redone.keys() != outputs.keys():
        return [f"outputs: {', '.join(outputs)} instead of {', '.join(redone)}"]
    return [f"{name}: other bits than those of the receipt" for name in redone if redone[name] != outputs[name]]


def verify_answer(document: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """What is not as it should be in the JSON answer to a JSON request, after drawing again; nothing, if all is.

    Raises InvalidArgument for what is no request, or no answer.
    """
    given = dict(document)
    source = "probs" if "probs" in given else "logits"
    try:
        values = array_of_json(given.pop(source), 0.0 if source == "probs" else -np.inf)
        seeds = [int(seed) for seed in told["seeds"]] if "seeds" in told else None
        seed = None if seeds else int(told["seed"])
        asked_seed, asked_seeds = given.pop("seed", None), given.pop("seeds", None)
        given.pop("tau", None)
        given.pop("tau_schedule", None)
        request = request_of({"source": source, **given}, values, seed, seeds, told["tau"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"is no request with its answer: {error!r}", "request") from error
    differences = []
    if told.get("contract") != contract.VERSION:
        differences.append(f"contract: {told.get('contract')!r}, not {contract.VERSION!r}")
    if (asked_seed is not None and int(asked_seed) != seed) or (asked_seeds and [int(x) for x in asked_seeds] != seeds):
        differences.append("seed: not the one that was asked for")
    for name, array in answer(request).items():
        differences += _differences(name, array, told.get(name))
    return differences


def request_of(
    parameters: Mapping[str, Any],
    values: npt.ArrayLike,
    seed: int | None,
    seeds: npt.ArrayLike | None,
    tau: npt.ArrayLike,
) -> SampleRequest:
    """The request that a receipt, or a JSON body, and the logits (or probs) make. Raises InvalidArgument."""
    given: dict[str, Any] = {
        "mode": "hard",
        "draws": 1,
        "first_draw": 0,
        "first_row": 0,
        "temperature": 1.0,
        "outputs": None,
    }
    given |= {name: value for name, value in parameters.items() if value is not None}
    source = given.pop("source", "logits")
    if bias := given.pop("logit_bias", None):
        given["logit_bias"] = {int(category): amount for category, amount in bias.items()}
    try:
        return SampleRequest.of(
            values if source == "logits" else None,
            probs=values if source == "probs" else None,
            seed=seed,
            seeds=seeds,
            tau=tau,
            **given,
        )
    except TypeError as error:
        raise InvalidArgument(f"has an unknown parameter: {error}", "parameters") from error


def array_of_json(document: object, null: float) -> npt.NDArray[np.float64]:
    """The array of nested lists of numbers, with what a null stands for. Raises ValueError."""
    values = np.array(document, object)  # ragged lists stay lists, and are refused like any other stranger
    strangers = [value for value in values.flat if type(value) not in (int, float, type(None))]
    if strangers or not isinstance(document, list):
        raise ValueError("must be a list of rows, all of one length, of numbers or null")
    return np.array([null if value is None else value for value in values.flat], np.float64).reshape(values.shape)


def _differences(name: str, array: Array, told: object) -> list[str]:
    """Where an array of an answer differs from what it should be: the first place."""
    if told is None:
        return [f"{name}: is missing"]
    try:
        values = array_of_json(told, -np.inf).astype(array.dtype)
    except ValueError as error:
        return [f"{name}: {error}"]
    if values.shape != array.shape:
        return [f"{name}: has the shape {list(values.shape)}, not {list(array.shape)}"]
    differs = values.view(np.int32) != np.ascontiguousarray(array).view(np.int32)
    if not differs.any():
        return []
    place = np.unravel_index(int(differs.argmax()), differs.shape)
    where = "".join(f"[{i}]" for i in place)
    return [f"{name}{where}: {values[place]}, not {array[place]} ({int(differs.sum())} of {differs.size} differ)"]


def _described(array: Array) -> dict[str, Any]:
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(little_endian.data).hexdigest(),
    }
