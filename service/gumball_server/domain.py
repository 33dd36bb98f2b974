"""What the service speaks of: requests, results, and the reasons for having no result. NumPy only, no framework.

What is made for every request is a NamedTuple: a frozen dataclass takes four times as long to fill.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

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

    __hash__ = str.__hash__  # Enum's is written in Python, and this is the key of many a lookup

    HARD = "hard"
    SOFT = "soft"
    STRAIGHT_THROUGH = "straight_through"


class Output(StrEnum):
    """An array of the answer."""

    __hash__ = str.__hash__  # see `Mode`

    INDEX = "index"  # [rows, draws] int32
    ONE_HOT = "one_hot"  # [rows, draws, categories]; float32, as all that follow but top_index
    SOFT = "soft"  # [rows, draws, categories]
    LOG_SOFT = "log_soft"  # [rows, draws, categories]
    SCORE = "score"  # [rows, draws], of the drawn category
    LOG_PROB = "log_prob"  # [rows, draws], of the drawn category
    PROBS = "probs"  # [rows, categories], of the distribution sampled
    ENTROPY = "entropy"  # [rows], likewise, in nats
    TOP_INDEX = "top_index"  # [rows, n] int32, the n = top_log_probs most likely categories
    TOP_LOG_PROB = "top_log_prob"  # [rows, n]


PER_DRAW = (Output.INDEX, Output.SCORE, Output.LOG_PROB)  # without replacement they get a last axis of k
PER_DRAW_AND_CATEGORY = (Output.ONE_HOT, Output.SOFT, Output.LOG_SOFT)
TOP = (Output.TOP_INDEX, Output.TOP_LOG_PROB)
INTEGERS = (Output.INDEX, Output.TOP_INDEX)
NEED_NOISE = frozenset((Output.SOFT, Output.LOG_SOFT, Output.SCORE))  # and so a temperature above 0


class Reason(StrEnum):
    """Why there is no result. Each transport maps it, once, to its own status."""

    __hash__ = str.__hash__  # see `Mode`

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    TOO_LARGE = "TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    METHOD = "METHOD"
    MEDIA_TYPE = "MEDIA_TYPE"
    OVERLOADED = "OVERLOADED"
    DEADLINE = "DEADLINE"
    CANCELLED = "CANCELLED"  # the caller left: counted, never answered
    UNAVAILABLE = "UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    INTERNAL = "INTERNAL"


class SamplingError(Exception):
    """A request has no result: `reason` for programs, `detail` for people, `field` where one is at fault."""

    def __init__(self, reason: Reason, detail: str, field: str = "") -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.reason = reason
        self.detail = detail
        self.field = field

    @property
    def retry_seconds(self) -> int | None:
        """How long to wait before trying again, where that may help."""
        return 1 if self.reason in (Reason.OVERLOADED, Reason.UNAVAILABLE) else None

    def __reduce__(self) -> tuple[type, tuple[Reason, str, str]]:
        """How it is pickled: by itself, an exception would be made anew from its text alone."""
        return SamplingError, (self.reason, self.detail, self.field)


class MalformedError(SamplingError):
    """The body does not parse, so that no field of it can be judged."""

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(Reason.INVALID_ARGUMENT, detail, field)


def invalid(field: str, detail: str) -> SamplingError:
    """The request itself is at fault, in `field`."""
    return SamplingError(Reason.INVALID_ARGUMENT, detail, field)


def unknown_field(name: str) -> SamplingError:
    """A field that is not part of the interface."""
    return invalid(name, "unknown field")


class Source(StrEnum):
    """What the numbers of a request are."""

    LOGITS = "logits"
    PROBS = "probs"


@dataclass(frozen=True, slots=True)
class TauSchedule:
    """tau as a function of the training step; `rate` of a cosine is 1 / (its number of steps)."""

    kind: str
    initial: float
    rate: float = 0.0
    floor: float = contract.PARAMETER_RANGE[0]
    step: float = 0.0

    @property
    def tau(self) -> float:
        """The tau of this step, in float64; what was used is in the answer. Raises SamplingError."""
        if not all(map(math.isfinite, (self.initial, self.rate, self.floor, self.step))):
            raise invalid("tau_schedule", "must have finite numbers")
        if self.rate < 0 or self.step < 0:
            raise invalid("tau_schedule", "must have a rate and a step of at least 0")
        done = self.rate * self.step
        match self.kind:
            case "constant":
                return self.initial
            case "linear":
                return max(self.floor, self.initial - done)
            case "exponential":
                return max(self.floor, self.initial * math.exp(-done))
            case "cosine":
                return self.floor + (self.initial - self.floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        raise invalid("tau_schedule", f"kind must be constant, linear, exponential or cosine, is {self.kind!r}")


class Parameters(NamedTuple):
    """The parameters of a request as a transport understood them; None where the caller said nothing."""

    mode: str | None = None
    outputs: Iterable[str] | None = None
    seed: int | None = None
    seeds: Iterable[int] | None = None
    draws: int | None = None
    first_row: int | None = None
    first_draw: int | Iterable[int] | None = None
    tau: float | Iterable[float] | None = None
    tau_schedule: TauSchedule | None = None
    temperature: float | Iterable[float] | None = None
    top_k: int | Iterable[int] | None = None
    top_p: float | Iterable[float] | None = None
    min_p: float | Iterable[float] | None = None
    logit_bias: Mapping[int, float | None] | None = None
    without_replacement: int | None = None
    top_log_probs: int | None = None


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the logits of some categories; -inf masks."""

    categories: npt.NDArray[np.uint32]  # [n], each once
    values: npt.NDArray[np.float32]  # [n]


