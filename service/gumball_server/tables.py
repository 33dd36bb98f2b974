"""Requests to the tables that kernels work through, and tables cut for threads to share. Pure functions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gumball_server.domain import (
    LOGITS_DTYPES,
    PER_DRAW,
    PER_DRAW_AND_CATEGORY,
    Array,
    Output,
    SampleRequest,
    Source,
)
from gumball_server.kernels.table import ROW, LogitsType, RowStatus

# A record is larger than a short row: a request of a million rows must not need a table of a million.
TABLE_ROWS = 1 << 16

LOGITS_TYPES = dict(zip(LOGITS_DTYPES, LogitsType, strict=True))
_PER_ROW = ("first_draw", "temperature", "tau", "top_k", "top_p", "min_p")


def tables(
    requests: Sequence[SampleRequest], outputs: Sequence[dict[Output, Array]], max_rows: int = TABLE_ROWS
) -> Iterator[Array]:
    """The rows of a batch, in order, in tables of at most `max_rows`. Their arrays must outlive each."""
    parts: list[tuple[SampleRequest, dict[Output, Array]]] = []
    rows = 0
    for request, arrays in zip(requests, outputs, strict=True):
        for part in _parts(request, arrays, max_rows):
            if rows + part[0].rows > max_rows:
                yield _table(parts)
                parts, rows = [], 0
            parts.append(part)
            rows += part[0].rows
    yield _table(parts)


def _parts(
    request: SampleRequest, outputs: dict[Output, Array], max_rows: int
) -> Iterator[tuple[SampleRequest, dict[Output, Array]]]:
    """A request as requests for at most `max_rows` of its rows each, and their places in its outputs."""
    if request.rows <= max_rows:
        yield request, outputs
        return
    for start in range(0, request.rows, max_rows):
        rows = slice(start, min(start + max_rows, request.rows))
        sliced: dict[str, Any] = {
            name: value[rows]
            for name in ("logits", "seeds", *_PER_ROW)
            if isinstance(value := getattr(request, name), np.ndarray)
        }
        if request.seeds is None:
            sliced["first_row"] = request.first_row + start
        yield (
            replace(request, rows=rows.stop - start, **sliced),
            {output: array[rows] for output, array in outputs.items()},
        )


def _table(parts: Sequence[tuple[SampleRequest, dict[Output, Array]]]) -> Array:
    firsts = np.array([_first_record(*part) for part in parts], ROW)
    if len(firsts) == sum(request.rows for request, _ in parts):  # one row each, as most are
        return firsts
    table = np.repeat(firsts, [request.rows for request, _ in parts])
    start = 0
    for request, outputs in parts:
        _spread(table[start : start + request.rows], request, outputs)
        start += request.rows
    return table


def _first_record(request: SampleRequest, outputs: dict[Output, Array]) -> tuple[Any, ...]:
    """The record of row 0, in the order of ROW. A tuple: on small requests, NumPy would cost more than the draw."""
    address = {output: _address(array) for output, array in outputs.items()}
    bias = request.bias
    return (
        _address(request.logits),
        request.categories,
        LOGITS_TYPES[request.logits.dtype],
        request.source is Source.PROBS,
        RowStatus.OK,
        0 if bias is None else bias.categories.size,
        0 if bias is None else _address(bias.categories),
        0 if bias is None else _address(bias.values),
        request.seed if request.seeds is None else request.seeds[0],
        request.first_row,
        *(_first(request.first_draw), request.draws),
        *(_first(request.temperature), _first(request.tau)),
        *(_first(request.top_k), _first(request.top_p), _first(request.min_p)),
        request.without_replacement or 1,
        request.top_log_probs,
        *(address.get(output, 0) for output in Output),
    )


def _first(value: Any) -> Any:
    """A parameter of row 0."""
    return value[0] if isinstance(value, np.ndarray) else value


def _spread(rows: Array, request: SampleRequest, outputs: dict[Output, Array]) -> None:
    """Turn copies of row 0 into the rows of a request."""
    number = np.arange(request.rows, dtype=np.uint64)
    rows["logits"] += number * request.logits.strides[0]
    for output, array in outputs.items():
        rows[output.value] += number * array.strides[0]
    if request.seeds is None:
        rows["row"] += number.astype(np.uint32)
    else:
        rows["seed"] = request.seeds  # every row stands alone, as row 0
    for name in _PER_ROW:
        rows[name] = getattr(request, name)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def cut_draws(table: Array, limit: int) -> tuple[Array, Array]:
    """Rows cut by their draws into pieces of about `limit` elements at most, and the row each piece is of."""
    limits = np.maximum(limit // table["categories"], 1)  # [rows] draws of a piece
    counts = -(-table["draws"] // limits)  # [rows] pieces of a row
    origin = np.repeat(np.arange(table.size), counts)
    pieces = table[origin]
    skipped = (np.arange(origin.size) - (np.cumsum(counts) - counts)[origin]) * limits[origin]
    pieces["first_draw"] += skipped.astype(np.uint32)
    pieces["draws"] = np.minimum(pieces["draws"] - skipped, limits[origin])
    for output in Output:
        addresses = pieces[output.value]
        if output in PER_DRAW or output in PER_DRAW_AND_CATEGORY:
            width = pieces["distinct" if output in PER_DRAW else "categories"]
            addresses[addresses != 0] += (4 * skipped * width).astype(np.uint64)[addresses != 0]
        else:
            addresses[skipped > 0] = 0  # once a row is enough
    return pieces, origin


def shares(table: Array, count: int) -> list[Array]:
    """The table in up to `count` slices of about equal work."""
    done = np.cumsum(table["categories"] * table["draws"])
    cuts = np.searchsorted(done, done[-1] * np.arange(1, count) // count, side="left") + 1
    return [share for share in np.split(table, cuts) if share.size]
