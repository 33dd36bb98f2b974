"""The kernels pass what the NumPy contract passes, of filters, probabilities and draws without replacement."""

from collections.abc import Callable

import pytest
from parameters import ParameterKernels
from proof import Verdict
from samplers import Contract
from test_distribution import CASES

KERNELS = ParameterKernels()
BY_CONTRACT = [case for case, right, _ in CASES if isinstance(right, Contract)]


@pytest.mark.parametrize("case", BY_CONTRACT, ids=[f"{case.func.__name__}-{i}" for i, case in enumerate(BY_CONTRACT)])
def test_the_kernels_pass_where_the_contract_does(case: Callable[..., Verdict]):
    """The same test, of the same size and seed."""
    passed = case(KERNELS)
    assert passed.holds, passed
