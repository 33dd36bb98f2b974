"""HTTP as a client without a library sees it: every form in and out, the documents, and the ways to connect."""

import io
import json
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import jsonschema
import numpy as np
import pytest
from conftest import Server
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from openapi_spec_validator import validate

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
FORMS = (JSON, RAW, NPY)
MODES = {"hard": ("index",), "soft": ("soft",), "straight_through": ("index", "soft")}
ORIGIN = "https://app.example"

LOGITS = np.array([[0.5, -1.0, -np.inf, 2.0], [1.0, 0.0, -2.0, 0.25], [3.0, 3.0, 3.0, -np.inf]], np.float32)


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, timeout=60) as client:
        del client.headers["accept"]  # so that it is sent where a test says so, and only there
        yield client


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server with everything that listens, and an origin that may call it."""
    with tempfile.TemporaryDirectory(prefix="gumball-") as folder:
        flags = ("--admin-port", "0", "--http-uds", f"{folder}/http", "--grpc-uds", f"{folder}/grpc")
        server = Server(*flags, "--cors-origins", f"{ORIGIN}, https://other.example")
        yield server
        assert server.stop() == 0


def expected(logits, seed, row, draws=1, first_draw=0, temperature=1.0, tau=1.0) -> dict[str, np.ndarray]:
    """Every output by the NumPy contract."""
    drawn = [contract.straight_through(logits, seed, row, first_draw + d, temperature, tau) for d in range(draws)]
    index = np.stack([each.index for each in drawn], axis=1)
    soft = np.stack([each.soft for each in drawn], axis=1)
    one_hot = (index[..., None] == np.arange(soft.shape[2])).astype(np.float32)
    return {"index": index, "one_hot": one_hot, "soft": soft}


class Answer(NamedTuple):
    """What the three forms of an answer have in common."""

    outputs: dict[str, np.ndarray]
    seed: int | None  # None where a list was given; binary answers do not give a list of tau back either
    tau: list[float] | None


def read(response: httpx.Response) -> Answer:
    """An answer in any form, all of which is checked for what every answer has."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == JSON:
        return read_json(response.json())
    headers = response.headers
    assert headers["gumball-contract"] == contract.VERSION
    assert int(headers["gumball-queue-ns"]) >= 0
    assert int(headers["gumball-compute-ns"]) > 0
    seed = int(headers["gumball-seed"]) if "gumball-seed" in headers else None
    outputs = (read_raw if headers["content-type"] == RAW else read_npy)(response)
    tau = [float(headers["gumball-tau"])] if "gumball-tau" in headers else None
    return Answer(outputs, seed, tau)


def read_json(answer: dict[str, Any]) -> Answer:
    assert answer.pop("contract") == contract.VERSION
    timings, shape = answer.pop("timings"), answer.pop("shape")
    assert timings["queue_ns"] >= 0
    assert timings["compute_ns"] > 0
    seed, tau = answer.pop("seed", None), answer.pop("tau")
    answer.pop("seeds", None)
    outputs = {name: np.array(v, np.int32 if name == "index" else np.float32) for name, v in answer.items()}
    sizes = (shape["rows"], shape["draws"], shape["categories"])
    assert all(array.shape == sizes[: array.ndim] for array in outputs.values())
    return Answer(outputs, None if seed is None else int(seed), tau)


def read_raw(response: httpx.Response) -> dict[str, np.ndarray]:
    outputs, start = {}, 0
    for told in json.loads(response.headers["gumball-outputs"]):
        count = int(np.prod(told["shape"]))
        dtype = np.dtype(told["dtype"]).newbyteorder("<")
        outputs[told["name"]] = np.frombuffer(response.content, dtype, count, start).reshape(told["shape"])
        start += count * dtype.itemsize
    assert start == len(response.content)
    return outputs


