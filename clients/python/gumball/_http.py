"""The HTTP form of a request and its answer, and the few lines that send one and read the other."""

import asyncio
import io
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import httpx
import numpy as np

from gumball import errors
from gumball._balancer import GRACE
from gumball._codec import (
    Array,
    Info,
    OutputArray,
    Sample,
    SampleRequest,
    Timings,
    info_of,
    malformed_is_invalid,
    own_arrays,
    sample_of,
)
from gumball._credentials import Certificates
from gumball._tracing import trace_headers

T = TypeVar("T")

MAX_QUERY = 2048  # bytes; beyond it, servers and proxies begin to refuse a request line
CONNECT_TIMEOUT = 10.0  # seconds; a call without a deadline may wait for its answer, but not for a connection
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)

# What a status says where there is no problem document: an answer of a proxy, or of something else.
_REASON_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "METHOD",
    406: "MEDIA_TYPE",
    408: "DEADLINE",
    413: "TOO_LARGE",
    415: "MEDIA_TYPE",
    422: "INVALID_ARGUMENT",
    429: "OVERLOADED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE",
}


@dataclass(frozen=True)
class Call(Generic[T]):
    """One exchange: what to send, and how to read what comes back."""

    method: str
    target: str
    read: Callable[[httpx.Response], T]
    headers: Mapping[str, str]
    content: bytes = b""
    timeout: float | None = None


def sample_call(request: SampleRequest, timeout: float | None) -> Call[Sample]:
    """The call of a sample request: binary both ways."""
    query, content_type, content = _body(request)
    headers = {"content-type": content_type, "accept": "application/octet-stream"}
    if timeout is not None:
        headers["request-timeout"] = repr(float(timeout))
    return Call("POST", f"/sample?{query}", partial(read_sample, request), headers, content, timeout)


def info_call() -> Call[Info]:
    """The call of the service's information."""
    return Call("GET", "/info", read_info, {"accept": "application/json"})


def read_sample(request: SampleRequest, response: httpx.Response) -> Sample:
    """The sample of an answer. Raises GumballError."""
    if response.status_code != 200:
        raise read_error(response)
    headers = response.headers
    with malformed_is_invalid:
        return sample_of(
            request,
            contract_name=headers["gumball-contract"],
            seed=int(headers["gumball-seed"]) if "gumball-seed" in headers else None,
            tau=[float(value) for value in headers["gumball-tau"].split(",")] if "gumball-tau" in headers else None,
            timings=Timings(int(headers["gumball-queue-ns"]), int(headers["gumball-compute-ns"])),
            arrays=own_arrays(request, _arrays(json.loads(headers["gumball-outputs"]), memoryview(response.content))),
        )


def read_info(response: httpx.Response) -> Info:
    """The information of an answer. Raises GumballError."""
    if response.status_code != 200:
        raise read_error(response)
    return info_of(_json_object(response))


def read_error(response: httpx.Response) -> errors.GumballError:
    """The error of an answer that is not a success: its problem document (RFC 9457), or else its status."""
    problem = {name: value for name, value in _json_object(response).items() if isinstance(value, str)}
    return errors.of_reason(
        problem.get("reason"),
        problem.get("detail", f"HTTP status {response.status_code}"),
        problem.get("field"),
        _seconds(response.headers.get("retry-after", "")),
        otherwise=_REASON_OF_STATUS.get(response.status_code),
    )


def _body(request: SampleRequest) -> tuple[str, str, bytes]:
    """Query, content type and body: the logits' bytes, or an .npz where per-row lists would make the query too long."""
    scalars, per_row = _parameters(request)
    array = {"shape": np.array(request.logits.shape), "dtype": request.dtype, "source": request.parameters.source}
    query = _query(array | scalars | per_row)
    if per_row and len(query) > MAX_QUERY:
        return _query(scalars), "application/x-npy", _npz(request, per_row)
    little_endian = request.logits.astype(request.logits.dtype.newbyteorder("<"), copy=False)
    return query, "application/octet-stream", little_endian.tobytes()


def _parameters(request: SampleRequest) -> tuple[dict[str, Any], dict[str, Array]]:
    """The parameters that hold for every row, and those that are a list of one a row; defaults are spelled out."""
    asked = request.parameters
    given = {
        "mode": asked.mode,
        "outputs": None if asked.outputs is None else ",".join(asked.outputs),
        "seed": request.seed,
        "seeds": request.seeds,
        "draws": asked.draws,
        "first_draw": asked.first_draw,
        "first_row": asked.first_row,
        "tau": asked.tau,
        "temperature": asked.temperature,
        "tau_schedule": None if asked.tau_schedule is None else json.dumps(asked.tau_schedule),
        "top_k": asked.top_k,
        "top_p": asked.top_p,
        "min_p": asked.min_p,
        "logit_bias": None if asked.logit_bias is None else _bias(asked.logit_bias),
        "without_replacement": asked.without_replacement,
        "top_log_probs": asked.top_log_probs,
    }
    per_row = {name: value for name, value in given.items() if isinstance(value, np.ndarray) and value.size > 1}
    return {name: value for name, value in given.items() if value is not None and name not in per_row}, per_row


