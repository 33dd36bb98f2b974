"""The clients against a real server: every way in gives the bits of the NumPy contract."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
from gumball import AsyncClient, Client, contract, errors

WAYS = ["http", "grpc", "local"]
MODES = ["hard", "soft", "straight_through"]
LOGITS = np.random.default_rng(1).normal(0, 3, (5, 33)).astype(np.float32)
LOGITS[2, 5:20] = -np.inf
TAU, TEMPERATURE = [0.5, 1.0, 2.0, 0.1, 7.0], [1.0, 0.7, 3.0, 0.2, 1.5]
FIRST_DRAW = [0, 7, 2**32 - 3, 1, 1000]


@pytest.fixture(scope="session")
def address(server):
    """The address of the service by each way."""
    return {"http": server.http, "grpc": server.grpc, "local": "local:"}


@pytest.fixture(scope="session")
def clients(address):
    """One client a way, that all tests share."""
    opened = {way: Client(address[way]) for way in WAYS}
    yield opened
    for client in opened.values():
        client.close()


@pytest.fixture(params=WAYS)
def client(request, clients):
    """Each client in turn."""
    return clients[request.param]


def expected(logits, draws: int, *, seed, row, first_draw=0, temperature=1.0, tau=1.0):
    """What the contract says: index [rows, draws], soft [rows, draws, categories]."""
    numbers = [np.asarray(first_draw, np.uint64) + np.uint64(draw) for draw in range(draws)]
    samples = [contract.straight_through(logits, seed, row, number, temperature, tau) for number in numbers]
    return np.stack([each.index for each in samples], 1), np.stack([each.soft for each in samples], 1)


def assert_bits(sample, mode, index, soft):
    """The arrays of the mode, bit for bit, and no others."""
    np.testing.assert_array_equal(sample.index, None if mode == "soft" else index)
    if mode == "hard":
        assert sample.soft is None
    else:
        np.testing.assert_array_equal(sample.soft.view(np.uint32), soft.view(np.uint32))


@pytest.mark.parametrize("mode", MODES)
def test_one_seed_gives_the_bits_of_the_contract(client, mode):
    """Rows are numbered from first_row, draws from first_draw."""
    sample = client.sample(
        LOGITS,
        mode=mode,
        seed=2**63 + 5,
        draws=3,
        first_row=9,
        first_draw=FIRST_DRAW,
        tau=TAU,
        temperature=TEMPERATURE,
    )
    row = 9 + np.arange(5)
    bits = expected(LOGITS, 3, seed=2**63 + 5, row=row, first_draw=FIRST_DRAW, temperature=TEMPERATURE, tau=TAU)
    assert_bits(sample, mode, *bits)
    assert (sample.seed, sample.seeds, sample.shape) == (2**63 + 5, None, (5, 3, 33))
    assert sample.tau.tolist() == TAU


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
async def test_the_asynchronous_client_gives_the_same(address, way, mode):
    """Calls in flight together do not touch each other."""
    seeds = np.arange(5, dtype=np.uint64) * np.uint64(2**61 + 1)
    index, soft = expected(LOGITS, 2, seed=seeds, row=0, tau=TAU)
    async with AsyncClient(address[way]) as client:
        whole = client.sample(LOGITS, mode=mode, seeds=seeds, draws=2, tau=TAU)
        alone = [client.sample(LOGITS[r], mode=mode, seeds=[seeds[r]], draws=2, tau=TAU[r]) for r in range(len(LOGITS))]
        samples = await asyncio.gather(whole, *alone)
    assert_bits(samples[0], mode, index, soft)
    assert samples[0].seeds.tolist() == seeds.tolist()
    for r, sample in enumerate(samples[1:]):
        assert_bits(sample, mode, index[r : r + 1], soft[r : r + 1])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32, ">f4"])
def test_every_dtype_is_drawn_from_as_its_float32(client, dtype):
    """The value counts, not the type it came in."""
    logits = np.round(LOGITS[[0, 1, 3]] * 4).astype(dtype)
    index, soft = expected(logits.astype(np.float32), 1, seed=3, row=np.arange(3))
    assert_bits(client.sample(logits, mode="straight_through", seed=3), "straight_through", index, soft)


def test_many_rows_with_their_own_parameters(client):
    """More than a query string or a header holds."""
    rows = 20_000
    random = np.random.default_rng(2)
    logits = random.normal(size=(rows, 4)).astype(np.float32)
    seeds, tau = random.integers(0, 2**64, rows, np.uint64), random.uniform(0.1, 9, rows)
    sample = client.sample(logits, mode="straight_through", seeds=seeds, tau=tau)
    assert_bits(sample, "straight_through", *expected(logits, 1, seed=seeds, row=0, tau=tau))
    np.testing.assert_array_equal(sample.tau, tau)
    np.testing.assert_array_equal(sample.seeds, seeds)


def test_outputs_come_as_asked_for(client):
    """In any mode and order."""
    sample = client.sample(LOGITS, seed=4, outputs=["one_hot", "index"])
    index, _ = expected(LOGITS, 1, seed=4, row=np.arange(5))
    np.testing.assert_array_equal(sample.index, index)
    np.testing.assert_array_equal(sample.one_hot, index[..., None] == np.arange(33))
    assert sample.soft is None


def test_a_drawn_seed_draws_the_sample_again(client):
    """The answer says which seed it was."""
    first, second = client.sample(LOGITS, mode="soft"), client.sample(LOGITS, mode="soft")
    assert first.seed != second.seed
    np.testing.assert_array_equal(client.sample(LOGITS, mode="soft", seed=first.seed).soft, first.soft)


def test_temperature_zero_is_argmax(client):
    """No noise."""
    np.testing.assert_array_equal(client.sample(LOGITS, temperature=0).index[:, 0], LOGITS.argmax(axis=1))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("logits[1][0]", {"logits": [[0.0, 1.0], [np.nan, 1.0]]}),
        ("logits", {"logits": np.zeros((0, 3), np.float32)}),
        ("tau", {"tau": 0.0}),
        ("tau[1]", {"tau": [1.0, -2.0, 1.0, 1.0, 1.0]}),
        ("temperature", {"temperature": np.nan}),
        ("seeds", {"seeds": [1, 2]}),
        ("draws", {"draws": 0}),
        ("first_row", {"seeds": [1, 2, 3, 4, 5], "first_row": 1}),
    ],
)
def test_the_service_refuses_by_name(client, field, arguments):
    """The same field by every way."""
    with pytest.raises(errors.InvalidArgument) as raised:
        client.sample(**({"logits": LOGITS} | arguments))
    assert raised.value.field == field


def test_refusals_read_the_same_by_every_way(clients):
    """The same sentence, too."""
    said = set()
    for client in clients.values():
        with pytest.raises(errors.InvalidArgument) as raised:
            client.sample(LOGITS, tau=-1.0)
        said.add((str(raised.value), raised.value.detail))
    assert len(said) == 1


def test_information_is_that_of_the_service(clients):
    """By every way; `local:` has limits of its own."""
    assert clients["http"].info() == clients["grpc"].info()
    for client in clients.values():
        assert contract.VERSION in client.info()["contracts"]
        assert client.info()["devices"][0]["threads"] >= 1


def test_a_model_batch_goes_and_comes_whole(client, real_logits):
    """32 rows of 49,152 categories in float16."""
    index, _ = expected(real_logits[:4], 1, seed=1, row=np.arange(4))
    np.testing.assert_array_equal(client.sample(real_logits, seed=1).index[:4], index)
