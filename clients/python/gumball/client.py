"""`Client` and `AsyncClient`: samples from a service, by whatever way the address names."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, SupportsIndex, TypeVar
from urllib.parse import urlsplit

import numpy.typing as npt

from gumball._background import Background
from gumball._balancer import Balancer, Service
from gumball._codec import (
    DEFAULT_FIRST_DRAW,
    DEFAULT_TEMPERATURE,
    MAX_UINT32,
    Info,
    Mode,
    Output,
    Sample,
    SampleRequest,
    TauSchedule,
    integer,
    seconds_of,
)
from gumball._credentials import Certificates, with_token
from gumball._places import Place, resolve, unresolved
from gumball.errors import InvalidArgument
from gumball.seeds import draw_seed

if TYPE_CHECKING:
    import httpx

SampleT = TypeVar("SampleT", covariant=True)
InfoT = TypeVar("InfoT", covariant=True)
ClosedT = TypeVar("ClosedT", covariant=True)

_SCHEMES = {
    "http": "http",
    "https": "http",
    "http+unix": "http",
    "grpc": "grpc",
    "grpcs": "grpc",
    "grpc+unix": "grpc",
    "local": "local",
}


class Transport(Protocol[SampleT, InfoT, ClosedT]):
    """A way to a service: results for a `Client`, awaitables of them for an `AsyncClient`."""

    def sample(self, request: SampleRequest, timeout: float | None) -> SampleT: ...

    def info(self) -> InfoT: ...

    def close(self) -> ClosedT: ...


def _way(address: str) -> str:
    """The way to the service that an address names: "http", "grpc" or "local"."""
    with suppress(ValueError):
        parts = urlsplit(address)
        place = parts.path if parts.scheme.endswith("+unix") else parts.netloc
        _ = parts.port  # a ValueError where it is no number
        if parts.scheme in _SCHEMES and (place or parts.scheme == "local"):
            return _SCHEMES[parts.scheme]
    raise InvalidArgument(
        "must be local: or http://, https://, grpc://, grpcs://, http+unix:// or grpc+unix:// and a place, "
        f"is {address!r}",
        "address",
    )


def _each(address: str | Sequence[str]) -> list[str]:
    """Every address of a list, or of the places of one address that commas divide."""
    if not isinstance(address, str):
        return [one for several in address for one in _each(several)]
    scheme, slashes, places = address.partition("://")
    return [f"{scheme}://{place}" for place in places.split(",")] if slashes else [address]


def _remote(
    address: str | Sequence[str],
    headers: Mapping[str, str],
    certificates: Certificates,
    http_transport: "httpx.AsyncBaseTransport | None",
    retries: SupportsIndex,
    hedge: float | None,
) -> Callable[[], Balancer] | None:
    """What makes the way to the services at an address; None where that is this process itself."""
    addresses = _each(address)
    ways = [_way(each) for each in addresses]
    for each in addresses if certificates else ():
        if not each.lower().startswith(("https:", "grpcs:")):
            raise InvalidArgument(f"ca, cert and key need https:// or grpcs://, is {each!r}", "address")
    certificates.check()  # what is not there is said now, not at the first call
    if ways == ["local"]:
        return None
    if not ways or "local" in ways:
        raise InvalidArgument("must be places, or local: alone", "address")
    tries = integer("retries", retries, MAX_UINT32)
    hedge = seconds_of(hedge, "hedge")

    # A transport's libraries take longer to import than all the rest, so each is imported when it is asked for. Not at
    # the first call: that would hold up an event loop, and if it is in the background, a child that is forked meanwhile
    # would wait for its end for ever.
    if "grpc" in ways:
        from gumball._grpc import GRPCService
    if "http" in ways:
        from gumball._http import HTTPService

    def connect(place: Place) -> Service:
        if _way(place.address) == "grpc":
            return GRPCService(place.address, headers, certificates, place.name)
        return HTTPService(place.address, headers, http_transport, certificates, place.name)

    looked_up = resolve if http_transport is None else unresolved
    return partial(Balancer, addresses, connect, retries=tries, hedge=hedge, resolve=looked_up)


class _Calls(Generic[SampleT, InfoT, ClosedT]):
    """The calls of both clients, told once."""

    _transport: Transport[SampleT, InfoT, ClosedT]

    def sample(
        self,
        logits: npt.ArrayLike | None = None,
        *,
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
        timeout: float | None = None,
    ) -> SampleT:
        """Draw samples for every row of `logits` by the Gumbel-max trick and its relaxation.

        The same seed, row, draw, logits and parameters give the same bits, on any service and by any way to it.

        Args:
            logits: [rows, categories] unnormalised log-probabilities, or [categories] for one row; -inf masks a
                category. float32, float16 and bfloat16 travel as they are, anything else is rounded to float32.
            probs: weights instead of logits, not negative, of any sum; 0 masks.
            mode: "hard" draws the index, "soft" the relaxed sample softmax(score / tau), "straight_through" both.
            tau: temperature of the relaxation, 2^-40 to 2^40, a number or one a row, 1 if not given. Never changes the
                index.
            temperature: divides the logits before the noise, 0 (argmax) or 2^-40 to 2^40, a number or one a row.
            seed: one 64-bit seed; row r is row number `first_row` + r. One is drawn where none is given.
            seeds: one 64-bit seed a row instead; a row then gets the same bits alone and in any batch.
            draws: samples a row. A draw's bits do not depend on how many are drawn.
            first_draw: number of the first draw, a number or one a row; continues a stream.
            first_row: number of the first row; goes with `seed`.
            outputs: the arrays to answer instead of those of the mode, of "index", "one_hot", "soft", "log_soft",
                "score" (logit plus noise of the drawn category), "log_prob" (of it), "probs" and "entropy" (of the
                distribution sampled, after temperature and filters).
            tau_schedule: tau as a function of the training step, instead of `tau`; the tau used is in the sample.
            top_k: keep the k most likely categories, a number or one a row.
            top_p: of these, keep the most likely that together hold this share, above 0 to 1, a number or one a row.
            min_p: of these, drop those less likely than this share of the most likely, a number or one a row.
            logit_bias: added to the logits of some categories before anything else; None masks.
            without_replacement: draw k distinct categories, in order, with their scores.
            top_log_probs: also answer the n most likely categories, as `top_index` and `top_log_prob`.
            timeout: seconds until the call fails with DeadlineExceeded; None waits. "local:" does not queue, and waits.

        Raises:
            InvalidArgument: a parameter is refused, and `field` says which.
            GumballError: any other failure; see `gumball.errors`.
        """
        if seed is None and seeds is None:
            seed = draw_seed()  # before the call is first made, so that making it again changes nothing
        request = SampleRequest.of(  # by position: names would take longer than all else here
            logits,
            probs,
            mode,
            tau,
            temperature,
            seed,
            seeds,
            draws,
            first_draw,
            first_row,
            outputs,
            tau_schedule,
            top_k,
            top_p,
            min_p,
            logit_bias,
            without_replacement,
            top_log_probs,
        )
        return self._transport.sample(request, seconds_of(timeout))

    def info(self) -> InfoT:
        """Versions, devices and limits of the service."""
        return self._transport.info()

    def close(self) -> ClosedT:
        """Close the connections."""
        return self._transport.close()


class Client(_Calls[Sample, Info, None]):
    """Samples from a service; usable as a context manager, and from many threads.

    Calls that threads make at the same time travel together over gRPC, which makes them many times cheaper.

    Args:
        address: "http://host:8000" or https, "grpc://host:8001" or grpcs, a Unix socket as "http+unix:///path" or
            "grpc+unix:///path", or "local:" to sample in this process (``pip install 'gumball[server]'``). Several
            equal services, as "grpc://a:8001,b:8001" or a list of addresses, are called in turn.
        headers: sent with every call, as HTTP headers or gRPC metadata.
        token: shown to the service with every call; that of the environment (GUMBALL_TOKEN) if not given.
        ca: file (PEM) of the authorities to believe, instead of the usual ones; for https and grpcs.
        cert, key: files (PEM) of the client's own certificate and key, for a service that wants one.
        http_transport: an httpx transport to send HTTP calls by.
        retries: how often a call is made again that a service could not take, at another address where there is one.
            The waits between grow from 0.05 s, are drawn at random, and are never shorter than the service asks for;
            all of it happens within the call's `timeout`. Whatever is made again draws by the same seed: the bits do
            not depend on it.
        hedge: seconds after which a call that has no answer yet is also made at another address; the first answer
            counts, and the other call is cancelled.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        http_transport: "httpx.AsyncBaseTransport | None" = None,
        retries: SupportsIndex = 3,
        hedge: float | None = None,
    ) -> None:
        shown, certificates = with_token(headers or {}, token), Certificates(ca, cert, key)
        if make := _remote(address, shown, certificates, http_transport, retries, hedge):
            self._transport = _Blocking(make)
        else:
            from gumball._local import LocalTransport

            self._transport = LocalTransport()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls[Awaitable[Sample], Awaitable[Info], Awaitable[None]]):
    """The same with calls that are awaited, for asyncio; made inside a running event loop.

    Args: as those of `Client`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        http_transport: "httpx.AsyncBaseTransport | None" = None,
        retries: SupportsIndex = 3,
        hedge: float | None = None,
    ) -> None:
        shown, certificates = with_token(headers or {}, token), Certificates(ca, cert, key)
        if make := _remote(address, shown, certificates, http_transport, retries, hedge):
            self._transport = make()
        else:
            from gumball._local import AsyncLocalTransport

            self._transport = AsyncLocalTransport()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Blocking:
    """The calls of a balancer in the background, waited for."""

    def __init__(self, make: Callable[[], Balancer]) -> None:
        self._background = Background(make)

    def sample(self, request: SampleRequest, timeout: float | None) -> Sample:
        return self._background.run(lambda balancer: balancer.sample(request, timeout))

    def info(self) -> Info:
        return self._background.run(lambda balancer: balancer.info())

    def close(self) -> None:
        self._background.close()
