"""Calls that are made again, and in more than one place: round robin, retries and hedging over services.

All of it is safe because a call draws by a seed that was chosen before it was first made: whoever answers it, and however
often, the bits are the same.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gumball._codec import Info, Sample, SampleRequest
from gumball.errors import DeadlineExceeded, GumballError, Overloaded, Unavailable

T = TypeVar("T")

FIRST_BACKOFF = 0.05  # seconds; doubled from try to try
MAX_BACKOFF = 5.0
GRACE = 0.5  # seconds that a service has to say itself that the deadline passed


class Service(Protocol):
    """A way to one service."""

    def sample(self, request: SampleRequest, timeout: float | None) -> Awaitable[Sample]: ...

    def info(self) -> Awaitable[Info]: ...

    def close(self) -> Awaitable[None]: ...


@dataclass(slots=True)
class Place:
    """A service, and until when it is better left alone."""

    service: Service
    shunned_until: float = 0.0  # in the loop's time


class Balancer:
    """Calls to whichever of some equal services is next, made again where that helps."""

    def __init__(self, services: Sequence[Service], retries: int, hedge: float | None) -> None:
        self._places = [Place(service) for service in services]
        self._next = random.randrange(len(services))  # noqa: S311 - so that clients do not start all at the same one
        self._retries = retries
        self._hedge = hedge if len(services) > 1 else None
        self._closed = False

    def sample(self, request: SampleRequest, timeout: float | None) -> Coroutine[None, None, Sample]:
        """The sample of a request. Raises GumballError."""

        def call(service: Service, remaining: float | None) -> Awaitable[Sample]:
            return service.sample(request, remaining)

        if timeout is None:
            return self._call(call, None)
        return self._in_time(call, timeout)

    def info(self) -> Coroutine[None, None, Info]:
        """The information of one of the services."""
        return self._tries(lambda service, _: service.info(), None)

    async def close(self) -> None:
        """Close every service; calls that are under way fail."""
        self._closed = True
        for place in self._places:
            await place.service.close()

    async def _in_time(self, call: "Call[T]", timeout: float) -> T:  # noqa: ASYNC109 - told to the services, too
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(deadline + GRACE):
                return await self._call(call, deadline)
        except TimeoutError:
            raise DeadlineExceeded("no answer in time") from None

    def _call(self, call: "Call[T]", deadline: float | None) -> Coroutine[None, None, T]:
        return self._tries(call, deadline) if self._hedge is None else self._hedged(call, deadline, self._hedge)

    async def _hedged(self, call: "Call[T]", deadline: float | None, patience: float) -> T:
        """The first answer of two calls, the second of which is made when the first takes long."""
        calls = {asyncio.create_task(self._tries(call, deadline))}
        try:
            done, pending = await asyncio.wait(calls, timeout=patience)
            if not done:
                calls.add(asyncio.create_task(self._tries(call, deadline)))
                done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            if pending and isinstance(next(iter(done)).exception(), (Unavailable, Overloaded)):
                done, pending = await asyncio.wait(pending)  # the other may still get an answer
            return next(iter(done)).result()
        finally:
            await _end(calls)

    async def _tries(self, call: "Call[T]", deadline: float | None) -> T:
        """The answer of the first try that has one."""
        tries = 0
        while not self._closed:
            place = self._pick()
            try:
                return await call(place.service, None if deadline is None else deadline - _now())
            except (Unavailable, Overloaded) as error:
                tries += 1
                delay = self._delay(place, error, tries)
                if tries > self._retries or (deadline is not None and _now() + delay >= deadline):
                    raise
            await asyncio.sleep(delay)
        raise Unavailable("the client is closed")

    def _pick(self) -> Place:
        """The next place that is not shunned, or just the next."""
        places = self._places
        first = self._next
        self._next = (first + 1) % len(places)
        if len(places) > 1:
            now = _now()
            for n in range(first, first + len(places)):
                if (place := places[n % len(places)]).shunned_until <= now:
                    return place
        return places[first]

    def _delay(self, place: Place, error: GumballError, tries: int) -> float:
        """How long to wait before the next try: not at all where another place may do better at once."""
        backoff = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** (tries - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
        delay = max(backoff, error.retry_after or 0.0)
        now = _now()
        place.shunned_until = now + delay
        return 0.0 if any(other.shunned_until <= now for other in self._places) else delay


Call = Callable[[Service, float | None], Awaitable[T]]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and see it end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