def _bias(bias: Mapping[int, float | None]) -> str:
    return ",".join(f"{category}:{'null' if amount is None else repr(amount)}" for category, amount in bias.items())


def _query(parameters: Mapping[str, Any]) -> str:
    """Arrays become comma-separated lists; repr gives the digits that read back as the same float64."""
    text = {
        name: ",".join(map(repr, value.tolist())) if isinstance(value, np.ndarray) else value
        for name, value in parameters.items()
    }
    return urlencode(text, safe=",:")


def _npz(request: SampleRequest, per_row: dict[str, Array]) -> bytes:
    """Logits and per-row parameters in one file. It has no bfloat16; widened to float32 the logits are the same."""
    logits = request.logits
    if request.dtype == "bfloat16":
        logits = (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{request.parameters.source: logits}, **per_row)
    return file.getvalue()


def _arrays(described: list[dict[str, Any]], body: memoryview) -> dict[str, Array]:
    """The arrays of a body that holds them one after another."""
    arrays: dict[str, Array] = {}
    start = 0
    for each in described:
        output = OutputArray(each["name"], each["dtype"], tuple(each["shape"]))
        arrays[output.name] = output.of_bytes(body[start : start + output.nbytes])
        start += output.nbytes
    if start != len(body):
        raise errors.InvalidAnswer(f"the answer has {len(body)} bytes, not {start}")
    return arrays


def _json_object(response: httpx.Response) -> dict[str, Any]:
    """The members of a JSON answer; none where it is something else."""
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(text: str) -> float | None:
    """A Retry-After in seconds; None where it is absent or a date."""
    try:
        return float(text)
    except ValueError:
        return None


@cache
def _usual_authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # takes 20 ms, and a name may stand for many services


def _place(address: str) -> tuple[httpx.URL, str | None]:
    """Base URL and Unix socket of an address."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise errors.InvalidArgument(f"{error}: {address!r}", "address") from None
    return (httpx.URL("http://localhost"), url.path) if url.scheme == "http+unix" else (url, None)


@contextmanager
def _failures() -> Iterator[None]:
    """A failure to exchange anything, in the words of `errors`."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise errors.Unavailable(f"{error.request.url.host} does not answer") from error
    except httpx.TimeoutException as error:
        raise errors.DeadlineExceeded("no answer in time") from error
    except httpx.TransportError as error:
        raise errors.Unavailable(f"{error.request.url.host}: {error}") from error


class HTTPService:
    """Calls to a service over HTTP."""

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None,
        certificates: Certificates,
        authority: str = "",
    ) -> None:
        url, socket = _place(address)
        if socket and transport is None:
            transport = httpx.AsyncHTTPTransport(uds=socket, limits=_LIMITS)
        verify = certificates.context() if certificates else _usual_authorities()
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, limits=_LIMITS, transport=transport, verify=verify
        )
        self._callers: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        # By what name the service must be known: the address may be one of several that the name stands for.
        self._extensions: dict[str, Any] = {}
        if authority:
            self._client.headers.setdefault("host", authority)
            self._extensions["sni_hostname"] = urlsplit(f"//{authority}").hostname

    def sample(self, request: SampleRequest, timeout: float | None) -> Awaitable[Sample]:
        return self._send(sample_call(request, timeout))

    def info(self) -> Awaitable[Info]:
        return self._send(info_call())

    async def close(self) -> None:
        """Close the connections; calls that are under way fail, for one that is still to connect would keep its own."""
        self._is_closed = True
        for caller in self._callers:
            caller.cancel()
        await self._client.aclose()

    async def _send(self, call: Call[T]) -> T:
        caller = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelling = caller.cancelling()
        self._callers.add(caller)
        try:
            with _failures():
                response = await self._client.send(self._message(call))
        except asyncio.CancelledError:
            if self._is_closed and caller.uncancel() <= cancelling:
                raise errors.Unavailable("the connection was closed") from None
            raise
        finally:
            self._callers.discard(caller)
        return call.read(response)

    def _message(self, call: Call[T]) -> httpx.Request:
        timeout = None if call.timeout is None else call.timeout + GRACE
        return self._client.build_request(
            call.method,
            call.target,
            content=call.content,
            headers={**call.headers, **trace_headers()},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout or CONNECT_TIMEOUT)),
            extensions=self._extensions,
        )
