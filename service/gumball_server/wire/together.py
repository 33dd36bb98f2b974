"""Messages of `SampleStream`: requests that ask alike are taken together, as one request of a row for each.

A row with a seed of its own has the same bits alone and among others, so that changes nothing for who asked.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import Plan, SampleRequest, SampleResult
from gumball_server.wire.message import Frame, frame_of, planned

FEWEST = 4  # requests that are taken together: fewer gain nothing


class Together(NamedTuple):
    """Requests of a row each that ask alike but for their logits and seeds."""

    request: SampleRequest  # of all, one row each
    plan: Plan  # of each
    ids: npt.NDArray[np.uint64]  # [rows]
    end: int  # where the message goes on after them


def decode(body: bytes, at: int, most: Callable[[Plan], int]) -> Together | None:
    """The requests from a place of a message on, at most as many as `most` tells of such.

    None where the first is not of this kind, or has too few like it.
    """
    columns = _columns()
    start, end = columns.find_item(body, at)
    if (found := planned(body[start:end])) is None:
        return None
    plan, data_bytes = found
    if plan.rows != 1 or plan.seeds is not None or plan.first_row:
        return None
    room = min(most(plan), (len(body) - at) // data_bytes)
    ids, seeds = np.empty(room, np.uint64), np.empty(room, np.uint64)
    data = np.empty((room, data_bytes), np.uint8)
    rows, end = columns.read_alike(body, at, ids, seeds, data)
    if rows < FEWEST:
        return None
    request = SampleRequest(data[:rows].view(plan.dtype), None, replace(plan, rows=rows, seeds=seeds[:rows]))
    return Together(request, plan, ids[:rows], end)


class _Columns(NamedTuple):
    """What the responses of a plan have in common, for a kernel."""

    starts: bytes  # of the outputs' tensors, up to their data
    start_bytes: npt.NDArray[np.int64]  # [outputs]
    data_bytes: npt.NDArray[np.int64]  # [outputs]
    own_bytes: int  # of each response, at most, but for the fields


def encode(result: SampleResult, asked: Together) -> bytes:
    """The message of the responses to requests that were taken together."""
    columns, memo = _columns(), asked.plan.memo
    frame = frame_of(asked.plan)
    shared: _Columns = memo.get("columns") or memo.setdefault("columns", _shared(asked.plan, frame))
    timings = pb.Timings(queue_ns=result.queue_ns, compute_ns=result.compute_ns)
    fields = frame.fields + pb.SampleResponse(timings=timings).SerializeToString()
    data = np.array([columns.address_of(array) for array in result.outputs.values()], np.int64)
    message = np.empty(len(asked.ids) * (len(fields) + shared.own_bytes), np.uint8)
    outputs = shared.starts, shared.start_bytes, data, shared.data_bytes
    size = columns.write_alike(asked.ids, result.request.plan.seeds, fields, *outputs, message)
    return message[:size].tobytes()


def _shared(plan: Plan, frame: Frame) -> _Columns:
    starts = b"".join(frame.tensors)
    data_bytes = np.array([4 * math.prod(shape) for shape in plan.layout.shapes.values()], np.int64)
    own_bytes = _columns().MOST_OWN_BYTES + len(starts) + int(data_bytes.sum())
    return _Columns(starts, np.array([*map(len, frame.tensors)], np.int64), data_bytes, own_bytes)


@cache
def _columns() -> ModuleType:
    """Compiled on import, and so not imported before `open_worker` has said where to keep it."""
    from gumball_server.kernels import stream_columns

    return stream_columns
