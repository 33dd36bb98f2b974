"""Load by h2load, which takes far less of a core than any client in Python, and what came of it."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMIT_SECONDS = 120


class LoadError(Exception):
    """A request failed, or the load generator did."""


@dataclass(frozen=True)
class Target:
    """Where a body goes, over HTTP/1.1 or over HTTP/2 without TLS."""

    url: str
    headers: tuple[str, ...]
    body: Path
    http2: bool


@dataclass(frozen=True)
class Outcome:
    """Of requests that were all answered with 200."""

    requests: int
    seconds: float
    body_bytes: int
    latencies_us: np.ndarray  # [requests]


def send(target: Target, requests: int, connections: int, *flags: str) -> Outcome:
    """Send that many requests, each connection the next when it has its answer. Raises LoadError unless all succeed."""
    with tempfile.NamedTemporaryFile(prefix="gumball-bench-") as log:
        command = ["h2load", f"-n{requests}", f"-c{connections}", "-m1"]
        command += [f"--log-file={log.name}", f"--data={target.body}", *(f"-H{header}" for header in target.headers)]
        command += [*([] if target.http2 else ["--h1"]), *flags, target.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        if done.returncode:
            raise LoadError(done.stdout + done.stderr)
        return _outcome(done.stdout, np.loadtxt(log.name, np.int64, ndmin=2), requests)


def _outcome(report: str, log: np.ndarray, requests: int) -> Outcome:
    succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout", report)
    finished = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", report)
    data = re.search(r"\((\d+)\) data", report)
    if not (succeeded and finished and data and int(succeeded[1]) == len(log) == requests and (log[:, 1] == 200).all()):
        raise LoadError(f"of {requests} requests some failed:\n{report}")
    return Outcome(requests, requests / float(finished[1]), int(data[1]), log[:, 2])
