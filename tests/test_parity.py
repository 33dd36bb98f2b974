"""One draw, every way in: the bits of the NumPy contract, and so of each other."""

import io
import json
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
import pytest
from gumball import Client, contract
from gumball.parameter_vectors import PARAMETER_VECTORS, ParameterVector
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceStub
from gumball.vectors import VECTORS, Vector
from gumball_server.domain import Output, Parameters, SampleResult
from gumball_server.validation import sample_request
from gumball_server.wire import json_form

SEED, TAU = 20171103, 0.5
MODES = {"hard": ("index",), "soft": ("soft",), "straight_through": ("index", "soft")}

# (logits [rows, categories], parameters) to outputs by name
Way = Callable[..., dict[str, np.ndarray]]


def post(address: str, body: bytes, content_type: str, **query: object) -> httpx.Response:
    response = httpx.post(
        f"{address}/sample", content=body, params=query, headers={"content-type": content_type}, timeout=60
    )
    assert response.status_code == 200, response.text
    return response


def json_way(server) -> Way:
    def sample(logits, mode: str, **parameters):
        rows = [[None if x == -np.inf else x for x in row] for row in np.atleast_2d(logits).tolist()]
        body = json.dumps({"logits": rows, "mode": mode, **parameters}).encode()
        answer = json.loads(post(server.http, body, "application/json").content)
        dtypes = {"index": np.int32, "soft": np.float32}  # through float64, as a JSON reader does
        return {name: np.array(answer[name], np.float64).astype(dtypes[name]) for name in MODES[mode]}

    return sample


def npy_way(server) -> Way:
    def sample(logits, **parameters):
        file = io.BytesIO()
        np.save(file, logits)
        answer = np.load(io.BytesIO(post(server.http, file.getvalue(), "application/x-npy", **parameters).content))
        if isinstance(answer, np.ndarray):
            return {MODES[parameters["mode"]][0]: answer}
        return dict(answer)

    return sample


def client_way(client: Client) -> Way:
    def sample(logits, mode: str, **parameters):
        answer = client.sample(logits, mode=mode, **parameters)
        return {name: getattr(answer, name) for name in MODES[mode]}

    return sample


def stream_way(channel: grpc.Channel) -> Way:
    """Each row a request of its own, all in one message."""

    def sample(logits, mode: str, seed: int, first_row: int = 0, **parameters):
        per_row = {name: [parameters[name]] for name in ("tau", "temperature", "first_draw") if name in parameters}
        message = pb.SampleStreamRequest()
        for n, row in enumerate(np.atleast_2d(logits)):
            dtype = f"DATA_TYPE_{row.dtype.name.upper()}"
            tensor = pb.Tensor(dtype=dtype, shape=row.shape, data=row.tobytes())
            message.requests.add(
                id=n, logits=tensor, mode=f"MODE_{mode.upper()}", seed=seed, first_row=first_row + n, **per_row
            )
        answers = {
            response.id: response
            for received in SamplingServiceStub(channel).SampleStream(iter([message]))
            for response in received.responses
        }
        assert answers.keys() == set(range(len(message.requests)))
        tensors = {name: [getattr(answers[n], name) for n in sorted(answers)] for name in MODES[mode]}
        dtypes = {"index": "<i4", "soft": "<f4"}
        return {
            name: np.concatenate([np.frombuffer(t.data, dtypes[name]).reshape(tuple(t.shape)) for t in several])
            for name, several in tensors.items()
        }

    return sample


@pytest.fixture(scope="module")
def ways(server, aio_server) -> Iterator[dict[str, Way]]:
    """Every way in. The client sends raw bytes over HTTP, and messages over gRPC: small ones on a stream."""
    with (
        Client(server.http) as http,
        Client(server.grpc) as grpc_client,
        Client(aio_server.grpc) as aio_client,
        Client("local:") as local,
        grpc.insecure_channel(server.addresses["grpc"], [("grpc.max_receive_message_length", -1)]) as channel,
    ):
        yield {
            "json": json_way(server),
            "npy": npy_way(server),
            "octet-stream": client_way(http),
            "grpc": client_way(grpc_client),
            "grpc on grpcio": client_way(aio_client),
            "stream": stream_way(channel),
            "in process": client_way(local),
        }


