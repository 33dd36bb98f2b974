"""That `make gpu` will run where there is a GPU, and what it does where there is none."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
# Not imported: this process may run Triton's interpreter, and it looks for that when it is.
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton")

HERE = Path(__file__).parent


def output_of(script: str) -> str:
    return subprocess.run([sys.executable, HERE / script], capture_output=True, text=True, check=True).stdout


def test_it_runs_to_its_end_with_what_a_gpu_machine_has():
    """On a fake of torch.cuda, in small: bits are compared, and every figure that has a target is in the table."""
    output = output_of("rehearsal.py")
    assert "20 rows against the CPU kernels: 0 requests differ" in output
    assert "every parameter against the NumPy contract: 0 requests differ" in output
    for figure in ("copy on the device", "exponential trick", "hard bfloat16", "gumbel_softmax", "a lone row, hard"):
        assert figure in output
    assert "below 60%" in output  # which the interpreter cannot but be
    assert "above 60.0 us" in output
    assert "targets were missed" in output.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_says_that_it_was_skipped():
    """Where there is no GPU."""
    assert output_of("run.py") == "skipped: no CUDA device\n"
