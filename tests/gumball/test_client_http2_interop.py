"""Our client against gRPC's own server, alone, with TLS, and behind Envoy."""

import asyncio
import contextlib
import platform
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
import yaml
from fake_service import FakeService, response_to
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from gumball import AsyncClient, errors
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import add_SamplingServiceServicer_to_server
from http2_scripts import LARGE, LOGITS, draw, failure, in_time
from live_prometheus import free_port

SOFT = np.full((1, 100, LARGE.shape[1]), 0.5, np.float32)  # 8 MB
NAME = "gumball.test"


class Service(FakeService):
    """With calls by themselves; the seed says what becomes of one."""

    REFUSED, SOFT, NEVER = 1001, 1002, 1003

    def __init__(self) -> None:
        super().__init__()
        self.metadata: list[dict[str, str | bytes]] = []
        self.remaining: list[float | None] = []
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()  # of a call that is never answered

    async def Sample(self, request, context):  # noqa: N802 - as the service is generated
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        if request.seed == self.REFUSED:
            status = Status(code=8, message="tau: ein \u00e4 %41")
            status.details.add().Pack(ErrorInfo(reason="OVERLOADED", domain="gumball", metadata={"field": "tau"}))
            details = ("grpc-status-details-bin", status.SerializeToString())
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message, (details,))
        if request.seed == self.SOFT:
            tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=SOFT.shape, data=SOFT.tobytes())
            return pb.SampleResponse(contract="gumball/1", seed=request.seed, tau=[1.0], soft=tensor)
        if request.seed == self.NEVER:
            self.begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return response_to(request)

    async def GetInfo(self, request, context):  # noqa: N802 - as the service is generated
        return pb.GetInfoResponse(version="of grpcio")


