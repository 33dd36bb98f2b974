"""What the service speaks of: requests, results, and the reasons for having no result. NumPy only, no framework."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from gumball import contract

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype(np.uint16)  # NumPy has no bfloat16: such logits travel through the house as their bits
LOGITS_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)

MAX_SEED = 2**64 - 1
MAX_COUNT = 2**32  # of the numbers that rows and draws can have


class Mode(StrEnum):
    """What a request is answered with when it does not name its outputs."""

    HARD = "hard"
    SOFT = "soft"
    STRAIGHT_THROUGH = "straight_through"


class Output(StrEnum):
    """An array of the answer."""

    INDEX = "index"  # [rows, draws] int32
    ONE_HOT = "one_hot"  # [rows, draws, categories] float32
    SOFT = "soft"  # [rows, draws, categories] float32


_OUTPUTS_OF_MODE = {
    Mode.HARD: (Output.INDEX,),
    Mode.SOFT: (Output.SOFT,),
    Mode.STRAIGHT_THROUGH: (Output.INDEX, Output.SOFT),
}

# Fields of the interface that this version refuses by name rather than ignore.
NOT_BUILT = frozenset(
    (
        "probs",
        "tau_schedule",
        "top_k",
        "top_p",
        "min_p",
        "logit_bias",
        "without_replacement",
        "top_log_probs",
    )
)
OUTPUTS_NOT_BUILT = frozenset(("log_soft", "score", "log_prob", "probs", "entropy"))


class Reason(StrEnum):
    """Why there is no result. Each transport maps it, once, to its own status."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    TOO_LARGE = "TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    METHOD = "METHOD"
    MEDIA_TYPE = "MEDIA_TYPE"
    OVERLOADED = "OVERLOADED"
    DEADLINE = "DEADLINE"
    CANCELLED = "CANCELLED"  # the caller left: counted, never answered
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


class SamplingError(Exception):
    """A request has no result: `reason` for programs, `detail` for people, `field` where one is at fault."""

    def __init__(self, reason: Reason, detail: str, field: str = "") -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.reason = reason
        self.detail = detail
        self.field = field


class MalformedError(SamplingError):
    """The body does not parse, so that no field of it can be judged."""

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(Reason.INVALID_ARGUMENT, detail, field)


def invalid(field: str, detail: str) -> SamplingError:
    """The request itself is at fault, in `field`."""
    return SamplingError(Reason.INVALID_ARGUMENT, detail, field)


def unknown_field(name: str) -> SamplingError:
    """A field that is not part of the interface, or not of this version."""
    return invalid(name, "not supported by this version" if name in NOT_BUILT else "unknown field")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request as a transport understood them; None where the caller said nothing."""

    mode: str | None = None
    outputs: Iterable[str] | None = None
    seed: int | None = None
    seeds: Iterable[int] | None = None
    draws: int | None = None
    first_row: int | None = None
    first_draw: int | Iterable[int] | None = None
    tau: float | Iterable[float] | None = None
    temperature: float | Iterable[float] | None = None


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A valid request. Values inside `logits` are examined when they are drawn from."""

    logits: Array  # [rows, categories] float32, float16, or uint16 holding bfloat16; C order
    rows: int
    categories: int
    outputs: tuple[Output, ...]
    mode: Mode
    seed: int | None  # one for the request, or None where there are seeds
    seeds: npt.NDArray[np.uint64] | None  # [rows]
    draws: int
    first_row: int
    first_draw: int | npt.NDArray[np.uint32]  # for every row, or [rows]
    tau: float | npt.NDArray[np.float64]  # for every row, or [rows]
    temperature: float | npt.NDArray[np.float64]  # for every row, or [rows]

    @property
    def is_one_plain_row(self) -> bool:
        """Whether it is one row without lists of parameters, as most are."""
        return self.rows == 1 and self.seeds is None

    @property
    def taus(self) -> list[float]:
        """The tau used: one, or one a row."""
        return [self.tau] if isinstance(self.tau, float) else self.tau.tolist()

    @property
    def elements(self) -> int:
        """The work it is: rows x draws x categories."""
        return self.rows * self.draws * self.categories

    @property
    def result_bytes(self) -> int:
        """Size of the outputs it asks for."""
        sparse = Output.INDEX in self.outputs
        dense = len(self.outputs) - sparse
        return 4 * self.rows * self.draws * (sparse + dense * self.categories)


@dataclass(frozen=True, slots=True)
class SampleResult:
    """The outputs of a request, by name and in the order asked for, and the time it took."""

    request: SampleRequest
    outputs: dict[Output, Array]
    queue_ns: int
    compute_ns: int


def sample_request(logits: Array, given: Parameters) -> SampleRequest:
    """A valid request from logits [rows, categories] or [categories] and the parameters given with them.

    Raises SamplingError (INVALID_ARGUMENT) naming the first field at fault.
    """
    logits = _logits(logits)
    rows, categories = logits.shape
    mode = _mode(given.mode)
    outputs = _outputs(given.outputs, mode)
    seed, seeds = _seed(given, rows)
    draws = 1 if given.draws is None else _count("draws", given.draws, 1, MAX_COUNT)
    first_row = 0 if given.first_row is None else _count("first_row", given.first_row, 0, MAX_COUNT - 1)
    if first_row and seeds is not None:
        raise invalid("first_row", "goes with seed: with seeds every row is row number 0")
    if first_row + rows > MAX_COUNT:
        raise invalid("first_row", f"{rows} rows from {first_row} on would pass row number 2^32 - 1")
    first_draw = 0 if given.first_draw is None else _first_draw(given.first_draw, rows)
    last_first = first_draw if isinstance(first_draw, int) else int(first_draw.max())
    if last_first + draws > MAX_COUNT:
        raise invalid("first_draw", f"{draws} draws from {last_first} on would pass draw number 2^32 - 1")
    tau = 1.0 if given.tau is None else _divisor("tau", given.tau, rows, zero_allowed=False)
    temperature = 1.0 if given.temperature is None else _divisor("temperature", given.temperature, rows)
    if Output.SOFT in outputs and not np.all(temperature):
        raise invalid("temperature", "0 has no soft sample: ask for index or one_hot")
    return SampleRequest(
        logits, rows, categories, outputs, mode, seed, seeds, draws, first_row, first_draw, tau, temperature
    )


