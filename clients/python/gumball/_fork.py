"""gRPC's threads do not survive a fork: in a child of a process that used it, calls would hang.

Worse, gRPC's own handlers of forks may crash such a child, unless GRPC_ENABLE_FORK_SUPPORT=0 switches them off.
"""

import os

_used_in: int | None = None  # the process that used gRPC first


def grpc_is_used() -> None:
    """Remember that this process uses gRPC. Raises RuntimeError if one that this was forked from did."""
    global _used_in
    check()
    _used_in = os.getpid()


def check() -> None:
    """Raise RuntimeError where a process that this was forked from used gRPC."""
    if _used_in not in (None, os.getpid()):
        raise RuntimeError("gRPC was used before this process was forked: make the first call after the fork, or spawn")
