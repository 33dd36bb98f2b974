"""Draws together what several threads bring: a device draws one large batch sooner than many small ones."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from gumball_server.domain import SampleRequest
from gumball_server.worker import AnyWorker, DeviceLostError, Drawn

AT_ONCE = 2  # batches: while a device computes one, the other is copied


class _Errand(NamedTuple):
    """What a thread has brought, and will take away."""

    requests: Sequence[SampleRequest]
    drawn: "Future[list[Drawn]]"

    @property
    def elements(self) -> int:
        return sum([request.plan.layout.elements for request in self.requests])


class Gathering:
    """A worker for any number of threads: what they bring while it draws is drawn as one batch after that.

    Of at most `max_elements` (rows x draws x categories), unless a thread brings more by itself. A batch that fails is
    drawn anew in its parts, so that who brought the cause of it alone has the error.
    """

    def __init__(self, worker: AnyWorker, max_elements: int) -> None:
        self.device = worker.device
        self._worker = worker
        self._max_elements = max_elements
        self._waiting: deque[_Errand] = deque()
        self._lock = threading.Lock()
        self._free = threading.Semaphore(AT_ONCE)

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request; a request that cannot be drawn gets its error, alone."""
        errand = _Errand(requests, Future())
        with self._lock:
            self._waiting.append(errand)
        with self._free:  # every thread takes what has waited longest, so that all is taken when the last has passed
            if gathered := self._gather():
                self._draw(gathered)
        return errand.drawn.result()

    def _gather(self) -> list[_Errand]:
        gathered: list[_Errand] = []
        elements = 0
        with self._lock:
            while self._waiting:
                elements += self._waiting[0].elements
                if gathered and elements > self._max_elements:
                    break
                gathered.append(self._waiting.popleft())
        return gathered

    def _draw(self, errands: Sequence[_Errand]) -> None:
        try:
            drawn = self._worker.run([request for errand in errands for request in errand.requests])
        except Exception as error:
            if len(errands) > 1 and not isinstance(error, DeviceLostError):
                for errand in errands:
                    self._draw([errand])
            else:
                for errand in errands:
                    errand.drawn.set_exception(error)
            return
        results = iter(drawn)
        for errand in errands:
            errand.drawn.set_result([next(results) for _ in errand.requests])

    def close(self) -> None:
        self._worker.close()
