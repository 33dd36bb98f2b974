"""Where the service stands between its start and its end."""

from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    """Only READY asks for traffic. STARTING refuses requests; the others still answer those that come."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"  # no GPU is left, and the CPU draws
    DRAINING = "draining"


class Lifecycle:
    """The state of the service, and who wants to know when it changes."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self._listeners: list[Callable[[State], None]] = []

    def listen(self, listener: Callable[[State], None]) -> None:
        """Call `listener` with the present state and every later one."""
        self._listeners.append(listener)
        listener(self.state)

    def enter(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        for listener in self._listeners:
            listener(state)
