"""JSON bodies of `POST /sample`."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from gumball import contract
from gumball.seeds import draw_seed

from gumball_server.domain import (
    MAX_SEED,
    Array,
    MalformedError,
    Parameters,
    Plan,
    SampleRequest,
    SampleResult,
    SamplingError,
    Source,
    TauSchedule,
    invalid,
    unknown_field,
)
from gumball_server.validation import sample_request
from gumball_server.wire import text
from gumball_server.wire.arrays import to_float32

Number = float | None
Row = list[Number]

_FEW = 64  # values, written sooner than a kernel is called
_NOT_SHORT = b"7.038531e-26"  # see `json_text`


def _about(description: str, *examples: Any, **schema: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, examples=list(examples) or None, extra_json_schema=schema or None)


class JsonTauSchedule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """tau as a function of the training step."""

    kind: Annotated[str, _about("constant, linear, exponential or cosine", "exponential")]
    initial: Annotated[float, _about("tau at step 0", 1.0)]
    rate: Annotated[float, _about("linear: initial - rate step. exponential: initial exp(-rate step)", 1e-4)] = 0.0
    floor: Annotated[float, _about("tau never falls below it; a cosine reaches it at step 1 / rate", 0.1)] = 2.0**-40
    step: Annotated[float, _about("of training", 1000)] = 0.0

    def schedule(self) -> TauSchedule:
        return TauSchedule(self.kind, self.initial, self.rate, self.floor, self.step)


class JsonRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The members of a JSON request. Its JSON schema is the published one, so the two cannot differ."""

    logits: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # empty: absent
    probs: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    mode: Annotated[str | None, _about("hard (the default), soft or straight_through", "soft")] = None
    outputs: Annotated[list[str] | None, _about("the arrays to answer; by default as mode says", ["index"])] = None
    seed: Annotated[int | str | None, _about("0 to 2^64 - 1, or a decimal string; drawn when absent", 42, "42")] = None
    seeds: Annotated[list[int | str] | None, _about("one a row, instead of seed; each row is then row number 0")] = None
    draws: Annotated[int | None, _about("samples a row; 1 by default", 1)] = None
    first_row: Annotated[int | None, _about("number of the first row; 0 by default")] = None
    first_draw: Annotated[int | list[int] | None, _about("number of the first draw, or one a row; 0 by default")] = None
    tau: Annotated[float | list[float] | None, _about("2^-40 to 2^40, or one a row; 1 by default", 0.5)] = None
    tau_schedule: Annotated[JsonTauSchedule | None, _about("instead of tau")] = None
    temperature: Annotated[float | list[float] | None, _about("0, or as tau, or one a row; 1 by default")] = None
    top_k: Annotated[int | list[int] | None, _about("keep the k most likely; at least 1, or one a row", 50)] = None
    top_p: Annotated[float | list[float] | None, _about("then keep the most likely that hold this share", 0.9)] = None
    min_p: Annotated[float | list[float] | None, _about("then drop those less likely than this share of the best")] = (
        None
    )
    logit_bias: Annotated[
        dict[str, Number] | None, _about("added to the logits of categories; null masks", {"0": 1.5, "2": None})
    ] = None
    without_replacement: Annotated[int | None, _about("draw k distinct categories, in order")] = None
    top_log_probs: Annotated[int | None, _about("also answer the n most likely categories")] = None


_request = msgspec.json.Decoder(JsonRequest)
_logits = msgspec.json.Decoder(list[Row | Number])

_PATH = re.compile(r"^(?P<detail>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(.*)`")
# Of a parser that is given what is no JSON: a wrong character or value, text that is no UTF-8, too many brackets.
PARSER_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(body: bytes) -> SampleRequest:
    """The request in a JSON body. Raises SamplingError naming the member at fault."""
    return _decode_fast(body) or _decode(body)


@cache
def _kernels() -> tuple[Callable[..., tuple[int, ...]], Callable[[Array], memoryview]]:
    """To read and to write; compiled on import, and so not imported before `open_worker` has said where to keep it."""
    from gumball_server.kernels.json_numbers import read_numbers
    from gumball_server.kernels.json_text import write_array

    return read_numbers, write_array


