"""Typed arguments to a `SampleRequest`, and what came back to a `Sample`: no I/O, and the same for every way in.

Only what must be right to encode a request is checked here; the service validates the rest and names the field. An
answer is checked in full against its request before it becomes a `Sample`.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from types import TracebackType
from typing import Any, Literal, NamedTuple, NotRequired, Self, SupportsIndex, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt

from gumball import contract
from gumball.errors import InvalidAnswer, InvalidArgument

Array = npt.NDArray[Any]
Mode = Literal["hard", "soft", "straight_through"]
Source = Literal["logits", "probs"]
Output = Literal["index", "one_hot", "soft", "log_soft", "score", "log_prob", "probs", "entropy"]
TopOutput = Literal["top_index", "top_log_prob"]  # asked for by top_log_probs, not by name

OUTPUTS_OF_MODE: dict[Mode, tuple[Output, ...]] = {
    "hard": ("index",),
    "soft": ("soft",),
    "straight_through": ("index", "soft"),
}
OUTPUTS: tuple[Output, ...] = get_args(Output)
_TOP_OUTPUTS: tuple[TopOutput, ...] = get_args(TopOutput)
_INTEGERS = ("index", "top_index")
_PER_DRAW = ("index", "score", "log_prob")
_IMMUTABLE = (int, float, str, type(None))
LITTLE_ENDIAN = {"int32": np.dtype("<i4"), "float32": np.dtype("<f4")}
_FLOAT32 = np.dtype(np.float32)

MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1

# The defaults of per-row parameters and what they become: recognised by identity, so that most calls make no arrays of
# them and most messages leave them out.
DEFAULT_TEMPERATURE = 1.0
DEFAULT_FIRST_DRAW = 0
ONE = np.ones(1, np.float64)
ZERO = np.zeros(1, np.uint32)
ONE.flags.writeable = ZERO.flags.writeable = False


class TauSchedule(TypedDict):
    """tau as a function of the training step. exponential: max(floor, initial exp(-rate step)); linear: max(floor,
    initial - rate step); cosine: from initial to floor at step 1 / rate; constant: initial."""

    kind: Literal["constant", "linear", "exponential", "cosine"]
    initial: float
    rate: NotRequired[float]
    floor: NotRequired[float]
    step: NotRequired[float]


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


class _AsJSON:
    """A sample's parameters as JSON has them, made when they are first looked at: most never are."""

    def __get__(self, sample: Any, _: object = None) -> Mapping[str, Any]:
        if sample is None:
            raise AttributeError  # so a dataclass learns that there is no default
        if isinstance(sample._parameters, Parameters):
            sample._parameters = sample._parameters.as_json()
        return cast(Mapping[str, Any], sample._parameters)

    def __set__(self, sample: Any, parameters: "Parameters | Mapping[str, Any]") -> None:
        sample._parameters = parameters


# Frozen, a dataclass of so many fields takes five times as long to make: a fifth of all that a small call costs here.
@dataclass(eq=False)
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
    parameters: _AsJSON = _AsJSON()  # the others, as JSON has them
    # Without replacement, index, score and log_prob have a last axis of k.
    index: npt.NDArray[np.int32] | None = None  # [rows, draws]
    one_hot: npt.NDArray[np.float32] | None = None  # [rows, draws, categories]
    soft: npt.NDArray[np.float32] | None = None  # [rows, draws, categories]
    log_soft: npt.NDArray[np.float32] | None = None  # [rows, draws, categories]
    score: npt.NDArray[np.float32] | None = None  # [rows, draws]
    log_prob: npt.NDArray[np.float32] | None = None  # [rows, draws]
    probs: npt.NDArray[np.float32] | None = None  # [rows, categories]
    entropy: npt.NDArray[np.float32] | None = None  # [rows], in nats
    top_index: npt.NDArray[np.int32] | None = None  # [rows, n]
    top_log_prob: npt.NDArray[np.float32] | None = None  # [rows, n]

    @property
    def outputs(self) -> dict[str, Array]:
        """The arrays that were asked for, by name."""
        arrays = {name: getattr(self, name) for name in (*OUTPUTS, *_TOP_OUTPUTS)}
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
        """The array of its little-endian bytes, not copied. Raises TypeError or ValueError for other than `nbytes`."""
        array: Array = np.ndarray(self.shape, LITTLE_ENDIAN[self.dtype], data)
        if array.nbytes != len(data):
            raise ValueError(f"{len(data)} bytes of {self}")
        return array

    def describes(self, array: Array) -> bool:
        """Whether an array is of this type, in whichever byte order, and shape."""
        return array.dtype.kind == self.dtype[0] and array.itemsize == 4 and array.shape == self.shape


