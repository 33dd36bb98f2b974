"""What is measured of a server: one case at a number of connections."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import CONTENT_TYPE, Case, Form
from contestants import Running
from load import LoadError, Outcome, Target, send

# Requests are sent in trials, ever more, until one takes this long and tells the rate.
TRIAL_SECONDS = 0.1
MOST_REQUESTS = 200_000
FRAME_BYTES = 5  # of a gRPC message


@dataclass(frozen=True)
class Figures:
    """Of one run, or the best of several."""

    rate: float  # requests a second
    cpu_us: float  # of the server's processes, a request
    p50_us: float
    p99_us: float

    def __str__(self) -> str:
        return f"{self.rate:9.0f}/s {self.cpu_us:8.1f} us CPU, p50 {self.p50_us:8.0f} us, p99 {self.p99_us:8.0f} us"


def best(runs: list[Figures]) -> Figures:
    return Figures(
        max(run.rate for run in runs),
        min(run.cpu_us for run in runs),
        min(run.p50_us for run in runs),
        min(run.p99_us for run in runs),
    )


def target_of(server: Running, case: Case, folder: Path) -> Target:
    """Where the case goes, its body in a file of the folder."""
    body = folder / str(case).replace(" ", "-")
    body.write_bytes(case.body)
    url = f"http://{server.address(case.form)}{server.contestant.path(case)}"
    headers = (f"content-type: {CONTENT_TYPE[case.form]}", *(["te: trailers"] if case.form is Form.GRPC else []))
    return Target(url, headers, body, http2=case.form is Form.GRPC)


class Bench:
    """One case on one server at a number of connections, warm, and with as many requests as take the seconds."""

    def __init__(self, server: Running, case: Case, connections: int, seconds: float, folder: Path) -> None:
        self._server, self._case, self._connections = server, case, connections
        self._answer_bytes = len(server.first_answer(case))
        self._target = target_of(server, case, folder)
        self._requests = self._requests_in(seconds)

    def run(self) -> Figures:
        cpu = self._server.cpu_seconds()
        outcome = self._send(self._requests)
        cpu = self._server.cpu_seconds() - cpu
        p50, p99 = np.percentile(outcome.latencies_us, (50, 99))
        return Figures(outcome.requests / outcome.seconds, 1e6 * cpu / outcome.requests, p50, p99)

    def _requests_in(self, seconds: float) -> int:
        """A multiple of the connections."""
        trial = self._send(self._connections)
        while trial.seconds < TRIAL_SECONDS:
            trial = self._send(4 * trial.requests)
        requests = min(seconds * trial.requests / trial.seconds, MOST_REQUESTS)
        return max(1, round(requests / self._connections)) * self._connections

    def _send(self, requests: int) -> Outcome:
        """Send, and check what the status of HTTP does not tell: a call of gRPC that fails answers no message."""
        before = self._server.answered(self._case.form)
        outcome = send(self._target, requests, self._connections)
        after = self._server.answered(self._case.form)
        if before is not None and after is not None:
            if after - before != requests:
                raise LoadError(f"of {requests} requests the server counted {after - before}")
        elif self._case.form is Form.GRPC and outcome.body_bytes != requests * (FRAME_BYTES + self._answer_bytes):
            raise LoadError(f"{requests} answers have {outcome.body_bytes} bytes, of {self._answer_bytes} a message")
        return outcome
