"""The Open Inference Protocol, as the unmodified client of NVIDIA Triton and a plain HTTP client speak it."""

import asyncio
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from conftest import Server
from google.protobuf.descriptor import Descriptor
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from gumball import Client, contract
from gumball.parameter_vectors import PARAMETER_VECTORS, ParameterVector
from gumball_server.wire import inference
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Arrays = dict[str, np.ndarray]

LOGITS = np.array([[0.5, -1.0, -np.inf, 2.0], [1.0, 0.0, -2.0, 0.25], [3.0, 3.0, 3.0, -np.inf]], np.float32)
OUTPUTS_OF_MODE = {"hard": ["index"], "soft": ["soft"], "straight_through": ["index", "soft"]}


def tensors(module: ModuleType, inputs: Arrays, **kwargs: Any) -> list[Any]:
    """The inputs as tritonclient has them."""
    made = []
    for name, array in inputs.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        made.append(tensor.set_data_from_numpy(array, **kwargs))
    return made


def asked(module: ModuleType, outputs: Sequence[str], **kwargs: Any) -> list[Any] | None:
    return [module.InferRequestedOutput(name, **kwargs) for name in outputs] or None


def arrays_of(result: Any) -> Arrays:
    """Every output of an answer, in its order."""
    response = result.get_response()
    named = (
        [o["name"] for o in response["outputs"]] if isinstance(response, dict) else [o.name for o in response.outputs]
    )
    return {name: result.as_numpy(name) for name in named}


def read_json(response: dict[str, Any]) -> Arrays:
    """Every output whose values are in JSON, where null is -inf."""
    dtypes = {"INT32": np.int32, "FP32": np.float32}
    return {
        output["name"]: np.array([-np.inf if x is None else x for x in output["data"]], np.float64)
        .astype(dtypes[output["datatype"]])
        .reshape(output["shape"])
        for output in response["outputs"]
    }


@dataclass(frozen=True)
class Ask:
    """Inputs by name, the outputs that are named, and parameters."""

    inputs: Arrays
    outputs: Sequence[str] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


class Ways:
    """Every way to infer, from what is asked to the outputs."""

    def __init__(self, server: Server) -> None:
        self.http = triton_http.InferenceServerClient(server.http.removeprefix("http://"), concurrency=2)
        self.grpc = triton_grpc.InferenceServerClient(server.addresses["grpc"])
        self._server = server

    def close(self) -> None:
        self.http.close()
        self.grpc.close()

    def http_binary(self, ask: Ask) -> Arrays:
        given = tensors(triton_http, ask.inputs)
        return arrays_of(
            self.http.infer("gumball", given, outputs=asked(triton_http, ask.outputs), parameters=ask.parameters)
        )

    def http_json(self, ask: Ask) -> Arrays:
        """Outputs are named, because tritonclient asks for binary data where they are not."""
        outputs = ask.outputs or OUTPUTS_OF_MODE[ask.parameters.get("mode", "hard")]
        given = tensors(triton_http, ask.inputs, binary_data=False)
        wanted = asked(triton_http, outputs, binary_data=False)
        return read_json(self.http.infer("gumball", given, outputs=wanted, parameters=ask.parameters).get_response())

    def http_aio(self, ask: Ask) -> Arrays:
        async def infer() -> Any:
            async with triton_http_aio.InferenceServerClient(self._server.http.removeprefix("http://")) as client:
                given, wanted = tensors(triton_http_aio, ask.inputs), asked(triton_http_aio, ask.outputs)
                return await client.infer("gumball", given, "1", outputs=wanted, parameters=ask.parameters)

        return arrays_of(asyncio.run(infer()))

    def rest(self, ask: Ask) -> Arrays:
        """As the protocol's text has it: nested lists, and null where tritonclient would write -Infinity."""
        body: dict[str, Any] = {
            "id": "42",
            "model_name": "gumball",
            "parameters": ask.parameters,
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": np_to_triton_dtype(array.dtype),
                    "data": nulled(array.tolist()),
                }
                for name, array in ask.inputs.items()
            ],
        }
        if ask.outputs:
            body["outputs"] = [{"name": name} for name in ask.outputs]
        response = httpx.post(f"{self._server.http}/v2/models/gumball/infer", json=body, timeout=60)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        assert response.json()["id"] == "42"
        return read_json(response.json())

    def grpc_raw(self, ask: Ask) -> Arrays:
        given = tensors(triton_grpc, ask.inputs)
        return arrays_of(
            self.grpc.infer("gumball", given, outputs=asked(triton_grpc, ask.outputs), parameters=ask.parameters)
        )

    def grpc_contents(self, ask: Ask) -> Arrays:
        """Typed values instead of bytes, as the protocol's text has it."""
        fields = {
            "FP32": "fp32_contents",
            "FP64": "fp64_contents",
            "UINT64": "uint64_contents",
            "UINT32": "uint_contents",
        }
        request = service_pb2.ModelInferRequest(model_name="gumball", outputs=[{"name": name} for name in ask.outputs])
        for name, value in ask.parameters.items():
            request.parameters[name].string_param = str(value)
        for name, array in ask.inputs.items():
            datatype = np_to_triton_dtype(array.dtype)
            contents = {fields[datatype]: array.ravel().tolist()}
            request.inputs.add(name=name, shape=array.shape, datatype=datatype, contents=contents)
        with grpc.insecure_channel(
            self._server.addresses["grpc"], [("grpc.max_receive_message_length", -1)]
        ) as channel:
            response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        return arrays_of(triton_grpc.InferResult(response))

    def grpc_aio(self, ask: Ask) -> Arrays:
        async def infer() -> Any:
            async with triton_grpc_aio.InferenceServerClient(self._server.addresses["grpc"]) as client:
                given, wanted = tensors(triton_grpc_aio, ask.inputs), asked(triton_grpc_aio, ask.outputs)
                return await client.infer("gumball", given, "1", outputs=wanted, parameters=ask.parameters)

        return arrays_of(asyncio.run(infer()))

    def grpc_stream(self, ask: Ask) -> Arrays:
        (answer,) = streamed(self.grpc, [ask])
        return arrays_of(answer)


