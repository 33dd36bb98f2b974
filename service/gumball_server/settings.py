"""Every setting: a flag of `gumball serve` and an environment variable GUMBALL_<NAME>, checked at start."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "GUMBALL_"
# No setting may be named PORT or SERVICE_...: beside a Service named gumball, Kubernetes sets GUMBALL_PORT=tcp://...
MEBIBYTE = 1 << 20

_GPU = r"cuda:(\d|1[0-5])"  # as many as there are labels for in metrics.py


class SettingsError(ValueError):
    """A setting has a value that it cannot have; the message names it."""


def _setting(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server, read once."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every interface")
    http_port: int = _setting(8000, "HTTP port; 0 for any free one", 0, 65535)
    grpc_port: int = _setting(8001, "gRPC port; 0 for any free one", 0, 65535)
    admin_port: int = _setting(-1, "port for metrics, health and info alone; 0: any free one, -1: none", -1, 65535)
    http_uds: str = _setting("", "also serve HTTP on this Unix socket")
    grpc_uds: str = _setting("", "also serve gRPC on this Unix socket")
    grpc_engine: str = _setting("native", "what carries gRPC: native, which is our own, or aio, which is grpcio's")
    device: str = _setting(
        "auto", "where to sample: cpu, cuda for every GPU, cuda:0,cuda:2 for these, auto for GPUs if any"
    )
    frontends: int = _setting(1, "processes that share the ports; 0 for one a core", 0, 256)
    threads: int = _setting(0, "CPU threads of each that share a large batch; 0 for one a core of its share", 0, 1024)
    max_request_bytes: int = _setting(64 * MEBIBYTE, "largest request body", 1, 1 << 31)
    max_response_bytes: int = _setting(64 * MEBIBYTE, "largest answer a request may ask for", 1, 1 << 31)
    max_queue_elements: int = _setting(1 << 28, "rows x draws x categories admitted at once", 1, 1 << 40)
    max_queue_requests: int = _setting(4096, "requests admitted at once", 1, 1 << 20)
    max_batch_elements: int = _setting(1 << 22, "rows x draws x categories of a batch", 1, 1 << 40)
    linger_us: int = _setting(0, "how long an idle worker waits for company for a request", 0, 1_000_000)
    grace_seconds: float = _setting(0.0, "after SIGTERM, how long to keep accepting while not ready", 0, 3600)
    drain_seconds: float = _setting(30.0, "then, how long to wait for what was accepted", 0, 3600)
    idle_seconds: float = _setting(75.0, "how long an HTTP connection may be idle until it is closed", 1, 86400)
    grpc_keepalive_seconds: float = _setting(
        60.0, "how often an idle gRPC connection is asked whether it lives; 0: never", 0, 86400
    )
    grpc_max_connection_age_seconds: float = _setting(
        0.0, "after which gRPC clients are to connect anew, perhaps elsewhere; 0: never", 0, 1e6
    )
    grpc_max_connection_age_grace_seconds: float = _setting(30.0, "then, how long their calls may go on", 0, 1e6)
    tls_cert: str = _setting(
        "", "certificate chain (PEM) to serve HTTPS and gRPC over TLS with; Unix sockets stay plain"
    )
    tls_key: str = _setting("", "its private key (PEM, not encrypted)")
    tls_client_ca: str = _setting("", "authorities (PEM), one of which must have signed the certificate of a client")
    token_file: str = _setting("", "bearer tokens, one a line, # before comments: callers must show one of them")
    open_metrics: bool = _setting(False, "answer /metrics on the HTTP port without a token, too", False, True)
    cors_origins: str = _setting("", "origins whose pages may call the service, comma-separated; * for any")
    trace_endpoint: str = _setting("", "where to send traces: URL of an OpenTelemetry collector (OTLP over HTTP)")
    trace_ratio: float = _setting(1.0, "share of the requests to trace whose caller has not decided it", 0, 1)
    cache_dir: str = _setting("~/.cache/gumball", "where compiled kernels are kept between starts")
    log_level: str = _setting("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        for each in fields(self):
            value, low, high = getattr(self, each.name), each.metadata["low"], each.metadata["high"]
            if low is not None and not low <= value <= high:
                raise SettingsError(f"{each.name}: must be from {low} to {high}, is {value}")
        if not re.fullmatch(rf"auto|cpu|cuda|{_GPU}(,{_GPU})*", self.device):
            raise SettingsError(f"device: must be auto, cpu, cuda or a list as cuda:0,cuda:1, is {self.device!r}")
        if len(set(self.device.split(","))) != len(self.device.split(",")):
            raise SettingsError(f"device: names one twice, is {self.device!r}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("tls_cert, tls_key: must be given together")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("tls_client_ca: must have a tls_cert")
        if self.grpc_engine not in ("aio", "native"):
            raise SettingsError(f"grpc_engine: must be native or aio, is {self.grpc_engine!r}")
        if self.trace_endpoint and not self.trace_endpoint.startswith(("http://", "https://")):
            raise SettingsError(f"trace_endpoint: must be http:// or https://, is {self.trace_endpoint!r}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingsError(f"log_level: must be debug, info, warning or error, is {self.log_level!r}")

    @property
    def cache_path(self) -> Path:
        return Path(self.cache_dir).expanduser()

    @property
    def frontend_count(self) -> int:
        return self.frontends or _cores()

    @property
    def cpu_threads(self) -> int:
        return self.threads or max(1, _cores() // self.frontend_count)

    @property
    def origins(self) -> list[str]:
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return PREFIX + name.upper()


def boolean(text: str) -> bool:
    """Named as argparse shows it."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _kind(setting: Field[Any]) -> Callable[[str], str | int | float]:
    kinds: dict[str, Callable[[str], str | int | float]] = {"str": str, "int": int, "float": float, "bool": boolean}
    return kinds[str(setting.type)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gumball serve",
        description="Serve categorical samples over HTTP and gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    for each in fields(Settings):
        parser.add_argument(
            flag(each.name),
            type=_kind(each),
            default=each.default,
            metavar=_kind(each).__name__.upper(),
            help=f"{each.metadata['help']} [{variable(each.name)}]",
        )
    return parser


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the flags and, where a flag is absent, from the environment.

    Raises SettingsError naming a variable with an impossible value; exits with usage on an impossible flag.
    """
    parser = _parser()
    for each in fields(Settings):
        if (text := environment.get(variable(each.name))) is not None:
            try:
                parser.set_defaults(**{each.name: _kind(each)(text)})
            except ValueError:
                raise SettingsError(f"{variable(each.name)}: {text!r} is no {_kind(each).__name__}") from None
    return Settings(**vars(parser.parse_args(arguments)))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are not ours, nor set by Kubernetes for a Service named gumball."""
    known = {variable(each.name) for each in fields(Settings)} | {f"{PREFIX}TOKEN"}  # which the client reads
    return [
        name
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known and not name.startswith((f"{PREFIX}PORT", f"{PREFIX}SERVICE_"))
    ]
