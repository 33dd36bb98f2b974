"""TLS, client certificates and tokens, on both transports, and what happens when their files change."""

import ast
import inspect
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pytest
import trustme
from conftest import Server
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from gumball import AsyncClient, Client, Unauthenticated, Unavailable, contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from gumball_server.security import Certificates, Security, Tokens
from gumball_server.settings import Settings, SettingsError, read_settings
from named_services import balancer_of, request_of
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc

ORIGIN = "https://page.example"
TOKENS = ("first-token", "second-token")
TOKEN_FILE = b"# who may call\nfirst-token\n\n  second-token\n  # and nobody else\n"
OTHER_TOKEN = "third-token"  # noqa: S105
WAYS = ("http", "grpc", "native")  # gRPC by either engine
NAME = "gumball.test"
LOGITS = np.array([[0.5, 2.0, -1.0], [0.0, 1.0, 1.5]], np.float32)
EXPECTED = contract.hard(LOGITS, 7, [0, 1])[:, None].tolist()
RENEWAL_SECONDS = 10


class Mount:
    """Files as Kubernetes mounts them from a Secret: behind one link, which is swapped when they change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, **files: bytes) -> None:
        version = Path(tempfile.mkdtemp(dir=self._folder))
        for name, content in files.items():
            (version / name).write_bytes(content)
        (self._folder / "fresh").symlink_to(version)
        (self._folder / "fresh").replace(self._folder / "data")

    def __getitem__(self, name: str) -> str:
        return str(self._folder / "data" / name)


def certificate(authority: trustme.CA) -> dict[str, bytes]:
    """A certificate for this machine, as files."""
    issued = authority.issue_cert("127.0.0.1", NAME)
    return {
        "cert": b"".join(each.bytes() for each in issued.cert_chain_pems),
        "key": issued.private_key_pem.bytes(),
    }


def flags(mount: Mount, *names: str) -> list[str]:
    return [part for name in names for part in (f"--tls-{name}".replace("_", "-"), mount[name])]


def der(pem: bytes) -> bytes:
    """Of the first certificate."""
    return ssl.PEM_cert_to_DER_cert(
        pem.decode().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----"
    )


def scheme(way: str) -> str:
    return "http" if way == "http" else "grpc"


def address(server: Server, way: str) -> str:
    return server.http if way == "http" else "grpcs://" + server.addresses["grpc"]


def shown_certificate(server: Server, way: str) -> bytes:
    """What a new handshake is shown, as DER."""
    place = urlsplit(address(server, way))
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((place.hostname, place.port)))


def until(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + RENEWAL_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def channel_credentials(ca: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(Path(ca).read_bytes())


def draw(client: Client) -> None:
    assert client.sample(LOGITS, seed=7).index.tolist() == EXPECTED


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory, authority: trustme.CA) -> Mount:
    """Of the server `secure`."""
    mount = Mount(tmp_path_factory.mktemp("secure"))
    mount.write(tokens=TOKEN_FILE, **certificate(authority))
    return mount


def secure_by(engine: str, files: Mount) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="gumball-") as folder:
        server = Server(
            *flags(files, "cert", "key"),
            *("--token-file", files["tokens"], "--admin-port", "0", "--grpc-engine", engine),
            *("--cors-origins", ORIGIN, "--http-uds", f"{folder}/http", "--grpc-uds", f"{folder}/grpc"),
        )
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="module")
def secure(files: Mount) -> Iterator[Server]:
    """TLS, tokens, an admin port, a Unix socket, and a page that may call."""
    yield from secure_by("aio", files)


@pytest.fixture(scope="module")
def secure_native(files: Mount) -> Iterator[Server]:
    """The same with the other engine for gRPC."""
    yield from secure_by("native", files)


@pytest.fixture
def secure_way(request, way: str) -> Server:
    """That of these two which is called this way."""
    return request.getfixturevalue("secure_native" if way == "native" else "secure")


@pytest.fixture(scope="module")
def identities(tmp_path_factory, authority: trustme.CA) -> Mount:
    """Of the server `mutual`."""
    mount = Mount(tmp_path_factory.mktemp("mutual"))
    mount.write(tokens=TOKEN_FILE, client_ca=authority.cert_pem.bytes(), **certificate(authority))
    return mount


def mutual_by(engine: str, identities: Mount) -> Iterator[Server]:
    certificates = flags(identities, "cert", "key", "client_ca")
    others = ("--open-metrics", "true", "--frontends", "2", "--grpc-engine", engine)
    server = Server(*certificates, "--token-file", identities["tokens"], *others)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def mutual(identities: Mount) -> Iterator[Server]:
    """Two front ends that want a client's certificate and a token, but for metrics."""
    yield from mutual_by("aio", identities)