each_way = pytest.mark.parametrize(
    "way", ["json", "npy", "octet-stream", "grpc", "grpc on grpcio", "stream", "in process"]
)


@pytest.fixture(scope="module")
def reference(real_logits) -> contract.Sample:
    return contract.straight_through(real_logits, SEED, row=np.arange(len(real_logits)), tau=TAU)


@each_way
@pytest.mark.parametrize("mode", MODES)
def test_real_logits_come_back_with_the_bits_of_the_contract(ways, way: str, mode: str, real_logits, reference):
    """32 rows of a language model's logits, in every mode."""
    outputs = ways[way](real_logits, mode=mode, seed=SEED, tau=TAU)
    assert outputs.keys() == set(MODES[mode])
    for name, values in outputs.items():
        expected = getattr(reference, name)[:, None]
        assert values.shape == expected.shape
        assert values.tobytes() == expected.tobytes()


@each_way
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_the_published_vectors_hold(ways, way: str, vector: Vector):
    """Through every way in, each published draw has its published bits."""
    outputs = ways[way](vector.logits, **vector.parameters)
    assert outputs["index"].tolist() == [[vector.index]]
    assert vector.agrees("soft", outputs["soft"][0, 0])


def test_a_float_whose_shortest_decimal_is_ambiguous_survives_json():
    """0x15ae43fd is the one float32 that its shortest decimal does not bring back through a float64."""
    value = np.array([[[0x15AE43FD]]], np.uint32).view(np.float32)
    request = sample_request(np.zeros(1, np.float32), Parameters(mode="soft", seed=1))
    answer = json.loads(json_form.encode(SampleResult(request, {Output.SOFT: value}, 0, 0)))
    assert np.float32(answer["soft"][0][0][0]).tobytes() == value.tobytes()


def json_answer(server, vector: ParameterVector) -> dict[str, np.ndarray]:
    """As a JSON caller asks and reads."""
    numbers = [[None if x == -np.inf else x for x in row] for row in vector.values.tolist()]
    given = vector.parameters | {name: str(vector.parameters[name]) for name in ("seed",) if name in vector.parameters}
    body = {vector.source: numbers, "outputs": vector.outputs, **given}
    answer = json.loads(post(server.http, json.dumps(body).encode(), "application/json").content)
    return {
        name: np.array(_nulls(answer[name]), np.float64).astype(np.int32 if "index" in name else np.float32)
        for name in vector.answer
    }


def _nulls(values):
    """null is -inf."""
    return [_nulls(value) if isinstance(value, list) else -np.inf if value is None else value for value in values]


def npy_answer(server, vector: ParameterVector) -> dict[str, np.ndarray]:
    """As a caller with a NumPy file and a query string asks."""

    def text(value) -> str:
        if isinstance(value, dict):
            return ",".join(f"{k}:{'null' if x is None else repr(x)}" for k, x in value.items())
        return ",".join(map(repr, value)) if isinstance(value, list) else repr(value)

    file = io.BytesIO()
    np.save(file, vector.values)
    query = {name: text(value) for name, value in vector.parameters.items()}
    query |= {"source": vector.source, "outputs": ",".join(vector.outputs)}
    return dict(np.load(io.BytesIO(post(server.http, file.getvalue(), "application/x-npy", **query).content)))


def client_answer(address: str, vector: ParameterVector) -> dict[str, np.ndarray]:
    with Client(address) as client:
        return client.sample(
            **{vector.source: vector.values}, mode="hard", outputs=vector.outputs, **vector.parameters
        ).outputs


@pytest.mark.parametrize("vector", PARAMETER_VECTORS, ids=lambda vector: vector.name)
def test_every_parameter_gives_its_published_bits_through_every_way_in(server, aio_server, vector: ParameterVector):
    """JSON, NumPy files, raw bytes, messages and in process."""
    assert vector.agrees(json_answer(server, vector))
    assert vector.agrees(npy_answer(server, vector))
    for address in (server.http, server.grpc, aio_server.grpc, "local:"):
        assert vector.agrees(client_answer(address, vector)), address