def read_npy(response: httpx.Response) -> dict[str, np.ndarray]:
    loaded = np.load(io.BytesIO(response.content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"index" if loaded.dtype == np.int32 else "soft": loaded}
    return dict(loaded)


def assert_same(outputs: dict[str, np.ndarray], wanted: dict[str, np.ndarray], names=None) -> None:
    """The same outputs in the same order, of the same types and bits."""
    assert list(outputs) == list(wanted if names is None else names)
    for name, array in outputs.items():
        assert array.dtype == wanted[name].dtype
        assert array.shape == wanted[name].shape
        assert array.tobytes() == wanted[name].tobytes()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def nulls(logits: np.ndarray) -> list:
    return [[None if value == -np.inf else float(value) for value in row] for row in logits]


def post(http: httpx.Client, form: str, parameters: dict, logits: np.ndarray = LOGITS, **headers) -> httpx.Response:
    """A request in a form, with `parameters` where they go in that form."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": form}
    if form == JSON:
        return http.post("/sample", json={"logits": nulls(logits)} | parameters, headers=headers)
    query = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()
    }
    if form == RAW:
        query |= {"shape": ",".join(map(str, logits.shape)), "dtype": str(logits.dtype)}
    body = logits.tobytes() if form == RAW else npy(logits)
    return http.post("/sample", params=query, content=body, headers=headers)


# Forms in and out.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("accept", [*FORMS, None, "*/*"])
def test_every_form_in_gives_the_contract_s_bits_in_every_form_out(http, form, accept, mode):
    """The form changes neither the bits nor their shapes; without a wish, the answer has the form of the request."""
    wanted = expected(LOGITS, 2**64 - 1, 5 + np.arange(3), 3, 4, 0.7, 0.3)
    parameters = {"mode": mode, "seed": 2**64 - 1, "first_row": 5, "draws": 3, "first_draw": 4}
    headers = {} if accept is None else {"accept": accept}
    response = post(http, form, parameters | {"temperature": 0.7, "tau": 0.3}, **headers)
    assert response.headers["content-type"] == (form if accept in (None, "*/*") else accept)
    answer = read(response)
    assert_same(answer.outputs, wanted, MODES[mode])
    assert (answer.seed, answer.tau) == (2**64 - 1, [0.3])


@pytest.mark.parametrize("form", FORMS)
def test_every_row_may_have_its_own_parameters(http, form):
    """Lists mean the same in JSON and in a query string; a row with its own seed is row number 0."""
    seeds, first_draw, tau, temperature = [3, 2**63, 3], [0, 9, 2**32 - 2], [0.5, 1e-3, 40.0], [1.0, 0.25, 7.0]
    parameters = {"mode": "straight_through", "seeds": seeds, "draws": 2, "first_draw": first_draw, "tau": tau}
    answer = read(post(http, form, parameters | {"temperature": temperature}))
    wanted = expected(LOGITS, np.array(seeds, np.uint64), 0, 2, np.array(first_draw), temperature, tau)
    assert_same(answer.outputs, wanted, ("index", "soft"))
    assert (answer.seed, answer.tau) == (None, tau if form == JSON else None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", [["soft", "index"], ["one_hot"], ["one_hot", "index", "soft"]])
def test_outputs_are_answered_in_the_order_asked_for(http, form, outputs):
    """The mode only sets what is answered when outputs is absent."""
    response = post(http, form, {"outputs": outputs, "seed": 1}, accept=RAW)
    assert_same(read(response).outputs, expected(LOGITS, 1, np.arange(3)), outputs)


@pytest.mark.parametrize("form", FORMS)
def test_temperature_zero_takes_the_first_of_the_largest(http, form):
    """Greedy rows use no noise, whatever the rows beside them do."""
    index = read(post(http, form, {"temperature": [0, 1, 0], "seed": 11, "draws": 2})).outputs["index"]
    assert index[0].tolist() == [3, 3]
    assert index[1].tolist() == expected(LOGITS, 11, np.arange(3), 2)["index"][1].tolist()
    assert index[2].tolist() == [0, 0]


def test_one_row_may_drop_the_outer_list(http):
    """[categories] is [1, categories]."""
    wanted = expected(LOGITS[1], 8, 0)
    assert_same(read(http.post("/sample", json={"logits": LOGITS[1].tolist(), "seed": 8})).outputs, wanted, ["index"])
    for form in (RAW, NPY):
        assert_same(read(post(http, form, {"seed": 8}, LOGITS[1], accept=JSON)).outputs, wanted, ["index"])


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("application/json;q=0.5, application/x-npy", NPY),
        ("application/octet-stream;q=0.2, application/x-npy;q=0.1, text/html", RAW),
        ("application/*", JSON),
        ("application/*;q=0.5, application/octet-stream", RAW),
        ("application/json;q=0, application/x-npy", NPY),
        ("application/json;q=0, application/octet-stream;q=0, */*", NPY),
        ("APPLICATION/X-NPY ; Q=0.9", NPY),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
    ],
)
def test_the_answer_has_the_form_that_accept_prefers(http, accept, form):
    """Quality values and wildcards are weighed; a form excluded by name is not let in by a wildcard."""
    assert post(http, JSON, {}, accept=accept).headers["content-type"] == form


@pytest.mark.parametrize("lines", [(NPY, "text/html"), ("text/html", NPY)])
def test_accept_in_two_lines_is_one_list(http, lines):
    """Lines of one name are joined, as HTTP says."""
    headers = [("accept", line) for line in lines]
    assert http.post("/sample", json={"logits": [0, 1]}, headers=headers).headers["content-type"] == NPY


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", None])
def test_the_content_type_may_have_parameters_and_be_absent(http, content_type):
    """What is not said is JSON."""
    headers = {} if content_type is None else {"content-type": content_type}
    response = http.post("/sample", content=b'{"logits": [0, 1], "seed": 1}', headers=headers | {"accept": "*/*"})
    assert response.headers["content-type"] == JSON
    assert response.json()["index"] == [[int(contract.hard([0, 1], 1)[0])]]


# Dtypes and files.


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype("<u2")


COARSE = (np.linspace(-4, 4, 60, dtype=np.float32).reshape(3, 20)).astype(np.float16).astype(np.float32)
ROUNDED = (bfloat16_bits(COARSE).astype(np.uint32) << 16).view(np.float32)
FILES = [
    ("float32", COARSE, COARSE),
    ("float16", COARSE.astype(np.float16), COARSE),
    ("float64", COARSE.astype(np.float64) + 1e-12, COARSE),
    ("bfloat16", bfloat16_bits(COARSE).view("V2"), ROUNDED),
    ("big-endian float32", COARSE.astype(">f4"), COARSE),
    ("big-endian float16", COARSE.astype(">f2"), COARSE),
    ("big-endian float64", COARSE.astype(">f8"), COARSE),
    ("Fortran order", np.asfortranarray(COARSE), COARSE),
    ("Fortran order, big-endian float64", np.asfortranarray(COARSE.astype(">f8")), COARSE),
    ("Fortran order, bfloat16", np.asfortranarray(bfloat16_bits(COARSE).view("V2")), ROUNDED),
    ("one row", COARSE[0], COARSE[0]),
]


@pytest.mark.parametrize(("array", "meant"), [pytest.param(*case[1:], id=case[0]) for case in FILES])
def test_numpy_files_are_read_as_numpy_means_them(http, array, meant):
    """Byte order, memory order and dtype of a file are its own; the numbers are what counts."""
    wanted = expected(meant, 21, np.arange(np.atleast_2d(meant).shape[0]))
    for body in (npy(array), npz(logits=array), npz(compressed=True, logits=array)):
        response = http.post("/sample?mode=straight_through&seed=21", content=body, headers={"content-type": NPY})
        assert_same(read(response).outputs, wanted, ("index", "soft"))


@pytest.mark.parametrize(
    ("dtype", "array", "meant"),
    [
        ("float32", COARSE, COARSE),
        ("float16", COARSE.astype(np.float16), COARSE),
        ("bfloat16", bfloat16_bits(COARSE), ROUNDED),
    ],
)
def test_raw_bytes_are_read_in_the_dtype_they_name(http, dtype, array, meant):
    """The three dtypes of the wire, little-endian."""
    query = f"shape=3,20&dtype={dtype}&mode=straight_through&seed=21"
    response = http.post(f"/sample?{query}", content=array.tobytes(), headers={"content-type": RAW})
    assert_same(read(response).outputs, expected(meant, 21, np.arange(3)), ("index", "soft"))


@pytest.mark.parametrize("byte_order", "<>")
def test_an_npz_carries_the_parameters_of_every_row(http, byte_order):
    """Many rows with their own parameters travel without a long query string."""
    logits = np.random.default_rng(1).normal(size=(500, 7)).astype(np.float32)
    rng = np.random.default_rng(2)
    arrays = {
        "seeds": rng.integers(0, 2**64, 500, np.uint64, endpoint=False),
        "first_draw": rng.integers(0, 2**32 - 1, 500),
        "tau": rng.uniform(0.1, 2, 500),
        "temperature": rng.uniform(0.1, 2, 500),
    }
    sent = {name: array.astype(array.dtype.newbyteorder(byte_order)) for name, array in arrays.items()}
    body = npz(logits=logits, **sent)
    response = http.post("/sample?mode=straight_through", content=body, headers={"content-type": NPY})
    wanted = expected(logits, arrays["seeds"], 0, 1, arrays["first_draw"], arrays["temperature"], arrays["tau"])
    assert_same(read(response).outputs, wanted, ("index", "soft"))


def test_float64_and_json_logits_are_rounded_to_the_nearest_float32(http):
    """0.1 is one number, whichever way it came."""
    values = np.random.default_rng(3).normal(size=(4, 50))
    wanted = expected(values.astype(np.float32), 6, np.arange(4))
    for response in (
        http.post("/sample", json={"logits": values.tolist(), "seed": 6, "mode": "straight_through"}),
        http.post("/sample?seed=6&mode=straight_through", content=npy(values), headers={"content-type": NPY}),
    ):
        assert_same(read(response).outputs, wanted, ("index", "soft"))


def test_real_logits_give_the_contract_s_bits(http, real_logits):
    """A language model's whole batch, in the float16 it has, one seed a row."""
    seeds = np.arange(100, 132, dtype=np.uint64)
    body = npz(logits=real_logits, seeds=seeds)
    response = http.post("/sample?mode=straight_through&draws=1", content=body, headers={"content-type": NPY})
    assert_same(read(response).outputs, expected(real_logits, seeds, 0), ("index", "soft"))


# Numbers.


def test_null_masks_a_category_and_no_masked_one_is_drawn(http):
    """null is -inf on the way in; the soft sample of a masked category is exactly 0."""
    body = {"logits": [[None, 0.0, None, 0.0]], "draws": 200, "mode": "straight_through", "seed": 5}
    outputs = read(http.post("/sample", json=body)).outputs
    assert set(outputs["index"].ravel().tolist()) == {1, 3}
    assert not outputs["soft"][:, :, [0, 2]].any()


@pytest.mark.parametrize("seed", [0, 7, 2**53 + 1, 2**63, 2**64 - 1])
def test_a_seed_may_be_a_number_or_its_decimal_text_and_is_answered_as_text(http, seed):
    """No 64-bit number is lost to a reader that has only float64."""
    numbers = http.post("/sample", json={"logits": LOGITS[1].tolist(), "seed": seed, "draws": 20}).json()
    text = http.post("/sample", json={"logits": LOGITS[1].tolist(), "seed": str(seed), "draws": 20}).json()
    assert numbers["seed"] == text["seed"] == str(seed)
    assert numbers["index"] == text["index"] == expected(LOGITS[1], seed, 0, 20)["index"].tolist()


def test_seeds_are_answered_as_text_and_may_be_mixed(http):
    """Numbers and text stand side by side."""
    body = {"logits": LOGITS[:2, :2].tolist(), "seeds": [2**64 - 1, "9007199254740993"]}
    answer = http.post("/sample", json=body).json()
    assert answer["seeds"] == ["18446744073709551615", "9007199254740993"]
    assert "seed" not in answer
    assert answer["index"] == expected(LOGITS[:2, :2], np.array([2**64 - 1, 2**53 + 1], np.uint64), 0)["index"].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_seed_that_the_service_drew_redoes_the_draw(http, form):
    """Without a seed every request gets another, and the answer says which."""
    answers = [read(post(http, form, {"draws": 50})) for _ in range(3)]
    assert len({answer.seed for answer in answers}) == 3
    for answer in answers:
        assert_same(answer.outputs, expected(LOGITS, answer.seed, np.arange(3), 50), ["index"])
        assert_same(read(post(http, form, {"draws": 50, "seed": answer.seed})).outputs, answer.outputs)


@pytest.mark.parametrize("tau", [0.7, 1 / 3, 2.0**-40, 2.0**40, 1e-5])
def test_the_tau_used_comes_back_as_the_same_float64(http, tau):
    """Whoever redoes the draw needs every bit of it, on every form."""
    for form in FORMS:
        answer = read(post(http, form, {"tau": tau, "seed": 1, "mode": "soft"}))
        assert answer.tau == [tau]
        assert_same(answer.outputs, expected(LOGITS, 1, np.arange(3), tau=tau), ["soft"])


def test_a_stream_continues_where_it_stopped(http):
    """Draw d of row r is the same however the draws and the rows are cut into requests."""
    whole = read(post(http, RAW, {"seed": 4, "draws": 6, "mode": "soft"})).outputs["soft"]
    parts = [
        read(
            post(http, RAW, {"seed": 4, "draws": 2, "first_draw": d, "first_row": r, "mode": "soft"}, LOGITS[r : r + 1])
        )
        for r in range(3)
        for d in (0, 2, 4)
    ]
    joined = np.concatenate([part.outputs["soft"] for part in parts], axis=1).reshape(whole.shape)
    assert joined.tobytes() == whole.tobytes()


# Connections and bodies.


def local_address(response: httpx.Response) -> tuple[str, int]:
    return response.extensions["network_stream"].get_extra_info("client_addr")


def test_one_connection_serves_many_requests_and_refusals(http):
    """Keep-alive outlives refusals of every kind."""
    responses = [
        http.post("/sample", json={"logits": [0, 1]}),
        http.post("/sample", json={"logits": []}),
        http.post("/sample", content=b"{", headers={"content-type": JSON}),
        http.post("/sample", content=b"{}", headers={"content-type": "text/plain"}),
        http.get("/sample"),
        http.get("/nonsense"),
        http.get("/livez"),
        http.post("/sample", json={"logits": [0, 1]}),
    ]
    assert [response.status_code for response in responses] == [200, 422, 400, 415, 405, 404, 200, 200]
    assert len({local_address(response) for response in responses}) == 1


@pytest.mark.parametrize("categories", [4, 8192], ids=["small", "large"])
def test_requests_sent_without_waiting_are_answered_in_order(server, categories):
    """A client may pipeline, requests that the event loop draws and requests that wait for the worker."""
    host, port = server.http.removeprefix("http://").split(":")
    body = b'{"logits": [%b], "draws": 20, "seed": ' % b", ".join([b"0"] * categories)
    bodies = [body + b"%d}" % seed for seed in range(20)]
    sent = [b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies]
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"".join(sent))
        answers = [json.loads(read_response(stream)) for _ in sent]
    assert [answer["seed"] for answer in answers] == [str(seed) for seed in range(20)]
    wanted = [expected([0] * categories, seed, 0, 20)["index"].tolist() for seed in range(20)]
    assert [answer["index"] for answer in answers] == wanted


