"""The part of the proof of decimals that is quick, and that it can fail."""

import decimals
import numpy as np
import orjson
import pytest
from gumball_server.kernels.json_text import write_array


def test_floats_come_back_from_json_in_few_digits():
    """In every binade, and all about its ends; for all of them there is `make prove`."""
    verdict = decimals.claim(decimals.strata(), "strata")
    assert verdict.holds, verdict


@pytest.mark.parametrize("found", [(1, {}), (0, {0x3DCCCCCD: "0.100000001"})])
def test_a_lost_float_or_a_longer_decimal_fails_the_claim(found):
    """As 0.1 would be in nine digits."""
    assert not decimals.claim(found, "").holds


@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 1), (4, 1, 3), (2, 3, 4), (1, 1, 1), (5, 2, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_arrays_are_written_as_lists_of_lists(shape, dtype):
    """With all their brackets, and room for the longest numbers."""
    array = np.full(shape, {np.float32: -1.14874875e-30, np.int32: -(2**31)}[dtype], dtype)
    read = np.array(orjson.loads(bytes(write_array(array))))
    assert read.shape == shape
    assert (read.astype(dtype) == array).all()


def test_integers_are_written_as_they_are():
    """About every power of ten, and at the ends."""
    near = np.array([10**k + d for k in range(10) for d in (-1, 0, 1)] + [2**31 - 1])
    integers = np.concatenate((near, -near, [-(2**31)])).astype(np.int32)
    assert orjson.loads(bytes(write_array(integers))) == integers.tolist()


def test_what_is_not_finite_is_null():
    """As in every JSON answer."""
    values = np.array([np.nan, np.inf, -np.inf, 1.0, -0.0, 0.0], np.float32)
    assert bytes(write_array(values)) == b"[null,null,null,1.0,-0.0,0.0]"
