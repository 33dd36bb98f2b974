"""The Triton kernels, run by Triton's interpreter, against the NumPy contract: every bit of every output.

What is drawn goes through the worker, so that packing and unpacking a batch is tested with it. The interpreter takes
some milliseconds a program, hence few rows, each chosen for a reason.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from gumball import contract
from gumball.vectors import VECTORS
from gumball_server.domain import Output, Parameters, SampleRequest, Source
from gumball_server.settings import Settings
from gumball_server.validation import sample_request
from gumball_server.worker import DeviceLostError, open_worker
from gumball_server.worker_process import SPARE_BYTES, Channel, RemoteWorker, serve_worker
from kernel_cases import DENSE, DISTINCT, DISTRIBUTION, HARD, Case, bfloat16, normal


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Triton runs its kernels itself: it looks for this when they are defined, its own included, and when they run."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        yield


with interpreted():
    pytest.importorskip("triton")
    torch = pytest.importorskip("torch")
    from fake_cuda import FakeCuda
    from gumball_server.cuda_worker import LANES, CudaWorker

# The interpreter computes with NumPy, which warns where a masked category meets infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF = np.inf


class NoWorker:
    """A CPU worker that is never asked."""

    def run(self, requests: Sequence[SampleRequest]) -> list[Any]:
        raise AssertionError("the device was to draw this")

    def close(self) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    with interpreted():
        yield


@pytest.fixture(scope="module")
def worker() -> CudaWorker:
    return CudaWorker(torch.device("cpu"), NoWorker(), worth_the_way=0)


def check(worker: CudaWorker, *cases: Case) -> None:
    """Draw all in one batch."""
    for case, drawn in zip(cases, worker.run([case.request() for case in cases]), strict=True):
        case.check(drawn)


HOSTILE = [
    [0.0, -0.0, 1e-45, -1e-45, 2.0**-60, -(2.0**-60), np.nextafter(np.float32(2.0**-60), np.float32(0)), 1e-38],
    [-INF] * 7 + [-3e38],
    [3e38, -3e38, 3e38, -INF, 2.9999e38, 0, 1, 2],
    [1e30, 1e30, np.nextafter(np.float32(1e30), np.float32(0)), 0, -1e30, 1e30, -INF, 1e30],
    [5.0] * 8,
]


@pytest.mark.parametrize("outputs", [HARD, DENSE], ids=["hard", "dense"])
def test_rows_of_any_length_and_type_are_drawn_together(worker: CudaWorker, outputs: tuple[str, ...]):
    """From one category to several slices, float32, float16 and bfloat16, some with several draws."""
    check(
        worker,
        *(Case(normal(1, K), outputs, given={"first_row": K}) for K in (1, 7, 8, 9, 256, 257, 1500)),
        Case(normal(1, 4097), outputs, given={"draws": 2, "first_draw": 2**32 - 2, "seed": 2**64 - 1}),
        Case(normal(2, 300).astype(np.float16), outputs, given={"draws": 2, "tau": 0.3, "temperature": 0.5}),
        Case(bfloat16(normal(2, 300)), outputs, given={"seeds": [5, 2**63]}),
    )


@pytest.mark.parametrize("output", sorted({*DENSE, *DISTRIBUTION}))
def test_each_output_can_be_all_that_is_asked_for(worker: CudaWorker, output: str):
    """Also without the index, which the kernels find in any case."""
    check(worker, Case(normal(2, 40), (output,), given={"draws": 2}))


@pytest.mark.parametrize("outputs", [HARD, DENSE], ids=["hard", "dense"])
def test_hostile_logits_are_drawn_from(worker: CudaWorker, outputs: tuple[str, ...]):
    """Zeros of both signs, subnormals, neighbours of 2^-60, masks, ties, logits far from zero or overflowing."""
    rows = np.array(HOSTILE, np.float32)
    extremes = [2.0**-40, 1.0, 2.0**40, 0.7, 1e-3]
    check(worker, Case(rows, outputs), Case(rows, outputs, given={"temperature": extremes, "tau": extremes[::-1]}))


def test_float16_subnormals_count_as_what_they_are(worker: CudaWorker):
    """The smallest float16 is a normal float32, and above 2^-60."""
    check(worker, Case(np.array([[2.0**-24, -(2.0**-24), 0, -0.0, 65504, -65504, -INF, 65500]], np.float16), DENSE))


def test_the_winning_tail_is_drawn_from_its_own_stream(worker: CudaWorker):
    """Where a coarse halfword is 0, all else being equal, its category wins, in either half of a block."""
    categories, seeds = 2048, np.arange(200)
    noise = contract.gumbel_noise(categories, seeds)
    seed, winner = np.nonzero(noise > -np.log(2.0**-16))
    assert {0, 1} <= {k % 8 // 4 for k in winner}
    seeds, rows = seed[:4], np.zeros((4, categories), np.float32)
    check(worker, Case(rows, HARD, given={"seeds": seeds}), Case(rows[:2], DENSE, given={"seeds": seeds[:2]}))


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": [1, 40, 300]},
        {"top_p": [1e-300, 0.99, 0.5]},
        {"min_p": [1.0, 0.3, 1e-40]},
        {"top_k": [30, 200, 300], "top_p": [0.8, 1.0, 1.0], "min_p": [0.05, 0.1, 0.0], "temperature": 2.0},
        {"temperature": [0.0, 1.0, 0.0]},
    ],
    ids=lambda filters: "+".join(filters),
)
def test_filters_keep_what_the_contract_keeps(worker: CudaWorker, filters: dict[str, Any]):
    """Ties at the cut go to the lower categories; masked categories are never kept."""
    logits = np.round(normal(3, 300))  # many ties
    logits[1, ::3] = -INF
    logits[2] = 1.0
    check(worker, Case(logits, DISTRIBUTION, given=filters))


def test_filters_apply_to_soft_samples_and_to_float16(worker: CudaWorker):
    """What is masked weighs nothing; noise keeps its categories."""
    check(worker, Case(normal(2, 260).astype(np.float16), ("index", "soft", "score"), given={"top_k": 9, "draws": 2}))


def test_weights_are_drawn_from_by_their_logarithms(worker: CudaWorker):
    """Zero and subnormal weights are masked; any scale will do."""
    weights = np.abs(normal(2, 20))
    weights[0, :3], weights[1] = (0, 1e-39, 2.0**-126), weights[1] * 1e30
    check(worker, Case(weights, (*HARD, *DISTRIBUTION[1:]), Source.PROBS, {"top_p": 0.9}))


def test_biases_are_added_before_all_else(worker: CudaWorker):
    """Also to bfloat16; None masks, whatever was there."""
    logits = normal(2, 300)
    logits[:, 5] = np.nan
    bias = {5: None, 299: 4.5, 0: -1.25, 17: 1e-30}
    check(
        worker,
        Case(logits, HARD, given={"logit_bias": bias}),
        Case(bfloat16(normal(1, 40)), DENSE, given={"logit_bias": {1: 3.0}}),
    )


def test_probabilities_are_those_of_the_contract(worker: CudaWorker):
    """Over several slices, with masks, at high and low temperature."""
    logits = normal(2, 4500, scale=5.0)
    logits[1, 10:] = -INF
    check(worker, Case(logits, DISTRIBUTION, given={"temperature": [3.0, 0.25], "draws": 2}))


def test_a_row_gets_the_same_bits_however_it_is_cut(worker: CudaWorker):
    """Beside a long row it is cut into other slices than alone."""
    short = Case(normal(1, 1200), DENSE)
    check(worker, short)
    check(worker, short, Case(normal(1, 3000), DENSE))


@pytest.mark.parametrize("outputs", [HARD, DENSE], ids=["hard", "dense"])
def test_a_row_that_cannot_be_drawn_from_fails_alone(worker: CudaWorker, outputs: tuple[str, ...]):
    """NaN of either sign, +inf and all masked are named; their neighbours are drawn."""
    good = Case(normal(1, 9), outputs)
    minus_nan = np.array([0xFFC00000], np.uint32).view(np.float32)[0]
    bad = {
        "logits[0][2]: NaN": [0, 1, np.nan, INF],
        "logits[0][1]: NaN": [0, minus_nan, 1, 2],
        "logits[0][3]: +inf": [0, 1, 2, INF],
        "logits[0]: no finite value": [-INF] * 4,
    }
    requests = [Case(np.array([row], np.float32), outputs).request() for row in bad.values()]
    first, *drawn, last = worker.run([good.request(), *requests, good.request()])
    good.check(first)
    good.check(last)
    assert [str(error) for error in drawn] == list(bad)


def test_a_weight_or_a_bias_at_fault_is_named(worker: CudaWorker):
    """A negative weight, a sum that is infinite, and nothing left."""
    cases = [
        Case(np.array([[0.5, -0.5]], np.float32), source=Source.PROBS),
        Case(np.array([[3e38, 0.0]], np.float32), given={"logit_bias": {0: 3e38}}),
        Case(np.array([[1.0, -INF]], np.float32), given={"logit_bias": {0: None}}),
    ]
    assert [str(error) for error in worker.run([case.request() for case in cases])] == [
        "probs[0][1]: negative",
        "logit_bias: makes a logit of row 0 infinite",
        "logits[0]: nothing is left",
    ]


def test_of_several_faults_every_device_names_the_same(worker: CudaWorker):
    """Here three or more a row; also where each is found by another kernel."""
    weights = {
        "probs[0][2]: NaN": [0, 0, np.nan],
        "probs[0][1]: NaN": [-1, np.nan, INF],
        "probs[0][1]: negative": [INF, -1, 0],
        "probs[0][2]: +inf": [0, 0, INF],
        "probs[0]: no finite value": [0, 0, 0],
        "without_replacement: row 0 has fewer than 2 categories left": [0, 0, 1],
    }
    given = {"without_replacement": 2}
    requests = [Case(np.array([row], np.float32), DISTINCT, Source.PROBS, given).request() for row in weights.values()]
    for each in (worker, open_worker(Settings().cache_path, 1)):
        assert [str(error) for error in each.run(requests)] == list(weights)


def test_the_published_vectors_are_given(worker: CudaWorker):
    """Those of few categories; the long ones take a device."""
    vectors = [vector for vector in VECTORS if vector.logits.size <= 1000]
    requests = [sample_request(vector.logits, Parameters(**vector.parameters)) for vector in vectors]
    for vector, drawn in zip(vectors, worker.run(requests), strict=True):
        assert drawn[Output.INDEX][0, 0] == vector.index
        assert vector.agrees("soft", drawn[Output.SOFT][0, 0])


def test_draws_without_replacement_are_the_best_scores_in_order(worker: CudaWorker):
    """Alone, with a soft sample, over slices, and of filtered float16; ties go to the lower category."""
    check(
        worker,
        Case(normal(1, 4100), DISTINCT, given={"without_replacement": 5, "draws": 2}),
        Case(np.zeros((2, 3), np.float32), (*DISTINCT, "soft"), given={"without_replacement": 3}),
        Case(normal(1, 50).astype(np.float16), DISTINCT, given={"without_replacement": 4, "top_k": 4}),
    )


def test_too_few_categories_to_draw_from_are_refused(worker: CudaWorker):
    """Masked ones cannot be drawn."""
    case = Case(np.array([[0, -INF, -INF, 1]], np.float32), given={"without_replacement": 3})
    assert [str(error) for error in worker.run([case.request()])] == [
        "without_replacement: row 0 has fewer than 3 categories left"
    ]


def test_the_most_likely_categories_are_listed(worker: CudaWorker):
    """Ties to the lower category; masked ones last, at -inf."""
    logits = np.round(normal(2, 300))
    logits[1, 3:] = -INF
    check(worker, Case(logits, ("index",), given={"top_log_probs": 6}))


def random_case(random: np.random.Generator) -> Case:
    """Any parameters together, and rows of many ties, masks and far values."""
    rows, categories = int(random.integers(1, 3)), int(random.integers(1, 40))
    values = np.round(random.standard_normal((rows, categories)) * random.choice([0, 1, 3, 50]), 1).astype(np.float32)
    source = Source.PROBS if random.random() < 0.3 else Source.LOGITS
    masked = random.random(values.shape) < random.choice([0, 0.5])
    values[masked] = 0 if source is Source.PROBS else -INF
    values = np.abs(values) if source is Source.PROBS else values
    values[:, random.integers(categories)] = 0.5
    most = min(categories, 3)
    possible: dict[str, Any] = {
        "temperature": 2.0 ** random.uniform(-3, 3, rows),
        "tau": 2.0 ** random.uniform(-3, 3, rows),
        "top_k": random.integers(most, categories + 2, rows).astype(np.uint32),
        "top_p": random.uniform(0.5, 1, rows),
        "min_p": random.uniform(0, 0.05, rows),
        "logit_bias": {int(random.integers(categories)): 1.5},
        "top_log_probs": most,
        "draws": int(random.integers(1, 4)),
        "first_draw": int(random.integers(2**31)),
        "seeds": random.integers(2**63, size=rows).astype(np.uint64),
    }
    given = {name: value for name, value in possible.items() if random.random() < 0.3}
    outputs = tuple(random.choice(sorted({*DENSE, *DISTRIBUTION}), random.integers(1, 5), replace=False).tolist())
    stored = random.choice([np.asarray, np.float16, bfloat16])
    return Case(stored(values), outputs, source, given)


def test_random_requests_with_any_parameters_equal_the_contract(worker: CudaWorker):
    """In one batch, so that requests of every kind share launches."""
    random = np.random.default_rng(60)
    check(worker, *(random_case(random) for _ in range(24)))


class RecordingWorker:
    """A CPU worker that says which requests it got."""

    def run(self, requests: Sequence[SampleRequest]) -> list[Any]:
        return [{"drawn by": "cpu", "seed": request.seed} for request in requests]


@pytest.mark.parametrize("worth_the_way", [0, 1000])
def test_what_the_device_does_not_draw_goes_to_the_cpu(worth_the_way: int):
    """What has no kernel, and a batch too small to be worth the way; each request gets its own result."""
    worker = CudaWorker(torch.device("cpu"), RecordingWorker(), worth_the_way)
    device, cpu = Case(normal(1, 20)), Case(normal(1, 100), given={"without_replacement": 65, "seed": 8})
    first, drawn, last = worker.run([cpu.request(), device.request(), cpu.request()])
    assert first == last == {"drawn by": "cpu", "seed": 8}
    if worth_the_way:
        assert drawn == {"drawn by": "cpu", "seed": 7}
    else:
        device.check(drawn)


def test_requests_and_outputs_go_through_shared_memory(worker: CudaWorker):
    """As they do where front ends share the device."""
    channel, up = Channel(2 * SPARE_BYTES), threading.Event()
    remote = RemoteWorker("cuda:0", channel, NoWorker(), worth_the_way=0)
    remote.watch(lambda state: up.set())
    threading.Thread(
        target=serve_worker, args=(lambda: worker, [channel], lambda _: None, 1 << 22), daemon=True
    ).start()
    assert up.wait(10)
    cases = [
        Case(normal(2, 30), DENSE, given={"tau": [0.5, 2.0], "logit_bias": {3: 1.0, 4: None}}),
        Case(bfloat16(normal(1, 20)), DISTRIBUTION, given={"seeds": [2**64 - 1], "draws": 2}),
        Case(np.full((1, 5), np.nan, np.float32)),
    ]
    *drawn, refused = remote.run([case.request() for case in cases])
    for case, outputs in zip(cases, drawn, strict=False):
        case.check(outputs)
    assert (refused.reason, refused.field) == ("INVALID_ARGUMENT", "logits[0][0]")


@pytest.mark.parametrize("is_lost", [True, False])
def test_after_an_error_a_device_is_lost_that_does_not_give_the_published_vectors(is_lost: bool):
    """Else the batch is at fault. The device here has no memory that could be read, and so fails at everything."""
    failing = CudaWorker(torch.device("meta"), NoWorker(), worth_the_way=0)
    probe = failing if is_lost else open_worker(Settings().cache_path, 1)
    tried = CudaWorker(torch.device("meta"), NoWorker(), worth_the_way=0, probe=probe)
    with pytest.raises(DeviceLostError if is_lost else NotImplementedError):
        tried.run([Case(normal(1, 20)).request()])


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_batches_go_through_pinned_memory_that_is_kept(device: str):
    """Grown for the larger, used again for the next; no GPU but its own is touched."""
    with FakeCuda().installed() as fake:
        worker = CudaWorker(torch.device(device), NoWorker(), worth_the_way=0)
        for _ in range(LANES):
            check(worker, Case(normal(1, 700), DENSE))
        pinned = fake.pinned_bytes
        assert pinned > 0
        for categories in (40, 690):
            check(worker, Case(normal(1, categories).astype(np.float16), DENSE))
        assert fake.pinned_bytes == pinned
        assert fake.contexts == {torch.device(device)}


def test_a_batch_that_fails_is_copied_no_more_when_the_next_is_written():
    """Of what the device has no memory for, the copies and some kernels may be under way when that shows."""
    with FakeCuda(memory_bytes=100_000).installed():
        worker = CudaWorker(torch.device("cuda:0"), NoWorker(), worth_the_way=0)
        for _ in range(LANES):
            with pytest.raises(torch.OutOfMemoryError):  # what the sweep leaves of each tile
                worker.run([Case(normal(1, 1100), ("index",), given={"draws": 2000}).request()])
        for _ in range(LANES):
            check(worker, Case(normal(1, 50), DENSE))
