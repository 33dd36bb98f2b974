"""Rows to try a kernel with, and what the NumPy contract says of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gumball import contract
from gumball_server.kernels.table import ROW, LogitsType, RowStatus

OUTPUTS = ("index", "one_hot", "soft")
UNWRITTEN, SPARE = -7, 64

_STORED = {LogitsType.FLOAT32: np.float32, LogitsType.FLOAT16: np.float16, LogitsType.BFLOAT16: np.uint16}


def stored(values: np.ndarray, logits_type: LogitsType) -> np.ndarray:
    """float32 values as they are stored; bfloat16 by cutting off the low half."""
    if logits_type is LogitsType.BFLOAT16:
        return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(_STORED[logits_type])


def upcast(logits: np.ndarray) -> np.ndarray:
    """Stored logits as float32."""
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return logits.astype(np.float32)


@dataclass(frozen=True)
class Row:
    """One row of a table: its logits as stored (bfloat16 as uint16), its keys and parameters."""

    logits: np.ndarray  # [categories]
    seed: int = 1
    row: int = 0
    first_draw: int = 0
    draws: int = 1
    temperature: float = 1.0
    tau: float = 1.0
    wanted: tuple[str, ...] = OUTPUTS

    @property
    def logits_type(self) -> LogitsType:
        return next(kind for kind, dtype in _STORED.items() if self.logits.dtype == dtype)

    @property
    def status(self) -> RowStatus:
        values = upcast(self.logits)
        if np.isnan(values).any():
            return RowStatus.NAN
        if np.isposinf(values).any():
            return RowStatus.POSITIVE_INFINITY
        return RowStatus.OK if np.isfinite(values).any() else RowStatus.NOTHING_FINITE

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """The wanted outputs by the contract, [draws] and [draws, categories]."""
        values = np.broadcast_to(upcast(self.logits), (self.draws, self.logits.size))
        draw = np.arange(self.first_draw, self.first_draw + self.draws, dtype=np.uint64)
        if "soft" in self.wanted:
            sample = contract.straight_through(values, self.seed, self.row, draw, self.temperature, self.tau)
            results = {"index": sample.index, "soft": sample.soft}
        else:
            results = {"index": contract.hard(values, self.seed, self.row, draw, self.temperature)}
        one_hot = np.zeros(values.shape, np.float32)
        one_hot[np.arange(self.draws), results["index"]] = 1
        results["one_hot"] = one_hot
        return {name: results[name] for name in self.wanted}


class Table:
    """A table of rows, with the arrays that it points to."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.outputs = [_outputs(row) for row in rows]
        self.records = np.array([_record(*each) for each in zip(rows, self.outputs, strict=True)], ROW)

    def mismatches(self) -> list[str]:
        """The rows that were not drawn as the contract says."""
        found = []
        for row, record, outputs in zip(self.rows, self.records, self.outputs, strict=True):
            if record["status"] != row.status:
                found.append(f"status {record['status']} of {_name(row)}")
            elif row.status is RowStatus.OK:
                found += [
                    f"{name} of {_name(row)}"
                    for name, values in row.expected.items()
                    if values.tobytes() != outputs[name].tobytes()
                ]
            found += [
                f"past the end of {name} of {_name(row)}" for name in row.wanted if not _spare_untouched(outputs[name])
            ]
        return found


def _outputs(row: Row) -> dict[str, np.ndarray]:
    dense = (row.draws, row.logits.size)
    return {
        name: _unwritten((row.draws,), np.int32) if name == "index" else _unwritten(dense, np.float32)
        for name in row.wanted
    }


def _unwritten(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array filled with what no kernel writes, so that what was left out shows, and with some to spare behind it."""
    n = int(np.prod(shape))
    return np.full(n + SPARE, UNWRITTEN, dtype)[:n].reshape(shape)


def _spare_untouched(array: np.ndarray) -> bool:
    return bool((array.base[-SPARE:] == UNWRITTEN).all())


def _record(row: Row, outputs: dict[str, np.ndarray]) -> tuple[object, ...]:
    keys = (row.seed, row.row, row.first_draw, row.draws, row.temperature, row.tau)
    addresses = (outputs[name].ctypes.data if name in outputs else 0 for name in OUTPUTS)
    return (row.logits.ctypes.data, row.logits.size, row.logits_type, -1, *keys, *addresses)


def _name(row: Row) -> str:
    parameters = f"seed {row.seed} row {row.row} draw {row.first_draw}+{row.draws} T {row.temperature} tau {row.tau}"
    return f"{row.logits.size} {row.logits_type.name} logits, {parameters}"


def _normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice([0.1, 2, 30]) * random.standard_normal(n)


def _ties(random: np.random.Generator, n: int) -> np.ndarray:
    return random.integers(-1, 2, n) * random.choice([0.0, 1.0, 40.0])


def _masked(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < random.choice([0.1, 0.9, 0.999]), -np.inf, 2 * random.standard_normal(n))


def _around_tiny(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice([-1, 1], n) * 2.0 ** random.uniform(-64, -56, n)


def _subnormal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice([-0.0, 0.0, 1e-45, -1e-45, 1e-39, -3e-39, 6e-8, -6e-8], n)


def _offset(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice([1e4, -1e4, 1e30, -1e30, 1e38, -1e38]) * (1 + 1e-6 * random.standard_normal(n))


def _wide(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice([-1, 1], n) * 2.0 ** random.uniform(-140, 127, n)


_KINDS = (_normal, _normal, _ties, _masked, _around_tiny, _subnormal, _offset, _wide)
_TEMPERATURES = (0.0, 2.0**-40, 0.01, 0.7, 1.0, 1.0, 5.0, 1000.0, 2.0**40)
_TAUS = (2.0**-40, 0.01, 0.5, 1.0, 1.0, 10.0, 2.0**40)


def _length(random: np.random.Generator, longest: int) -> int:
    """Any order of magnitude is as likely as any other; so are the neighbours of the lengths where kernels turn."""
    if random.random() < 0.3:
        return int(min(longest, max(1, random.choice([8, 16, 64, 128, 512, 1024, 2048]) + random.integers(-1, 2))))
    return int(longest ** random.random())


def random_row(random: np.random.Generator, longest: int) -> Row:
    """A row of any length, type, parameters and kind of logits; may be impossible to draw from."""
    n = _length(random, longest)
    logits_type = LogitsType(int(random.choice(list(LogitsType))))
    values = random.choice(_KINDS)(random, n).astype(np.float32)
    if logits_type is LogitsType.FLOAT16:
        values = np.where(np.isfinite(values), np.clip(values, -6e4, 6e4), values)
    if random.random() < 0.05:
        values[random.integers(n)] = random.choice([np.nan, -np.nan, np.inf])
    wanted = tuple(name for name in OUTPUTS if random.random() < 0.5)
    temperature = float(random.choice(_TEMPERATURES))
    draws = int(random.integers(1, 6)) if random.random() < 0.2 else 1
    return Row(
        logits=stored(values, logits_type),
        seed=int(random.integers(2**64, dtype=np.uint64)),
        row=int(random.choice([0, 5, 2**32 - 1])),
        first_draw=int(random.choice([0, 3, 2**32 - draws])),
        draws=draws,
        temperature=1.0 if "soft" in wanted and temperature == 0 else temperature,
        tau=float(random.choice(_TAUS)),
        wanted=wanted or ("index",),
    )


def random_rows(random: np.random.Generator, categories: int, longest: int) -> Iterator[Row]:
    """Random rows, until their draws have this many categories in all."""
    while categories > 0:
        row = random_row(random, longest)
        categories -= row.logits.size * row.draws
        yield row