def read_response(stream) -> bytes:
    """The body of the next response of a connection."""
    assert stream.readline().startswith(b"HTTP/1.1 200")
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return stream.read(length)


def test_a_body_may_come_in_chunks_of_any_size(http):
    """Content-Length is not needed."""
    body = json.dumps({"logits": nulls(LOGITS), "seed": 3}).encode()
    for size in (1, 7, len(body)):
        chunks = (body[i : i + size] for i in range(0, len(body), size))
        response = http.post("/sample", content=chunks, headers={"content-type": JSON, "accept": "*/*"})
        assert_same(read(response).outputs, expected(LOGITS, 3, np.arange(3)), ["index"])


@pytest.mark.parametrize(("timeout", "status"), [("1e-9", 504), ("30", 200), ("1e300", 200)])
@pytest.mark.parametrize("draws", [1, 20], ids=["small", "large"])
def test_a_timeout_may_be_as_short_and_as_long_as_one_likes(http, timeout, status, draws):
    """Whatever is a positive number of seconds is kept to."""
    query = f"shape=1,16384&dtype=float16&draws={draws}"
    headers = {"content-type": RAW, "request-timeout": timeout}
    response = http.post(f"/sample?{query}", content=bytes(2 << 14), headers=headers)
    assert response.status_code == status
    assert status == 200 or response.json()["reason"] == "DEADLINE"


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server):
    """curl sends Expect: 100-continue before a large body."""
    host, port = server.http.removeprefix("http://").split(":")
    body = b'{"logits": [0, 0]}'
    head = b"POST /sample HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as stream:
        connection.sendall(head)
        assert stream.readline().startswith(b"HTTP/1.1 100")
        assert stream.readline() == b"\r\n"
        connection.sendall(body)
        assert json.loads(read_response(stream))["index"] in ([[0]], [[1]])


