"""Requests to the tables that kernels work through, and tables cut for threads to share. Pure functions."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gumball_server.domain import (
    LOGITS_DTYPES,
    PER_DRAW,
    PER_DRAW_AND_CATEGORY,
    Array,
    Output,
    Plan,
    SampleRequest,
    Source,
)
from gumball_server.kernels.table import PACK_COMMON, PACK_OWN, ROW, LogitsType, RowStatus

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
_NOWHERE = [0] * len(_OUTPUTS)


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


def tables(requests: Sequence[SampleRequest], places: Sequence[Places], max_rows: int = TABLE_ROWS) -> Iterable[Array]:
    """The rows of a batch, in order, in tables of at most `max_rows`. What they point to must outlive them."""
    rows = sum([request.plan.rows for request in requests])
    if rows <= max_rows:
        return [_table(requests, places, rows)]
    return _several(requests, places, max_rows)


def _several(requests: Sequence[SampleRequest], places: Sequence[Places], max_rows: int) -> Iterator[Array]:
    parts: list[SampleRequest] = []
    places_of_parts: list[Places] = []
    rows = 0
    for request, addresses in zip(requests, places, strict=True):
        for part, addresses_of_part in _parts(request, addresses, max_rows):
            if rows + part.plan.rows > max_rows:
                yield _table(parts, places_of_parts, rows)
                parts, places_of_parts, rows = [], [], 0
            parts.append(part)
            places_of_parts.append(addresses_of_part)
            rows += part.plan.rows
    yield _table(parts, places_of_parts, rows)


def _parts(request: SampleRequest, places: Places, max_rows: int) -> Iterator[tuple[SampleRequest, Places]]:
    """A request as requests for at most `max_rows` of its rows each, and their places."""
    logits, seed, plan = request
    if plan.rows <= max_rows:
        yield request, places
        return
    for start in range(0, plan.rows, max_rows):
        rows = slice(start, min(start + max_rows, plan.rows))
        changed: dict[str, Any] = {name: value[rows] for name, value in _arrays_of(plan)}
        if rows.stop - start == 1:  # a request of one row has single parameters
            changed |= {name: value.item() for name, value in changed.items() if name in _PER_ROW}
        if plan.seeds is None:
            changed["first_row"] = plan.first_row + start
        further = places.copy()
        for output, shape in plan.layout.shapes.items():
            further[_POSITION[output]] += 4 * start * math.prod(shape[1:])
        yield SampleRequest(logits[rows], seed, replace(plan, rows=rows.stop - start, **changed)), further


def _arrays_of(plan: Plan) -> Iterator[tuple[str, Array]]:
    """What a plan has one a row."""
    for name in ("seeds", *_PER_ROW):
        if isinstance(value := getattr(plan, name), np.ndarray):
            yield name, value


def _table(requests: Sequence[SampleRequest], places: Sequence[Places], rows: int) -> Array:
    firsts = np.frombuffer(bytearray(b"".join(map(_first_record, requests, places))), ROW)
    if rows == len(requests):  # one row each, as most are
        return firsts
    table = np.repeat(firsts, [request.plan.rows for request in requests])
    start = 0
    for request in requests:
        end = start + request.plan.rows
        _spread(table[start:end], request)
        start = end
    return table


def _first_record(request: SampleRequest, places: Places) -> bytes:
    """The record of row 0."""
    logits, seed, plan = request
    if plan.dtype == np.float16:
        logits = logits.view(np.uint16)
    if plan.seeds is not None:
        seed = int(plan.seeds[0])
    common: bytes = plan.memo.get("record") or plan.memo.setdefault("record", _common(plan))
    return PACK_OWN.pack(_address_of()(logits), seed, *places) + common


def table_of_like(requests: Sequence[SampleRequest], outputs: dict[Output, Array]) -> Array:
    """The rows of requests that share a plan of one row. `outputs` [requests, 1, ...] and what they point to must
    outlive them.
    """
    address_of, plan = _address_of(), requests[0].plan
    logits = [request.logits for request in requests]
    if plan.dtype == np.float16:
        logits = [each.view(np.uint16) for each in logits]
    table = np.frombuffer(bytearray(_first_record(requests[0], _NOWHERE) * len(requests)), ROW)
    table["logits"] = [address_of(each) for each in logits]
    if plan.seeds is None:
        table["seed"] = [request.seed for request in requests]
    number = np.arange(len(requests), dtype=np.uint64)
    for output, array in outputs.items():
        table[output.value] = address_of(array) + number * array.strides[0]
    return table


def _common(plan: Plan) -> bytes:
    """What the records of row 0 of all requests with a plan have in common. The plan owns the arrays it points to."""
    address_of, bias = _address_of(), plan.bias
    of_row = {name: getattr(plan, name) for name in _PER_ROW} | {name: array[0] for name, array in _arrays_of(plan)}
    return PACK_COMMON.pack(
        plan.categories,
        LOGITS_TYPES[plan.dtype],
        plan.source is _PROBS,
        _OK,
        0 if bias is None else bias.categories.size,
        0 if bias is None else address_of(bias.categories),
        0 if bias is None else address_of(bias.values),
        plan.first_row,
        of_row["first_draw"],
        plan.draws,
        of_row["temperature"],
        of_row["tau"],
        of_row["top_k"],
        of_row["top_p"],
        of_row["min_p"],
        plan.without_replacement or 1,
        plan.top_log_probs,
    )


def _spread(rows: Array, request: SampleRequest) -> None:
    """Turn copies of row 0 into the rows of a request."""
    plan = request.plan
    number = np.arange(plan.rows, dtype=np.uint64)
    rows["logits"] += number * request.logits.strides[0]
    for output, shape in plan.layout.shapes.items():
        rows[output.value] += number * (4 * math.prod(shape[1:]))
    if plan.seeds is None:
        rows["row"] += number.astype(np.uint32)
    else:
        rows["seed"] = plan.seeds  # every row stands alone, as row 0
    for name in _PER_ROW:
        rows[name] = getattr(plan, name)


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