@pytest.fixture(scope="module")
def mutual_native(identities: Mount) -> Iterator[Server]:
    """The same with the other engine for gRPC."""
    yield from mutual_by("native", identities)


@pytest.fixture
def mutual_way(request, way: str) -> Server:
    """That of these two which is called this way."""
    return request.getfixturevalue("mutual_native" if way == "native" else "mutual")


@pytest.fixture(scope="module")
def http(secure: Server, ca: str) -> Iterator[httpx.Client]:
    """Without a token."""
    with httpx.Client(base_url=secure.http, verify=ssl.create_default_context(cafile=ca)) as client:
        yield client


@pytest.fixture(scope="module")
def admin(secure: Server) -> Iterator[httpx.Client]:
    """The admin port, plain and open."""
    with httpx.Client(base_url=secure.addresses["admin"]) as client:
        yield client


@pytest.fixture(scope="module")
def channel(secure: Server, ca: str) -> Iterator[grpc.Channel]:
    """Without a token."""
    with grpc.secure_channel(secure.addresses["grpc"], channel_credentials(ca)) as channel:
        yield channel


# TLS.


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("way", WAYS)
def test_samples_are_the_same_over_tls(secure_way, ca, way, token):
    """With any of the tokens; the server is known by its authority."""
    with Client(address(secure_way, way), ca=ca, token=token) as client:
        draw(client)
        assert client.info()["contracts"] == [contract.VERSION]


@pytest.mark.parametrize("way", WAYS)
async def test_samples_are_the_same_over_tls_when_awaited(secure_way, ca, way):
    """The asynchronous client likewise."""
    async with AsyncClient(address(secure_way, way), ca=ca, token=TOKENS[0]) as client:
        assert (await client.sample(LOGITS, seed=7)).index.tolist() == EXPECTED


def test_a_long_body_is_taken_over_tls(http):
    """One that is read in many pieces, and parsed in a thread."""
    logits = [[float(k % 89) for k in range(100_000)]] * 8
    answer = http.post("/sample", json={"logits": logits, "seed": 3}, headers={"authorization": f"Bearer {TOKENS[0]}"})
    drawn = [contract.hard(np.array(row, np.float32), 3, number, 0)[0] for number, row in enumerate(logits)]
    assert answer.json()["index"] == [[index] for index in drawn]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_not_believed_is_not_called(secure_way, way):
    """Its authority is none of the usual ones."""
    with Client(address(secure_way, way), token=TOKENS[0]) as client, pytest.raises(Unavailable):
        client.sample(LOGITS)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_answered_in_the_clear(secure_way, way):
    """On a port with TLS."""
    plain = address(secure_way, way).replace("https:", "http:").replace("grpcs:", "grpc:")
    with Client(plain, token=TOKENS[0]) as client, pytest.raises(Unavailable):
        client.sample(LOGITS)


