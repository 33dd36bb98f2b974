"""Typed arguments to a `SampleRequest`, and what came back to a `Sample`: no I/O, and the same for every way in.

Only what must be right to encode a request is checked here; the service validates the rest and names the field. An
answer is checked in full against its request before it becomes a `Sample`.
"""

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple, Self, SupportsIndex, TypedDict, cast

import numpy as np
import numpy.typing as npt

from gumball import contract
from gumball.errors import InvalidAnswer, InvalidArgument

Array = npt.NDArray[Any]
Mode = Literal["hard", "soft", "straight_through"]
Output = Literal["index", "one_hot", "soft"]

OUTPUTS_OF_MODE: dict[Mode, tuple[Output, ...]] = {
    "hard": ("index",),
    "soft": ("soft",),
    "straight_through": ("index", "soft"),
}
_DTYPE_OF_OUTPUT: dict[Output, str] = {"index": "int32", "one_hot": "float32", "soft": "float32"}
_LITTLE_ENDIAN = {"int32": np.dtype("<i4"), "float32": np.dtype("<f4")}

MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1


class Shape(NamedTuple):
    """Sizes of a sample."""

    rows: int
    draws: int
    categories: int


class Timings(NamedTuple):
    """Where the service spent its time: waiting for its batch, and the whole batch in the sampler."""

    queue_ns: int
    compute_ns: int


class Device(TypedDict):
    """What computes, and the CPU threads that share a large batch."""

    name: str
    threads: int


class Limits(TypedDict):
    """What a service refuses to exceed."""

    max_request_bytes: int
    max_response_bytes: int
    max_categories: int
    max_queue_elements: int
    max_queue_requests: int


class Info(TypedDict):
    """What a service is: its version, the contracts it samples by, its devices and limits."""

    version: str
    contracts: list[str]
    devices: list[Device]
    limits: Limits


@dataclass(frozen=True, eq=False)
class Sample:
    """Samples, and all that is needed to draw them again: with the logits and parameters, `seed` gives the same bits.

    The arrays that were not asked for are None. Those that were are the caller's own: writable, contiguous, native.
    """

    contract: str
    seed: int | None  # the seed used, or None where `seeds` were given
    seeds: npt.NDArray[np.uint64] | None  # [rows]
    tau: npt.NDArray[np.float64]  # [1] or [rows]
    shape: Shape
    timings: Timings
    index: npt.NDArray[np.int32] | None = None  # [rows, draws]
    one_hot: npt.NDArray[np.float32] | None = None  # [rows, draws, categories]
    soft: npt.NDArray[np.float32] | None = None  # [rows, draws, categories]

    @property
    def outputs(self) -> dict[Output, Array]:
        """The arrays that were asked for, by name."""
        arrays = {name: getattr(self, name) for name in _DTYPE_OF_OUTPUT}
        return {name: array for name, array in arrays.items() if array is not None}


class OutputArray(NamedTuple):
    """One array of an answer, as its sender describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 4 * prod(self.shape)  # int32 and float32 alike

    def of_bytes(self, data: bytes | memoryview) -> Array:
        """The array of its little-endian bytes, not copied."""
        return np.frombuffer(data, _LITTLE_ENDIAN[self.dtype]).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """A request that can be encoded. Per-row parameters are arrays of one value or one a row."""

    logits: Array  # [rows, categories] float32, float16, or uint16 holding bfloat16; C order, native
    dtype: str  # of the logits
    mode: Mode
    outputs: tuple[Output, ...] | None  # None: by mode
    seed: int | None
    seeds: npt.NDArray[np.uint64] | None  # [rows]
    draws: int
    first_draw: npt.NDArray[np.uint32]
    first_row: int
    tau: npt.NDArray[np.float64]
    temperature: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        logits: npt.ArrayLike,
        *,
        mode: Mode,
        tau: npt.ArrayLike,
        temperature: npt.ArrayLike,
        seed: SupportsIndex | None,
        seeds: npt.ArrayLike | None,
        draws: SupportsIndex,
        first_draw: npt.ArrayLike,
        first_row: SupportsIndex,
        outputs: Iterable[Output] | None,
    ) -> Self:
        """The request of a caller's arguments. Raises InvalidArgument."""
        if mode not in OUTPUTS_OF_MODE:
            raise InvalidArgument(f"must be one of {', '.join(OUTPUTS_OF_MODE)}, is {mode!r}", "mode")
        if seed is not None and seeds is not None:
            raise InvalidArgument("give seed or seeds, not both", "seeds")
        array, dtype = _logits(logits)
        return cls(
            logits=array,
            dtype=dtype,
            mode=mode,
            outputs=None if outputs is None else _outputs(outputs),
            seed=None if seed is None else _integer("seed", seed, MAX_UINT64),
            seeds=None if seeds is None else _integers("seeds", seeds, np.uint64),
            draws=_integer("draws", draws, MAX_UINT64),
            first_draw=_integers("first_draw", first_draw, np.uint32),
            first_row=_integer("first_row", first_row, MAX_UINT32),
            tau=_numbers("tau", tau),
            temperature=_numbers("temperature", temperature),
        )

    @property
    def shape(self) -> Shape:
        rows, categories = self.logits.shape
        return Shape(rows, self.draws, categories)

    @cached_property
    def expected(self) -> tuple[OutputArray, ...]:
        """The arrays that an answer to this request holds, in order."""
        rows, draws, categories = self.shape
        return tuple(
            OutputArray(name, _DTYPE_OF_OUTPUT[name], (rows, draws) if name == "index" else (rows, draws, categories))
            for name in self.outputs or OUTPUTS_OF_MODE[self.mode]
        )


