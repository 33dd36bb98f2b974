"""Samples drawn in this process, by the server's own sampler and with no server."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from gumball import contract, errors
from gumball._codec import Info, Sample, SampleRequest, Timings, info_of, own_arrays, sample_of


@contextmanager
def _server_packages() -> Iterator[None]:
    """What the light client lacks, in words that help."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"sampling in process needs the server's packages, and {error.name} is missing: "
            "pip install 'gumball[server]'",
            name=error.name,
        ) from error


with _server_packages():
    from gumball_server.domain import SamplingError, Source, TauSchedule
    from gumball_server.local import LocalSampler


class LocalTransport:
    """Calls that stay in the process. There is no queue, so there are no deadlines."""

    def __init__(self) -> None:
        with _server_packages():  # the kernels' own are imported only now
            self._sampler = LocalSampler()

    def sample(self, request: SampleRequest, timeout: float | None) -> Sample:
        asked = request.parameters
        try:
            result = self._sampler.sample(
                request.logits,
                Source(asked.source),
                mode=asked.mode,
                tau=asked.tau,
                temperature=asked.temperature,
                seed=request.seed,
                seeds=request.seeds,
                draws=asked.draws,
                first_draw=asked.first_draw,
                first_row=asked.first_row,
                outputs=asked.outputs,
                tau_schedule=None if asked.tau_schedule is None else TauSchedule(**asked.tau_schedule),
                top_k=asked.top_k,
                top_p=asked.top_p,
                min_p=asked.min_p,
                logit_bias=asked.logit_bias,
                without_replacement=asked.without_replacement,
                top_log_probs=asked.top_log_probs,
            )
        except SamplingError as error:
            raise errors.of_reason(error.reason, error.detail, error.field) from error
        return sample_of(
            request,
            contract_name=contract.VERSION,
            seed=result.request.seed,
            tau=result.request.plan.taus,
            timings=Timings(result.queue_ns, result.compute_ns),
            arrays=own_arrays(request, {str(name): array for name, array in result.outputs.items()}),
        )

    def info(self) -> Info:
        return info_of(asdict(self._sampler.info()))

    def close(self) -> None:
        self._sampler.close()


class AsyncLocalTransport:
    """The same in a thread, so that a large batch does not hold up the event loop."""

    def __init__(self) -> None:
        self._local = LocalTransport()

    def sample(self, request: SampleRequest, timeout: float | None) -> Awaitable[Sample]:
        return asyncio.to_thread(self._local.sample, request, timeout)

    async def info(self) -> Info:
        return self._local.info()

    async def close(self) -> None:
        self._local.close()