@pytest.mark.parametrize("way", WAYS)
def test_a_unix_socket_stays_plain(secure_way, way):
    """Its file's permissions guard it; a token is needed all the same."""
    where = f"{scheme(way)}+unix://{secure_way.addresses[f'{scheme(way)}_uds']}"
    with Client(where, token=TOKENS[0]) as client:
        draw(client)
    with Client(where) as client, pytest.raises(Unauthenticated):
        client.sample(LOGITS)


@pytest.mark.parametrize("way", WAYS)
def test_the_command_line_shows_a_token_from_a_file(secure_way, ca, tmp_path, way):
    """So that no list of processes tells it."""
    (tmp_path / "token").write_text(f"{TOKENS[0]}\n")
    command = [sys.executable, "-m", "gumball.cli", "sample", "-", "--seed=7", f"--url={address(secure_way, way)}"]
    options = [f"--ca={ca}", f"--token-file={tmp_path / 'token'}"]
    logits = json.dumps(LOGITS.tolist())
    ended = subprocess.run([*command, *options], input=logits, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["index"] == EXPECTED


def test_old_versions_of_tls_are_refused(files):
    """TLS 1.2 and later."""
    certificates = Certificates(files["cert"], files["key"], "")
    assert {each.minimum_version for each in (certificates.http, certificates.http2)} == {ssl.TLSVersion.TLSv1_2}


@pytest.mark.parametrize("way", WAYS)
def test_a_renewed_certificate_is_shown_and_open_connections_go_on(secure_way, files, authority, ca, way):
    """New handshakes see it; a key that does not fit is logged, and changes nothing."""
    before = Path(files["cert"]).read_bytes()
    renewed, other = certificate(authority), certificate(authority)
    with httpx.Client(base_url=secure_way.http, verify=ssl.create_default_context(cafile=ca)) as kept:
        place = kept.get("/livez").extensions["network_stream"].get_extra_info("client_addr")
        with Client(address(secure_way, way), ca=ca, token=TOKENS[0]) as client:
            draw(client)
            said = len(secure_way.log)
            files.write(tokens=TOKEN_FILE, cert=renewed["cert"], key=other["key"])
            until(lambda: any("tls_cert, tls_key" in line and "stays in use" in line for line in secure_way.log[said:]))
            assert shown_certificate(secure_way, way) == der(before)
            files.write(tokens=TOKEN_FILE, **renewed)
            until(lambda: shown_certificate(secure_way, way) == der(renewed["cert"]))
            draw(client)
        assert kept.get("/livez").extensions["network_stream"].get_extra_info("client_addr") == place
    with Client(address(secure_way, way), ca=ca, token=TOKENS[0]) as client:
        draw(client)


@pytest.mark.parametrize("way", ["grpc", "native"])
def test_a_stream_goes_on_when_the_certificate_is_renewed(secure_way, files, authority, ca, way):
    """On the connection that it has."""
    requests: SimpleQueue[pb.SampleStreamRequest] = SimpleQueue()
    metadata = (("authorization", f"Bearer {TOKENS[0]}"),)
    with grpc.secure_channel(secure_way.addresses["grpc"], channel_credentials(ca)) as channel:
        answers = sampling_pb2_grpc.SamplingServiceStub(channel).SampleStream(
            iter(requests.get, None), metadata=metadata
        )

        def ask() -> None:
            requests.put(pb.SampleStreamRequest(requests=[message()]))
            (answer,) = next(answers).responses
            assert np.frombuffer(answer.index.data, np.int32).reshape(-1, 1).tolist() == EXPECTED

        ask()
        renewed = certificate(authority)
        files.write(tokens=TOKEN_FILE, **renewed)
        until(lambda: shown_certificate(secure_way, way) == der(renewed["cert"]))
        ask()
        requests.put(None)
        assert list(answers) == []


@pytest.mark.parametrize("way", ["https", "grpcs"])
async def test_each_service_of_a_name_must_be_known_by_it(secure, ca, way):
    """Whatever its address is."""
    port = urlsplit(secure.http if way == "https" else address(secure, "grpc")).port

    async def index(name: str) -> list[list[int]]:
        hosts, headers = ["127.0.0.1", "127.0.0.9"], {"authorization": f"Bearer {TOKENS[0]}"}  # one is nobody's
        balancer = balancer_of(f"{way}://{name}:{port}", hosts, headers, ca)
        try:
            return (await balancer.sample(request_of(LOGITS, "hard", 7), 5)).index.tolist()
        finally:
            await balancer.close()

    assert await index(NAME) == EXPECTED
    with pytest.raises(Unavailable):
        await index("other.test")


def test_an_idle_client_does_not_hold_up_the_end(files, authority):
    """TLS ends with a word from both sides, and some clients say theirs only when they call again."""
    server = Server(*flags(files, "cert", "key"))
    with httpx.Client(verify=ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())) as idle:
        idle.post(f"{server.http}/sample", json={"logits": [0, 1]}).raise_for_status()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10


