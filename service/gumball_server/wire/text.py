"""Numbers as any language writes them in decimal: no underscores, no blanks, no names."""

import re

from gumball_server.domain import MAX_SEED

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


def integer(text: str) -> int:
    """A non-negative integer of 64 bits. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_SEED))):
        raise ValueError(f"must be an integer from 0 to {MAX_SEED}, is {_shown(text)}")
    return int(text)


def number(text: str) -> float:
    """A number, rounded to float64. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"must be a number, is {_shown(text)}")
    return float(text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
