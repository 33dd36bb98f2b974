"""Whether the peer of a connection lives: asked by a ping where it is quiet for long while somebody waits for it."""

import asyncio
from typing import Protocol

QUIET_SECONDS = 30.0  # without a byte
PING_SECONDS = 10.0  # for an answer
# After so many pings in a row that only brought answers, the next ones wait longer: gRPC's own servers end a connection
# that has more of them.
MOST_PINGS, LONG_QUIET_SECONDS = 2, 301.0


class Asked(Protocol):
    """What a connection can do about it."""

    def is_waiting(self) -> bool:
        """Whether the peer owes it something."""

    def ask(self) -> None:
        """Send a ping."""

    def abandon(self) -> None:
        """Give up a peer that does not answer."""


class Keepalive:
    """Watches a connection from `start` to `cancel`. `heard` is the time of the loop when the last bytes came."""

    def __init__(self, connection: Asked) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.heard = 0.0
        self._asked = self._answered = -1.0  # `heard` before the last ping, and with its answer
        self._pings = 0  # in a row

    def start(self) -> None:
        if self._timer is None:
            self.heard = self._loop.time()
            self._timer = self._loop.call_later(QUIET_SECONDS, self._check)

    def answered(self) -> None:
        """A ping is answered."""
        self._answered = self.heard

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        if self._asked == self.heard:
            self._connection.abandon()
            return
        if not self._connection.is_waiting():
            self.heard = self._loop.time()
        if self.heard != self._answered:
            self._pings = 0
        quiet = QUIET_SECONDS if self._pings < MOST_PINGS else LONG_QUIET_SECONDS
        seconds = min(self.heard + quiet - self._loop.time(), QUIET_SECONDS)
        if seconds <= 0:
            self._pings += 1
            self._asked, seconds = self.heard, PING_SECONDS
            self._connection.ask()
        self._timer = self._loop.call_later(seconds, self._check)