@dataclass(frozen=True, eq=False, slots=True)
class Form:
    """What an answer to a request looks like."""

    shape: Shape
    arrays: tuple[OutputArray, ...]  # in order
    nbytes: int


@lru_cache(maxsize=256)  # most requests are of the form of others before them
def _form(names: tuple[str, ...], shape: tuple[int, int, int], k: int | None, n: int) -> Form:
    """The form of these outputs, without replacement k categories a draw, of the n most likely ones."""
    rows, draws, categories = shape

    def shape_of(output: str) -> tuple[int, ...]:
        if output in _PER_DRAW:
            return (rows, draws) if k is None else (rows, draws, k)
        if output in _TOP_OUTPUTS:
            return rows, n
        return {"probs": (rows, categories), "entropy": (rows,)}.get(output, (rows, draws, categories))

    arrays = tuple(OutputArray(name, "int32" if name in _INTEGERS else "float32", shape_of(name)) for name in names)
    return Form(Shape(*shape), arrays, sum(array.nbytes for array in arrays))


@dataclass(eq=False)
class Parameters:
    """All of a request but the values of its logits and its seeds; never changes.

    Per-row ones are arrays of one value or one a row.
    """

    logits_shape: tuple[int, int]  # [rows, categories]
    dtype: str  # of the logits
    source: Source  # what the logits are
    mode: Mode
    outputs: tuple[Output, ...] | None  # None: by mode
    draws: int
    first_draw: npt.NDArray[np.uint32]
    first_row: int
    tau: npt.NDArray[np.float64] | None  # None: by the schedule
    temperature: npt.NDArray[np.float64]
    tau_schedule: TauSchedule | None
    top_k: npt.NDArray[np.uint32] | None
    top_p: npt.NDArray[np.float64] | None
    min_p: npt.NDArray[np.float64] | None
    logit_bias: dict[int, float | None] | None
    without_replacement: int | None
    top_log_probs: int | None
    form: Form = field(init=False)  # of an answer
    message: bytes | None = field(init=False, default=None)  # in protobuf, once that was needed
    answer: Any = field(init=False, default=None)  # what all answers have in common there, once that was needed

    def __post_init__(self) -> None:
        names: tuple[str, ...] = self.outputs or OUTPUTS_OF_MODE[self.mode]
        if self.outputs is None and self.without_replacement is not None:
            names += ("score",)
        if self.top_log_probs is not None:
            names += _TOP_OUTPUTS
        rows, categories = self.logits_shape
        self.form = _form(names, (rows, self.draws, categories), self.without_replacement, self.top_log_probs or 0)

    @classmethod
    def of(
        cls,
        logits_shape: tuple[int, int],
        dtype: str,
        outputs: tuple[Output, ...] | None,
        source: Source,
        mode: Mode,
        tau: npt.ArrayLike | None,
        temperature: npt.ArrayLike,
        draws: SupportsIndex,
        first_draw: npt.ArrayLike,
        first_row: SupportsIndex,
        tau_schedule: TauSchedule | None,
        top_k: npt.ArrayLike | None,
        top_p: npt.ArrayLike | None,
        min_p: npt.ArrayLike | None,
        logit_bias: Mapping[int, float | None] | None,
        without_replacement: SupportsIndex | None,
        top_log_probs: SupportsIndex | None,
    ) -> Self:
        """The parameters of a caller's arguments. Raises InvalidArgument."""
        if mode not in OUTPUTS_OF_MODE:
            raise InvalidArgument(f"must be one of {', '.join(OUTPUTS_OF_MODE)}, is {mode!r}", "mode")
        if tau is not None and tau_schedule is not None:
            raise InvalidArgument("give tau or tau_schedule, not both", "tau_schedule")
        return cls(
            logits_shape=logits_shape,
            dtype=dtype,
            source=source,
            mode=mode,
            outputs=outputs,
            draws=integer("draws", draws, MAX_UINT64),
            first_draw=ZERO if first_draw is DEFAULT_FIRST_DRAW else _integers("first_draw", first_draw, np.uint32),
            first_row=integer("first_row", first_row, MAX_UINT32),
            tau=None if tau_schedule is not None else ONE if tau is None else _numbers("tau", tau),
            temperature=ONE if temperature is DEFAULT_TEMPERATURE else _numbers("temperature", temperature),
            tau_schedule=None if tau_schedule is None else _schedule(tau_schedule),
            top_k=None if top_k is None else _integers("top_k", top_k, np.uint32),
            top_p=None if top_p is None else _numbers("top_p", top_p),
            min_p=None if min_p is None else _numbers("min_p", min_p),
            logit_bias=None if not logit_bias else _bias(logit_bias),
            without_replacement=_optional("without_replacement", without_replacement),
            top_log_probs=_optional("top_log_probs", top_log_probs),
        )

    def as_json(self) -> dict[str, Any]:
        """All but tau, as JSON has it."""
        parameters = {
            "source": self.source,
            "mode": self.mode,
            "draws": self.draws,
            "first_draw": self.first_draw.tolist(),
            "first_row": self.first_row,
            "temperature": self.temperature.tolist(),
        }
        if self.outputs is not None:
            parameters["outputs"] = list(self.outputs)
        if self.top_k is not None:
            parameters["top_k"] = self.top_k.tolist()
        if self.top_p is not None:
            parameters["top_p"] = self.top_p.tolist()
        if self.min_p is not None:
            parameters["min_p"] = self.min_p.tolist()
        if self.logit_bias is not None:
            parameters["logit_bias"] = self.logit_bias
        if self.without_replacement is not None:
            parameters["without_replacement"] = self.without_replacement
        if self.top_log_probs is not None:
            parameters["top_log_probs"] = self.top_log_probs
        return parameters


