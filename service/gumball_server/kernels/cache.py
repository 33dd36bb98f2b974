"""Where compiled kernels are kept between starts, so that a start takes a moment and never loads stale code."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

import numba
from gumball import contract

DEFAULT_DIRECTORY = Path("~/.cache/gumball")

_HERE = Path(__file__).parent


def _fingerprint() -> str:
    """Of everything the compiled code depends on, but for the machine, which Numba sees to itself.

    Numba looks at the modification time of one file, and not at what that file inlines from others.
    """
    digest = hashlib.sha256(f"{contract.VERSION} numba {numba.__version__} llvmlite {version('llvmlite')}".encode())
    for source in sorted(_HERE.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def use_cache(directory: Path) -> None:
    """Keep compiled kernels under `directory`; to be called before `cpu` is imported.

    Raises OSError where the directory cannot be written: Numba would silently compile anew at every start.
    """
    folder = directory.expanduser() / _fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: compiled kernels cannot be kept there")
    numba.config.CACHE_DIR = str(folder)


def kept() -> bool:
    """Whether what is compiled now is kept: where `use_cache` said, else in a default place if it can be written."""
    if Path(numba.config.CACHE_DIR).name != _fingerprint():
        try:
            use_cache(Path(numba.config.CACHE_DIR or DEFAULT_DIRECTORY))
        except OSError:
            return False
    return True
