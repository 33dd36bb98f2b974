"""What a server tells of itself: `GET /info`, gRPC `GetInfo`."""

from dataclasses import dataclass, field
from importlib.metadata import version

from gumball import contract

from gumball_server.settings import Settings

VERSION = version("gumball")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that samples, and the CPU threads that share a large batch."""

    name: str
    threads: int


@dataclass(frozen=True, slots=True)
class LimitsInfo:
    """What is admitted; elements are rows x draws x categories."""

    max_request_bytes: int
    max_response_bytes: int
    max_categories: int
    max_queue_elements: int
    max_queue_requests: int


@dataclass(frozen=True, slots=True)
class Info:
    """Versions, devices and limits of a server."""

    limits: LimitsInfo
    devices: list[DeviceInfo] = field(default_factory=list)  # added when they can sample
    version: str = VERSION
    contracts: list[str] = field(default_factory=lambda: [contract.VERSION])


def info(settings: Settings) -> Info:
    """What a server with these settings tells of itself."""
    return Info(
        limits=LimitsInfo(
            max_request_bytes=settings.max_request_bytes,
            max_response_bytes=settings.max_response_bytes,
            max_categories=contract.MAX_CATEGORIES,
            max_queue_elements=settings.max_queue_elements,
            max_queue_requests=settings.max_queue_requests,
        ),
    )