def check_shape(shape: Sequence[int]) -> None:
    """Refuse a shape that logits cannot have, before anything of that shape is made."""
    if len(shape) not in (1, 2):
        raise invalid("logits", f"must be [rows, categories] or [categories], has {len(shape)} dimensions")
    *rows, categories = shape
    if rows and not 1 <= rows[0] <= MAX_COUNT:
        raise invalid("logits", f"must have at least one row and at most 2^32, has {rows[0]}")
    if not 1 <= categories <= contract.MAX_CATEGORIES:
        raise invalid("logits", f"must have 1 to {contract.MAX_CATEGORIES} categories a row, has {categories}")


def _logits(logits: Array) -> Array:
    check_shape(logits.shape)
    if logits.ndim == 1:
        logits = logits[None]
    flags = logits.flags
    if flags.c_contiguous and flags.aligned:
        return logits
    return np.require(logits, requirements=("C", "A"))


def _mode(name: str | None) -> Mode:
    if name is None:
        return Mode.HARD
    try:
        return Mode(name)
    except ValueError:
        raise invalid("mode", f"must be one of {', '.join(Mode)}, is {name!r}") from None


def _outputs(names: Iterable[str] | None, mode: Mode) -> tuple[Output, ...]:
    if names is None:
        return _OUTPUTS_OF_MODE[mode]
    names = tuple(names)
    if not names:
        raise invalid("outputs", "must name at least one output")
    if len(set(names)) != len(names):
        raise invalid("outputs", "names an output twice")
    return tuple(_output(name) for name in names)


def _output(name: str) -> Output:
    if name in OUTPUTS_NOT_BUILT:
        raise invalid("outputs", f"{name} is not supported by this version")
    try:
        return Output(name)
    except ValueError:
        raise invalid("outputs", f"must be of {', '.join(Output)}, names {name!r}") from None


def _seed(given: Parameters, rows: int) -> tuple[int | None, npt.NDArray[np.uint64] | None]:
    if given.seeds is not None:
        if given.seed is not None:
            raise invalid("seeds", "give seed or seeds, not both")
        return None, _one_a_row("seeds", _integers("seeds", given.seeds, np.dtype(np.uint64)), rows)
    if given.seed is None:
        return secrets.randbits(64), None
    return _count("seed", given.seed, 0, MAX_SEED), None


def _count(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise invalid(field, f"must be from {low} to {high}, is {value}")
    return value


def _first_draw(value: int | Iterable[int], rows: int) -> int | npt.NDArray[np.uint32]:
    if isinstance(value, int):
        return _count("first_draw", value, 0, MAX_COUNT - 1)
    values = _integers("first_draw", value, np.dtype(np.uint32))
    return int(values[0]) if values.size == 1 else _one_a_row("first_draw", values, rows)


def _divisor(
    field: str, value: float | Iterable[float], rows: int, *, zero_allowed: bool = True
) -> float | npt.NDArray[np.float64]:
    """tau or temperature: one for every row, or one a row."""
    low, high = contract.PARAMETER_RANGE
    allowed = f"must be {'0 or ' if zero_allowed else ''}from 2^-40 to 2^40"
    if isinstance(value, (int, float)):
        if not (low <= value <= high or (zero_allowed and value == 0)):
            raise invalid(field, f"{allowed}, is {value}")
        return float(value)
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise invalid(field, "must be numbers")
    values = values.astype(np.float64)
    if values.size == 1:
        return _divisor(field, values.item(), rows, zero_allowed=zero_allowed)
    _one_a_row(field, values, rows)
    good = (values >= low) & (values <= high) | (zero_allowed & (values == 0))
    if not good.all():
        bad = int(good.argmin())
        raise invalid(f"{field}[{bad}]", f"{allowed}, is {values[bad]}")
    return values


def _one_a_row(field: str, values: Array, rows: int) -> Array:
    if values.shape != (rows,):
        raise invalid(field, f"must have one value a row, that is {rows}, has shape {list(values.shape)}")
    return values


def _integers(field: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """An array of `dtype`. Integers must fit; they never wrap."""
    values = np.asarray(value)
    if values.dtype == dtype:
        return values
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iu":
        raise invalid(field, f"must be integers, has dtype {value.dtype}")
    # Beside large integers NumPy turns a list into objects or floats, so judge the numbers one by one.
    numbers = np.asarray(value, object)
    limit = 2 ** (8 * dtype.itemsize)
    if not all(isinstance(number, (int, np.integer)) and 0 <= number < limit for number in numbers.ravel()):
        raise invalid(field, f"must be integers from 0 to {limit - 1}")
    return numbers.astype(dtype)