@lru_cache(maxsize=256, typed=True)  # most requests ask for what others before them did; 1, 1.0 and True are not alike
def _remembered(
    logits_shape: tuple[int, int], dtype: str, outputs: tuple[Output, ...] | None, *given: Any
) -> Parameters:
    """The parameters of arguments that never change. Raises TypeError for others, and for 0.0, since -0.0 equals it."""
    if any(type(each) not in _IMMUTABLE or (type(each) is float and not each) for each in given):
        raise TypeError("may change, or equal what it is not")
    return Parameters.of(logits_shape, dtype, outputs, *given)


@dataclass(eq=False)
class SampleRequest:
    """A request that can be encoded, and never changes."""

    logits: Array  # [rows, categories] float32, float16, or uint16 holding bfloat16; C order, native
    seed: int | None
    seeds: npt.NDArray[np.uint64] | None  # [rows]
    parameters: Parameters

    @classmethod
    def of(
        cls,
        logits: npt.ArrayLike | None,
        probs: npt.ArrayLike | None = None,
        mode: Mode = "hard",
        tau: npt.ArrayLike | None = None,
        temperature: npt.ArrayLike = DEFAULT_TEMPERATURE,
        seed: SupportsIndex | None = None,
        seeds: npt.ArrayLike | None = None,
        draws: SupportsIndex = 1,
        first_draw: npt.ArrayLike = DEFAULT_FIRST_DRAW,
        first_row: SupportsIndex = 0,
        outputs: Iterable[Output] | None = None,
        tau_schedule: TauSchedule | None = None,
        top_k: npt.ArrayLike | None = None,
        top_p: npt.ArrayLike | None = None,
        min_p: npt.ArrayLike | None = None,
        logit_bias: Mapping[int, float | None] | None = None,
        without_replacement: SupportsIndex | None = None,
        top_log_probs: SupportsIndex | None = None,
    ) -> Self:
        """The request of a caller's arguments. Raises InvalidArgument."""
        if seed is not None and seeds is not None:
            raise InvalidArgument("give seed or seeds, not both", "seeds")
        if (logits is None) == (probs is None):
            raise InvalidArgument("give logits or probs, and not both", "logits" if logits is None else "probs")
        source: Source = "logits" if probs is None else "probs"
        array, dtype = _logits(source, logits if probs is None else probs)
        given: tuple[Any, ...] = (
            array.shape,
            dtype,
            None if outputs is None else _outputs(outputs),
            source,
            mode,
            tau,
            temperature,
            draws,
            first_draw,
            first_row,
            tau_schedule,
            top_k,
            top_p,
            min_p,
            logit_bias,
            without_replacement,
            top_log_probs,
        )
        try:
            parameters = _remembered(*given)
        except TypeError:
            parameters = Parameters.of(*given)
        return cls(
            array,
            None if seed is None else integer("seed", seed, MAX_UINT64),
            None if seeds is None else _integers("seeds", seeds, np.uint64),
            parameters,
        )

    @property
    def dtype(self) -> str:
        """That of the logits, on the wire."""
        return self.parameters.dtype

    @property
    def form(self) -> Form:
        """That of an answer."""
        return self.parameters.form

    @property
    def shape(self) -> Shape:
        return self.form.shape