def nulled(values: Any) -> Any:
    if isinstance(values, list):
        return [nulled(value) for value in values]
    return None if values == -np.inf else values


def streamed(client: Any, requests: Sequence[Ask]) -> list[Any]:
    """What comes back on one stream: a result or an exception for each request."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for n, ask in enumerate(requests):
        client.async_stream_infer(
            "gumball",
            tensors(triton_grpc, ask.inputs),
            outputs=asked(triton_grpc, ask.outputs),
            request_id=str(n),
            parameters=ask.parameters,
            enable_empty_final_response=True,
        )
    client.stop_stream()
    return [answers.get(timeout=60) for _ in requests]


@pytest.fixture(scope="module")
def ways(server) -> Iterator[Ways]:
    ways = Ways(server)
    yield ways
    ways.close()


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of the samples with this name and these labels."""
    families = text_string_to_metric_families(httpx.get(f"{server.http}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if sample.labels.items() >= labels.items())


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what only asking can tell."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


BINARY = ("http_binary", "http_aio", "grpc_raw", "grpc_aio", "grpc_stream")
TYPED = ("http_json", "rest", "grpc_contents")
each_way = pytest.mark.parametrize("way", [*BINARY, *TYPED])


def assert_equal(got: Arrays, wanted: Arrays) -> None:
    """The same outputs in the same order, bit for bit."""
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes()


def expected(logits: np.ndarray, seed: Any, row: Any, tau: Any = 1.0, draws: int = 1, first_draw: Any = 0) -> Arrays:
    """index and soft by the NumPy contract."""
    drawn = [contract.straight_through(logits, seed, row, first_draw + d, 1.0, tau) for d in range(draws)]
    return {name: np.stack([getattr(each, name) for each in drawn], axis=1) for name in ("index", "soft")}


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # how tritonclient uses aiohttp
@each_way
def test_real_rows_have_the_bits_of_the_contract_and_of_our_own_client(ways, way, server, real_logits):
    """Each row with its own seed and tau; what is 16 bits wide travels so where that is possible."""
    logits = real_logits if way in BINARY else real_logits.astype(np.float32)[:8]
    rows = len(logits)
    seeds, tau = np.arange(rows, dtype=np.uint64) + np.uint64(2**64 - rows), np.linspace(0.1, 3, rows)
    got = getattr(ways, way)(Ask({"logits": logits, "seeds": seeds, "tau": tau}, (), {"mode": "straight_through"}))
    assert_equal(got, expected(logits, seeds, 0, tau))
    with Client(server.http) as client:
        sample = client.sample(logits, mode="straight_through", seeds=seeds, tau=tau)
    assert_equal(got, {"index": sample.index, "soft": sample.soft})


@each_way
@pytest.mark.parametrize("mode", OUTPUTS_OF_MODE)
def test_every_mode_answers_its_outputs(ways, way, mode):
    """One seed for the request: row r is row number first_row + r."""
    parameters = {"mode": mode, "seed": "18446744073709551615", "draws": 3, "first_row": 5, "first_draw": 7, "tau": 0.7}
    got = getattr(ways, way)(Ask({"logits": LOGITS}, (), parameters))
    wanted = expected(LOGITS, 2**64 - 1, 5 + np.arange(3), 0.7, 3, 7)
    assert_equal(got, {name: wanted[name] for name in OUTPUTS_OF_MODE[mode]})


def in_protocol(vector: ParameterVector) -> Ask:
    """A published request: what has a value a row is an input, the rest are parameters."""
    dtypes = {"seeds": np.uint64, "first_draw": np.uint32, "top_k": np.uint32}
    inputs, parameters = {vector.source: vector.values}, {}
    for name, value in vector.parameters.items():
        if name == "logit_bias":
            parameters[name] = ",".join(f"{k}:{'null' if x is None else repr(x)}" for k, x in value.items())
        elif isinstance(value, list):
            inputs[name] = np.array(value, dtypes.get(name, np.float64))
        else:
            parameters[name] = str(value) if name == "seed" else value
    return Ask(inputs, list(vector.answer), parameters)


@each_way
@pytest.mark.parametrize("vector", PARAMETER_VECTORS, ids=lambda vector: vector.name)
def test_every_parameter_gives_its_published_bits(ways, way, vector):
    """As an input, or as a parameter; numbers and text mean the same."""
    assert vector.agrees(getattr(ways, way)(in_protocol(vector)))


@pytest.mark.parametrize("way", BINARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_datatype_of_logits_is_read(ways, way, dtype):
    """What is sampled is what the narrow type holds; FP64 is rounded to the nearest float32."""
    logits = np.random.default_rng(1).normal(size=(5, 77)).astype(dtype)
    got = getattr(ways, way)(Ask({"logits": logits}, ["soft", "index"], {"seed": 3}))
    wanted = expected(logits.astype(np.float32), 3, np.arange(5))
    assert_equal(got, {"soft": wanted["soft"], "index": wanted["index"]})


def test_a_row_alone_and_in_a_large_json_body_is_the_same(ways):
    """Bodies that are parsed in a thread give what small ones give; one row may drop the outer dimension."""
    rows = np.random.default_rng(2).normal(size=(40, 500)).astype(np.float32)
    seeds = np.arange(40, dtype=np.uint64)
    together = ways.rest(Ask({"logits": rows, "seeds": seeds}))["index"]
    alone = [ways.rest(Ask({"logits": row, "seeds": seeds[r : r + 1]}))["index"] for r, row in enumerate(rows)]
    assert np.concatenate(alone).tolist() == together.tolist()


def test_binary_and_json_outputs_may_be_mixed(ways):
    """Each output says which it is; the bytes follow the head in the order of the outputs."""
    outputs = [
        triton_http.InferRequestedOutput("soft", binary_data=False),
        triton_http.InferRequestedOutput("score"),
        triton_http.InferRequestedOutput("index"),
    ]
    result = ways.http.infer(
        "gumball", tensors(triton_http, {"logits": LOGITS}), outputs=outputs, parameters={"seed": 9}
    )
    got = arrays_of(result)
    assert list(got) == ["soft", "score", "index"]
    wanted = expected(LOGITS, 9, np.arange(3))
    assert_equal({"index": got["index"], "soft": got["soft"]}, wanted)
    assert ["data" in output for output in result.get_response()["outputs"]] == [True, False, False]


def test_an_answer_says_how_to_redo_it(ways):
    """The seed that was drawn, as text for its 64 bits; the id that was given; contract, tau and times."""
    over_http = ways.http.infer("gumball", tensors(triton_http, {"logits": LOGITS}), request_id="a")
    over_grpc = ways.grpc.infer("gumball", tensors(triton_grpc, {"logits": LOGITS}), request_id="b")
    told = over_http.get_response()["parameters"], over_grpc.get_response(as_json=True)["parameters"]
    assert (over_http.get_response()["id"], over_grpc.get_response().id) == ("a", "b")
    for result, parameters in zip((over_http, over_grpc), told, strict=True):
        seed = parameters["seed"]["string_param"] if result is over_grpc else parameters["seed"]
        assert_equal(arrays_of(result), {"index": expected(LOGITS, int(seed), np.arange(3))["index"]})
    assert told[0].keys() == told[1].keys() == {"contract", "seed", "tau", "queue_ns", "compute_ns"}
    assert (told[0]["contract"], told[0]["tau"]) == (contract.VERSION, 1.0)
    assert (told[1]["contract"], told[1]["tau"]) == ({"string_param": contract.VERSION}, {"double_param": 1.0})
    assert told[0]["compute_ns"] > 0
    assert int(told[1]["compute_ns"]["int64_param"]) > 0


def test_a_stream_answers_in_order_and_survives_errors(ways):
    """An error answers its own request only."""
    requests = [
        Ask({"logits": np.full((1, 3), np.nan, np.float32) if n == 50 else LOGITS}, (), {"seed": n}) for n in range(100)
    ]
    answers = streamed(ways.grpc, requests)
    refused = answers.pop(50)
    assert isinstance(refused, InferenceServerException)
    assert refused.message().startswith("logits[0]")
    numbers = [n for n in range(100) if n != 50]
    assert [answer.get_response().id for answer in answers] == [str(n) for n in numbers]
    for n, answer in zip(numbers, answers, strict=True):
        assert_equal(arrays_of(answer), {"index": expected(LOGITS, n, np.arange(3))["index"]})
        assert answer.get_response().parameters["triton_final_response"].bool_param


# What the service tells of itself.


def test_health_says_that_it_is_ready(ways):
    """Server and model, live and ready; another model or version is not."""
    for client in (ways.http, ways.grpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("gumball")
        assert client.is_model_ready("gumball", "1")
        assert not client.is_model_ready("gumball", "2")
        assert not client.is_model_ready("other")


def test_metadata_and_configuration_are_the_same_over_both_transports(ways):
    """And name every input and output with its type and shape; only logits must be given."""
    metadata = ways.http.get_model_metadata("gumball", "1")
    config = ways.http.get_model_config("gumball")
    assert service_pb2.ModelMetadataResponse(**metadata) == ways.grpc.get_model_metadata("gumball", "1")
    assert model_config_pb2.ModelConfig(**config) == ways.grpc.get_model_config("gumball").config
    server = ways.http.get_server_metadata()
    assert service_pb2.ServerMetadataResponse(**server) == ways.grpc.get_server_metadata()
    index = ways.http.get_model_repository_index()
    assert service_pb2.RepositoryIndexResponse(models=index) == ways.grpc.get_model_repository_index()
    assert [(model["name"], model["version"], model["state"]) for model in index] == [("gumball", "1", "READY")]
    told = {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"]}
    assert (told["logits"], told["seeds"]) == (("FP32", [-1, -1]), ("UINT64", [-1]))
    assert told == {t["name"]: (t["data_type"].removeprefix("TYPE_"), t["dims"]) for t in config["input"]}
    assert [t["name"] for t in config["input"] if not t["optional"]] == ["logits"]


def test_the_shapes_that_the_metadata_tells_are_those_that_come(ways):
    """Every output, asked for at once."""
    told = {t["name"]: t for t in ways.http.get_model_metadata("gumball")["outputs"]}
    got = ways.http_binary(Ask({"logits": LOGITS}, list(told), {"top_log_probs": 2, "draws": 5}))
    lengths = {3: (3, 5, 4), 1: (3,)}
    for name, array in got.items():
        assert np_to_triton_dtype(array.dtype) == told[name]["datatype"]
        assert array.ndim == len(told[name]["shape"])
        assert array.shape == lengths.get(array.ndim, (3, {"probs": 4, "top_index": 2, "top_log_prob": 2}.get(name, 5)))


def test_statistics_and_metrics_count_what_was_sent(ways, server):
    """Rows, batches, successes and failures, the same over both transports; each transport has its own label."""

    def counts() -> dict[str, int]:
        (told,) = ways.http.get_inference_statistics("gumball")["model_stats"]
        (over_grpc,) = ways.grpc.get_inference_statistics().model_stats
        assert service_pb2.ModelStatistics(**told) == over_grpc
        durations = {name: duration["count"] for name, duration in told["inference_stats"].items()}
        by_transport = {
            transport: metric(server, "gumball_requests_total", transport=transport, code="OK")
            for transport in ("oip_http", "oip_grpc", "http", "grpc")
        }
        return durations | by_transport | {"rows": told["inference_count"], "batches": told["execution_count"]}

    before = counts()
    for way in (ways.http_binary, ways.http_binary, ways.grpc_raw, ways.grpc_stream):
        way(Ask({"logits": LOGITS}))
    with pytest.raises(InferenceServerException):
        ways.http_binary(Ask({"logits": LOGITS}, (), {"tau": -1}))
    after = counts()
    assert {name: after[name] - before[name] for name in before} == {
        "success": 4,
        "fail": 1,
        "queue": 4,
        "compute_input": 4,
        "compute_infer": 4,
        "compute_output": 4,
        "oip_http": 2,
        "oip_grpc": 2,
        "http": 0,
        "grpc": 0,
        "rows": 12,
        "batches": 4,
    }


# What is refused.

FIELDS = {
    "an unknown input": (Ask({"logits": LOGITS, "nonsense": LOGITS}), "nonsense"),
    "no input": (Ask({"seeds": np.arange(3, dtype=np.uint64)}), "logits"),
    "logits and probs": (Ask({"logits": LOGITS, "probs": LOGITS}), "logits"),
    "a wrong type of logits": (Ask({"logits": np.arange(3, dtype=np.int32)}), "logits"),
    "a wrong type of tau": (Ask({"logits": LOGITS, "tau": np.ones(3, np.float32)}), "tau"),
    "signed seeds": (Ask({"logits": LOGITS, "seeds": np.arange(3)}), "seeds"),
    "too many dimensions": (Ask({"logits": LOGITS[None]}), "logits"),
    "too few seeds": (Ask({"logits": LOGITS, "seeds": np.arange(2, dtype=np.uint64)}), "seeds"),
    "a column of seeds": (Ask({"logits": LOGITS, "seeds": np.zeros((3, 1), np.uint64)}), "seeds"),
    "no rows": (Ask({"logits": LOGITS[:0]}), "logits"),
    "NaN": (Ask({"logits": np.array([[0, 1], [2, np.nan]], np.float32)}), "logits[1][1]"),
    "a number beyond float32": (Ask({"logits": np.array([[1e300, 0]])}), "logits[0][0]"),
    "tau of a row": (Ask({"logits": LOGITS, "tau": np.array([1.0, 0.0, 1.0])}), "tau[1]"),
    "seed and seeds": (Ask({"logits": LOGITS, "seeds": np.arange(3, dtype=np.uint64)}, (), {"seed": 1}), "seeds"),
    "tau twice": (Ask({"logits": LOGITS, "tau": np.ones(3)}, (), {"tau": 1.0}), "tau"),
    "an unknown parameter": (Ask({"logits": LOGITS}, (), {"nonsense": 1}), "nonsense"),
    "a field of a query string": (Ask({"logits": LOGITS}, (), {"outputs": "index"}), "outputs"),
    "a fraction of draws": (Ask({"logits": LOGITS}, (), {"draws": 1.5}), "draws"),
    "true draws": (Ask({"logits": LOGITS}, (), {"draws": True}), "draws"),
    "negative seed": (Ask({"logits": LOGITS}, (), {"seed": -1}), "seed"),
    "tau as words": (Ask({"logits": LOGITS}, (), {"tau": "warm"}), "tau"),
    "an unknown mode": (Ask({"logits": LOGITS}, (), {"mode": "cold"}), "mode"),
    "an unknown output": (Ask({"logits": LOGITS}, ["nonsense"]), "outputs"),
    "the same output twice": (Ask({"logits": LOGITS}, ["index", "index"]), "outputs"),
    "top_index of nothing": (Ask({"logits": LOGITS}, ["top_index"]), "outputs"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_the_field_at_fault_is_named(ways, case):
    """The same words over both transports."""
    ask, name = FIELDS[case]
    with pytest.raises(InferenceServerException) as over_http:
        ways.http_binary(ask)
    with pytest.raises(InferenceServerException) as over_grpc:
        ways.grpc_raw(ask)
    assert over_http.value.status() == "422"
    assert over_grpc.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert over_http.value.message() == over_grpc.value.message()
    assert over_http.value.message().startswith(f"{name}: ")


def test_what_is_not_offered_is_refused_by_name(ways):
    """Sequences, priorities, Triton's timeout, classification and shared memory."""
    for module, infer in ((triton_http, ways.http.infer), (triton_grpc, ways.grpc.infer)):
        given = tensors(module, {"logits": LOGITS})
        for name, value in {"sequence_id": 1, "priority": 1, "timeout": 5}.items():
            with pytest.raises(InferenceServerException, match=rf"{name.removesuffix('id')}\w*: unknown field"):
                infer("gumball", given, **{name: value})
        outputs = [module.InferRequestedOutput("index", class_count=2)]
        with pytest.raises(InferenceServerException, match=r"index\.parameters\.classification: unknown field"):
            infer("gumball", given, outputs=outputs)
        shared = module.InferInput("logits", [3, 4], "FP32")
        shared.set_shared_memory("region", 48)
        with pytest.raises(InferenceServerException, match=r"logits\.parameters\.shared_memory_\w+: unknown field"):
            infer("gumball", [shared])


def test_a_model_or_version_that_is_not_there_is_not_found(ways):
    """Inference, metadata, configuration and statistics."""
    for client, module, status in (
        (ways.http, triton_http, "404"),
        (ways.grpc, triton_grpc, "StatusCode.NOT_FOUND"),
    ):
        given = tensors(module, {"logits": LOGITS})
        for model, version, name in (("other", "", "model_name"), ("gumball", "2", "model_version")):
            for call in (
                lambda m, v, client=client, given=given: client.infer(m, given, v),
                client.get_model_metadata,
                client.get_model_config,
                client.get_inference_statistics,
            ):
                with pytest.raises(InferenceServerException, match=f"{name}: ") as raised:
                    call(model, version)
                assert raised.value.status() == status


def test_a_refusal_carries_its_reason_and_field_for_programs(ways, server):
    """In JSON beside the protocol's error, and in gRPC's status details."""
    body = {
        "inputs": [{"name": "logits", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}],
        "parameters": {"tau": 0},
    }
    response = httpx.post(f"{server.http}/v2/models/gumball/infer", json=body)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": "tau: must be from 2^-40 to 2^40, is 0.0",
        "reason": "INVALID_ARGUMENT",
        "field": "tau",
    }
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        error = stub.ModelInfer.future(service_pb2.ModelInferRequest(model_name="gumball")).exception()
    info = ErrorInfo()
    Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info == ErrorInfo(reason="INVALID_ARGUMENT", domain="gumball", metadata={"field": "logits"})


def test_deadlines_are_kept(ways):
    """The header Request-Timeout over HTTP, gRPC's own over gRPC."""
    slow, parameters = {"logits": np.zeros((4, 50_000), np.float32)}, {"draws": 500}  # the queue has room for two
    given = tensors(triton_http, slow)
    with pytest.raises(InferenceServerException) as raised:
        ways.http.infer("gumball", given, parameters=parameters, headers={"Request-Timeout": "0.01"})
    assert raised.value.status() == "504"
    given = tensors(triton_grpc, slow)
    with pytest.raises(InferenceServerException) as raised:
        ways.grpc.infer("gumball", given, parameters=parameters, client_timeout=0.01)
    assert raised.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_compressed_bodies_are_refused_over_http_and_read_over_grpc(ways):
    """gRPC bounds what a message unfolds to; over HTTP nothing does."""
    with pytest.raises(InferenceServerException, match="Content-Encoding: ") as raised:
        ways.http.infer("gumball", tensors(triton_http, {"logits": LOGITS}), request_compression_algorithm="gzip")
    assert raised.value.status() == "415"
    inputs = tensors(triton_grpc, {"logits": LOGITS})
    result = ways.grpc.infer("gumball", inputs, parameters={"seed": 4}, compression_algorithm="gzip")
    assert_equal(arrays_of(result), {"index": expected(LOGITS, 4, np.arange(3))["index"]})


INFER = "/v2/models/gumball/infer"
HEAD = b'{"inputs":[{"name":"logits","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'


def data(values: str, datatype: str = "FP32", name: str = "logits") -> bytes:
    shape = "[1,2]" if name == "logits" else "[1]"
    given = f'{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":{values}}}'
    logits = "" if name == "logits" else ',{"name":"logits","shape":[1,2],"datatype":"FP32","data":[1,2]}'
    return f'{{"inputs":[{given}{logits}]}}'.encode()


BODIES = {
    "nothing": (b"", None, 400, ""),
    "no JSON": (b"{", None, 400, ""),
    "an empty head": (b"12345678", 0, 400, ""),
    "a head that is longer than the body": (HEAD, len(HEAD) + 1, 400, ""),
    "a head of no length": (HEAD, "x", 400, "Inference-Header-Content-Length"),
    "bytes after the inputs": (HEAD + b"123456789", len(HEAD), 400, ""),
    "too few bytes": (HEAD + b"1234567", len(HEAD), 422, "logits"),
    "no inputs": (b"{}", None, 422, "inputs"),
    "an unknown member": (b'{"inputs":[],"nonsense":1}', None, 422, "nonsense"),
    "NaN": (data("[NaN, -Infinity]"), None, 400, ""),
    "a number beyond JSON's": (data("[1e999, -Infinity]"), None, 400, ""),
    "too few numbers": (data("[1]"), None, 422, "logits"),
    "ragged numbers": (data("[[1],[1,2]]"), None, 422, "logits[1]"),
    "words": (data('["a", "b"]'), None, 422, "logits[0]"),
    "16 bits": (data("[1, 2]", "FP16"), None, 422, "logits"),
    "a negative seed": (data("[-1]", "UINT64", "seeds"), None, 422, "seeds[0]"),
    "a seed of 65 bits": (data(f"[{2**64}]", "UINT64", "seeds"), None, 422, "seeds"),
    "a draw of 33 bits": (data(f"[{2**32}]", "UINT32", "first_draw"), None, 422, "first_draw[0]"),
    "a flag that is none": (
        b'{"inputs":[],"parameters":{"binary_data_output":1}}',
        None,
        422,
        "binary_data_output",
    ),
    "a parameter that is a list": (
        b'{"inputs":[],"parameters":{"tau":[0.5]}}',
        None,
        422,
        "tau",
    ),
    "a parameter of 5,000 digits": (
        b'{"inputs":[],"parameters":{"seed":' + b"1" * 5000 + b"}}",
        None,
        422,
        "parameters[...]",
    ),
    "lengths below zero": (
        b'{"inputs":[{"name":"logits","shape":[-1,-2],"datatype":"FP32","data":[1,2]}]}',
        None,
        422,
        "logits",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies_that_do_not_fit_are_refused(server, case):
    """400 for what does not parse, 422 for what does and cannot be."""
    body, head_bytes, status, field = BODIES[case]
    headers = {} if head_bytes is None else {"Inference-Header-Content-Length": str(head_bytes)}
    response = httpx.post(f"{server.http}{INFER}", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["reason"] == "INVALID_ARGUMENT"
    assert response.json().get("field", "") == field


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/nonsense", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("POST", "/v2/repository/models/gumball/unload", 404),
    ],
)
def test_paths_that_are_not_there_say_so_in_the_protocol_s_form(server, method, path, status):
    """tritonclient shows the member error."""
    response = httpx.request(method, f"{server.http}{path}")
    assert response.status_code == status
    assert response.json()["error"]
    assert ("allow" in response.headers) == (status == 405)


def test_parameters_of_http_say_nothing_over_grpc(server):
    """KServe's client sends them all the same."""
    request = service_pb2.ModelInferRequest(model_name="gumball", raw_input_contents=[LOGITS.tobytes()])
    request.parameters["binary_data_output"].bool_param = True
    request.parameters["seed"].uint64_param = 2**64 - 1
    logits = request.inputs.add(name="logits", datatype="FP32", shape=LOGITS.shape)
    logits.parameters["binary_data_size"].int64_param = LOGITS.nbytes
    request.outputs.add(name="index").parameters["binary_data"].bool_param = False
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    wanted = expected(LOGITS, 2**64 - 1, np.arange(3))["index"]
    assert_equal(arrays_of(triton_grpc.InferResult(response)), {"index": wanted})


MESSAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "contents of another type": (lambda m: m.inputs[0].contents.fp64_contents.extend([1, 2]), "logits"),
    "too few contents": (lambda m: m.inputs[0].contents.fp32_contents.append(1), "logits"),
    "no contents": (lambda m: None, "logits"),
    "fewer raw inputs than inputs": (
        lambda m: (m.inputs.add(name="seeds"), m.raw_input_contents.append(b"")),
        "raw_input_contents",
    ),
    "raw and typed contents": (
        lambda m: (m.inputs[0].contents.fp32_contents.extend([1, 2]), m.raw_input_contents.append(bytes(8))),
        "logits",
    ),
    "typed contents of 16 bits": (
        lambda m: (setattr(m.inputs[0], "datatype", "FP16"), m.inputs[0].contents.fp32_contents.extend([1, 2])),
        "logits",
    ),
    "lengths below zero": (
        lambda m: (m.inputs[0].shape.__setitem__(slice(None), [-1, -2]), m.raw_input_contents.append(bytes(8))),
        "logits",
    ),
    "a parameter of no value": (
        lambda m: (m.inputs[0].contents.fp32_contents.extend([1, 2]), m.parameters["tau"].Clear()),
        "tau",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_that_do_not_fit_are_refused(server, case):
    """INVALID_ARGUMENT, naming the input."""
    change, field = MESSAGES[case]
    request = service_pb2.ModelInferRequest(model_name="gumball")
    request.inputs.add(name="logits", datatype="FP32", shape=[1, 2])
    change(request)
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        error = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request).exception()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")


def test_an_error_over_grpc_fits_into_metadata(ways):
    """However long the name that is at fault, and whatever its characters."""
    given = tensors(triton_grpc, {"logits": LOGITS})
    with pytest.raises(InferenceServerException) as raised:
        ways.grpc.infer("gumball", given, parameters={"\N{FACE WITH TEARS OF JOY}" * 100_000: 1})
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata"])
def test_a_message_that_does_not_parse_is_refused(server, method):
    """Bytes that are no protobuf."""
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        error = channel.unary_unary(f"/inference.GRPCInferenceService/{method}").future(b"\xff").exception()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


# Messages, and the end.


def test_messages_are_those_of_the_protocol():
    """Ours live beside tritonclient's in one process, and every field has its name, number and type there."""

    def fields(message: Descriptor) -> dict[str, tuple[int, int, bool]]:
        return {field.name: (field.number, field.type, field.is_repeated) for field in message.fields}

    def compare(mine: Descriptor, theirs: Descriptor) -> None:
        assert fields(mine).items() <= fields(theirs).items()
        for nested in mine.nested_types:
            compare(nested, theirs.nested_types_by_name[nested.name])

    theirs = service_pb2.DESCRIPTOR
    for name, message in inference.DESCRIPTOR.message_types_by_name.items():
        compare(message, theirs.pool.FindMessageTypeByName(f"inference.{name}"))
    methods = {m.name: (m.client_streaming, m.server_streaming) for m in inference.SERVICE.methods}
    (service,) = theirs.services_by_name.values()
    assert service.full_name == inference.SERVICE.full_name
    assert methods.items() <= {m.name: (m.client_streaming, m.server_streaming) for m in service.methods}.items()


SLOW = Ask({"logits": np.zeros((4, 50_000), np.float32)}, (), {"seed": 1, "draws": 10_000})  # half a second or more
SLOW_ELEMENTS = 4 * 50_000 * 10_000


@pytest.fixture
def one_thread() -> Iterator[Server]:
    """A server that takes its time, to be ended by the test or here."""
    server = Server("--threads", "1", "--max-queue-elements", str(1 << 40), "--grace-seconds", "1")
    yield server
    assert server.stop() == 0
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


def test_a_stream_that_is_cancelled_withdraws_its_requests(one_thread):
    """What was asked is counted as cancelled, and nothing stays behind."""
    client = triton_grpc.InferenceServerClient(one_thread.addresses["grpc"])
    client.start_stream(lambda result, error: None)
    for _ in range(2):
        client.async_stream_infer("gumball", tensors(triton_grpc, SLOW.inputs), parameters=SLOW.parameters)
    until(lambda: metric(one_thread, "gumball_queue_elements") == 2 * SLOW_ELEMENTS)
    client.stop_stream(cancel_requests=True)
    client.close()
    until(lambda: metric(one_thread, "gumball_inflight_requests") == 0)
    assert metric(one_thread, "gumball_requests_total", transport="oip_grpc", code="CANCELLED") == 2
    until(lambda: metric(one_thread, "gumball_queue_elements") == 0)


def test_the_end_loses_nothing_that_was_accepted(one_thread):
    """Readiness goes first; what was sent over both transports and a stream is answered."""
    ways, answers = Ways(one_thread), queue.Queue[Any]()

    def put(result: Any, error: Any) -> None:
        answers.put(error or result)

    given = tensors(triton_grpc, SLOW.inputs)
    ways.grpc.start_stream(put)
    ways.grpc.async_stream_infer("gumball", given, parameters=SLOW.parameters)
    ways.grpc.async_infer("gumball", given, put, parameters=SLOW.parameters)
    with ThreadPoolExecutor(1) as thread:
        over_http = thread.submit(ways.http_aio, SLOW)
        until(lambda: metric(one_thread, "gumball_queue_elements") == 3 * SLOW_ELEMENTS)
        one_thread.signal(signal.SIGTERM)
        until(lambda: not ways.grpc.is_server_ready())
        assert not ways.http.is_server_ready()
        assert ways.http.is_server_live()
        assert len(ways.grpc.get_model_repository_index().models) == 0
        indices = [answers.get(timeout=60).as_numpy("index") for _ in range(2)] + [over_http.result()["index"]]
    assert len({index.tobytes() for index in indices}) == 1
    ways.close()
    assert one_thread.wait() == 0
