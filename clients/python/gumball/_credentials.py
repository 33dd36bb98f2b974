"""What a client shows to a service, and whom it believes: a token and certificates."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gumball.errors import InvalidArgument

if TYPE_CHECKING:
    import ssl

TOKEN_VARIABLE = "GUMBALL_TOKEN"  # noqa: S105 - where one is, not one


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authorities to believe instead of the usual ones, and a certificate of the client's own."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("must be given together", "cert, key")

    def __bool__(self) -> bool:
        return self.ca is not None or self.cert is not None

    def context(self) -> "ssl.SSLContext":
        """For TLS. Raises InvalidArgument."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise InvalidArgument(str(error), "ca, cert, key") from error
        return context

    def check(self) -> None:
        """Raise InvalidArgument for a file that is not there."""
        for name, path in (("ca", self.ca), ("key", self.key), ("cert", self.cert)):
            try:
                if path is not None:
                    Path(path).read_bytes()
            except OSError as error:
                raise InvalidArgument(str(error), name) from error


def with_token(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """The headers with that of a token: the given one, or the environment's; what they say themselves goes first."""
    token = os.environ.get(TOKEN_VARIABLE) if token is None else token
    if not token or "authorization" in map(str.lower, headers):
        return dict(headers)
    if not re.fullmatch("[!-~]+", token):
        raise InvalidArgument("must be ASCII without spaces", "token")
    return {**headers, "authorization": f"Bearer {token}"}
