"""Rows to try a kernel with, and what the NumPy contract says of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from gumball import contract
from gumball_server.kernels.table import ROW, LogitsType, RowStatus

OUTPUTS = ("index", "one_hot", "soft")
OF_DRAW = (*OUTPUTS, "log_soft", "score", "log_prob")
OF_ROW = ("probs", "entropy", "top_index", "top_log_prob")
ALL_OUTPUTS = (*OF_DRAW, *OF_ROW)
NEED_NOISE = {"soft", "log_soft", "score"}  # and so a temperature above 0
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
    are_probs: bool = False
    bias: Mapping[int, float | None] = field(default_factory=dict)
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    distinct: int = 1
    top: int = 0

    @property
    def logits_type(self) -> LogitsType:
        return next(kind for kind, dtype in _STORED.items() if self.logits.dtype == dtype)

    @cached_property
    def bias_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Categories uint32 and amounts float32, -inf where masked."""
        amounts = [-np.inf if amount is None else amount for amount in self.bias.values()]
        return np.array(list(self.bias), np.uint32), np.array(amounts, np.float32)

    @property
    def status(self) -> RowStatus:
        values = upcast(self.logits)
        if self.are_probs:
            if np.isnan(values).any():
                return RowStatus.NAN
            if (values < 0).any():
                return RowStatus.NEGATIVE
            if np.isposinf(values).any():
                return RowStatus.POSITIVE_INFINITY
            values = contract.log_weights(values)
        with np.errstate(over="ignore"):
            values = contract.biased(values, self.bias)
        if np.isnan(values).any():
            return RowStatus.NAN
        if np.isposinf(values).any():
            return RowStatus.POSITIVE_INFINITY
        if not np.isfinite(values).any():
            return RowStatus.NOTHING_FINITE
        if self.distinct > 1 and np.isfinite(self.distances).sum() < self.distinct:
            return RowStatus.TOO_FEW
        return RowStatus.OK

    @cached_property
    def distances(self) -> np.ndarray:
        """d of the contract, [1, categories]."""
        values = upcast(self.logits)
        if self.are_probs:
            values = contract.log_weights(values)
        with np.errstate(over="ignore"):
            values = contract.biased(values, self.bias)
        return contract.filtered(
            contract.log_odds(values, self.temperature), self.top_k, top_p=self.top_p, min_p=self.min_p
        )

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """The wanted outputs by the contract."""
        d = self.distances
        results = {}
        if set(self.wanted) & set(OF_DRAW):
            results |= self._draws(d)
        if "probs" in self.wanted:
            results["probs"] = contract.probs(d)
        if "entropy" in self.wanted:
            results["entropy"] = contract.entropy(d)
        if set(self.wanted) & {"top_index", "top_log_prob"}:
            results["top_index"], results["top_log_prob"] = contract.most_likely(d, self.top)
        return {name: results[name] for name in self.wanted}

    def _draws(self, d: np.ndarray) -> dict[str, np.ndarray]:
        """Whatever is wanted of every draw, [draws, ...]."""
        draw = np.arange(self.first_draw, self.first_draw + self.draws, dtype=np.uint64)
        d = np.broadcast_to(d, (self.draws, self.logits.size))
        s = contract.scores_of(d, self.seed, self.row, draw)
        if self.distinct == 1:
            index = s.argmax(axis=1).astype(np.int32)[:, None]
            results = {"index": index, "score": np.take_along_axis(s, index, axis=1)}
        else:
            results = dict(zip(("index", "score"), contract.best(s, self.distinct), strict=True))
        if "one_hot" in self.wanted:
            results["one_hot"] = (np.arange(d.shape[1]) == results["index"]).astype(np.float32)
        if "log_prob" in self.wanted:
            results["log_prob"] = np.take_along_axis(contract.log_probs(d), results["index"], axis=1)
        if "soft" in self.wanted:
            results["soft"] = contract.soft_of(s, self.tau)
        if "log_soft" in self.wanted:
            results["log_soft"] = contract.log_soft_of(s, self.tau)
        return results


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
    categories, drawn = row.logits.size, (row.draws, row.distinct)
    shapes = {
        **dict.fromkeys(("index", "score", "log_prob"), drawn),
        **dict.fromkeys(("one_hot", "soft", "log_soft"), (row.draws, categories)),
        "probs": (categories,),
        "entropy": (1,),
        "top_index": (row.top,),
        "top_log_prob": (row.top,),
    }
    return {
        name: _unwritten(shapes[name], np.int32 if name in ("index", "top_index") else np.float32)
        for name in row.wanted
    }


