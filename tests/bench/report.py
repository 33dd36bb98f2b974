"""The figures as the tables of README.md, and the machine that they are of."""

import platform
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from cases import Case, Mode
from figures import Figures
from mixed import SMALL, Latencies

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
PACKAGES = ("numpy", "uvicorn", "grpcio", "fastapi", "torch", "mosec")
CPU_FLAGS = ("avx2", "fma", "avx512f")

T = TypeVar("T")
Results = dict[tuple[Case, int], dict[str, Figures]]


def machine() -> str:
    """In one sentence."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    flags = set(re.findall(r"\w+", (re.search(r"flags\s*: (.*)", cpu) or [""])[0]))
    features = " ".join(flag for flag in CPU_FLAGS if flag in flags)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = len(re.findall(r"^processor", cpu, re.MULTILINE))
    return (
        f"Measured on {cores} cores of {model[1] if model else platform.machine()} ({features}),\n"
        f"Python {platform.python_version()}, {packages}."
    )


def tables(results: Results, mixed: dict[str, Latencies]) -> Iterable[str]:
    if results:
        yield _throughput(results)
        yield _latency(results)
    if mixed:
        yield _mixed(mixed)


def write(text: str) -> None:
    """Put the text between the marks of README.md."""
    before, rest = README.read_text().split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def _throughput(results: Results) -> str:
    most = max(connections for _, connections in results)
    title = f"requests a second (us of CPU a request), {most} connections"
    rows = {str(case): figures for (case, connections), figures in results.items() if connections == most}
    return _table(title, rows, lambda figures: f"{figures.rate:,.0f} ({figures.cpu_us:,.0f})")


def _latency(results: Results) -> str:
    """Of the smallest case, at every number of connections."""
    least = min(case.categories for case, _ in results)
    modes = {case.mode for case, _ in results}
    mode = Mode.HARD if Mode.HARD in modes else Mode.SOFT
    rows = {
        f"{case}, {connections} connections": figures
        for (case, connections), figures in results.items()
        if (case.categories, case.mode) == (least, mode)
    }
    return _table("p50 / p99, ms", rows, lambda each: f"{each.p50_us / 1000:.2f} / {each.p99_us / 1000:.2f}")


def _mixed(mixed: dict[str, Latencies]) -> str:
    title = "p99 of small requests alone / between bodies of 10 MB (worst), ms"
    return _table(
        title,
        {str(SMALL): mixed},
        lambda each: f"{each.alone_p99_us / 1000:.1f} / {each.p99_us / 1000:.1f} ({each.worst_us / 1000:.0f})",
    )


def _table(title: str, rows: dict[str, dict[str, T]], cell: Callable[[T], str]) -> str:
    """Servers across; empty where one does not take the form."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {title} | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for label, row in rows.items():
        lines.append(f"| {label} | {' | '.join(cell(row[name]) if name in row else '' for name in names)} |")
    return "\n".join(lines)
