"""What can go wrong, one class a reason.

::

    GumballError                 detail, field, retry_after
    ├── InvalidArgument          INVALID_ARGUMENT  a parameter is refused; `field` names it (also a ValueError)
    ├── TooLarge                 TOO_LARGE         the request, or the answer it asks for, is over the limits
    ├── NotFound                 NOT_FOUND         no such path or method at this address
    ├── MethodNotAllowed         METHOD            the path is there, the HTTP method is not
    ├── UnsupportedMediaType     MEDIA_TYPE        the service does not speak this content type
    ├── Overloaded               OVERLOADED        the queue is full; try again after `retry_after` seconds
    ├── DeadlineExceeded         DEADLINE          not done within `timeout`
    ├── Unavailable              UNAVAILABLE       not reachable, starting, or draining
    ├── Unauthenticated          UNAUTHENTICATED   a token is missing or wrong
    ├── Internal                 INTERNAL          a defect of the service
    └── InvalidAnswer            INVALID_ANSWER    what came back is not an answer this client can trust

Every reason but the last is the service's own word. The class of a reason is looked up in `of_reason`, and only there.
"""

# ruff: noqa: N818 - read as `except gumball.Overloaded`, the names say already that they are errors

__all__ = [
    "DeadlineExceeded",
    "GumballError",
    "Internal",
    "InvalidAnswer",
    "InvalidArgument",
    "MethodNotAllowed",
    "NotFound",
    "Overloaded",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
]


class GumballError(Exception):
    """Any failure of a call.

    `reason` is the service's word for it, `detail` a sentence for people, `field` the request's field at fault (such as
    ``logits[3]``) or None, `retry_after` the seconds to wait before trying again, where the service said so.
    """

    reason: str

    def __init__(self, detail: str, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail, field, retry_after)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail if self.field is None else f"{self.field}: {self.detail}"


class InvalidArgument(GumballError, ValueError):
    """A parameter is refused; `field` names it."""

    reason = "INVALID_ARGUMENT"


class TooLarge(GumballError):
    """The request, or the answer it asks for, is over the service's limits; smaller requests may succeed."""

    reason = "TOO_LARGE"


class NotFound(GumballError):
    """No such path or method: the address is probably not that of Gumball, or that of another version."""

    reason = "NOT_FOUND"


class MethodNotAllowed(GumballError):
    """The path is there, the HTTP method is not."""

    reason = "METHOD"


class UnsupportedMediaType(GumballError):
    """The service does not speak the content type that was sent or asked for."""

    reason = "MEDIA_TYPE"


class Overloaded(GumballError):
    """The service's queue is full; `retry_after` says when to try again."""

    reason = "OVERLOADED"


class DeadlineExceeded(GumballError):
    """The call was not done within its `timeout`."""

    reason = "DEADLINE"


class Unavailable(GumballError):
    """The service cannot be reached, is starting, or is draining; the call may be repeated."""

    reason = "UNAVAILABLE"


class Unauthenticated(GumballError):
    """The service wants a token, and got none or the wrong one."""

    reason = "UNAUTHENTICATED"


class Internal(GumballError):
    """A defect of the service."""

    reason = "INTERNAL"


class InvalidAnswer(GumballError):
    """What came back is not an answer this client can trust: another contract, a wrong size, not Gumball at all."""

    reason = "INVALID_ANSWER"


_CLASS_OF_REASON = {
    kind.reason: kind
    for kind in (
        InvalidArgument,
        TooLarge,
        NotFound,
        MethodNotAllowed,
        UnsupportedMediaType,
        Overloaded,
        DeadlineExceeded,
        Unavailable,
        Unauthenticated,
        Internal,
        InvalidAnswer,
    )
}


def of_reason(
    reason: str | None,
    detail: str,
    field: str | None = None,
    retry_after: float | None = None,
    *,
    otherwise: str | None = None,
) -> GumballError:
    """The error of a reason; where that is absent or unknown, of `otherwise`, which the transport's status says."""
    kind = _CLASS_OF_REASON.get(reason or "") or _CLASS_OF_REASON.get(otherwise or "", InvalidAnswer)
    # What the service writes for people begins with the field; here the field stands by itself.
    return kind(detail.removeprefix(f"{field}: "), field or None, retry_after)