# Certificates of clients.


def outcome(server: Server, way: str, ca: str, folder: Path, issuer: trustme.CA | None) -> str:
    """Of a call over a connection of its own, with a certificate by this issuer."""
    own = {}
    if issuer:
        issued = issuer.issue_cert("somebody@example.org")
        own = {"cert": str(folder / "client.pem"), "key": str(folder / "client.key")}
        issued.cert_chain_pems[0].write_to_path(own["cert"])
        issued.private_key_pem.write_to_path(own["key"])
    with Client(address(server, way), ca=ca, token=TOKENS[0], **own) as client:
        try:
            draw(client)
        except Unavailable:
            return "refused"
        return "answered"


@pytest.mark.parametrize("way", WAYS)
def test_a_client_must_have_a_certificate_by_the_authority(mutual_way, authority, ca, tmp_path, way):
    """Not none, and not by another; whichever front end it comes to."""
    for _ in range(4):
        assert outcome(mutual_way, way, ca, tmp_path, authority) == "answered"
        assert outcome(mutual_way, way, ca, tmp_path, None) == "refused"
        assert outcome(mutual_way, way, ca, tmp_path, trustme.CA()) == "refused"


def test_no_session_is_resumed_past_the_authority(secure, mutual, authority, ca, tmp_path):
    """Who could resume one would not be verified again; elsewhere it saves a handshake."""
    outcome(mutual, "http", ca, tmp_path, authority)  # writes the files
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")

    def has_ticket(server: Server) -> bool:
        place = urlsplit(server.http)
        with (
            socket.create_connection((place.hostname, place.port)) as plain,
            context.wrap_socket(plain, server_hostname=place.hostname) as connection,
        ):
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(1 << 10).startswith(b"HTTP/1.1 200")
            return connection.session.has_ticket

    assert has_ticket(secure)
    assert not has_ticket(mutual)


def test_a_certificate_does_not_stand_for_a_token(mutual, authority, ca, tmp_path):
    """Where both are asked for, both must be shown; metrics are open here."""
    outcome(mutual, "http", ca, tmp_path, authority)  # writes the files
    own = {"cert": str(tmp_path / "client.pem"), "key": str(tmp_path / "client.key")}
    with Client(mutual.http, ca=ca, **own) as client, pytest.raises(Unauthenticated):
        client.sample(LOGITS)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(own["cert"], own["key"])
    assert "gumball_requests_total" in httpx.get(f"{mutual.http}/metrics", verify=context).text


