"""What time does to a connection: it must begin, live, and not grow too old."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

HANDSHAKE_SECONDS = 20.0
PING_SECONDS = 20.0  # until an answer


class Ages(NamedTuple):
    """Of connections, in seconds; 0 means never."""

    keep_alive: float  # between questions whether a quiet peer lives
    oldest: float  # then it is told to connect anew
    grace: float  # and has so long for what is open


class Mortal(Protocol):
    """What a connection can do about it."""

    is_set: bool  # it has begun

    def ask(self) -> None:
        """Send what a living peer answers."""

    def leave(self) -> None:
        """Have the peer go elsewhere, when what is open has ended."""

    def stop(self) -> None:
        """End what is open."""

    def abort(self) -> None:
        """Close at once."""


class Lifetime:
    """The timers of a connection, from its beginning to `cancel`."""

    def __init__(self, ages: Ages, connection: Mortal) -> None:
        self._ages = ages
        self._connection = connection
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self.is_quiet = self._is_asked = False  # since the last look; whether it lives
        self.after(HANDSHAKE_SECONDS, self._check_begun)
        if ages.keep_alive:
            self.after(ages.keep_alive, self._check_alive)
        if ages.oldest:
            self.after(ages.oldest, self._retire)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self._timers[do] = asyncio.get_running_loop().call_later(seconds, do)

    def cancel(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _check_begun(self) -> None:
        if not self._connection.is_set:
            self._connection.abort()

    def _check_alive(self) -> None:
        if self.is_quiet and self._is_asked:
            self._connection.abort()
            return
        self._is_asked = self.is_quiet
        if self._is_asked:
            self._connection.ask()
        self.is_quiet = True
        self.after(PING_SECONDS if self._is_asked else self._ages.keep_alive, self._check_alive)

    def _retire(self) -> None:
        self._connection.leave()
        if self._ages.grace:
            self.after(self._ages.grace, self._connection.stop)