def _unwritten(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array filled with what no kernel writes, so that what was left out shows, and with some to spare behind it."""
    n = int(np.prod(shape))
    return np.full(n + SPARE, UNWRITTEN, dtype)[:n].reshape(shape)


def _spare_untouched(array: np.ndarray) -> bool:
    return bool((array.base[-SPARE:] == UNWRITTEN).all())


def _record(row: Row, outputs: dict[str, np.ndarray]) -> tuple[object, ...]:
    categories, amounts = row.bias_arrays
    return (
        *(row.logits.ctypes.data, row.seed),
        *(outputs[output].ctypes.data if output in outputs else 0 for output in _OUTPUT_FIELDS),
        *(row.logits.size, row.logits_type, row.are_probs, -1),
        *(categories.size, categories.ctypes.data, amounts.ctypes.data),
        *(row.row, row.first_draw, row.draws, row.temperature, row.tau),
        *(row.logits.size if row.top_k is None else min(row.top_k, row.logits.size), row.top_p, row.min_p),
        *(row.distinct, row.top),
    )


_OUTPUT_FIELDS = ROW.names[ROW.names.index("index") : ROW.names.index("categories")]


def _name(row: Row) -> str:
    filters = f"top_k {row.top_k} top_p {row.top_p!r} min_p {row.min_p}" + f", {len(row.bias)} biases" * bool(row.bias)
    return (
        f"{row.logits.size} {row.logits_type.name} {'probs' if row.are_probs else 'logits'}, seed {row.seed} "
        f"row {row.row} draw {row.first_draw}+{row.draws} of {row.distinct} T {row.temperature} tau {row.tau}, "
        f"{filters}, top {row.top}, wanted {'+'.join(row.wanted)}"
    )


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


def _probs(random: np.random.Generator, n: int) -> np.ndarray:
    kind = random.integers(4)
    if kind == 0:
        return random.exponential(size=n) * 2.0 ** random.uniform(-20, 20)
    if kind == 1:
        return random.integers(0, 3, n) * 1.0
    if kind == 2:
        return 2.0 ** random.uniform(-145, 127, n)
    return random.choice([0.0, -0.0, 1e-45, 1e-38, 2.0**-126, 1.1754942e-38, 1.0], n)


def _bias(random: np.random.Generator, n: int) -> dict[int, float | None]:
    categories = random.choice(n, min(n, int(random.integers(1, 20))), replace=False) if n < 5000 else {3, 100, n - 1}
    if random.random() < 0.05:
        categories = range(n if n < 1000 else 0)
    amounts = (None, 0.0, -0.0, 0.1, 5.0, -5.0, 1e-19, 30.0, 3e38, -3e38, 1e30)
    return {int(k): amounts[random.integers(len(amounts))] for k in categories}


_SHARES = (1e-300, 1e-9, 0.05, 0.125, 0.25, 0.5, 0.5, 0.9, 0.95, 0.999, 1 - 2.0**-53)
_LEAST = (1e-40, 1e-30, 1e-3, 0.05, 0.05, 0.3, 1.0)


def _count(random: np.random.Generator, n: int) -> int:
    """Up to n, few or many."""
    return int(random.choice([1, min(2, n), min(50, n), n, int(n ** random.random())]))


def random_parameters(random: np.random.Generator, longest: int) -> Row:
    """A random row with any of the other parameters, and any outputs."""
    plain = random_row(random, longest)
    n, changed = plain.logits.size, {}
    if random.random() < 0.3:
        values = _probs(random, n).astype(np.float32)
        if plain.logits_type is LogitsType.FLOAT16:
            values = np.minimum(values, np.float32(6e4))
        if random.random() < 0.1:
            values[random.integers(n)] = random.choice([np.nan, -np.nan, np.inf, -np.inf, -1.0, -1e-45])
        changed |= {"are_probs": True, "logits": stored(values, plain.logits_type)}
    if random.random() < 0.3:
        changed["bias"] = _bias(random, n)
    if random.random() < 0.4:
        changed["top_k"] = _count(random, n)
    if random.random() < 0.4:
        changed["top_p"] = float(random.choice(_SHARES))
    if random.random() < 0.4:
        changed["min_p"] = float(random.choice(_LEAST))
    if random.random() < 0.3:
        changed["distinct"] = _count(random, n)
    wanted = [name for name in ALL_OUTPUTS if random.random() < 0.3]
    if changed.get("distinct", 1) > 1:
        wanted = [name for name in wanted if name != "one_hot"]
    if plain.temperature == 0:
        wanted = [name for name in wanted if name not in NEED_NOISE]
    return replace(plain, **changed, top=_count(random, n), wanted=tuple(wanted) or ("index",))


def random_rows(
    random: np.random.Generator, categories: int, longest: int, make: Callable[..., Row] = random_row
) -> Iterator[Row]:
    """Random rows, until their draws have this many categories in all."""
    while categories > 0:
        row = make(random, longest)
        categories -= row.logits.size * row.draws
        yield row