def test_an_authority_that_is_replaced_is_believed_no_more(mutual, mutual_native, identities, authority, ca, tmp_path):
    """By both transports of every front end, and both engines of gRPC."""
    successor, server_of = trustme.CA(), {"http": mutual, "grpc": mutual, "native": mutual_native}
    kept = {name: Path(identities[name]).read_bytes() for name in ("cert", "key", "tokens")}

    def only_believed(trusted: trustme.CA, other: trustme.CA) -> bool:
        return all(
            outcome(server_of[way], way, ca, tmp_path, issuer) == expected
            for way in WAYS
            for issuer, expected in ((trusted, "answered"), (other, "refused"))
            for _ in range(4)
        )

    assert only_believed(authority, successor)
    identities.write(client_ca=successor.cert_pem.bytes(), **kept)
    until(lambda: only_believed(successor, authority))
    identities.write(client_ca=authority.cert_pem.bytes(), **kept)
    until(lambda: only_believed(authority, successor))


# Tokens.

WRONG = [None, "Bearer", "Bearer first-toke", "Bearer first-token2", "Basic first-token", "first-token"]
SAMPLE = b'{"logits": [0, 1]}'
INFER = b'{"inputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [0, 1]}]}'

# By the transport that counts them: method, path, body.
HTTP_CALLS = [
    ("http", "POST", "/sample", SAMPLE),
    ("http", "POST", "/sample", [SAMPLE]),  # chunked: not on the short way
    ("http", "GET", "/sample", b""),
    ("http", "GET", "/metrics", b""),
    ("http", "GET", "/info", b""),
    ("http", "GET", "/there-is-none", b""),
    ("oip_http", "POST", "/v2/models/gumball/infer", INFER),
    ("oip_http", "GET", "/v2/models/gumball", b""),
    ("oip_http", "GET", "/v2/models/gumball/ready", b""),
    ("oip_http", "GET", "/v2", b""),
]
OPEN = (
    "/livez",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/docs/files/swagger-ui-bundle.js",
    "/openapi.json",
)


def counted(admin: httpx.Client) -> dict[str, float]:
    """Refusals of callers without a token, by transport, as the admin port tells everybody."""
    families = text_string_to_metric_families(admin.get("/metrics").text)
    return {
        sample.labels["transport"]: sample.value
        for family in families
        if family.name == "gumball_requests"
        for sample in family.samples
        if sample.labels["code"] == "UNAUTHENTICATED"
    }


