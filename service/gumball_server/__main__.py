"""Composition root: settings to objects, then start, serve, drain. The only place for signals and process set-up."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop
from prometheus_client import disable_created_metrics

from gumball_server.batcher import Batcher, Limits
from gumball_server.company import Load
from gumball_server.devices import CudaDevices, DeviceError, Devices
from gumball_server.exchange import Exchange
from gumball_server.frontends import Part, Supervisor
from gumball_server.info import VERSION, DeviceInfo
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.listeners import listen, reserve_ports
from gumball_server.metrics import Metrics
from gumball_server.security import Security
from gumball_server.series import Memory
from gumball_server.settings import Settings, SettingsError, read_settings, unknown_variables
from gumball_server.worker import AnyWorker, DeviceLostError, DeviceWorker, open_worker
from gumball_server.worker_process import SPARE_BYTES, Channel, RemoteWorker, serve_worker

if TYPE_CHECKING:
    from gumball_server.tracing import Tracing

log = logging.getLogger("gumball")

# How long a thread that parses or writes a large body may keep the GIL from the event loop.
SWITCH_SECONDS = 0.5e-3

# How long the collector of traces may take for the last of them.
FLUSH_SECONDS = 5.0

T = TypeVar("T")
Ready = Callable[[str], None]  # is told where it listens


class StartError(Exception):
    """The service cannot start where its settings want it."""


@dataclass(frozen=True, slots=True)
class Workers:
    """What draws: the CPU, and devices that take the large batches if there are any."""

    cpu: AnyWorker
    devices: Sequence[DeviceWorker]


def main(arguments: Sequence[str] | None = None, devices: Devices | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    devices = devices or CudaDevices()
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
            return _supervise(settings, security, devices)
        load = partial(_load_here, settings, devices)
        uvloop.run(serve(settings, security, Metrics(VERSION), load, partial(_log_ready, time.perf_counter())))
    except StartError as error:
        log.error("%s", error)  # noqa: TRY400 - says all; a traceback would hide it
        return 1
    return 0


def _log_ready(started: float, addresses: str) -> None:
    log.info("ready %s after %.1f s", addresses, time.perf_counter() - started)


def _supervise(settings: Settings, security: Security, devices: Devices) -> int:
    """Serve with several front ends. Each draws on the CPU, and all on the workers of the devices that there are."""
    # What looks for GPUs may start CUDA, and processes could not use it that are forked after that.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
        names = process.submit(_names, settings, devices).result()
    numbers = range(settings.frontend_count)
    memory = Memory(len(numbers))
    metrics = [Metrics(VERSION, memory, number) for number in numbers]
    channels = [{name: Channel(_channel_bytes(settings)) for name in names} for _ in numbers]
    try:
        ports, reserved = reserve_ports(settings)
    except OSError as error:
        raise StartError(f"cannot listen: {error}") from error
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))  # while it loads there is nothing to drain
    _open_cpu(settings).close()
    _settle()

    def serve_frontend(number: int, ready: Ready) -> None:
        mine = ports if number == 0 else replace(ports, http_uds="", grpc_uds="")
        load = partial(_load, settings, names, lambda name, cpu: RemoteWorker(name, channels[number][name], cpu))
        with _told(f"front end {number}"):
            uvloop.run(serve(mine, security, metrics[number], load, ready))

    def serve_device(name: str, ready: Ready) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal everybody gets it; front ends have to drain
        with _told(f"the worker of {name}"):
            mine, open_device = [each[name] for each in channels], lambda: devices.open(name, _open_cpu(settings))
            serve_worker(open_device, mine, ready, settings.max_batch_elements)

    frontends = [
        Part(f"front end {number}", partial(serve_frontend, number), metrics[number].forget_process)
        for number in numbers
    ]
    workers = [Part(f"the worker of {name}", partial(serve_device, name)) for name in names]
    with reserved:
        return Supervisor(frontends, workers).run()


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """End the process, with the reason in its log, for want of what it needs."""
    try:
        yield
    except (StartError, DeviceLostError) as error:
        log.error("%s: %s", name, error)  # noqa: TRY400 - says all; a traceback would hide it
        sys.exit(1)


async def serve(
    settings: Settings, security: Security, metrics: Metrics, load: Callable[[], Workers], ready: Ready
) -> None:
    """Listen, load the kernels, tell that all is ready and where, serve, drain."""
    lifecycle = Lifecycle()
    batcher = Batcher(_limits(settings), metrics, Load(settings.cpu_threads).share)
    tracing = _tracing_type()(settings) if settings.trace_endpoint else None
    exchange_of = tracing.exchange if tracing else Exchange
    with _stop_signals() as stop:
        try:
            listeners = await listen(settings, batcher, metrics, lifecycle, security, exchange_of)
        except OSError as error:
            raise StartError(f"cannot listen: {error}") from error
        watching = asyncio.ensure_future(security.watch())

        def note_devices(there_are: bool) -> None:
            if lifecycle.state is State.STARTING and there_are:
                lifecycle.enter(State.READY)
                ready(str(listeners))
            elif lifecycle.state in (State.READY, State.DEGRADED):
                lifecycle.enter(State.READY if there_are else State.DEGRADED)

        if workers := await _in_time(load, stop):
            batcher.open(workers.cpu, note_devices)
            for worker in workers.devices or (workers.cpu,):
                listeners.info.devices.append(DeviceInfo(worker.device, settings.cpu_threads))
            _settle()
            _watch(workers.devices, batcher)
            if not workers.devices:
                note_devices(True)
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


def _watch(devices: Sequence[DeviceWorker], batcher: Batcher) -> None:
    """Have the batcher use devices while they can compute."""
    loop = asyncio.get_running_loop()

    def note(worker: DeviceWorker, can_compute: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(batcher.attach if can_compute else batcher.detach, worker)

    for worker in devices:
        worker.watch(partial(note, worker))


def _settle() -> None:
    """What was loaded stays: no collection of garbage needs to walk it, and processes can go on sharing it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)


async def _in_time(load: Callable[[], T], stop: asyncio.Queue[signal.Signals]) -> T | None:
    """What was loaded, or None if a signal to stop comes first."""
    loading = _in_daemon(load)
    stopping = asyncio.ensure_future(stop.get())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return loading.result() if loading.done() else None


def _load_here(settings: Settings, devices: Devices) -> Workers:
    """All that draws, in this process."""
    return _load(settings, _names(settings, devices), devices.open)


def _load(settings: Settings, names: Sequence[str], open_device: Callable[[str, AnyWorker], DeviceWorker]) -> Workers:
    cpu = _open_cpu(settings)
    return Workers(cpu, [open_device(name, cpu) for name in names])


def _open_cpu(settings: Settings) -> AnyWorker:
    log.info("loading kernels from %s; compiling them, where it has none, takes half a minute", settings.cache_path)
    try:
        return open_worker(settings.cache_path, settings.cpu_threads)
    except OSError as error:
        raise StartError(f"cannot keep kernels in {settings.cache_path}: {error}") from error


def _names(settings: Settings, devices: Devices) -> list[str]:
    try:
        return devices.names(settings.device)
    except DeviceError as error:
        raise StartError(str(error)) from error


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


def _channel_bytes(settings: Settings) -> int:
    """Room for a batch: of many requests, with four values for each of its elements, or of a single large one."""
    one = 2 * max(settings.max_request_bytes, settings.max_response_bytes)  # numbers grow when they are read from JSON
    return max(one, 16 * settings.max_batch_elements) + SPARE_BYTES


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