@contextlib.asynccontextmanager
async def served(
    service: Service, *options: tuple[str, int], credentials: grpc.ServerCredentials | None = None, **given
) -> AsyncIterator[int]:
    """The port of a grpcio server."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), *options], **given)
    add_SamplingServiceServicer_to_server(service, server)
    place = "127.0.0.1:0"
    port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def assert_serves(client: AsyncClient, service: Service) -> None:
    """Calls of all kinds, of all sizes, that end in all ways."""
    assert (await in_time(client.info()))["version"] == "of grpcio"
    await asyncio.gather(*(draw(client, seed, logits) for seed in range(30) for logits in (LOGITS, LARGE)))
    error = await failure(client.sample(LARGE, seed=Service.REFUSED), errors.Overloaded)
    assert (error.detail, error.field) == ("ein \u00e4 %41", "tau")
    soft = await in_time(client.sample(LARGE, mode="soft", draws=100, seed=Service.SOFT))
    assert soft.soft.tobytes() == SOFT.tobytes()
    never = asyncio.create_task(client.sample(LARGE, seed=Service.NEVER))
    await in_time(service.begun.wait())
    never.cancel()
    await in_time(service.cancelled.wait())
    await asyncio.gather(never, return_exceptions=True)
    service.cancelled.clear()
    await failure(client.sample(LARGE, seed=Service.NEVER, timeout=0.1), errors.DeadlineExceeded)
    await in_time(service.cancelled.wait())
    assert 0 < service.remaining[-1] <= 0.1
    assert service.remaining[0] is None or service.remaining[0] > 1e6


@pytest.mark.parametrize(
    "options",
    [
        (),
        (("grpc.max_concurrent_streams", 2),),
        (("grpc.http2.max_frame_size", 1 << 20), ("grpc.http2.lookahead_bytes", 1)),
        (("grpc.http2.hpack_table_size.decoder", 0), ("grpc.http2.hpack_table_size.encoder", 0)),
        (("grpc.http2.bdp_probe", 0),),
    ],
    ids=["as it is", "two streams", "large frames", "no table", "no probes"],
)
async def test_grpcs_own_server(options):
    """However it is set up."""
    service = Service()
    async with served(service, *options) as port, AsyncClient(f"grpc://127.0.0.1:{port}", retries=0) as client:
        await assert_serves(client, service)


async def test_a_server_that_compresses():
    """It does so though nobody offered to read it, where that saves anything; that is told, and other calls go on."""
    async with (
        served(Service(), compression=grpc.Compression.Gzip) as port,
        AsyncClient(f"grpc://127.0.0.1:{port}", retries=0) as client,
    ):
        await asyncio.gather(*(draw(client, seed, logits) for seed in range(5) for logits in (LOGITS, LARGE)))
        soft = client.sample(LARGE, mode="soft", draws=100, seed=Service.SOFT)
        assert "compressed" in (await failure(soft, errors.Internal)).detail
        await draw(client, 5, LARGE)


async def test_metadata_are_as_the_server_knows_them():
    """Values of -bin names are bytes there."""
    service, given = Service(), {"X-Text": "a, b", "x-long": "~" * 7000, "x-some-bin": "\u00e4\0"}
    async with (
        served(service) as port,
        AsyncClient(f"grpc://127.0.0.1:{port}", retries=0, headers=given, token="t") as client,  # noqa: S106
    ):
        await draw(client, 1, LARGE)
    (seen,) = service.metadata
    expected = {"x-text": "a, b", "x-long": "~" * 7000, "x-some-bin": "\u00e4\0".encode(), "authorization": "Bearer t"}
    assert {name: seen[name] for name in expected} == expected
    assert seen["user-agent"].startswith("gumball/")


async def test_connections_that_the_server_ends_by_their_age():
    """Several times in a second: it says goodbye, and answers what it has; no call fails, and none is made again."""
    service = Service()
    aged = (("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 5000))
    async with served(service, *aged) as port, AsyncClient(f"grpc://127.0.0.1:{port}", retries=0) as client:
        end, seed = time.monotonic() + 0.5, 0
        while time.monotonic() < end:
            await asyncio.gather(*(draw(client, seed + more, LARGE) for more in range(5)))
            seed += 5
    assert len(service.metadata) == seed


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory) -> dict[str, str]:
    """What a client shows, and whom it believes."""
    folder, issued = tmp_path_factory.mktemp("client"), authority.issue_cert("client.test")
    authority.cert_pem.write_to_path(folder / "ca")
    issued.private_key_pem.write_to_path(folder / "key")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "cert", append=True)
    return {name: str(folder / name) for name in ("ca", "cert", "key")}


def server_credentials(authority: trustme.CA, *names: str, mutual: bool) -> grpc.ServerCredentials:
    issued = authority.issue_cert(*names)
    pair = issued.private_key_pem.bytes(), b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes() if mutual else None, mutual)


@pytest.mark.parametrize("mutual", [False, True])
async def test_grpcs_own_server_with_tls(authority, files, mutual):
    """And with certificates of clients, without which there is no answer."""
    service = Service()
    credentials = server_credentials(authority, "127.0.0.1", mutual=mutual)
    async with served(service, credentials=credentials) as port:
        address = f"grpcs://127.0.0.1:{port}"
        async with AsyncClient(address, retries=0, **files) as client:
            await assert_serves(client, service)
        for shown in ({"ca": files["ca"]} if mutual else None, {}):
            if shown is not None:
                async with AsyncClient(address, retries=0, **shown) as client:
                    await failure(client.sample(LOGITS), errors.Unavailable)
                    await failure(client.sample(LARGE), errors.Unavailable)


async def test_a_server_of_another_name_is_not_called(authority, files):
    """Though its authority is believed."""
    service = Service()
    async with (
        served(service, credentials=server_credentials(authority, NAME, mutual=False)) as port,
        AsyncClient(f"grpcs://127.0.0.1:{port}", retries=0, ca=files["ca"]) as client,
    ):
        error = await failure(client.sample(LARGE), errors.Unavailable)
    assert "127.0.0.1" in error.detail
    assert not service.metadata


@pytest.mark.parametrize("chosen", [[], ["http/1.1"]], ids=["nothing", "HTTP/1.1"])
async def test_a_server_that_does_not_choose_http_2_is_not_called(authority, files, chosen):
    """It is told in words (RFC 9113, 3.2)."""
    received = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if chosen:
        context.set_alpn_protocols(chosen)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with AsyncClient(f"grpcs://127.0.0.1:{port}", retries=0, ca=files["ca"]) as client:
        error = await failure(client.sample(LOGITS), errors.Unavailable)
    server.close()
    assert "HTTP/2" in error.detail
    assert b"SamplingService" not in b"".join(received)


async def test_tls_where_there_is_none(files):
    """The handshake fails, and says so."""
    async with (
        served(Service()) as port,
        AsyncClient(f"grpcs://127.0.0.1:{port}", retries=0, ca=files["ca"]) as client,
    ):
        assert (await failure(client.sample(LOGITS), errors.Unavailable)).detail


async def test_no_tls_where_there_is_some(authority):
    """The other way round."""
    credentials = server_credentials(authority, "127.0.0.1", mutual=False)
    async with (
        served(Service(), credentials=credentials) as port,
        AsyncClient(f"grpc://127.0.0.1:{port}", retries=0) as client,
    ):
        assert (await failure(client.sample(LOGITS), errors.Unavailable)).detail


# Envoy.


def manager(routes: Sequence[dict], **options: dict) -> dict:
    """Envoy's connection manager with these routes."""
    kind = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    hosts = [{"name": "all", "domains": ["*"], "routes": list(routes)}]
    settings = {
        "@type": kind,
        "stat_prefix": "x",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        **options,
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": settings}


def place(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int) -> dict:
    kind = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": kind,
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": place(port)}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": options,
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


@contextlib.asynccontextmanager
async def envoy(folder: Path, upstream: int) -> AsyncIterator[Callable[[str], str]]:
    """The addresses of listeners: plain, narrow (small windows, few streams, no table), slow, lost and nowhere."""
    names = ("plain", "narrow", "slow", "lost", "nowhere")
    ports = {name: free_port() for name in names}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "there", "timeout": "0s"}}
    narrow = {"max_concurrent_streams": 2, "initial_stream_window_size": 65_535, "hpack_table_size": 0}
    managers = {
        "plain": manager([route]),
        "narrow": manager([route], http2_protocol_options=narrow | {"initial_connection_window_size": 65_535}),
        "slow": manager([route | {"route": {"cluster": "there", "timeout": "0.1s"}}]),
        "lost": manager([route | {"route": {"cluster": "gone"}}]),
        "nowhere": manager([]),
    }
    listeners = [{"address": place(ports[name]), "filter_chains": [{"filters": [managers[name]]}]} for name in names]
    clusters = [cluster("there", upstream), cluster("gone", free_port())]
    admin = free_port()
    (folder / "envoy.yaml").write_text(
        yaml.safe_dump(
            {
                "admin": {"address": place(admin)},
                "static_resources": {"listeners": listeners, "clusters": clusters},
            }
        )
    )
    command = [Path(sys.executable).parent / "envoy", "--config-path", folder / "envoy.yaml", "--concurrency", "1"]
    process = await asyncio.create_subprocess_exec(*command, "--log-level", "error", "--use-dynamic-base-id")
    try:
        async with asyncio.timeout(30):
            for port in ports.values():
                while True:
                    assert process.returncode is None
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.05)
        yield lambda name: f"grpc://127.0.0.1:{ports[name]}"
    finally:
        process.terminate()
        await process.wait()


async def test_behind_envoy(tmp_path):
    """As its examples are set up, with little room, and where it answers by itself."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("there is no package of Envoy for this machine")
    service = Service()
    async with served(service) as port, envoy(tmp_path, port) as address:
        for name in ("plain", "narrow"):
            service.begun.clear()
            service.remaining.clear()
            async with AsyncClient(address(name), retries=0) as client:
                await assert_serves(client, service)
        for name, kind in (("slow", errors.Unavailable), ("lost", errors.Unavailable), ("nowhere", errors.NotFound)):
            async with AsyncClient(address(name), retries=0) as client:
                await failure(client.sample(LARGE, seed=Service.NEVER), kind)
        for name, kind in (("lost", errors.Unavailable), ("nowhere", errors.NotFound)):
            async with AsyncClient(address(name), retries=0) as client:
                await failure(client.sample(LOGITS), kind)