class Layout(NamedTuple):
    """What the outputs of a request are like."""

    shapes: dict[Output, tuple[int, ...]]
    elements: int  # the work it is: rows x draws x categories
    result_bytes: int
    is_dense: bool  # there is one with a value for each draw and category


def shape_of(
    output: Output, rows: int, draws: int, categories: int, without_replacement: int | None, top_log_probs: int
) -> tuple[int, ...]:
    """The shape of an output."""
    if output in PER_DRAW:
        return (rows, draws) if without_replacement is None else (rows, draws, without_replacement)
    if output in PER_DRAW_AND_CATEGORY:
        return rows, draws, categories
    if output in TOP:
        return rows, top_log_probs
    return (rows, categories) if output is Output.PROBS else (rows,)


@lru_cache(1 << 12)  # a service sees few different ones
def layout(
    outputs: tuple[Output, ...],
    rows: int,
    draws: int,
    categories: int,
    without_replacement: int | None,
    top_log_probs: int,
) -> Layout:
    """The layout of these outputs; no shape depends on a value."""
    shapes = {
        output: shape_of(output, rows, draws, categories, without_replacement, top_log_probs) for output in outputs
    }
    is_dense = any(output in PER_DRAW_AND_CATEGORY for output in outputs)
    return Layout(shapes, rows * draws * categories, 4 * sum(map(math.prod, shapes.values())), is_dense)


@dataclass(slots=True, eq=False)
class Plan:
    """All that a request asks for, but for its logits and seed. Not to be changed: requests that ask alike share it."""

    source: Source
    dtype: np.dtype[Any]  # of logits
    rows: int
    categories: int
    outputs: tuple[Output, ...]
    mode: Mode
    seeds: npt.NDArray[np.uint64] | None  # [rows]
    draws: int
    first_row: int
    # One for every row, or [rows]:
    first_draw: int | npt.NDArray[np.uint32]
    tau: float | npt.NDArray[np.float64]
    temperature: float | npt.NDArray[np.float64]
    top_k: int | npt.NDArray[np.uint32]  # number of categories: off
    top_p: float | npt.NDArray[np.float64]  # 1: off
    min_p: float | npt.NDArray[np.float64]  # 0: off
    bias: Bias | None
    without_replacement: int | None  # categories a draw
    top_log_probs: int
    layout: Layout = field(init=False, repr=False)
    # What the kernels' tables and the wire make of it, each under its name, once.
    memo: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = layout(
            self.outputs, self.rows, self.draws, self.categories, self.without_replacement, self.top_log_probs
        )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """How it is pickled: without its memo, which holds addresses of this process."""
        return Plan, tuple(getattr(self, each.name) for each in fields(self) if each.init)

    def shape_of(self, output: Output) -> tuple[int, ...]:
        """The shape of an output, also of one that is not asked for."""
        return shape_of(output, self.rows, self.draws, self.categories, self.without_replacement, self.top_log_probs)

    @property
    def taus(self) -> list[float]:
        """The tau used: one, or one a row."""
        return [self.tau] if isinstance(self.tau, float) else self.tau.tolist()


class SampleRequest(NamedTuple):
    """A valid request. Values inside `logits` are examined when they are drawn from."""

    logits: Array  # [rows, categories] float32, float16, or uint16 holding bfloat16; C order; or probs
    seed: int | None  # one for the request, or None where the plan has seeds
    plan: Plan


class Run(NamedTuple):
    """The drawing of one batch: when, on what, and of how many requests and rows."""

    start_ns: int  # of time.perf_counter_ns
    compute_ns: int
    device: str
    requests: int
    rows: int


class SampleResult(NamedTuple):
    """The outputs of a request, by name and in the order asked for, and the time it took."""

    request: SampleRequest
    outputs: dict[Output, Array]
    queue_ns: int
    compute_ns: int
    run: Run | None = None  # None where there are no batches