def test_a_large_json_body_and_answer_pass(http):
    """What is parsed and written in a thread has the same bits."""
    logits = np.random.default_rng(4).normal(size=(20, 5000)).astype(np.float32)
    body = {"logits": logits.astype(float).tolist(), "seed": 9, "mode": "straight_through"}
    assert_same(read(http.post("/sample", json=body)).outputs, expected(logits, 9, np.arange(20)), ("index", "soft"))


# Documents.


def test_health_and_information_are_told(http):
    """An operator sees life, readiness, versions and limits."""
    assert http.get("/livez").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready"}
    info = http.get("/info").json()
    assert info["contracts"] == [contract.VERSION]
    assert info["version"]
    assert [device["name"] for device in info["devices"]] == ["cpu"]
    assert info["limits"]["max_request_bytes"] == info["limits"]["max_response_bytes"] == 64 << 20
    assert info["limits"]["max_categories"] == contract.MAX_CATEGORIES


def test_there_is_documentation_to_read(http):
    """/docs is a page, and / leads somewhere."""
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    assert http.get("/", follow_redirects=True).status_code == 200


def test_the_documentation_needs_no_other_host(http):
    """Its scripts and styles are here: clusters may have no internet, and a public one could be tampered with."""
    loaded = re.findall(r'(?:src|href)="([^"]+)"', http.get("/docs").text)
    assert len(loaded) >= 2
    for path in loaded:
        assert path.startswith("/docs/")
        assert http.get(path).status_code == 200