@pytest.mark.parametrize(("transport", "method", "path", "body"), HTTP_CALLS)
@pytest.mark.parametrize("shown", WRONG)
def test_http_without_a_token_is_refused_and_counted(admin, http, transport, method, path, body, shown):
    """As a problem that tells how to authenticate; the protocol of Triton has its own form."""
    before = counted(admin)
    content = iter(body) if isinstance(body, list) else body
    headers = {} if shown is None else {"authorization": shown}
    response = http.request(method, path, content=content, headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["reason"] == "UNAUTHENTICATED"
    if transport == "http":
        assert response.headers["content-type"] == "application/problem+json"
    assert counted(admin) == {**before, transport: before.get(transport, 0) + 1}


@pytest.mark.parametrize(("transport", "method", "path", "body"), HTTP_CALLS)
@pytest.mark.parametrize("shown", ["Bearer first-token", "bearer second-token"])
def test_http_with_a_token_is_answered(http, transport, method, path, body, shown):
    """Whatever the answer is."""
    content = iter(body) if isinstance(body, list) else body
    response = http.request(method, path, content=content, headers={"authorization": shown})
    assert response.status_code == {"GET /sample": 405, "GET /there-is-none": 404}.get(f"{method} {path}", 200)


def test_http_tells_whether_it_is_well_without_a_token(http):
    """And what its interface is, as every server does."""
    assert {path: http.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)


def test_a_page_learns_that_its_token_is_wrong(http):
    """A browser asks first, without a token, and shows a page only answers that name its origin."""
    asking = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    assert http.options("/sample", headers=asking).status_code == 200
    refused = http.post("/sample", content=SAMPLE, headers={"origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


def message() -> pb.SampleRequest:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=LOGITS.shape, data=LOGITS.tobytes())
    return pb.SampleRequest(logits=tensor, seed=7)


def inference() -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="gumball", raw_input_contents=[LOGITS.tobytes()])
    request.inputs.add(name="logits", datatype="FP32", shape=LOGITS.shape)
    return request


def reflect() -> Iterator[reflection_pb2.ServerReflectionRequest]:
    return iter([reflection_pb2.ServerReflectionRequest(list_services="")])


Call = Callable[[grpc.Channel, tuple], object]

GRPC_CALLS: dict[str, tuple[str, Call]] = {
    "Sample": ("grpc", lambda c, m: sampling_pb2_grpc.SamplingServiceStub(c).Sample(message(), metadata=m)),
    "GetInfo": ("grpc", lambda c, m: sampling_pb2_grpc.SamplingServiceStub(c).GetInfo(pb.GetInfoRequest(), metadata=m)),
    "reflection": (
        "grpc",
        lambda c, m: next(reflection_pb2_grpc.ServerReflectionStub(c).ServerReflectionInfo(reflect(), metadata=m)),
    ),
    "ModelInfer": (
        "oip_grpc",
        lambda c, m: service_pb2_grpc.GRPCInferenceServiceStub(c).ModelInfer(inference(), metadata=m),
    ),
    "ModelStreamInfer": (
        "oip_grpc",
        lambda c, m: next(
            service_pb2_grpc.GRPCInferenceServiceStub(c).ModelStreamInfer(iter([inference()]), metadata=m)
        ),
    ),
    "ServerMetadata": (
        "oip_grpc",
        lambda c, m: service_pb2_grpc.GRPCInferenceServiceStub(c).ServerMetadata(
            service_pb2.ServerMetadataRequest(), metadata=m
        ),
    ),
}


@pytest.mark.parametrize(("transport", "call"), GRPC_CALLS.values(), ids=GRPC_CALLS)
@pytest.mark.parametrize("shown", WRONG)
def test_grpc_without_a_token_is_refused_and_counted(admin, channel, transport, call, shown):
    """Its status has the reason for programs."""
    before = counted(admin)
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, () if shown is None else (("authorization", shown),))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    status, info = Status(), ErrorInfo()
    status.ParseFromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"])
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("UNAUTHENTICATED", "gumball")
    assert counted(admin) == {**before, transport: before.get(transport, 0) + 1}


@pytest.mark.parametrize(("transport", "call"), GRPC_CALLS.values(), ids=GRPC_CALLS)
def test_grpc_with_a_token_is_answered(channel, transport, call):
    """Streams too."""
    for token in TOKENS:
        assert call(channel, (("authorization", f"Bearer {token}"),)) is not None


