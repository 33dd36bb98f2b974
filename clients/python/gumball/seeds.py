"""Seeds for requests that bring none."""

import os

AT_ONCE = 512  # the system takes longer to draw one than a short request to be written or read

_store: list[int] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_store.clear)  # else two processes would hand out the same


def draw_seed() -> int:
    """A seed of 64 random bits, from the system's source; may be called from any thread."""
    while True:
        try:
            return _store.pop()  # in one step, whatever other threads do
        except IndexError:
            _store.extend(memoryview(os.urandom(8 * AT_ONCE)).cast("Q"))