@pytest.fixture(scope="module")
def document(http) -> dict[str, Any]:
    return http.get("/openapi.json").json()


def check(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    """Validate against a schema of the document, with the references that it has."""
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(instance)


def operation(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    return document["paths"][path][method]


def test_the_published_description_is_valid_and_names_every_path(document):
    """OpenAPI's own validator accepts it."""
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {"/sample", "/livez", "/readyz", "/info", "/metrics"}
    content = operation(document, "/sample", "post")["requestBody"]["content"]
    assert content.keys() == set(FORMS)


def test_the_published_examples_are_accepted_and_answered_as_published(http, document):
    """What a reader copies from the documentation works, and its answer is as described."""
    sample = operation(document, "/sample", "post")
    media = sample["requestBody"]["content"][JSON]
    answer_schema = sample["responses"]["200"]["content"][JSON]["schema"]
    assert media["examples"]
    for example in media["examples"].values():
        check(document, media["schema"], example["value"])
        response = http.post("/sample", json=example["value"])
        assert response.status_code == 200
        check(document, answer_schema, response.json())


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"seed": "1"},
        {"seed": 1, "first_row": 2, "draws": 3, "first_draw": 4},
        {"seeds": [1, "2", 3], "tau": [1, 2.5, 3], "temperature": 0.5, "first_draw": [1, 2, 3], "mode": "soft"},
        {"outputs": ["index", "one_hot", "soft"], "seed": None, "tau": None},
    ],
)
def test_requests_and_answers_are_as_published(http, document, members):
    """The schemas hold for what is really accepted and really answered."""
    sample = operation(document, "/sample", "post")
    body = {"logits": nulls(LOGITS)} | members
    check(document, sample["requestBody"]["content"][JSON]["schema"], body)
    answer = http.post("/sample", json=body)
    assert answer.status_code == 200
    check(document, sample["responses"]["200"]["content"][JSON]["schema"], answer.json())


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"logits": [[0, 1]], "tau": "x"}, {}),
        ({"logits": [[0, 1]], "nonsense": 1}, {}),
        ({"logits": 1}, {}),
        ({"logits": [[]]}, {}),
        ({"logits": [[0, "1"]]}, {}),
        ({"logits": [[0, 1]], "seed": 1.5}, {}),
        ({}, {}),
    ],
)
def test_what_the_schema_forbids_is_refused_as_published(http, document, body, headers):
    """The schema is no laxer than the service on these, and the refusal is as described."""
    sample = operation(document, "/sample", "post")
    with pytest.raises(jsonschema.ValidationError):
        check(document, sample["requestBody"]["content"][JSON]["schema"], body)
    response = http.post("/sample", json=body, headers=headers)
    published = sample["responses"][str(response.status_code)]
    check(document, published["content"]["application/problem+json"]["schema"], response.json())


