"""Requests to the tables that kernels work through, and tables cut for threads to share. Pure functions."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
from gumball_server.kernels.table import PACK, ROW, LogitsType, RowStatus

# A record is larger than a short row: a request of a million rows must not need a table of a million.
TABLE_ROWS = 1 << 16

LOGITS_TYPES = dict(zip(LOGITS_DTYPES, LogitsType, strict=True))
# An attribute of an Enum takes as long to look up as some of the values to be written.
_OUTPUTS = tuple(Output)
_POSITION = {output: i for i, output in enumerate(Output)}
_PROBS, _OK = Source.PROBS, int(RowStatus.OK)
_PER_ROW = ("first_draw", "temperature", "tau", "top_k", "top_p", "min_p")


# Where the outputs of a request go: an address for each Output, in their order, or 0.
Places = list[int]


@cache
def _address_of() -> Callable[[Array], int]:
    """Compiled on import, and so not imported before `open_worker` has said where to keep it."""
    from gumball_server.kernels.addresses import address_of

    return address_of


def places_of(outputs: dict[Output, Array]) -> Places:
    """Where the arrays of a request start. They must outlive what is drawn into them."""
    address_of, places = _address_of(), [0] * len(_OUTPUTS)
    for output, array in outputs.items():
        places[_POSITION[output]] = address_of(array)
    return places


def tables(requests: Sequence[SampleRequest], places: Sequence[Places], max_rows: int = TABLE_ROWS) -> Iterator[Array]:
    """The rows of a batch, in order, in tables of at most `max_rows`. What they point to must outlive each."""
    parts: list[tuple[SampleRequest, Places]] = []
    rows = 0
    for request, addresses in zip(requests, places, strict=True):
        for part in _parts(request, addresses, max_rows):
            if rows + part[0].rows > max_rows:
                yield _table(parts)
                parts, rows = [], 0
            parts.append(part)
            rows += part[0].rows
    yield _table(parts)


def _parts(request: SampleRequest, places: Places, max_rows: int) -> Iterator[tuple[SampleRequest, Places]]:
    """A request as requests for at most `max_rows` of its rows each, and their places."""
    if request.rows <= max_rows:
        yield request, places
        return
    for start in range(0, request.rows, max_rows):
        rows = slice(start, min(start + max_rows, request.rows))
        sliced: dict[str, Any] = {name: value[rows] for name, value in _arrays_of(request)}
        if rows.stop - start == 1:  # a request of one row has single parameters
            sliced |= {name: value.item() for name, value in sliced.items() if name in _PER_ROW}
        if request.seeds is None:
            sliced["first_row"] = request.first_row + start
        further = places.copy()
        for output in request.outputs:
            further[_POSITION[output]] += 4 * start * request.width_of(output)
        yield request._replace(rows=rows.stop - start, **sliced), further


def _arrays_of(request: SampleRequest) -> Iterator[tuple[str, Array]]:
    """What a request has one a row."""
    for name in ("logits", "seeds", *_PER_ROW):
        if isinstance(value := getattr(request, name), np.ndarray):
            yield name, value


def _table(parts: Sequence[tuple[SampleRequest, Places]]) -> Array:
    buffer = bytearray(PACK.size * len(parts))
    for i, part in enumerate(parts):
        PACK.pack_into(buffer, PACK.size * i, *_first_record(*part))
    firsts = np.frombuffer(buffer, ROW)
    if len(firsts) == sum([request.rows for request, _ in parts]):  # one row each, as most are
        return firsts
    table = np.repeat(firsts, [request.rows for request, _ in parts])
    start = 0
    for request, places in parts:
        _spread(table[start : start + request.rows], request, places)
        start += request.rows
    return table


def _first_record(request: SampleRequest, places: Places) -> tuple[Any, ...]:
    """The record of row 0, in the order of ROW."""
    if request.rows > 1:
        request = request._replace(**{name: value[0] for name, value in _arrays_of(request) if name != "logits"})
    address_of = _address_of()
    logits, bias, seeds = request.logits, request.bias, request.seeds
    return (
        address_of(logits if logits.dtype != np.float16 else logits.view(np.uint16)),
        request.categories,
        LOGITS_TYPES[logits.dtype],
        request.source is _PROBS,
        _OK,
        0 if bias is None else bias.categories.size,
        0 if bias is None else address_of(bias.categories),
        0 if bias is None else address_of(bias.values),
        request.seed if seeds is None else int(seeds.flat[0]),
        request.first_row,
        request.first_draw,
        request.draws,
        request.temperature,
        request.tau,
        request.top_k,
        request.top_p,
        request.min_p,
        request.without_replacement or 1,
        request.top_log_probs,
        *places,
    )


def _spread(rows: Array, request: SampleRequest, places: Places) -> None:
    """Turn copies of row 0 into the rows of a request."""
    number = np.arange(request.rows, dtype=np.uint64)
    rows["logits"] += number * request.logits.strides[0]
    for output in request.outputs:
        rows[output.value] += number * (4 * request.width_of(output))
    if request.seeds is None:
        rows["row"] += number.astype(np.uint32)
    else:
        rows["seed"] = request.seeds  # every row stands alone, as row 0
    for name in _PER_ROW:
        rows[name] = getattr(request, name)


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
