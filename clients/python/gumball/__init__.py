"""Gumball's client: categorical samples from logits, the same bits for the same seed, wherever they are drawn.

::

    with gumball.Client("http://localhost:8000") as client:
        sample = client.sample([[0.1, 2.0, -1.0]], mode="straight_through", tau=0.5, seed=42)
        sample.index, sample.soft
"""

from gumball._codec import Info, Sample, Shape, Timings
from gumball.client import AsyncClient, Client
from gumball.errors import (
    DeadlineExceeded,
    GumballError,
    Internal,
    InvalidAnswer,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from gumball.receipt import receipt_of, verify_receipt

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "GumballError",
    "Info",
    "Internal",
    "InvalidAnswer",
    "InvalidArgument",
    "MethodNotAllowed",
    "NotFound",
    "Overloaded",
    "Sample",
    "Shape",
    "Timings",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
    "__version__",
    "receipt_of",
    "verify_receipt",
]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # takes a quarter of the time of importing gumball, and few ask

    return version("gumball")