def test_the_refusals_of_the_service_are_all_published(http, document):
    """Every status that /sample can answer is in its description, with the form of a problem."""
    published = operation(document, "/sample", "post")["responses"]
    statuses = {
        http.post("/sample", content=b"{", headers={"content-type": JSON}),
        http.post("/sample", json={"logits": [0, 1]}, headers={"accept": "text/html"}),
        http.post("/sample", json={"logits": [0, 1], "draws": 2**32}),
        http.post("/sample", content=b"{}", headers={"content-type": "text/plain"}),
        http.post("/sample", json={}),
    }
    for response in statuses:
        content = published[str(response.status_code)]["content"]
        check(document, content[response.headers["content-type"]]["schema"], response.json())
    assert {"429", "503", "504"} < published.keys()


def test_the_documents_of_health_and_information_are_as_published(http, document):
    """The other paths keep to their schemas as well."""
    for path in ("/livez", "/readyz", "/info"):
        responses = operation(document, path, "get")["responses"]
        check(document, responses["200"]["content"][JSON]["schema"], http.get(path).json())


# Other ways to connect.


def preflight(http: httpx.Client, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,request-timeout",
    }
    return http.options("/sample", headers=headers)


def test_pages_of_configured_origins_may_call_and_read_the_headers(own_server):
    """A browser is let through, and may read the seed of a binary answer."""
    with httpx.Client(base_url=own_server.http) as http:
        asked = preflight(http, ORIGIN)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == ORIGIN
        answer = http.post("/sample", json={"logits": [0, 1]}, headers={"origin": ORIGIN, "accept": RAW})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert exposed == "*" or "gumball-seed" in exposed
        refused = http.post("/sample", json={}, headers={"origin": ORIGIN})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, ORIGIN)


