"""`POST /sample` as HTTP tells it: what its headers ask for, and answers and errors as responses. Pure, no server."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import orjson

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError, invalid
from gumball_server.exchange import LARGE_BYTES, LARGE_RAW_BYTES
from gumball_server.wire import binary_form, json_form, text

PATH = "/sample"
OPERATION = f"POST {PATH}"

STATUS = {
    Reason.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    Reason.MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.DEADLINE: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
FORMS = (JSON, RAW, NPY)
PROBLEM = "application/problem+json"

# Heads that are remembered, and how long their values may be: a client must not fill the memory with them.
MOST_KNOWN, SHORT_BYTES = 1 << 10, 256


class NotAcceptableError(SamplingError):
    """Accept allows none of the forms of an answer."""

    def __init__(self) -> None:
        super().__init__(Reason.MEDIA_TYPE, f"must allow one of {JSON}, {RAW}, {NPY}", "Accept")


class Reply(NamedTuple):
    """A whole response."""

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] | None = None  # further ones


@dataclass(frozen=True, slots=True)
class Form:
    """A form of bodies and answers. Larger ones than `large` bytes get a thread to be parsed and written in."""

    decode: Callable[[bytes, bytes], SampleRequest]  # of a body and a query string
    encode: Callable[[SampleResult], Reply]
    large: int


class Head(NamedTuple):
    """What the headers of a request ask for."""

    body: Form
    answer: Form
    content_length: int | None
    timeout: float | None  # in seconds, from when they arrived


class HeadReader:
    """Reads heads, for a service that takes bodies of at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._known: dict[tuple[bytes | None, ...], tuple[Form, Form, float | None]] = {}
        self._forms = {
            JSON: Form(_decode_json, _encode_json, LARGE_BYTES),
            RAW: Form(binary_form.decode_raw, _encode_raw, LARGE_RAW_BYTES),
            NPY: Form(partial(binary_form.decode_npy, max_bytes=max_bytes), _encode_npy, LARGE_BYTES),
        }

    def read(self, headers: Sequence[tuple[bytes, bytes]]) -> Head:
        """The head with these headers (names in lower case). Raises SamplingError."""
        given = dict(headers)
        get = given.get
        said = get(b"content-type"), get(b"accept"), get(b"content-encoding"), get(b"request-timeout")
        length = get(b"content-length", b"")
        known = self._known.get(said)  # most clients say the same again and again
        if known is not None and len(given) == len(headers) and length.isdigit() and int(length) <= self.max_bytes:
            body, answer, timeout = known
            return Head(body, answer, int(length), timeout)
        self.check(given)
        form = _form_of_body(given.get(b"content-type", b""))
        accept = b",".join([value for name, value in headers if name == b"accept"])
        body, answer, timeout = self._forms[form], self._forms[_form_of_answer(accept, form)], request_timeout(given)
        is_short = sum(len(value or b"") for value in said) <= SHORT_BYTES
        if is_short and len(given) == len(headers) and len(self._known) < MOST_KNOWN:
            self._known[said] = body, answer, timeout
        return Head(body, answer, int(length) if length.isdigit() else None, timeout)

    def check(self, given: dict[bytes, bytes]) -> None:
        """Refuse a body that is compressed, which would have to be bounded as it unfolds, or too large."""
        if given.get(b"content-encoding", b"identity") != b"identity":
            raise SamplingError(
                Reason.MEDIA_TYPE, "must be identity: compressed bodies are not read", "Content-Encoding"
            )
        length = given.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_bytes:
            raise self.too_large

    @property
    def too_large(self) -> SamplingError:
        """The body has more bytes than is taken."""
        return SamplingError(Reason.TOO_LARGE, f"the body may have {self.max_bytes} bytes", "body")


def traced(reply: Reply, traceresponse: str | None) -> Reply:
    """The response with the trace that it belongs to, by the header that W3C drafts for it."""
    if traceresponse is None:
        return reply
    return reply._replace(headers={**(reply.headers or {}), "traceresponse": traceresponse})


def problem(error: SamplingError) -> Reply:
    """An error as RFC 9457 tells it."""
    status = STATUS[error.reason]
    if isinstance(error, MalformedError):
        status = HTTPStatus.BAD_REQUEST
    if isinstance(error, NotAcceptableError):
        status = HTTPStatus.NOT_ACCEPTABLE
    body = {
        "type": f"urn:gumball:error:{error.reason.value.lower()}",
        "title": status.phrase,
        "status": status.value,
        "detail": str(error),
        "reason": error.reason.value,
    }
    if error.field:
        body["field"] = error.field
    headers = None
    if error.retry_seconds is not None:
        headers = {"retry-after": str(error.retry_seconds)}
    elif error.reason is Reason.METHOD:
        headers = {"allow": "POST"}
    elif error.reason is Reason.UNAUTHENTICATED:
        headers = {"www-authenticate": "Bearer"}
    return Reply(status, PROBLEM, orjson.dumps(body), headers)


def _decode_json(body: bytes, query: bytes) -> SampleRequest:
    if query:
        name = query.decode("latin-1").partition("=")[0]
        raise invalid(name, "with a JSON body, every parameter goes into the body")
    return json_form.decode(body)


def _encode_json(result: SampleResult) -> Reply:
    return Reply(200, JSON, json_form.encode(result))


def _encode_raw(result: SampleResult) -> Reply:
    body, headers = binary_form.encode_raw(result)
    return Reply(200, RAW, body, headers)


def _encode_npy(result: SampleResult) -> Reply:
    body, headers = binary_form.encode_npy(result)
    return Reply(200, NPY, body, headers)


def _form_of_body(content_type: bytes) -> str:
    form = content_type.partition(b";")[0].strip().lower().decode("latin-1") or JSON
    if form not in FORMS:
        raise SamplingError(Reason.MEDIA_TYPE, f"must be one of {JSON}, {RAW}, {NPY}, is {form}", "Content-Type")
    return form


def _form_of_answer(accept: bytes, form_of_body: str) -> str:
    """The form that Accept likes best; among equals, the form of the body."""
    qualities = dict(_media_ranges(accept.decode("latin-1") or "*/*"))

    def quality(form: str) -> float:  # the most specific range decides (RFC 9110, 12.5.1)
        return next((qualities[each] for each in (form, "application/*", "*/*") if each in qualities), 0.0)

    best = max((form_of_body, *FORMS), key=quality)
    if not quality(best):
        raise NotAcceptableError
    return best


def _media_ranges(accept: str) -> Iterable[tuple[str, float]]:
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            yield media_range, text.number(quality)
        except ValueError as error:
            raise invalid("Accept", f"the quality {error}") from None


def request_timeout(given: dict[bytes, bytes]) -> float | None:
    """Request-Timeout, in seconds."""
    if b"request-timeout" not in given:
        return None
    try:
        seconds = text.number(given[b"request-timeout"].decode("latin-1"))
    except ValueError as error:
        raise invalid("Request-Timeout", str(error)) from None
    if not 0 < seconds < float("inf"):
        raise invalid("Request-Timeout", f"must be a number of seconds above 0, is {seconds}")
    return seconds
