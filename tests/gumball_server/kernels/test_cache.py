"""Where compiled kernels are kept."""

import subprocess
import sys
from pathlib import Path

import pytest
from gumball_server.kernels.cache import use_cache

PLACE = """
import sys
from pathlib import Path
import numba
from gumball_server.kernels.cache import kept, use_cache
use_cache(Path(sys.argv[1]))
assert kept()
print(numba.config.CACHE_DIR)
"""


def test_kernels_are_kept_under_the_given_directory(tmp_path: Path):
    """In a folder of their own, named for what the code depends on; the same at every start."""
    folders = {
        subprocess.run([sys.executable, "-c", PLACE, tmp_path], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert [Path(folder.strip()) for folder in folders] == list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    """Numba would silently compile anew at every start."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        use_cache(file)


def test_a_server_listens_before_it_loads_its_kernels():
    """Compiling takes half a minute, in which probes are to be answered; what is imported before must not begin it."""
    check = "import sys, gumball_server.__main__; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
