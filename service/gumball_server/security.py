"""Who may call, and how the service proves who it is: tokens and certificates, read again when their files change."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from gumball_server.domain import Reason, SamplingError
from gumball_server.settings import Settings, SettingsError

log = logging.getLogger("gumball.security")

# Files are looked at, since what replaces them (Kubernetes swaps links) gives no event that all systems have.
LOOK_SECONDS = 1.0

_PROTOCOLS = ("http/1.1", "h2")  # of which TLS tells clients


class FromFiles(ABC):
    """What is made of some files, and made anew when they change."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._listeners: list[Callable[[], None]] = []
        self._seen = self._signature()
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Make it of the files, or raise SettingsError and leave what there is."""

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` each time that it was made anew."""
        self._listeners.append(listener)

    def renew(self) -> None:
        """Load again if the files have changed. What cannot be loaded is logged, and what was there stays in use."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature  # from before they are read: what changes meanwhile is found next time
        try:
            self.load()
        except SettingsError as error:
            log.error("%s; what was read before stays in use", error)  # noqa: TRY400 - says all
        else:
            log.info("read anew: %s", ", ".join(self._paths))
            for listener in self._listeners:
                listener()

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: str) -> tuple[int, int, int] | None:
    """Another when the file is another; None for one that is not there."""
    with contextlib.suppress(OSError):
        status = Path(path).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


class Pem(NamedTuple):
    """Certificates as they are in the files."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class Certificates(FromFiles):
    """The service's certificate and key, and the authority of its clients' certificates, if they must have one."""

    def __init__(self, cert: str, key: str, client_ca: str) -> None:
        self.cert, self.key, self.client_ca = cert, key, client_ca
        super().__init__(*filter(None, (cert, key, client_ca)))
        self.http, self.http2 = (self._first_of(protocol) for protocol in _PROTOCOLS)

    def load(self) -> None:
        pem = Pem(
            _read("tls_cert", self.cert),
            _read("tls_key", self.key),
            _read("tls_client_ca", self.client_ca) if self.client_ca else None,
        )
        self._latest = {protocol: self._context(pem.client_ca, protocol) for protocol in _PROTOCOLS}
        self.pem = pem

    def _context(self, client_ca: bytes | None, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([protocol])
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key, _no_password)
        except OSError as error:
            raise SettingsError(f"tls_cert, tls_key: {error}") from None
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0  # who resumes a session is not verified again
            try:
                context.load_verify_locations(cadata=client_ca.decode("latin-1"))
            except (ssl.SSLError, ValueError) as error:
                raise SettingsError(f"tls_client_ca: {error}") from None
        return context

    def _first_of(self, protocol: str) -> ssl.SSLContext:
        """A context whose handshakes go on with that of the day: to one in use, authorities could only be added."""

        def use_latest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._latest[protocol]

        context = self._latest[protocol]
        context.sni_callback = use_latest
        return context


def _no_password() -> NoReturn:
    """Else OpenSSL would ask at the terminal."""
    raise SettingsError("tls_key: must not be encrypted")


class Tokens(FromFiles):
    """The tokens that callers may show: one a line of a file. Kept and compared as hashes, which are all as long."""

    def load(self) -> None:
        (path,) = self._paths
        lines = [line.strip() for line in _read("token_file", path).splitlines()]
        tokens = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith(b"#")}
        for number, token in tokens.items():
            if not re.fullmatch(rb"[!-~]+", token):
                raise SettingsError(f"token_file: line {number} of {path} is not one token of ASCII without spaces")
        if not tokens:
            raise SettingsError(f"token_file: {path} holds no token")
        self._digests = [hashlib.sha256(token).digest() for token in tokens.values()]

    def check(self, authorization: bytes) -> None:
        """Raise SamplingError unless this header's value shows one of the tokens."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise SamplingError(Reason.UNAUTHENTICATED, "a bearer token is needed", "Authorization")
        digest = hashlib.sha256(token.strip()).digest()
        # All are compared, so that the time tells neither which it was nor how much of one was right.
        if not sum([hmac.compare_digest(digest, each) for each in self._digests]):
            raise SamplingError(Reason.UNAUTHENTICATED, "the token is not one of this service's", "Authorization")


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: {path}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Security:
    """What the settings ask for; None where they do not."""

    certificates: Certificates | None = None
    tokens: Tokens | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Security":
        """Raises SettingsError that names the setting."""
        return cls(
            Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca) if settings.tls_cert else None,
            Tokens(settings.token_file) if settings.token_file else None,
        )

    async def watch(self) -> None:
        """Read anew what changes, for ever; at once what has changed since the start."""
        while True:
            for each in (self.certificates, self.tokens):
                if each is not None:
                    each.renew()
            await asyncio.sleep(LOOK_SECONDS)
