"""Messages `gumball.v1.SampleRequest` as they travel, field by field, right and wrong."""

import numpy as np
from gumball.v1 import sampling_pb2 as pb
from gumball_server.domain import SampleRequest
from hypothesis import strategies as st

DATA = np.arange(6, dtype="<f4").tobytes()


def varint(number: int, length: int = 1) -> bytes:
    """In `length` bytes at least."""
    groups = [number >> shift & 0x7F for shift in range(0, max(7 * length, number.bit_length()), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(number: int, value: int | bytes, length: int = 1) -> bytes:
    """A field as it travels: an integer as a varint, bytes behind their length, both in `length` bytes at least."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value), length) + value
    return varint(number << 3) + varint(value, length)


def tensor(shape: tuple[int, ...] = (2, 3), data: bytes = DATA, **more: int) -> bytes:
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape, data=data, **more).SerializeToString()


def content(request: SampleRequest) -> tuple[object, ...]:
    logits, seed, plan = request
    return (
        logits.dtype,
        logits.tobytes(),
        seed,
        [repr(getattr(plan, name)) for name in plan.__slots__ if name != "memo"],
    )


words = st.one_of(st.sampled_from([0, 1, 127, 128, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
