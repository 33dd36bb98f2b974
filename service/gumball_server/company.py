"""Whether a request that arrives alone should wait for others, by how many came while the last one waited."""

import asyncio
from collections.abc import Callable

WAIT_SECONDS = 0.001  # the clock of the event loop has no finer ticks
MOST_WAITS = 5  # in a row
ENOUGH = 12  # requests that come while one waits, so that waiting pays
# As many requests are drawn alone before one waits to see: ever more while it does not pay.
FEWEST_ALONE, MOST_ALONE, FACTOR = 8, 4096, 8


class Company:
    """Makes requests wait for each other while there are many.

    gRPC's own server brings one call a turn of the event loop, and wakes several threads for each. A call that waits
    for a millisecond is a loss where it stays alone. Where many come meanwhile, they are read, drawn and answered
    together, and so are their wake-ups: at the limit of a core, that is more calls a second, each answered sooner.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end  # called when those that wait are to be drawn
        self._pays = False
        self._alone = 0  # requests since the last wait
        self._trial = FEWEST_ALONE  # of them, until the next
        self._came = 0  # while this one lasts
        self._came_before = 1  # while the one before lasted
        self._waits = 0  # in a row, so far

    def pays(self) -> bool:
        """Whether the next request should wait."""
        self._alone += 1
        return self._pays or self._alone >= self._trial

    def wait(self) -> None:
        """A request waits from now on."""
        self._came += 1
        if not self._waits:
            self._again()

    def _again(self) -> None:
        self._waits += 1
        asyncio.get_running_loop().call_later(WAIT_SECONDS, self._look)

    def _look(self) -> None:
        if self._came < ENOUGH and self._waits < MOST_WAITS:
            self._again()
            return
        enough = self._came >= ENOUGH
        # What is answered together comes again together, so a first wait finds fewer than the next ones will.
        self._pays = enough or self._came > self._came_before
        self._came_before = self._came if self._pays else 1
        if enough:
            self._trial = FEWEST_ALONE
        elif not self._pays:
            self._trial = min(FACTOR * self._trial, MOST_ALONE)
        self._came = self._waits = self._alone = 0
        self._end()
