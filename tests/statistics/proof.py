"""What a proof reports: claims, each with its size and what was found; and the table of them."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a claim holds, and over what it was tried."""

    claim: str
    size: str
    found: str
    holds: bool
    seconds: float = 0.0

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        return f"{mark}  {self.claim:<67}  {self.size:<27}  {self.found:<48}  {self.seconds:6.1f} s"


Proof = Callable[[], Verdict]


def timed(proofs: Iterable[Proof]) -> Iterator[Verdict]:
    """The verdict of each proof, with the time it took."""
    for proof in proofs:
        start = time.monotonic()
        verdict = proof()
        yield replace(verdict, seconds=time.monotonic() - start)


def report(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Prints each verdict as it comes; returns all of them."""
    told = []
    for verdict in verdicts:
        print(verdict, flush=True)
        told.append(verdict)
    return told


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """0 if there are verdicts and all of them hold."""
    verdicts = list(verdicts)
    failed = sum(not verdict.holds for verdict in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} claims hold", file=sys.stderr if failed else sys.stdout)
    return 1 if failed or not verdicts else 0
