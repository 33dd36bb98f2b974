"""Histograms, counters and gauges that a request can afford, and that several processes count together.

prometheus_client takes a lock and walks the buckets at every observation, and a request makes five: as much as drawing
it. Its files for several processes, moreover, are neither exact nor whole. These are numbers in memory that
the processes share: each adds to its own, whoever is asked sums up all, and nothing is lost with a process that dies.
They are told by prometheus_client.

Every process must make the same series in the same order, and so the values of labels are known from the start.
"""

import math
import mmap
import struct
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

REGION = 1 << 13  # numbers a process has

Labels = Mapping[str, Sequence[str]]  # names, and the values that each can have
Numbers: TypeAlias = "memoryview[float]"
Bucket = tuple[str, float] | tuple[str, float, Exemplar]  # its bound, and how many are below


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


class Exemplars:
    """The latest exemplar of each bucket: a value that was observed, when, and in which trace.

    One process writes while others read, without a lock. What is read half old and half new does not fit its checksum,
    nor does what was never written.
    """

    _CONTENT, _CHECKSUM = struct.Struct("=dd16s"), struct.Struct("=L")
    _NUMBERS = 5  # of 8 bytes, that these take

    __slots__ = ("_mine", "_of_all")

    def __init__(self, region: Region, buckets: int) -> None:
        mine, of_all = region.take(self._NUMBERS * buckets)
        self._mine, self._of_all = mine.cast("B"), [each.cast("B") for each in of_all]

    def write(self, bucket: int, value: float, trace_id: bytes) -> None:
        content = self._CONTENT.pack(time.time(), value, trace_id)
        start = 8 * self._NUMBERS * bucket
        written = content + self._CHECKSUM.pack(zlib.crc32(content))
        self._mine[start : start + len(written)] = written

    def latest(self, bucket: int) -> Exemplar | None:
        """That of a bucket, of all processes."""
        read = [found for each in self._of_all if (found := self._read(each, bucket))]
        if not read:
            return None
        timestamp, value, trace_id = max(read)
        return Exemplar({"trace_id": trace_id.hex()}, value, timestamp)

    def _read(self, written: memoryview, bucket: int) -> tuple[float, float, bytes] | None:
        start = 8 * self._NUMBERS * bucket
        copy = bytes(written[start : start + 8 * self._NUMBERS])
        content, (checksum,) = copy[: self._CONTENT.size], self._CHECKSUM.unpack_from(copy, self._CONTENT.size)
        return self._CONTENT.unpack(content) if zlib.crc32(content) == checksum else None


class Series:
    """The observations of a histogram under one set of label values: how many up to each bound, and their sum."""

    __slots__ = ("_bounds", "_exemplars", "_mine", "_of_all")

    def __init__(self, region: Region, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._mine, self._of_all = region.take(len(bounds) + 2)  # one count is of what is above every bound
        self._exemplars = Exemplars(region, len(bounds) + 1)

    def observe(self, value: float, times: float = 1.0) -> None:
        mine = self._mine
        mine[bisect_left(self._bounds, value)] += times
        mine[-1] += value * times

    def observe_each(self, values: Iterable[float]) -> None:
        bounds, mine = self._bounds, self._mine
        for value in values:
            mine[bisect_left(bounds, value)] += 1.0
            mine[-1] += value

    def exemplify(self, value: float, trace_id: bytes) -> None:
        """Remember in which trace a value was observed."""
        self._exemplars.write(bisect_left(self._bounds, value), value, trace_id)

    def exemplar(self, bucket: int) -> Exemplar | None:
        return self._exemplars.latest(bucket)

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
                buckets: list[Bucket] = []
                seen = 0.0
                for number, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
                    seen += count
                    exemplar = series.exemplar(number) if count else None
                    buckets.append((bound, seen, exemplar) if exemplar else (bound, seen))
                family.add_metric(values, buckets, total)
        yield family


class Number:
    """A number under one set of label values."""

    __slots__ = ("_mine", "of_all")

    def __init__(self, region: Region) -> None:
        self._mine, self.of_all = region.take(1)

    def add(self, count: float = 1.0) -> None:
        self._mine[0] += count

    def set(self, value: float) -> None:
        self._mine[0] = value

    def clear(self) -> None:
        """Set to 0 what was set, which is not NaN."""
        self._mine[0] *= 0.0


class _Numbers(Collector):
    """Numbers by labels."""

    def __init__(self, registry: CollectorRegistry, region: Region, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._numbers = {values: Number(region) for values in product(*labels.values())}
        registry.register(self)

    def labels(self, *values: str) -> Number:
        """The number of these label values."""
        return self._numbers[values]


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
        for values, number in self._numbers.items():
            total = sum([mine[0] for mine in number.of_all])
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
        for number in self._numbers.values():
            number.set(math.nan if labels else 0.0)

    def clear(self) -> None:
        """Set to 0 what was set, as it is for a process that is no more."""
        for number in self._numbers.values():
            number.clear()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=list(self._labels))
        for values, number in self._numbers.items():
            if of_all := [mine[0] for mine in number.of_all if not math.isnan(mine[0])]:
                family.add_metric(values, self._merge(of_all))
        yield family