def sample_of(
    request: SampleRequest,
    *,
    contract_name: str,
    seed: int | None,
    tau: list[float] | None,
    timings: Timings,
    arrays: dict[str, Array],
) -> Sample:
    """The sample of what came back. Raises InvalidAnswer for anything that is not an answer to this very request.

    `tau` None stands for the request's own, which need not be told again. The arrays are checked already, and owned.
    """
    if contract_name != contract.VERSION:
        raise InvalidAnswer(f"sampled by contract {contract_name!r}; this client knows {contract.VERSION}")
    if (seed is None) != (request.seeds is not None) or request.seed not in (None, seed):
        raise InvalidAnswer(f"sampled with seed {seed}, not with what was asked for")
    used_tau = _tau_used(request, tau)
    return Sample(contract_name, seed, request.seeds, used_tau, request.shape, timings, request.parameters, **arrays)


def own_arrays(request: SampleRequest, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays of an answer, in memory of their own. Raises InvalidAnswer where others were asked for."""
    if list(arrays) != [array.name for array in request.form.arrays]:
        raise InvalidAnswer(f"holds {', '.join(arrays)}")
    for expected in request.form.arrays:
        if not expected.describes(array := arrays[expected.name]):
            raise InvalidAnswer(f"holds {expected.name} as {array.dtype} {array.shape}, not {expected}")
    return {name: _own(array) for name, array in arrays.items()}


def _tau_used(request: SampleRequest, told: list[float] | None) -> npt.NDArray[np.float64]:
    """[1] or [rows]: what the service told, which must be what was asked for."""
    asked = request.parameters.tau
    if asked is None:
        if told is None:
            raise InvalidAnswer("does not tell the tau of the schedule")
    elif told is None or told == asked.tolist():
        return asked.copy()
    tau = np.array(told, np.float64)
    if tau.shape not in ((1,), (request.shape.rows,)) or (asked is not None and (tau != asked).any()):
        raise InvalidAnswer("sampled with another tau than was asked for")
    return tau


def _own(array: Array) -> Array:
    """The array, in native order, in memory of its own.

    A caller that writes to a result, or wraps it with torch.from_numpy, must not meet a read-only buffer, nor keep a
    whole response alive through one small array.
    """
    flags = array.flags
    if flags.owndata and flags.writeable and flags.c_contiguous and array.dtype.isnative:
        return array
    if array.dtype.isnative:
        return array.copy()
    return array.astype(array.dtype.newbyteorder("="), order="C")


class MalformedIsInvalid:
    """Reading what is not there, or not of its type, shows that this is not an answer of the service."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError)):
            raise InvalidAnswer(f"not an answer of Gumball: {error!r}") from error


malformed_is_invalid = MalformedIsInvalid()


def info_of(document: object) -> Info:
    """The information of a parsed /info. Raises InvalidAnswer."""
    if not isinstance(document, dict) or not Info.__required_keys__ <= document.keys():
        raise InvalidAnswer(f"information lacks one of {', '.join(sorted(Info.__required_keys__))}")
    return cast(Info, document)


def _logits(source: Source, values: npt.ArrayLike | None) -> tuple[Array, str]:
    """[rows, categories] in a dtype of the wire, and that dtype's name. bfloat16 becomes its bits."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # ragged rows
        raise InvalidArgument(str(error), source) from None
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise InvalidArgument(f"must be [rows, categories] or [categories], has shape {list(array.shape)}", source)
    if array.dtype is _FLOAT32:  # the name of a dtype takes longer to ask for than all else here
        return np.ascontiguousarray(array), "float32"
    if array.dtype.name == "bfloat16":  # ml_dtypes and its like; NumPy has no such type of its own
        return np.ascontiguousarray(array).view(np.uint16), "bfloat16"
    if array.dtype.name == "float16":
        return np.ascontiguousarray(array, np.float16), "float16"
    return np.ascontiguousarray(_float32(source, array)), "float32"


def _float32(source: Source, array: Array) -> npt.NDArray[np.float32]:
    """The nearest float32 of each value; refuses what is finite only in a wider type, since infinity masks or fails."""
    if array.dtype.kind not in "biuf":
        raise InvalidArgument(f"must be real numbers, is {array.dtype.name}", source)
    with np.errstate(over="ignore"):
        nearest = array.astype(np.float32, copy=False)
    if array.dtype.itemsize > nearest.itemsize:
        beyond = np.isinf(nearest) & np.isfinite(array)
        if beyond.any():
            row, category = np.unravel_index(beyond.argmax(), beyond.shape)
            raise InvalidArgument(f"{array[row, category]} is beyond float32", f"{source}[{row}][{category}]")
    return nearest


def _outputs(names: Iterable[Output]) -> tuple[Output, ...]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in OUTPUTS]
    if unknown or not wanted:
        raise InvalidArgument(f"must be of {', '.join(OUTPUTS)}, names {unknown or 'none'}", "outputs")
    return cast(tuple[Output, ...], wanted)


def _schedule(given: TauSchedule) -> TauSchedule:
    known = TauSchedule.__required_keys__ | TauSchedule.__optional_keys__
    if not TauSchedule.__required_keys__ <= given.keys() <= known:
        raise InvalidArgument("must have kind and initial, and may have rate, floor and step", "tau_schedule")
    numbers: dict[str, Any] = {name: value for name, value in given.items() if name != "kind"}
    numbers = {name: _numbers("tau_schedule", value).item() for name, value in numbers.items()}
    return cast(TauSchedule, {"kind": given["kind"], **numbers})


def _bias(given: Mapping[int, float | None]) -> dict[int, float | None]:
    return {
        integer("logit_bias", category, MAX_UINT32): None if amount is None else float(amount)
        for category, amount in given.items()
    }


def _optional(field: str, value: SupportsIndex | None) -> int | None:
    return None if value is None else integer(field, value, MAX_UINT32)


def integer(field: str, value: SupportsIndex, largest: int) -> int:
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
    return np.array([integer(field, value, largest) for value in array], dtype)


def seconds_of(seconds: float | None, field: str = "timeout") -> float | None:
    """A time that every transport understands."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InvalidArgument(f"must be a number of seconds above 0, is {seconds!r}", field)
    return seconds


def _numbers(field: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[n] float64."""
    try:
        array = np.atleast_1d(np.array(values, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(f"must be a number or one a row, is {values!r}", field) from None
    if array.ndim != 1:
        raise InvalidArgument(f"must be one value or one a row, has shape {list(array.shape)}", field)
    return array