def test_grpc_tells_whether_it_is_well_without_a_token(channel):
    """In both its ways."""
    health = health_pb2_grpc.HealthStub(channel)
    inference_service = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert next(health.Watch(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    assert inference_service.ServerLive(service_pb2.ServerLiveRequest()).live
    assert inference_service.ServerReady(service_pb2.ServerReadyRequest()).ready


@pytest.mark.parametrize("way", WAYS)
def test_tokens_can_be_changed_while_it_runs(secure_way, files, ca, way):
    """A new one is taken, one that is gone is refused; a file that holds none is logged, and changes nothing."""
    kept = {name: Path(files[name]).read_bytes() for name in ("cert", "key")}

    def accepted(token: str) -> bool:
        try:
            draw(client_of[token])
        except Unauthenticated:
            return False
        return True

    with (
        Client(address(secure_way, way), ca=ca, token=OTHER_TOKEN) as third,
        Client(address(secure_way, way), ca=ca, token=TOKENS[0]) as first,
    ):
        client_of = {OTHER_TOKEN: third, TOKENS[0]: first}
        assert accepted(TOKENS[0])
        assert not accepted(OTHER_TOKEN)
        files.write(tokens=OTHER_TOKEN.encode(), **kept)
        until(lambda: accepted(OTHER_TOKEN))
        assert not accepted(TOKENS[0])
        said = len(secure_way.log)
        files.write(tokens=b"# none\n", **kept)
        until(lambda: any("holds no token" in line for line in secure_way.log[said:]))
        assert accepted(OTHER_TOKEN)
        files.write(tokens=TOKEN_FILE, **kept)
        until(lambda: accepted(TOKENS[0]))


def test_tokens_are_compared_in_constant_time():
    """Hashes of one length, with the function that is made for it; nothing of a token meets another operator."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Tokens.check)))
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "hmac.compare_digest" in called
    assert "hashlib.sha256" in called
    compared = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert compared == ["scheme.lower() != b'bearer'"]


# Settings.


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tls-cert", "x"], "tls_key"),
        (["--tls-key", "x"], "tls_cert"),
        (["--tls-client-ca", "x"], "tls_client_ca"),
    ],
)
def test_settings_that_need_another_are_named(flags, named):
    """A half of a pair, and an authority without TLS."""
    with pytest.raises(SettingsError, match=named):
        read_settings(flags, {})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_cert": "missing"}, "tls_cert: .*missing: No such file"),
        ({"tls_key": "missing"}, "tls_key: .*missing: No such file"),
        ({"tls_client_ca": "missing"}, "tls_client_ca: .*missing: No such file"),
        ({"token_file": "missing"}, "token_file: .*missing: No such file"),
        ({"tls_cert": "garbage"}, "tls_cert, tls_key: "),
        ({"tls_key": "garbage"}, "tls_cert, tls_key: "),
        ({"tls_key": "locked"}, "tls_key: must not be encrypted"),
        ({"tls_client_ca": "garbage"}, "tls_client_ca: "),
        ({"tls_client_ca": "comment"}, "tls_client_ca: "),
        ({"tls_client_ca": "empty"}, "tls_client_ca: "),
        ({"tls_cert": "."}, "tls_cert: .*Is a directory"),
        ({"token_file": "empty"}, "token_file: .*empty holds no token"),
        ({"token_file": "comment"}, "token_file: .*comment holds no token"),
        ({"token_file": "garbage"}, "token_file: line 1 of .*garbage is not one token"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, tmp_path, given, named):
    """By the setting that names them; a secret is never told."""
    (tmp_path / "garbage").write_text("-----BEGIN CERTIFICATE-----\nAA AA\n-----END CERTIFICATE-----\n")
    (tmp_path / "comment").write_text("# nothing\n")
    (tmp_path / "empty").touch()
    key = load_pem_private_key(Path(files["key"]).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "locked").write_bytes(locked)
    chosen = {"tls_cert": files["cert"], "tls_key": files["key"]}
    settings = Settings(**chosen | {name: str(tmp_path / value) for name, value in given.items()})
    with pytest.raises(SettingsError, match=named) as raised:
        Security.of(settings)
    assert "AA" not in str(raised.value)


@pytest.mark.parametrize("frontends", ["1", "2"])
def test_a_token_file_without_tokens_ends_the_start(tmp_path, frontends):
    """It would let nobody in, or everybody: status 2, and one line that says why."""
    (tmp_path / "tokens").write_text("\n")
    arguments = ["--token-file", str(tmp_path / "tokens"), "--frontends", frontends]
    command = [sys.executable, "-m", "gumball_server", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("gumball serve: token_file: ")


@pytest.mark.parametrize(("offered", "agreed"), [(["http/1.1", "h2"], "h2"), (["http/1.1"], None), ([], None)])
def test_grpc_over_tls_is_http_2_and_nothing_else(secure_native, ca, offered, agreed):
    """By ALPN (RFC 9113, 3.2); who speaks HTTP/1.1 all the same has no answer in it."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(offered)
    host, port = secure_native.addresses["grpc"].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        assert connection.selected_alpn_protocol() == agreed
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while data := connection.recv(1000):
            received += data
    assert b"HTTP/1" not in received
