"""Histograms, counters and gauges that a request can afford, and that several processes count together.

prometheus_client takes a lock and walks the buckets at every observation, and a request makes five: as much as drawing
it. Its files for several processes, moreover, are neither exact nor whole. These are numbers in memory that
the processes share: each adds to its own, whoever is asked sums up all, and nothing is lost with a process that dies.
They are told by prometheus_client.

Every process must make the same series in the same order, and so the values of labels are known from the start.
"""

import math
import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

REGION = 1 << 13  # numbers a process has

Labels = Mapping[str, Sequence[str]]  # names, and the values that each can have
Numbers: TypeAlias = "memoryview[float]"


class Memory:
    """Room for the numbers of several processes, to be made before they are."""

    def __init__(self, processes: int = 1) -> None:
        numbers = memoryview(mmap.mmap(-1, 8 * REGION * processes)).cast("d")
        self.regions = [numbers[i * REGION : (i + 1) * REGION] for i in range(processes)]


class Region:
    """Hands out the numbers of one process, and those of the others that they belong to."""

    def __init__(self, memory: Memory, process: int = 0) -> None:
        self._memory = memory
        self._process = process
        self._taken = 0

    def take(self, count: int) -> tuple[Numbers, list[Numbers]]:
        """The next numbers of this process, and of all."""
        taken = slice(self._taken, self._taken + count)
        if taken.stop > REGION:
            raise AssertionError(f"more than {REGION} numbers")
        self._taken = taken.stop
        of_all = [region[taken] for region in self._memory.regions]
        return of_all[self._process], of_all


class Series:
    """The observations of a histogram under one set of label values: how many up to each bound, and their sum."""

    __slots__ = ("_bounds", "_mine", "_of_all")

    def __init__(self, region: Region, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._mine, self._of_all = region.take(len(bounds) + 2)  # one count is of what is above every bound

    def observe(self, value: float) -> None:
        mine = self._mine
        mine[bisect_left(self._bounds, value)] += 1.0
        mine[-1] += value

    def sums(self) -> tuple[list[float], float]:
        """The counts, not cumulative, and the sum, of all processes."""
        *counts, total = [math.fsum(numbers) for numbers in zip(*self._of_all, strict=True)]
        return counts, total


class Histogram(Collector):
    """A histogram by labels, with buckets `value <= bound`."""

    def __init__(
        self, registry: CollectorRegistry, region: Region, name: str, text: str, bounds: Sequence[float], labels: Labels
    ) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._series = {values: Series(region, bounds) for values in product(*labels.values())}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values."""
        return self._series[values]

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=list(self._labels))
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]  # type: ignore[no-untyped-call]
        for values, series in self._series.items():
            counts, total = series.sums()
            if any(counts) or not values:
                buckets, seen = [], 0.0
                for bound, count in zip(bounds, counts, strict=True):
                    seen += count
                    buckets.append((bound, seen))
                family.add_metric(values, buckets, total)
        yield family


class _Numbers(Collector):
    """A number by labels."""

    def __init__(self, registry: CollectorRegistry, region: Region, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._numbers = {values: region.take(1) for values in product(*labels.values())}
        registry.register(self)

    def add(self, *values: str, count: float = 1) -> None:
        """Count under these label values."""
        mine, _ = self._numbers[values]
        mine[0] += count


class Counter(_Numbers):
    """A counter by labels. It tells of `known` label values from the start, so that a rate sees the first of each."""

    def __init__(
        self,
        registry: CollectorRegistry,
        region: Region,
        name: str,
        text: str,
        labels: Labels,
        known: Iterable[str] = (),
    ) -> None:
        super().__init__(registry, region, name, text, labels)
        self._known = {(value,) for value in known} | {()}

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=list(self._labels))
        for values, (_, of_all) in self._numbers.items():
            total = sum([number[0] for number in of_all])
            if total or values in self._known:
                family.add_metric(values, total)
        yield family


class Gauge(_Numbers):
    """A gauge by labels: of all processes, the sum or whatever `merge` makes of those that have set it."""

    def __init__(
        self,
        registry: CollectorRegistry,
        region: Region,
        name: str,
        text: str,
        labels: Labels,
        merge: Callable[[Sequence[float]], float] = sum,
    ) -> None:
        super().__init__(registry, region, name, text, labels)
        self._merge = merge
        for mine, _ in self._numbers.values():
            mine[0] = math.nan if labels else 0.0

    def set(self, *values: str, to: float) -> None:
        mine, _ = self._numbers[values]
        mine[0] = to

    def clear(self) -> None:
        """Set to 0 what was set, as it is for a process that is no more."""
        for mine, _ in self._numbers.values():
            mine[0] *= 0.0

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=list(self._labels))
        for values, (_, of_all) in self._numbers.items():
            if numbers := [number[0] for number in of_all if not math.isnan(number[0])]:
                family.add_metric(values, self._merge(numbers))
        yield family