def _decode_fast(body: bytes) -> SampleRequest | None:
    """The request in a body whose numbers the kernel can read; None where the parser has to judge it as a whole."""
    read_numbers, _ = _kernels()
    numbers = np.empty(len(body) // 2 + 1, np.float32)
    start, end, rows, categories, are_probs, seed_start, seed_end, seed = read_numbers(
        np.frombuffer(body, np.uint8), numbers
    )
    if not end:
        return None
    if end < 0:
        raise invalid(body[start : body.index(b'"', start)].decode(errors="replace"), "is given twice")
    if not seed_end:
        rest = b"%b0%b" % (body[:start], body[end:])
    elif start < seed_start:
        rest = b"%b0%b0%b" % (body[:start], body[end:seed_start], body[seed_end:])
    else:
        rest = b"%b0%b0%b" % (body[:seed_start], body[seed_end:start], body[end:])
    logits = numbers[: (rows or 1) * categories].reshape(-1, categories)
    source = Source.PROBS if are_probs else Source.LOGITS
    plan = (_known if len(rest) <= _SHORT_BYTES else _read)(rest, rows or 1, categories, source)
    if plan is None:
        return None
    if seed_end:
        return SampleRequest(logits, seed & MAX_SEED, plan)
    return SampleRequest(logits, draw_seed() if plan.seeds is None else None, plan)


def _read(rest: bytes, rows: int, categories: int, source: Source) -> Plan | None:
    """The plan in all of a body but its numbers and seed."""
    try:
        given = _request.decode(rest)
    except PARSER_ERRORS:
        return None
    return sample_request(np.empty((rows, categories), np.float32), _parameters(given), source).plan


_SHORT_BYTES = 256
_known = lru_cache(1 << 10)(_read)


def _decode(body: bytes) -> SampleRequest:
    if not body:
        raise MalformedError("the body is empty")
    try:
        given = _request.decode(body)
    except PARSER_ERRORS as error:
        raise refusal(error) from None
    source, raw = _numbers(given)
    return sample_request(read_array(source, raw), _parameters(given), source)


def _parameters(given: JsonRequest) -> Parameters:
    return Parameters(
        mode=given.mode,
        outputs=given.outputs,
        seed=None if given.seed is None else _seed("seed", given.seed),
        seeds=None if given.seeds is None else [_seed(f"seeds[{i}]", s) for i, s in enumerate(given.seeds)],
        draws=given.draws,
        first_row=given.first_row,
        first_draw=given.first_draw,
        tau=given.tau,
        tau_schedule=None if given.tau_schedule is None else given.tau_schedule.schedule(),
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        logit_bias=None if given.logit_bias is None else _bias(given.logit_bias),
        without_replacement=given.without_replacement,
        top_log_probs=given.top_log_probs,
    )


def read_schedule(members: str) -> TauSchedule:
    """A schedule as JSON text. Raises ValueError."""
    return msgspec.json.decode(members, type=JsonTauSchedule).schedule()


def encode(result: SampleResult) -> bytes:
    """The JSON answer of a result."""
    _, seed, plan = result.request
    form: bytes = plan.memo.get("json") or plan.memo.setdefault("json", _form(plan))
    outputs = [array_json(array) for array in result.outputs.values()]
    return form % (*(() if seed is None else (seed,)), *outputs, result.queue_ns, result.compute_ns)


def _form(plan: Plan) -> bytes:
    """The answers of a plan but for the seed, if there is one, the outputs, and how long they took."""
    seed = b'"seed":"%d"'
    if plan.seeds is not None:
        seed = b'"seeds":%b' % orjson.dumps([str(seed) for seed in plan.seeds.tolist()])
    shape = b'{"rows":%d,"draws":%d,"categories":%d}' % (plan.rows, plan.draws, plan.categories)
    return b'{"contract":"%b",%b,"tau":%b,"shape":%b,%b,"timings":{"queue_ns":%%d,"compute_ns":%%d}}' % (
        contract.VERSION.encode(),
        seed,
        orjson.dumps(plan.taus),
        shape,
        b",".join([b'"%b":%%b' % output.encode() for output in plan.outputs]),
    )


def schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a request (a reference), and the components it refers to."""
    (reference,), components = msgspec.json.schema_components([JsonRequest], ref_template="#/components/schemas/{name}")
    row = {"type": "array", "minItems": 1, "items": {"type": ["number", "null"]}}
    numbers = {"anyOf": [{"type": "array", "minItems": 1, "items": row}, row]}
    request = components["JsonRequest"]
    request["properties"] |= {
        "logits": numbers
        | {
            "description": "[rows, categories], or [categories] for one row; null masks a category",
            "examples": [[[0.1, 2.0, -1.0]]],
        },
        "probs": numbers
        | {
            "description": "weights instead of logits: not negative, any sum; 0 and null mask",
            "examples": [[[0.2, 0.7, 0.1]]],
        },
    }
    request["oneOf"] = [{"required": ["logits"]}, {"required": ["probs"]}]
    return reference, components


def _numbers(given: JsonRequest) -> tuple[Source, msgspec.Raw]:
    """logits or probs, whichever was given."""
    if not bytes(given.probs):
        if not bytes(given.logits):
            raise invalid("logits", "is required, or probs")
        return Source.LOGITS, given.logits
    if bytes(given.logits):
        raise invalid("probs", "give logits or probs, not both")
    return Source.PROBS, given.probs


def read_array(source: Source, raw: msgspec.Raw) -> Array:
    """Logits or probs [rows, categories], or a flat list, as float32."""
    try:
        rows = _logits.decode(raw)
    except PARSER_ERRORS as error:
        raise refusal(error, inside=source.value) from None
    if not rows:
        raise invalid(source, "has no rows")
    try:
        values = np.array(rows, np.float64)
    except ValueError:
        raise _ragged(source, rows) from None
    # JSON has no NaN, so a NaN here was a null, and masks.
    values[np.isnan(values)] = -np.inf if source is Source.LOGITS else 0.0
    return to_float32(source, values)


def _ragged(field: str, rows: list[Row | Number]) -> SamplingError:
    categories = None
    for i, row in enumerate(rows):
        if not isinstance(row, list):
            return invalid(f"{field}[{i}]", "must be a list of numbers, as the rows beside it")
        if categories is not None and len(row) != categories:
            return invalid(f"{field}[{i}]", f"has {len(row)} categories, the rows before it have {categories}")
        categories = len(row)
    return invalid(field, "must be [rows, categories] numbers")


def _bias(given: dict[str, Number]) -> dict[int, Number]:
    try:
        bias = {text.integer(category): amount for category, amount in given.items()}
    except ValueError as error:
        raise invalid("logit_bias", f"a category {error}") from None
    if len(bias) < len(given):
        raise invalid("logit_bias", "names a category twice")
    return bias


def _seed(field: str, value: int | str) -> int:
    if isinstance(value, int):
        return value
    try:
        return text.integer(value)
    except ValueError as error:
        raise invalid(field, str(error)) from None


def refusal(error: Exception, inside: str = "") -> SamplingError:
    """What one of PARSER_ERRORS says, about the member `inside` or the whole."""
    found = _PATH.match(str(error))
    detail, path = (found["detail"], found["path"] or "") if found else (str(error), "")
    if not isinstance(error, msgspec.ValidationError):
        return MalformedError(detail, inside + path)
    if unknown := _UNKNOWN.search(detail):
        return unknown_field(unknown[1])
    if missing := _MISSING.search(detail):
        return invalid(missing[1], "is required")
    return invalid(inside + path, detail[0].lower() + detail[1:])


def array_json(array: Array) -> bytes | memoryview:
    """An array of one to three dimensions as JSON, in decimals that give its bits back; a large one without the GIL."""
    if array.size > _FEW:
        _, write_array = _kernels()
        return write_array(array)
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if _NOT_SHORT in text:
        return orjson.dumps(array.astype(np.float64), option=orjson.OPT_SERIALIZE_NUMPY)
    return text
