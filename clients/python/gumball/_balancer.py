"""Calls that are made again, and in more than one place: round robin, retries and hedging over services.

All of it is safe because a call draws by a seed that was chosen before it was first made: whoever answers it, and
however often, the bits are the same.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeVar

from gumball._codec import Info, Sample, SampleRequest
from gumball._places import Place, Resolve, places_of, resolve
from gumball.errors import DeadlineExceeded, GumballError, InvalidArgument, Overloaded, Unavailable

T = TypeVar("T")

RETRIED = (Unavailable, Overloaded)
FIRST_BACKOFF = 0.05  # seconds; doubled from try to try
MAX_BACKOFF = 5.0
GRACE = 0.5  # seconds that a service has to say itself that the deadline passed
LOOK_AGAIN = 3.0  # seconds after which names are looked up again, so that new services soon have their share
LOOK_AFTER_FAILURE = 1.0  # when a service may have moved


class Service(Protocol):
    """A way to one service."""

    def sample(self, request: SampleRequest, timeout: float | None) -> Awaitable[Sample]: ...

    def info(self) -> Awaitable[Info]: ...

    def close(self) -> Awaitable[None]: ...


@dataclass(slots=True, eq=False)
class Peer:
    """A service, and until when it is better left alone."""

    service: Service
    shunned_until: float = 0.0  # by the monotonic clock


class Balancer:
    """Calls to whichever of some equal services is next, made again where that helps."""

    def __init__(
        self,
        addresses: Sequence[str],
        connect: Callable[[Place], Service],
        *,
        retries: int,
        hedge: float | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        self._addresses = addresses
        self._connect = connect
        self._retries = retries
        self._hedge = hedge
        self._resolve = resolve
        self._peers: dict[Place, Peer] = {}
        self._order: list[Peer] = []
        self._next = random.randrange(1 << 16)  # noqa: S311 - many clients that start together begin at different places
        self._look_at = 0.0  # by the monotonic clock
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # on which the services are called
        self._closed = False
        self._closing = asyncio.Event()  # wakes those who wait for their next try

    def sample(self, request: SampleRequest, timeout: float | None) -> Coroutine[Any, Any, Sample]:
        """The sample of a request. Raises GumballError."""
        return self._call(request, None) if timeout is None else self._in_time(request, timeout)

    def info(self) -> Coroutine[Any, Any, Info]:
        """The information of one of the services."""
        return self._tries(None, None, [])

    async def close(self) -> None:
        """Close every service; calls that are under way fail."""
        self._settle()
        self._closed = True
        self._closing.set()
        if self._looking is not None:
            await _end([self._looking])
        for peer in self._order:
            await peer.service.close()

    async def _in_time(self, request: SampleRequest, timeout: float) -> Sample:  # noqa: ASYNC109 - told to services, too
        deadline = monotonic() + timeout
        try:
            async with asyncio.timeout(timeout + GRACE):
                return await self._call(request, deadline)
        except TimeoutError:
            raise DeadlineExceeded("no answer in time") from None

    def _call(self, request: SampleRequest, deadline: float | None) -> Coroutine[Any, Any, Sample]:
        if self._hedge is None:
            return self._tries(request, deadline, [])
        return self._hedged(request, deadline, self._hedge)

    async def _hedged(self, request: SampleRequest, deadline: float | None, patience: float) -> Sample:
        """The first answer of two calls, the second of which is made elsewhere when the first takes long."""
        called: list[Peer] = []
        calls = [asyncio.create_task(self._tries(request, deadline, called))]
        try:
            await asyncio.wait(calls, timeout=patience)
            if not calls[0].done() and len(self._order) > 1:
                calls.append(asyncio.create_task(self._tries(request, deadline, called)))
            return await _first(calls)
        finally:
            await _end(calls)

    async def _tries(self, request: SampleRequest | None, deadline: float | None, called: list[Peer]) -> Any:
        """The sample of a request, or the information where that is None, of the first try that has an answer.

        Those who were `called` before for this are called again last.
        """
        if self._loop is not asyncio.get_running_loop():
            self._settle()
        if (self._looking is not None or monotonic() >= self._look_at) and not self._closed:
            await self._look()
        tries = 0
        while not self._closed:
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                raise DeadlineExceeded("no answer in time")
            peer = self._pick(called)
            called.append(peer)
            try:
                service = peer.service
                return await (service.info() if request is None else service.sample(request, remaining))
            except RETRIED as error:
                tries += 1
                delay = self._delay(peer, error, tries)
                if tries > self._retries or (deadline is not None and monotonic() + delay >= deadline):
                    raise
            await self._pause(delay)
        raise Unavailable("the client is closed")

    def _settle(self) -> None:
        """Begin anew on another event loop, if that of the connections has ended: on it nobody would hear of answers.

        Raises RuntimeError if it has not.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("the client is in use on another event loop")
            self._loop, self._looking, self._closing = loop, None, asyncio.Event()
            self._peers, self._order, self._look_at = {}, [], 0.0

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on when the client is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _pick(self, called: list[Peer]) -> Peer:
        """The next in turn, but neither one that is shunned nor one that was called before, while there are others."""
        order, first = self._order, self._next % len(self._order)
        self._next = first + 1
        if len(order) == 1:
            return order[0]
        now = monotonic()
        in_turn = order[first:] + order[:first]
        welcome = [peer for peer in in_turn if peer.shunned_until <= now] or in_turn
        return next((peer for peer in welcome if peer not in called), welcome[0])

    def _delay(self, peer: Peer, error: GumballError, tries: int) -> float:
        """How long to wait before the next try: not at all where another service may do better at once."""
        backoff = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** (tries - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
        delay = max(backoff, error.retry_after or 0.0)
        now = monotonic()
        peer.shunned_until = now + delay
        self._look_at = min(self._look_at, now + LOOK_AFTER_FAILURE)
        return 0.0 if any(other.shunned_until <= now for other in self._order) else delay

    async def _look(self) -> None:
        """Look names up, one caller for all; only where nothing is known yet is that waited for."""
        looking = self._looking = self._looking or asyncio.create_task(self._look_up())
        if not self._order:
            await asyncio.wait([looking])
            if not looking.cancelled():  # which only closing does
                looking.result()

    async def _look_up(self) -> None:
        try:
            peers = await self._found()
            gone = [peer for place, peer in self._peers.items() if place not in peers]
            self._peers, self._order = peers, list(peers.values())
            self._look_at = monotonic() + LOOK_AGAIN
            for peer in gone:
                await peer.service.close()  # what it has not answered is asked elsewhere
        finally:
            self._looking = None

    async def _found(self) -> dict[Place, Peer]:
        """The services that there are now. Raises InvalidArgument where they cannot be called as was asked for."""
        try:
            found = [place for address in self._addresses for place in await places_of(address, self._resolve)]
            return {place: self._peers.get(place) or Peer(self._connect(place)) for place in found}
        except (OSError, UnicodeError, InvalidArgument):
            if self._peers:
                return self._peers  # what is known may still be so
        # Where nothing is, the way there says what is wrong.
        return {place: Peer(self._connect(place)) for place in map(Place.of, self._addresses)}


async def _first(calls: Sequence[asyncio.Task[T]]) -> T:
    """The first answer, or an error that none of the calls can better."""
    pending = set(calls)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        good = [call for call in done if not isinstance(call.exception(), RETRIED)]
        if good or not pending:
            return (good or list(done))[0].result()


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and see it end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
