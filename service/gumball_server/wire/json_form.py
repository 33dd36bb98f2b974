"""JSON bodies of `POST /sample`."""

import re
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from gumball import contract

from gumball_server.domain import (
    Array,
    MalformedError,
    Parameters,
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

# The only positive float32 whose shortest decimal does not come back when it is read through a float64, as JSON
# readers do (7.038531e-26; found by trying all 2^31).
_NOT_SHORT = np.uint32(0x15AE43FD)


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
    if not body:
        raise MalformedError("the body is empty")
    try:
        given = _request.decode(body)
    except PARSER_ERRORS as error:
        raise refusal(error) from None
    source, raw = _numbers(given)
    return sample_request(
        read_array(source, raw),
        Parameters(
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
        ),
        source,
    )


def read_schedule(members: str) -> TauSchedule:
    """A schedule as JSON text. Raises ValueError."""
    return msgspec.json.decode(members, type=JsonTauSchedule).schedule()


def encode(result: SampleResult) -> bytes:
    """The JSON answer of a result."""
    request = result.request
    answer: dict[str, Any] = {"contract": contract.VERSION}
    if request.seeds is None:
        answer["seed"] = str(request.seed)
    else:
        answer["seeds"] = [str(seed) for seed in request.seeds.tolist()]
    answer["tau"] = request.taus
    answer["shape"] = {"rows": request.rows, "draws": request.draws, "categories": request.categories}
    for output, array in result.outputs.items():
        answer[output.value] = exact_in_decimal(array)
    answer["timings"] = {"queue_ns": result.queue_ns, "compute_ns": result.compute_ns}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


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


def exact_in_decimal(array: Array) -> Array:
    """An array whose shortest decimals give its bits back."""
    if array.dtype == np.float32 and (array.view(np.uint32) == _NOT_SHORT).any():
        return array.astype(np.float64)
    return array
