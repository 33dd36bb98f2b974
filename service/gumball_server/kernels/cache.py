"""Where compiled kernels are kept between starts, so that a start takes a moment and never loads stale code."""

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

from gumball import contract

DEFAULT_DIRECTORY = Path("~/.cache/gumball")

_HERE = Path(__file__).parent


def _fingerprint() -> str:
    """Of everything the compiled code depends on, but for the machine, which Numba sees to itself.

    Numba looks at the modification time of one file, and not at what that file inlines from others.
    """
    digest = hashlib.sha256(f"{contract.VERSION} numba {version('numba')} llvmlite {version('llvmlite')}".encode())
    for source in sorted(_HERE.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def use_cache(directory: Path) -> None:
    """Keep compiled kernels under `directory`; to be called before `cpu` is imported.

    Kernels in a directory that cannot be written, as an image brings them, are used as they are. Raises OSError where
    there are none and none can be kept: Numba would silently compile anew at every start.
    """
    import numba  # takes most of a second, which `compiled_beside` does not wait for

    folder = _folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    numba.config.CACHE_DIR = str(folder if os.access(folder, os.W_OK) else _writable_copy(folder))


def _folder(directory: Path) -> Path:
    return directory.expanduser() / _fingerprint()


@contextmanager
def compiled_beside(directory: Path, module: str) -> Iterator[None]:
    """Compile a module in a process of its own while the block compiles others: one process compiles on one core.

    Does nothing where compiled kernels are kept already. Should the process fail, importing the module compiles it.
    """
    if any(_folder(directory).rglob("*.nbi")):
        yield
        return
    command = (
        "import importlib, sys; from pathlib import Path; from gumball_server.kernels.cache import use_cache;"
        "use_cache(Path(sys.argv[1])); importlib.import_module(sys.argv[2])"
    )
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-c", command, directory, module], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield
    process.wait()


@cache  # also for a process that is forked from this one
def _writable_copy(folder: Path) -> Path:
    """A copy for this process: Numba ignores a cache that it cannot write."""
    if not any(folder.iterdir()):
        raise PermissionError(f"{folder}: compiled kernels cannot be kept there")
    temporary = tempfile.mkdtemp(prefix="gumball-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(shutil.copytree(folder, Path(temporary) / folder.name))


def kept() -> bool:
    """Whether what is compiled now is kept: where `use_cache` said, else in a default place if it can be written."""
    import numba

    if Path(numba.config.CACHE_DIR).name != _fingerprint():
        try:
            use_cache(Path(numba.config.CACHE_DIR or DEFAULT_DIRECTORY))
        except OSError:
            return False
    return True
