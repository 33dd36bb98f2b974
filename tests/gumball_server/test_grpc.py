"""gRPC as a client with nothing but the stubs sees it."""

import threading
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from gumball_server.wire import inference

SERVICE = "gumball.v1.SamplingService"
MODES = {"MODE_HARD": ("index",), "MODE_SOFT": ("soft",), "MODE_STRAIGHT_THROUGH": ("index", "soft")}
TENSORS = ("index", "one_hot", "soft", "log_soft", "score", "log_prob", "probs", "entropy", "top_index", "top_log_prob")
TYPES = {pb.DATA_TYPE_INT32: np.dtype("<i4"), pb.DATA_TYPE_FLOAT32: np.dtype("<f4")}
SERVING = health_pb2.HealthCheckResponse.SERVING

LOGITS = np.array([[0.5, -1.0, -np.inf, 2.0], [1.0, 0.0, -2.0, 0.25], [3.0, 3.0, 3.0, -np.inf]], np.float32)


@pytest.fixture(scope="module")
def channel(grpc_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(grpc_server.addresses["grpc"], [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel) -> sampling_pb2_grpc.SamplingServiceStub:
    return sampling_pb2_grpc.SamplingServiceStub(channel)


@pytest.fixture(scope="module")
def health(channel) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(channel)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")


def tensor(logits: np.ndarray, dtype: str = "DATA_TYPE_FLOAT32") -> pb.Tensor:
    return pb.Tensor(dtype=dtype, shape=logits.shape, data=logits.tobytes())


def array(tensor: pb.Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, TYPES[tensor.dtype]).reshape(tensor.shape)


def expected(logits, seed, row, draws=1, first_draw=0, temperature=1.0, tau=1.0) -> dict[str, np.ndarray]:
    """Every output by the NumPy contract."""
    drawn = [contract.straight_through(logits, seed, row, first_draw + d, temperature, tau) for d in range(draws)]
    index = np.stack([each.index for each in drawn], axis=1)
    soft = np.stack([each.soft for each in drawn], axis=1)
    one_hot = (index[..., None] == np.arange(soft.shape[2])).astype(np.float32)
    return {"index": index, "one_hot": one_hot, "soft": soft}


def assert_answers(response: pb.SampleResponse, wanted: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """Just these outputs, bit for bit, and what every answer has."""
    assert {name for name in TENSORS if response.HasField(name)} == set(names)
    for name in names:
        got = array(getattr(response, name))
        assert (got.dtype, got.shape) == (wanted[name].dtype, wanted[name].shape)
        assert got.tobytes() == wanted[name].tobytes()
    assert response.contract == contract.VERSION
    rows, draws, categories = wanted["soft"].shape
    assert response.shape == pb.Shape(rows=rows, draws=draws, categories=categories)
    assert response.timings.compute_ns > 0
    assert not response.HasField("error")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_every_mode_gives_the_contract_s_bits(stub, mode, seed):
    """One seed for the request: row r is row number first_row + r, and id comes back."""
    response = stub.Sample(
        pb.SampleRequest(
            id=2**64 - 1,
            logits=tensor(LOGITS),
            mode=mode,
            seed=seed,
            first_row=2**32 - 3,
            draws=3,
            first_draw=[2**32 - 3],
            tau=[0.3],
            temperature=[0.7],
        )
    )
    wanted = expected(LOGITS, seed, 2**32 - 3 + np.arange(3), 3, 2**32 - 3, 0.7, 0.3)
    assert_answers(response, wanted, MODES[mode])
    assert (response.id, response.seed, list(response.seeds), list(response.tau)) == (2**64 - 1, seed, [], [0.3])


def test_every_row_may_have_its_own_parameters(stub):
    """With seeds every row is row number 0, and all that was used comes back."""
    seeds, first_draw, tau, temperature = [3, 2**64 - 1, 3], [0, 9, 2**32 - 2], [0.5, 1e-3, 40.0], [1.0, 0.25, 7.0]
    response = stub.Sample(
        pb.SampleRequest(
            logits=tensor(LOGITS),
            mode="MODE_STRAIGHT_THROUGH",
            seeds=seeds,
            draws=2,
            first_draw=first_draw,
            tau=tau,
            temperature=temperature,
        )
    )
    wanted = expected(LOGITS, np.array(seeds, np.uint64), 0, 2, np.array(first_draw), temperature, tau)
    assert_answers(response, wanted, ("index", "soft"))
    assert (list(response.seeds), list(response.tau), response.HasField("seed")) == (seeds, tau, False)


@pytest.mark.parametrize(
    ("outputs", "names"), [(["OUTPUT_ONE_HOT"], ("one_hot",)), (["OUTPUT_SOFT", "OUTPUT_INDEX"], ("index", "soft"))]
)
def test_outputs_are_those_asked_for(stub, outputs, names):
    """The mode only sets what is answered when outputs is empty."""
    response = stub.Sample(pb.SampleRequest(logits=tensor(LOGITS), outputs=outputs, seed=1))
    assert_answers(response, expected(LOGITS, 1, np.arange(3)), names)


@pytest.mark.parametrize(
    ("dtype", "encode", "decode"),
    [
        ("DATA_TYPE_FLOAT32", np.asarray, np.asarray),
        ("DATA_TYPE_FLOAT16", lambda x: x.astype("<f2"), lambda x: x.astype(np.float32)),
        ("DATA_TYPE_BFLOAT16", bfloat16_bits, lambda x: (x.astype(np.uint32) << 16).view(np.float32)),
    ],
)
def test_every_dtype_of_the_wire_is_read(stub, dtype, encode, decode):
    """What is sampled is what the narrow dtype holds."""
    sent = encode(np.random.default_rng(1).normal(size=(5, 77)).astype(np.float32))
    response = stub.Sample(pb.SampleRequest(logits=tensor(sent, dtype), mode="MODE_STRAIGHT_THROUGH", seed=3))
    assert_answers(response, expected(decode(sent), 3, np.arange(5)), ("index", "soft"))


def test_one_row_may_drop_the_outer_dimension_and_everything_else(stub):
    """Logits alone are a request; the seed that was drawn redoes it."""
    first, second = (stub.Sample(pb.SampleRequest(logits=tensor(LOGITS[1]), draws=40)) for _ in range(2))
    assert first.seed != second.seed
    for response in (first, second):
        assert_answers(response, expected(LOGITS[1], response.seed, 0, 40), ("index",))


def test_rows_of_a_batch_get_the_bits_they_get_alone(stub, real_logits):
    """Requests sent all at once, that share batches, equal the contract one by one."""
    requests = [
        pb.SampleRequest(
            id=n, logits=tensor(real_logits[n % 32 : n % 32 + 1, : 1000 * (n % 7) + 10], "DATA_TYPE_FLOAT16"), seed=n
        )
        for n in range(64)
    ]
    answers = [stub.Sample.future(request) for request in requests]
    for request, answer in zip(requests, answers, strict=True):
        logits = np.frombuffer(request.logits.data, np.float16)
        assert answer.result().id == request.id
        assert_answers(answer.result(), expected(logits, request.seed, 0), ("index",))


def test_messages_above_grpc_s_own_limit_pass_both_ways(stub):
    """5 MB in and 5 MB out, where gRPC alone would stop at 4 MiB."""
    logits = np.random.default_rng(2).normal(size=(5, 250_000)).astype(np.float32)
    response = stub.Sample(pb.SampleRequest(logits=tensor(logits), mode="MODE_SOFT", seed=8))
    assert len(response.soft.data) == logits.nbytes == 5_000_000
    assert_answers(response, expected(logits, 8, np.arange(5)), ("soft",))


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_request_is_read(stub, compression):
    """As a channel that compresses sends it."""
    logits = np.zeros((2, 100_000), np.float32)
    response = stub.Sample(pb.SampleRequest(logits=tensor(logits), seed=4), compression=compression)
    assert_answers(response, expected(logits, 4, np.arange(2)), ("index",))


def test_information_is_that_of_http(stub, grpc_server):
    """GetInfo and GET /info tell the same."""
    told = MessageToDict(
        stub.GetInfo(pb.GetInfoRequest()), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    told["limits"] = {name: int(value) for name, value in told["limits"].items()}  # 64-bit numbers are text in JSON
    assert told == httpx.get(f"{grpc_server.http}/info").json()


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_can_be_checked_and_watched(health, service):
    """ "" is liveness, the service's name is readiness."""
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request).status == SERVING
    watching = health.Watch(request)
    assert next(watching).status == SERVING
    watching.cancel()


def test_the_health_of_a_service_that_is_not_there_is_not_found(health):
    """Check refuses it; Watch waits for it to appear, as the protocol says."""
    request = health_pb2.HealthCheckRequest(service="nonsense")
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(request)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watching = health.Watch(request)
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watching.cancel()


def reflect(channel: grpc.Channel, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (response,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]))
    return response


def test_reflection_lists_the_services(channel):
    """grpcurl finds its way without the schema."""
    listed = reflect(channel, list_services="").list_services_response.service
    assert {service.name for service in listed} == {
        SERVICE,
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_reflection_gives_the_schema(channel):
    """The descriptor of each service is the one that its messages were made of."""
    for service, descriptor in ((SERVICE, pb.DESCRIPTOR), (inference.SERVICE.full_name, inference.DESCRIPTOR)):
        (file,) = reflect(channel, file_containing_symbol=service).file_descriptor_response.file_descriptor_proto
        schema = FileDescriptorProto()
        descriptor.CopyToProto(schema)
        assert FileDescriptorProto.FromString(file) == schema


@pytest.mark.parametrize(
    "method", [f"/{SERVICE}/Nonsense", f"/{SERVICE}/sample", "/nonsense.Service/Sample", "/gumball.v1/Sample"]
)
def test_a_method_that_is_not_there_is_unimplemented(channel, method):
    """gRPC's own word for a path that is not found."""
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(method)(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_carries_its_reason_and_field_for_programs(stub):
    """google.rpc.Status, as richer clients unpack it."""
    with pytest.raises(grpc.RpcError) as raised:
        stub.Sample(pb.SampleRequest(logits=tensor(LOGITS), tau=[1, 0, 1]))
    error = raised.value
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = ErrorInfo()
    assert [detail.Is(ErrorInfo.DESCRIPTOR) for detail in status.details] == [True]
    status.details[0].Unpack(info)
    assert info == ErrorInfo(reason="INVALID_ARGUMENT", domain="gumball", metadata={"field": "tau[1]"})
    assert error.details() == status.message
    assert error.details().startswith("tau[1]: ")


def test_a_call_that_is_cancelled_ends_and_the_channel_serves_on(stub):
    """The caller may leave at any time."""
    logits = tensor(np.zeros((16, 1 << 16), np.float32))
    call = stub.Sample.future(pb.SampleRequest(logits=logits, draws=4))
    call.cancel()
    assert call.cancelled()
    assert stub.Sample(pb.SampleRequest(logits=tensor(LOGITS), seed=1)).seed == 1


def test_many_threads_share_a_channel(stub):
    """Blocking calls from threads of one process get their own answers."""
    seeds = {}

    def draw(n: int) -> None:
        seeds[n] = stub.Sample(pb.SampleRequest(id=n, logits=tensor(LOGITS), seed=n)).seed

    threads = [threading.Thread(target=draw, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {n: n for n in range(32)}