def sample_of(
    request: SampleRequest,
    *,
    contract_name: str,
    seed: int | None,
    tau: npt.ArrayLike | None,
    timings: Timings,
    arrays: dict[str, Array],
) -> Sample:
    """The sample of what came back. Raises InvalidAnswer for anything that is not an answer to this very request.

    `tau` None stands for the request's own, which need not be told again.
    """
    if contract_name != contract.VERSION:
        raise InvalidAnswer(f"sampled by contract {contract_name!r}; this client knows {contract.VERSION}")
    if (seed is None) != (request.seeds is not None) or request.seed not in (None, seed):
        raise InvalidAnswer(f"sampled with seed {seed}, not with what was asked for")
    told_tau = request.tau if tau is None else np.atleast_1d(np.array(tau, np.float64))
    if told_tau.shape not in ((1,), (request.shape.rows,)) or (told_tau != request.tau).any():
        raise InvalidAnswer("sampled with another tau than was asked for")
    described = tuple(OutputArray(name, array.dtype.name, array.shape) for name, array in arrays.items())
    if described != request.expected:
        raise InvalidAnswer(f"holds {described}, not {request.expected}")
    return Sample(
        contract_name,
        seed,
        request.seeds,
        told_tau,
        request.shape,
        timings,
        # A caller that writes to a result, or wraps it with torch.from_numpy, must not meet a read-only buffer, nor
        # keep a whole response alive through one small array.
        **{name: np.require(array, array.dtype.newbyteorder("="), ("C", "W", "O")) for name, array in arrays.items()},
    )


@contextmanager
def malformed_is_invalid() -> Iterator[None]:
    """Reading what is not there, or not of its type, shows that this is not an answer of the service."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidAnswer(f"not an answer of Gumball: {error!r}") from error


def info_of(document: object) -> Info:
    """The information of a parsed /info. Raises InvalidAnswer."""
    if not isinstance(document, dict) or not Info.__required_keys__ <= document.keys():
        raise InvalidAnswer(f"information lacks one of {', '.join(sorted(Info.__required_keys__))}")
    return cast(Info, document)


def _logits(values: npt.ArrayLike) -> tuple[Array, str]:
    """[rows, categories] in a dtype of the wire, and that dtype's name. bfloat16 becomes its bits."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # ragged rows
        raise InvalidArgument(str(error), "logits") from None
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise InvalidArgument(f"must be [rows, categories] or [categories], has shape {list(array.shape)}", "logits")
    if array.dtype.name == "bfloat16":  # ml_dtypes and its like; NumPy has no such type of its own
        return np.ascontiguousarray(array).view(np.uint16), "bfloat16"
    if array.dtype.name == "float16":
        return np.ascontiguousarray(array, np.float16), "float16"
    return np.ascontiguousarray(_float32(array)), "float32"


def _float32(array: Array) -> npt.NDArray[np.float32]:
    """The nearest float32 of each value; refuses what is finite only in a wider type, since infinity masks or fails."""
    if array.dtype.kind not in "biuf":
        raise InvalidArgument(f"must be real numbers, is {array.dtype.name}", "logits")
    with np.errstate(over="ignore"):
        nearest = array.astype(np.float32, copy=False)
    if array.dtype.itemsize > nearest.itemsize:
        beyond = np.isinf(nearest) & np.isfinite(array)
        if beyond.any():
            row, category = np.unravel_index(beyond.argmax(), beyond.shape)
            raise InvalidArgument(f"{array[row, category]} is beyond float32", f"logits[{row}][{category}]")
    return nearest


def _outputs(names: Iterable[Output]) -> tuple[Output, ...]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in _DTYPE_OF_OUTPUT]
    if unknown or not wanted:
        raise InvalidArgument(f"must be of {', '.join(_DTYPE_OF_OUTPUT)}, names {unknown or 'none'}", "outputs")
    return cast(tuple[Output, ...], wanted)


def _integer(field: str, value: SupportsIndex, largest: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgument(f"must be an integer, is {value!r}", field) from None
    if not 0 <= number <= largest:
        raise InvalidArgument(f"must be from 0 to {largest}, is {number}", field)
    return number


def _integers(field: str, values: npt.ArrayLike, dtype: type[np.unsignedinteger[Any]]) -> Array:
    """[n] of an unsigned dtype. A plain cast would wrap what is out of range and drop fractions."""
    # A list goes through objects: NumPy makes floats of one that mixes numbers below and above 2^63.
    array = np.atleast_1d(np.asarray(values, None if isinstance(values, np.ndarray) else object))
    if array.ndim != 1:
        raise InvalidArgument(f"must be one value or one a row, has shape {list(array.shape)}", field)
    if array.dtype == dtype:
        return array.copy()  # it goes into the sample, which shares nothing with the caller's arguments
    largest = np.iinfo(dtype).max
    return np.array([_integer(field, value, largest) for value in array], dtype)


def seconds_of(timeout: float | None) -> float | None:
    """A timeout that every transport understands."""
    if timeout is not None and not 0 < timeout < float("inf"):
        raise InvalidArgument(f"must be a number of seconds above 0, is {timeout!r}", "timeout")
    return timeout


def _numbers(field: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[n] float64."""
    try:
        array = np.atleast_1d(np.array(values, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(f"must be a number or one a row, is {values!r}", field) from None
    if array.ndim != 1:
        raise InvalidArgument(f"must be one value or one a row, has shape {list(array.shape)}", field)
    return array
