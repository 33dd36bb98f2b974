"""Speed of the service beside its floor and its rivals, in one run: requests a second, latency, CPU time a request.

python tests/bench/service.py                                                  everything, some twenty minutes
python tests/bench/service.py --servers gumball,echo --k 10 --connections 64 --forms json --modes hard --seconds 2

gumball is the service; echo its floor, the same body sent back by the same servers (uvicorn, grpc.aio); naive a typed
FastAPI route and a grpc.aio method that call PyTorch's gumbel_softmax; mosec a server that batches, with PyTorch. Each
has one core (all its processes), and h2load the other. Servers take turns, `--repeats` times, and the best of each
figure counts, for what else the machine does only ever adds. CPU time a request is what noise spares most. A request
that fails ends the benchmark.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from cases import CONTENT_TYPE, Case, Form, Mode
from contestants import CONTESTANTS, Contestant, Running
from load import LoadError, Outcome, Target, send

CATEGORIES = (10, 1_000, 32_000)
CONNECTIONS = (1, 16, 64)
# Requests of the run that measures the rate, a connection, and at most those of a measured run.
TRIAL_REQUESTS = 10
MOST_REQUESTS = 200_000


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


class Bench:
    """One case on one running server."""

    def __init__(self, server: Running, case: Case, connections: int, seconds: float, folder: Path, core: int) -> None:
        self._server, self._case, self._connections, self._core = server, case, connections, core
        self._answer_bytes = len(server.first_answer(case))
        body = folder / str(case).replace(" ", "-")
        body.write_bytes(case.body)
        url = f"http://{server.address(case.form)}{server.contestant.path(case)}"
        headers = (f"content-type: {CONTENT_TYPE[case.form]}", *(["te: trailers"] if case.form is Form.GRPC else []))
        self._target = Target(url, headers, body, http2=case.form is Form.GRPC)
        trial = self._send(TRIAL_REQUESTS * connections)
        rounds = min(seconds * trial.requests / trial.seconds, MOST_REQUESTS) / connections
        self._requests = max(1, round(rounds)) * connections

    def run(self) -> Figures:
        cpu = self._server.cpu_seconds()
        outcome = self._send(self._requests)
        cpu = self._server.cpu_seconds() - cpu
        p50, p99 = np.percentile(outcome.latencies_us, (50, 99))
        return Figures(outcome.requests / outcome.seconds, 1e6 * cpu / outcome.requests, p50, p99)

    def _send(self, requests: int) -> Outcome:
        """Send, and check what the status of HTTP does not tell: a failure of gRPC comes without a message."""
        before = self._server.answered(self._case.form)
        outcome = send(self._target, requests, self._connections, self._core)
        after = self._server.answered(self._case.form)
        if before is not None and after is not None and after - before != requests:
            raise LoadError(f"of {requests} requests the server counted {after - before}")
        if (
            self._case.form is Form.GRPC
            and before is None
            and outcome.body_bytes != requests * (5 + self._answer_bytes)
        ):
            raise LoadError(f"{requests} answers have {outcome.body_bytes} bytes, not {5 + self._answer_bytes} each")
        return outcome


@contextlib.contextmanager
def running(contestants: Iterable[Contestant], core: int) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Running(each, core)) for each in contestants]


def compare(benches: dict[str, Bench], repeats: int) -> dict[str, Figures]:
    """The best figures of each, all of them in turn."""
    runs = [{name: bench.run() for name, bench in benches.items()} for _ in range(repeats)]
    return {name: best([run[name] for run in runs]) for name in benches}


def comma_separated(convert: type) -> object:
    return lambda text: tuple(convert(each) for each in text.split(","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=comma_separated(str), default=[each.name for each in CONTESTANTS])
    parser.add_argument("--forms", type=comma_separated(Form), default=tuple(Form))
    parser.add_argument("--modes", type=comma_separated(Mode), default=tuple(Mode))
    parser.add_argument("--k", type=comma_separated(int), default=CATEGORIES, help="categories of the row")
    parser.add_argument("--connections", type=comma_separated(int), default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    server_core, load_core = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    contestants = [each for each in CONTESTANTS if each.name in options.servers]
    with tempfile.TemporaryDirectory(prefix="gumball-bench-") as folder, running(contestants, server_core) as servers:
        for form, categories, mode, connections in product(
            options.forms, options.k, options.modes, options.connections
        ):
            case = Case(form, categories, mode)
            benches = {
                server.contestant.name: Bench(server, case, connections, options.seconds, Path(folder), load_core)
                for server in servers
                if form in server.contestant.forms
            }
            print(f"{case}, {connections} connections")
            for name, figures in compare(benches, options.repeats).items():
                print(f"  {name:8} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