def test_pages_of_other_origins_may_not_call(own_server, http):
    """Neither where origins are configured nor where none is."""
    for address in (own_server.http, str(http.base_url)):
        with httpx.Client(base_url=address) as client:
            asked = preflight(client, "https://evil.example")
            assert "access-control-allow-origin" not in asked.headers
            assert asked.status_code >= 400
            answer = client.post("/sample", json={"logits": [0, 1]}, headers={"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in answer.headers


def test_a_unix_socket_serves_http(own_server):
    """The same service without a network."""
    transport = httpx.HTTPTransport(uds=own_server.addresses["http_uds"])
    with httpx.Client(transport=transport, base_url="http://gumball") as http:
        assert http.get("/readyz").status_code == 200
        answer = read(http.post("/sample", json={"logits": LOGITS[:, :2].tolist(), "seed": 5}))
    assert_same(answer.outputs, expected(LOGITS[:, :2], 5, np.arange(3)), ["index"])


def test_a_unix_socket_serves_grpc(own_server):
    """The same service without a network."""
    logits = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=LOGITS.shape, data=LOGITS.tobytes())
    with grpc.insecure_channel(f"unix:{own_server.addresses['grpc_uds']}") as channel:
        response = sampling_pb2_grpc.SamplingServiceStub(channel).Sample(pb.SampleRequest(logits=logits, seed=5))
    assert response.index.data == expected(LOGITS, 5, np.arange(3))["index"].tobytes()


def test_the_admin_port_tells_of_the_service_and_does_not_sample(own_server):
    """What a cluster's network policy keeps apart: health, metrics and information here, sampling there."""
    with httpx.Client(base_url=own_server.addresses["admin"]) as admin:
        for path in ("/livez", "/readyz", "/info", "/metrics"):
            assert admin.get(path).status_code == 200
        assert "gumball_requests_total" in admin.get("/metrics").text
        assert admin.post("/sample", json={"logits": [0, 1]}).status_code == 404
        assert "/sample" not in admin.get("/openapi.json").json()["paths"]


def test_a_unix_socket_left_by_a_dead_process_is_replaced_and_a_file_is_not(socket_folder: Path):
    """A restart after a crash works; somebody's file is never deleted."""
    stale = socket_folder / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    server = Server("--http-uds", str(stale))
    transport = httpx.HTTPTransport(uds=str(stale))
    with httpx.Client(transport=transport, base_url="http://gumball") as http:
        assert http.get("/livez").status_code == 200
    assert server.stop() == 0
    file = socket_folder / "file"
    file.write_text("precious")
    with pytest.raises(RuntimeError, match="cannot listen"):
        Server("--http-uds", str(file))
    assert file.read_text() == "precious"
