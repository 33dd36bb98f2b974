"""One event loop in a thread, shared by the clients that block: asyncio does the work for them, too."""

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from gumball.errors import Unavailable

T = TypeVar("T")

CLOSED = "the client is closed"


class Closable(Protocol):
    """What a `Background` holds."""

    async def close(self) -> None: ...


ClosableT = TypeVar("ClosableT", bound=Closable)


class _Call(Generic[T]):
    """A call that a thread waits for, made on the event loop in the context of that thread."""

    __slots__ = ("_context", "_make", "_task", "ended")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._context = copy_context()
        self._task: asyncio.Task[T] | None = None
        self.ended = threading.Lock()  # the cheapest of all that one can wait for
        self.ended.acquire()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._make(), context=self._context)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # is looked at, whether or not anybody waits any more
        self.ended.release()

    def result(self) -> T:
        """What it returned; raises what it raised, or Unavailable where it was never made or not to its end."""
        if self._task is None or self._task.cancelled():
            raise Unavailable(CLOSED)
        return self._task.result()


class _Thread:
    """An event loop in a thread, from its first user to its last."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._calls: deque[_Call[Any]] = deque()  # not begun
        self._is_woken = self._has_ended = False
        self.users = 0
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._serve, name="gumball-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self.loop.run_forever()
            self._has_ended = True
            self.loop.run_until_complete(_end_all())
        finally:
            self.loop.close()
            self._is_woken = False
            while self._calls:  # that came too late
                self._calls.popleft().ended.release()

    def begin(self, call: _Call[Any]) -> None:
        """Have a call made, with whatever others there are: to wake the thread takes longer than to begin one.

        Raises Unavailable.
        """
        self._calls.append(call)  # first, for whoever empties these says before that it was woken
        if not self._is_woken:
            self._is_woken = True
            try:
                self.loop.call_soon_threadsafe(self._begin)
            except RuntimeError:  # another thread has closed it just now
                raise Unavailable(CLOSED) from None

    def _begin(self) -> None:
        self._is_woken = False
        while self._calls:
            call = self._calls.popleft()
            if self._has_ended:  # a task might not live to its end
                call.ended.release()
            else:
                call.begin()

    @property
    def ident(self) -> int | None:
        return self._thread.ident

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.get_ident() != self.ident:
            self._thread.join()


_lock = threading.Lock()
_shared: _Thread | None = None
_inherited: list[object] = []  # from before a fork: not to be used here, nor taken down, which its threads would do


def _join() -> _Thread:
    global _shared
    with _lock:
        if _shared is None:
            _shared = _Thread()
        _shared.users += 1
        return _shared


def _leave(thread: _Thread) -> None:
    global _shared
    with _lock:
        thread.users -= 1
        if thread.users:
            return
        _shared = None
    thread.stop()


def _forget() -> None:
    """A fork takes no threads along; the child starts its own."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Background(Generic[ClosableT]):
    """Something that lives on the shared event loop, from its first use in a process to its closing."""

    def __init__(self, make: Callable[[], ClosableT]) -> None:
        self._thread: _Thread
        self._made: ClosableT
        self._make = make
        self._opening = threading.RLock()  # a handler of signals may close what its thread just opens
        self._process: int | None = None
        self._closed = False

    def run(self, call: Callable[[ClosableT], Coroutine[Any, Any, T]]) -> T:
        """What a call on the event loop returns or raises; a caller that is interrupted cancels it."""
        if self._process != os.getpid():
            self._open()
        running, thread = _Call(partial(call, self._made)), self._thread
        thread.begin(running)
        try:
            running.ended.acquire()
        except BaseException:
            with suppress(RuntimeError):
                thread.loop.call_soon_threadsafe(running.cancel)
            raise
        return running.result()

    def close(self) -> None:
        """Close what was made; calls that are under way fail."""
        with self._opening:  # or a thread that opens it now would not see that it is closed
            self._closed = True
            is_open = self._process == os.getpid()
            self._process = None
        if is_open:
            self._finalizer()

    def _open(self) -> None:
        with self._opening:
            if self._closed:
                raise Unavailable(CLOSED)
            if self._process == os.getpid():
                return
            if self._process is not None:
                _inherited.append((self._thread, self._made))
            self._thread = _join()
            self._made = self._make()
            self._finalizer = weakref.finalize(self, _close, self._thread, self._made)
            self._process = os.getpid()


async def _end_all() -> None:
    """Cancel what the libraries left, and see it end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _close(thread: _Thread, made: Closable) -> None:
    """Close from whichever thread lost the last reference; that of the event loop must not wait for itself."""
    if thread.process != os.getpid():
        return
    closing = asyncio.run_coroutine_threadsafe(made.close(), thread.loop)
    if threading.get_ident() == thread.ident:
        closing.add_done_callback(lambda _: _leave(thread))
    else:
        closing.result()
        _leave(thread)
