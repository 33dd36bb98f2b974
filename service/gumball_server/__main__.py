"""Composition root: settings to objects, then start, serve, drain. The only place for signals and process set-up."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop
from prometheus_client import disable_created_metrics

from gumball_server.batcher import Batcher, Limits
from gumball_server.devices import DeviceError, open_device
from gumball_server.exchange import Exchange
from gumball_server.frontends import Supervisor
from gumball_server.info import VERSION, DeviceInfo
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.listeners import listen, reserve_ports
from gumball_server.metrics import Metrics
from gumball_server.security import Security
from gumball_server.series import Memory
from gumball_server.settings import Settings, SettingsError, read_settings, unknown_variables
from gumball_server.worker import AnyWorker

if TYPE_CHECKING:
    from gumball_server.tracing import Tracing

log = logging.getLogger("gumball")

# How long a thread that parses or writes a large body may keep the GIL from the event loop.
SWITCH_SECONDS = 0.5e-3

# How long the collector of traces may take for the last of them.
FLUSH_SECONDS = 5.0

T = TypeVar("T")


class StartError(Exception):
    """The service cannot start where its settings want it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        security = Security.of(settings)
    except SettingsError as error:
        print(f"gumball serve: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(settings.log_level.upper())  # ours alone: Numba's debug messages are megabytes
    for name in unknown_variables(os.environ):
        log.warning("%s is no setting of this version, and is ignored", name)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        if settings.trace_endpoint:
            _tracing_type()  # what is missing is said before the kernels are loaded
        if settings.frontend_count > 1:
            return _supervise(settings, security)
        uvloop.run(serve(settings, security, Metrics(VERSION), partial(_log_ready, time.perf_counter())))
    except StartError as error:
        log.error("%s", error)  # noqa: TRY400 - says all; a traceback would hide it
        return 1
    return 0


def _log_ready(started: float, addresses: str) -> None:
    log.info("ready %s after %.1f s", addresses, time.perf_counter() - started)


def _supervise(settings: Settings, security: Security) -> int:
    """Serve with several front ends, all on the CPU."""
    settings = replace(settings, device="cpu")
    memory = Memory(settings.frontend_count)
    metrics = [Metrics(VERSION, memory, number) for number in range(settings.frontend_count)]
    try:
        ports, reserved = reserve_ports(settings)
    except OSError as error:
        raise StartError(f"cannot listen: {error}") from error
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))  # while it loads there is nothing to drain
    _opened(settings).close()
    _settle()

    def serve_one(number: int, ready: Callable[[str], None]) -> int:
        mine = ports if number == 0 else replace(ports, http_uds="", grpc_uds="")
        try:
            uvloop.run(serve(mine, security, metrics[number], ready))
        except StartError as error:
            log.error("front end %d: %s", number, error)  # noqa: TRY400
            return 1
        return 0

    with reserved:
        return Supervisor(settings.frontend_count, serve_one, lambda number: metrics[number].forget_process()).run()


async def serve(settings: Settings, security: Security, metrics: Metrics, ready: Callable[[str], None]) -> None:
    """Listen, load the kernels, tell that all is ready and where, serve, drain."""
    lifecycle = Lifecycle()
    batcher = Batcher(_limits(settings), metrics)
    tracing = _tracing_type()(settings) if settings.trace_endpoint else None
    exchange_of = tracing.exchange if tracing else Exchange
    with _stop_signals() as stop:
        try:
            listeners = await listen(settings, batcher, metrics, lifecycle, security, exchange_of)
        except OSError as error:
            raise StartError(f"cannot listen: {error}") from error
        watching = asyncio.ensure_future(security.watch())
        if worker := await _load(settings, stop):
            batcher.open(worker)
            listeners.info.devices.append(DeviceInfo(worker.device, settings.cpu_threads))
            _settle()
            lifecycle.enter(State.READY)
            ready(str(listeners))
            received = await stop.get()
            lifecycle.enter(State.DRAINING)
            if received == signal.SIGTERM:  # a person at a terminal does not wait; a load balancer has to notice
                await _sleep(settings.grace_seconds, stop)
        log.info("draining")
        await listeners.stop(settings.drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batcher.drained(), settings.drain_seconds)
        batcher.close()
        watching.cancel()
        if tracing:
            await asyncio.wait((_in_daemon(tracing.close),), timeout=FLUSH_SECONDS)
    log.info("stopped")


def _tracing_type() -> "type[Tracing]":
    """What traces, which is imported only where that is asked for."""
    try:
        from gumball_server.tracing import Tracing
    except ModuleNotFoundError as missing:
        raise StartError(f"trace_endpoint needs pip install 'gumball[tracing]': {missing}") from None
    return Tracing


def _settle() -> None:
    """What was loaded stays: no collection of garbage needs to walk it, and processes can go on sharing it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)


async def _load(settings: Settings, stop: asyncio.Queue[signal.Signals]) -> AnyWorker | None:
    """A worker, or None if a signal to stop comes first."""
    loading = _in_daemon(lambda: _opened(settings))
    stopping = asyncio.ensure_future(stop.get())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return loading.result() if loading.done() else None


def _opened(settings: Settings) -> AnyWorker:
    log.info("loading kernels from %s; compiling them, where it has none, takes half a minute", settings.cache_path)
    try:
        return open_device(settings.device, settings.cache_path, settings.cpu_threads)
    except DeviceError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"cannot keep kernels in {settings.cache_path}: {error}") from error


def _in_daemon(call: Callable[[], T]) -> asyncio.Future[T]:
    """The outcome of a call in a thread that the end of the process does not wait for, as it does for a pool's."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(set_outcome: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(lambda: None if outcome.done() else set_outcome(what))

    def run() -> None:
        try:
            tell(outcome.set_result, call())
        except Exception as error:
            tell(outcome.set_exception, error)

    threading.Thread(target=run, name="gumball-load", daemon=True).start()
    return outcome


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """The signals to stop that arrive in the block."""
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, received.put_nowait, each)
    try:
        yield received
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


async def _sleep(seconds: float, stop: asyncio.Queue[signal.Signals]) -> None:
    """Sleep, unless another signal says that it is enough."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.get(), seconds)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_response_bytes=settings.max_response_bytes,
        max_queue_elements=settings.max_queue_elements,
        max_queue_requests=settings.max_queue_requests,
        max_batch_elements=settings.max_batch_elements,
        linger_seconds=settings.linger_us / 1e6,
    )


if __name__ == "__main__":
    sys.exit(main())
