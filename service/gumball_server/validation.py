"""From what a transport understood to a valid request, or the error that names the first field at fault."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gumball import contract
from gumball.seeds import draw_seed

from gumball_server.domain import (
    MAX_COUNT,
    MAX_SEED,
    NEED_NOISE,
    TOP,
    Array,
    Bias,
    Mode,
    Output,
    Parameters,
    Plan,
    SampleRequest,
    Source,
    invalid,
)

_ABOVE_ZERO = math.ulp(0.0)
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_MODES: dict[str | None, Mode] = {None: Mode.HARD} | {mode.value: mode for mode in Mode}
_OUTPUTS_OF_MODE = {
    Mode.HARD: (Output.INDEX,),
    Mode.SOFT: (Output.SOFT,),
    Mode.STRAIGHT_THROUGH: (Output.INDEX, Output.SOFT),
}


def sample_request(logits: Array, given: Parameters, source: Source = Source.LOGITS) -> SampleRequest:
    """A valid request from logits (or probs) [rows, categories] or [categories] and the parameters given with them.

    Raises SamplingError (INVALID_ARGUMENT) naming the first field at fault.
    """
    logits = _two_dimensional(source, logits)
    rows, categories = logits.shape
    mode = _mode(given.mode)
    seed, seeds = _seed(given, rows)
    draws = 1 if given.draws is None else _count("draws", given.draws, 1, MAX_COUNT)
    first_row = 0 if given.first_row is None else _first_row(given.first_row, rows, seeds)
    temperature = 1.0 if given.temperature is None else _divisor("temperature", given.temperature, rows)
    outputs = _outputs(given, mode)
    if not (temperature if isinstance(temperature, float) else temperature.all()) and NEED_NOISE.intersection(outputs):
        raise invalid("temperature", "0 has no soft sample and no score: ask for other outputs")
    without_replacement = _without_replacement(given.without_replacement, outputs, categories)
    top_log_probs = 0 if given.top_log_probs is None else _count("top_log_probs", given.top_log_probs, 1, categories)
    plan = Plan(
        source=source,
        dtype=logits.dtype,
        rows=rows,
        categories=categories,
        outputs=outputs,
        mode=mode,
        seeds=seeds,
        draws=draws,
        first_row=first_row,
        first_draw=0 if given.first_draw is None else _first_draw(given.first_draw, rows, draws),
        tau=1.0 if given.tau is None and given.tau_schedule is None else _tau(given, rows),
        temperature=temperature,
        top_k=categories if given.top_k is None else _top_k(given.top_k, rows, categories),
        top_p=1.0 if given.top_p is None else _share("top_p", given.top_p, rows),
        min_p=0.0 if given.min_p is None else _share("min_p", given.min_p, rows, zero_allowed=True),
        bias=None if given.logit_bias is None else _bias(given.logit_bias, categories),
        without_replacement=without_replacement,
        top_log_probs=top_log_probs,
    )
    return SampleRequest(logits, seed, plan)


def check_shape(field: str, shape: Sequence[int]) -> None:
    """Refuse a shape that logits (or probs) cannot have, before anything of that shape is made."""
    if len(shape) not in (1, 2):
        raise invalid(field, f"must be [rows, categories] or [categories], has {len(shape)} dimensions")
    *rows, categories = shape
    if rows and not 1 <= rows[0] <= MAX_COUNT:
        raise invalid(field, f"must have at least one row and at most 2^32, has {rows[0]}")
    if not 1 <= categories <= contract.MAX_CATEGORIES:
        raise invalid(field, f"must have 1 to {contract.MAX_CATEGORIES} categories a row, has {categories}")


def _two_dimensional(field: str, logits: Array) -> Array:
    check_shape(field, logits.shape)
    if logits.ndim == 1:
        logits = logits[None]
    flags = logits.flags
    if flags.c_contiguous and flags.aligned:
        return logits
    return np.require(logits, requirements=("C", "A"))


def _mode(name: str | None) -> Mode:
    mode = _MODES.get(name)
    if mode is None:
        raise invalid("mode", f"must be one of {', '.join(Mode)}, is {name!r}")
    return mode


def _outputs(given: Parameters, mode: Mode) -> tuple[Output, ...]:
    top = () if given.top_log_probs is None else TOP
    if given.outputs is None:
        score = () if given.without_replacement is None else (Output.SCORE,)
        return (*_OUTPUTS_OF_MODE[mode], *score, *top)
    names = tuple(given.outputs)
    if not names:
        raise invalid("outputs", "must name at least one output")
    if len(set(names)) != len(names):
        raise invalid("outputs", "names an output twice")
    return (*(_output(name) for name in names), *top)


def _output(name: str) -> Output:
    nameable = [output for output in Output if output not in TOP]
    if name not in nameable:
        raise invalid("outputs", f"must be of {', '.join(nameable)}, names {name!r}")
    return Output(name)


def _seed(given: Parameters, rows: int) -> tuple[int | None, npt.NDArray[np.uint64] | None]:
    if given.seeds is not None:
        if given.seed is not None:
            raise invalid("seeds", "give seed or seeds, not both")
        return None, _one_a_row("seeds", _integers("seeds", given.seeds, np.dtype(np.uint64)), rows)
    if given.seed is None:
        return draw_seed(), None
    return _count("seed", given.seed, 0, MAX_SEED), None


def _count(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise invalid(field, f"must be from {low} to {high}, is {value}")
    return value


def _first_row(value: int, rows: int, seeds: Array | None) -> int:
    first_row = _count("first_row", value, 0, MAX_COUNT - 1)
    if first_row and seeds is not None:
        raise invalid("first_row", "goes with seed: with seeds every row is row number 0")
    if first_row + rows > MAX_COUNT:
        raise invalid("first_row", f"{rows} rows from {first_row} on would pass row number 2^32 - 1")
    return first_row


def _first_draw(value: int | Iterable[int], rows: int, draws: int) -> int | npt.NDArray[np.uint32]:
    first_draw = _whole("first_draw", value, rows, 0)
    last = int(np.max(first_draw))
    if last + draws > MAX_COUNT:
        raise invalid("first_draw", f"{draws} draws from {last} on would pass draw number 2^32 - 1")
    return first_draw


def _top_k(value: int | Iterable[int], rows: int, categories: int) -> int | npt.NDArray[np.uint32]:
    top_k = _whole("top_k", value, rows, 1)
    return min(top_k, categories) if isinstance(top_k, int) else np.minimum(top_k, np.uint32(categories))


def _whole(field: str, value: int | Iterable[int], rows: int, low: int) -> int | npt.NDArray[np.uint32]:
    """An integer from `low` to 2^32 - 1 for every row, or one a row."""
    if isinstance(value, int):
        return _count(field, value, low, MAX_COUNT - 1)
    values = _integers(field, value, np.dtype(np.uint32))
    if values.size == 1:
        return _count(field, values.item(), low, MAX_COUNT - 1)
    _one_a_row(field, values, rows)
    if (small := values < low).any():
        raise invalid(f"{field}[{int(small.argmax())}]", f"must be at least {low}")
    return values


def _tau(given: Parameters, rows: int) -> float | npt.NDArray[np.float64]:
    if given.tau_schedule is not None:
        if given.tau is not None:
            raise invalid("tau_schedule", "give tau or tau_schedule, not both")
        tau = given.tau_schedule.tau
        low, high = contract.PARAMETER_RANGE
        if not low <= tau <= high:
            raise invalid("tau_schedule", f"gives {tau}, must give from 2^-40 to 2^40")
        return tau
    return 1.0 if given.tau is None else _divisor("tau", given.tau, rows, zero_allowed=False)


def _divisor(
    field: str, value: float | Iterable[float], rows: int, *, zero_allowed: bool = True
) -> float | npt.NDArray[np.float64]:
    """tau or temperature: one for every row, or one a row."""
    allowed = f"must be {'0 or ' if zero_allowed else ''}from 2^-40 to 2^40"
    return _real(field, value, rows, *contract.PARAMETER_RANGE, allowed, zero_allowed=zero_allowed)


def _share(
    field: str, value: float | Iterable[float], rows: int, *, zero_allowed: bool = False
) -> float | npt.NDArray[np.float64]:
    """top_p or min_p."""
    allowed = f"must be {'from 0' if zero_allowed else 'above 0 and up'} to 1"
    return _real(field, value, rows, _ABOVE_ZERO, 1.0, allowed, zero_allowed=zero_allowed)


def _real(
    field: str,
    value: float | Iterable[float],
    rows: int,
    low: float,
    high: float,
    allowed: str,
    *,
    zero_allowed: bool,
) -> float | npt.NDArray[np.float64]:
    """A number from `low` to `high` (or 0) for every row, or one a row; `allowed` says so in words."""
    if isinstance(value, (int, float)):
        if not (low <= value <= high or (zero_allowed and value == 0)):
            raise invalid(field, f"{allowed}, is {value}")
        return float(value)
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise invalid(field, "must be numbers")
    values = values.astype(np.float64)
    if values.size == 1:
        return _real(field, values.item(), rows, low, high, allowed, zero_allowed=zero_allowed)
    _one_a_row(field, values, rows)
    good = (values >= low) & (values <= high) | (zero_allowed & (values == 0))
    if not good.all():
        bad = int(good.argmin())
        raise invalid(f"{field}[{bad}]", f"{allowed}, is {values[bad]}")
    return values


def _bias(given: Mapping[int, float | None], categories: int) -> Bias | None:
    if not given:
        return None
    for category, amount in given.items():
        field = f"logit_bias[{category}]"
        if not 0 <= category < categories:
            raise invalid(field, f"is no category: there are {categories}")
        if amount is not None and not abs(amount) <= _FLOAT32_MAX:
            raise invalid(field, f"must be a finite float32, is {amount}")
    values = [-math.inf if amount is None else amount for amount in given.values()]
    return Bias(np.array(list(given), np.uint32), np.array(values, np.float64).astype(np.float32))


def _without_replacement(k: int | None, outputs: tuple[Output, ...], categories: int) -> int | None:
    if k is None:
        return None
    if Output.ONE_HOT in outputs:
        raise invalid("without_replacement", "has no one_hot: ask for index")
    return _count("without_replacement", k, 1, categories)


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
