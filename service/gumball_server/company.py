"""Whether a request that arrives alone should wait for others: if the process is at its limit, and enough come."""

import asyncio
import time
from collections.abc import Callable

WINDOW_SECONDS = 0.1  # over which it is seen how busy the process is
# From the first share on, requests wait for each other; from the second down, no more.
BUSY, NOT_BUSY = 0.9, 0.5

WAIT_SECONDS = 0.001  # the clock of the event loop has no finer ticks
MOST_WAITS = 5  # in a row
ENOUGH = 12  # requests that come while one waits, so that waiting pays
# As many requests are drawn alone before one waits to see: ever more while it does not pay.
FEWEST_ALONE, MOST_ALONE, FACTOR = 8, 1024, 8


class Load:
    """How busy the process is that calls it, which may use so many cores."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._share = 0.0
        self._measured = self._now()

    def share(self) -> float:
        """Of the time of this thread, or of the cores, whichever was used more; of late."""
        if time.perf_counter() - self._measured[0] >= WINDOW_SECONDS:
            before, self._measured = self._measured, self._now()
            wall, process, thread = (now - then for now, then in zip(self._measured, before, strict=True))
            self._share = max(process / self._cores, thread) / wall
        return self._share

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.thread_time()


class Company:
    """Makes requests wait for each other while there are many, and `load` tells that there is nothing to spare.

    gRPC's own server brings one call a turn of the event loop, and wakes several threads for each. A call that waits
    for a millisecond is a loss where it stays alone. Where many come meanwhile, they are read, drawn and answered
    together, and so are their wake-ups: at the limit of a core, that is more calls a second, each answered sooner.
    Below that limit it would only be later.
    """

    def __init__(self, end: Callable[[], None], load: Callable[[], float]) -> None:
        self._end = end  # called when those that wait are to be drawn
        self._load = load
        self._pays = False
        self._alone = 0  # requests since the last wait
        self._trial = FEWEST_ALONE  # of them, until the next
        self._came = 0  # while this one lasts
        self._came_before = 1  # while the one before lasted
        self._waits = 0  # in a row, so far

    def pays(self) -> bool:
        """Whether the next request should wait."""
        self._alone += 1
        if self._alone >= self._trial and not self._pays:
            self._pays, self._alone = self._load() >= BUSY, 0
        return self._pays

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
        self._pays = (enough or self._came > self._came_before) and self._load() > NOT_BUSY
        self._came_before = self._came if self._pays else 1
        if enough:
            self._trial = FEWEST_ALONE
        elif not self._pays:
            self._trial = min(FACTOR * self._trial, MOST_ALONE)
        self._came = self._waits = self._alone = 0
        self._end()
