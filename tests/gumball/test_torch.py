"""Gumbel-softmax in PyTorch: forward the bits of the contract, backward the gradient that autograd would find."""

import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch
from contract_service import answer
from gumball import Client, contract, errors
from gumball.torch import gumbel_softmax

SEED = 2017


@pytest.fixture
def requests():
    """What was asked of the service, in order."""
    return []


@pytest.fixture
def client(requests):
    """A client of the contract."""

    def respond(request):
        requests.append(request)
        return answer(request)

    with Client("http://gumball", http_transport=httpx.MockTransport(respond)) as client:
        yield client


def logits_of(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def by_autograd(logits, gradient, *, tau, temperature):
    """Sample and gradient of the same noise [rows, categories], worked out by PyTorch in float64."""
    rows, categories = logits.shape
    noise = torch.from_numpy(contract.gumbel_noise(categories, SEED, np.arange(rows))).double()
    leaf = logits.detach().double().requires_grad_()
    sample = torch.softmax((leaf / temperature + noise) / tau, dim=-1)
    sample.backward(gradient.double())
    return sample.detach(), leaf.grad


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("tau", "temperature"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.25), (0.2, 3.0)])
def test_the_gradient_is_that_of_the_same_draw(client, hard, tau, temperature):
    """Also where the value is one-hot: straight-through."""
    logits, gradient = logits_of(7, 11), torch.randn(7, 11)
    sample = gumbel_softmax(logits, tau, hard, client=client, seed=SEED, temperature=temperature)
    sample.backward(gradient)
    soft, expected = by_autograd(logits, gradient, tau=tau, temperature=temperature)
    value = torch.nn.functional.one_hot(soft.argmax(-1), 11) if hard else soft
    torch.testing.assert_close(sample.detach().double(), value.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-5, atol=1e-6 / tau / temperature)


def test_the_gradient_agrees_with_finite_differences(client):
    """Of the service's own values, in float64 steps that float32 can resolve."""
    logits = logits_of(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: gumbel_softmax(x, 2.0, client=client, seed=SEED), logits, eps=1e-2, atol=1e-3, rtol=1e-2
    )


def test_small_gradients_survive_a_large_common_part(client):
    """Adding a constant to the incoming gradient changes nothing, for the sample lies on the simplex."""
    logits, gradient = logits_of(4, 6), torch.randn(4, 6)
    sample = gumbel_softmax(logits, client=client, seed=SEED)
    (plain,) = torch.autograd.grad(sample, logits, gradient, retain_graph=True)
    (shifted,) = torch.autograd.grad(sample, logits, (gradient.double() + 4096).float())
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-3)


def test_the_forward_value_has_the_bits_of_the_contract(client):
    """Rows are the leading dimensions, row-major, numbered from first_row."""
    logits = logits_of(2, 3, 5)
    sample = gumbel_softmax(logits, 0.7, client=client, seed=SEED, first_draw=9, first_row=4)
    expected = contract.soft(logits.detach().reshape(6, 5), SEED, 4 + np.arange(6), 9, tau=0.7)
    np.testing.assert_array_equal(sample.detach().reshape(6, 5).numpy(), expected)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_any_dimension_may_hold_the_categories(client, hard, dim):
    """As if it were moved to the end and back, for value and gradient."""
    logits, gradient = logits_of(3, 4, 5), torch.randn(3, 4, 5)
    moved = logits.detach().movedim(dim, -1).clone().requires_grad_()
    sample = gumbel_softmax(logits, hard=hard, dim=dim, client=client, seed=SEED)
    reference = gumbel_softmax(moved, hard=hard, client=client, seed=SEED)
    sample.backward(gradient)
    reference.backward(gradient.movedim(dim, -1))
    assert torch.equal(sample, reference.movedim(-1, dim))
    assert torch.equal(logits.grad, moved.grad.movedim(-1, dim))


def test_one_row_needs_no_leading_dimension(client):
    """[categories] in, [categories] out."""
    sample = gumbel_softmax(logits_of(6), client=client, seed=SEED)
    assert sample.shape == (6,)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_value_and_gradient_have_the_dtype_of_the_logits(client, hard, dtype):
    """The sample is that of the logits' own values, rounded."""
    logits = logits_of(3, 5, dtype=dtype)
    sample = gumbel_softmax(logits, hard=hard, client=client, seed=SEED)
    sample.sum().backward()
    expected = contract.straight_through(logits.detach().float().numpy(), SEED, np.arange(3))
    assert sample.dtype == logits.grad.dtype == dtype
    value = np.eye(5, dtype=np.float32)[expected.index] if hard else expected.soft
    assert torch.equal(sample.detach(), torch.from_numpy(value).to(dtype))


def test_hard_samples_are_exactly_one_hot(client):
    """No value is nearly 1, however the soft sample rounds."""
    sample = gumbel_softmax(logits_of(50, 9), 3.0, hard=True, client=client, seed=SEED).detach()
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(sample.sum(-1), torch.ones(50))


def test_masked_categories_get_neither_value_nor_gradient(client):
    """-inf is not NaN on the way back."""
    logits = torch.tensor([[0.5, -torch.inf, 1.0]], requires_grad=True)
    sample = gumbel_softmax(logits, client=client, seed=SEED)
    sample.backward(torch.tensor([[1.0, 2.0, 3.0]]))
    assert sample[0, 1] == logits.grad[0, 1] == 0
    assert logits.grad.isfinite().all()


def test_the_backward_pass_asks_nothing_of_the_service(client, requests):
    """One request a sample."""
    gumbel_softmax(logits_of(2, 3), hard=True, client=client, seed=SEED).sum().backward()
    assert len(requests) == 1


def test_no_relaxed_sample_is_sent_where_no_gradient_is_wanted(client, requests):
    """In evaluation, only indices travel."""
    logits = logits_of(2, 3)
    with torch.no_grad():
        value = gumbel_softmax(logits, hard=True, client=client, seed=SEED)
    assert requests[0].url.params["mode"] == "hard"
    assert torch.equal(value, gumbel_softmax(logits, hard=True, client=client, seed=SEED).detach())


def test_only_the_relaxed_sample_is_kept_for_the_backward_pass(client):
    """And where it is the result, nothing besides the result."""
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sample = gumbel_softmax(logits_of(4, 5), client=client, seed=SEED)
        gumbel_softmax(logits_of(4, 5), hard=True, client=client, seed=SEED)
    assert [tensor.shape for tensor in kept] == [(4, 5), (4, 5)]
    assert kept[0].data_ptr() == sample.data_ptr()


def test_without_a_seed_every_sample_is_another(client):
    """The request leaves the seed to the service."""
    assert gumbel_softmax(logits_of(2, 3), client=client).shape == (2, 3)


def test_integer_logits_are_refused(client):
    """A sample of their dtype would be nothing but zeros."""
    with pytest.raises(TypeError, match="logits"):
        gumbel_softmax(torch.zeros(2, 3, dtype=torch.int64), client=client)


def test_a_float64_beyond_float32_is_refused(client):
    """As by the client."""
    with pytest.raises(errors.InvalidArgument):
        gumbel_softmax(torch.tensor([[1e300, 0.0]], dtype=torch.float64), client=client)


def test_importing_gumball_imports_no_torch():
    """Nor a transport that was not asked for."""
    program = "import sys, gumball; sys.exit(bool({'torch', 'grpc', 'httpx', 'gumball_server'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_torch_the_module_says_what_to_install():
    """An interpreter that finds no torch."""
    program = "import sys; sys.modules['torch'] = None; import gumball.torch"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'gumball[torch]'" in ended.stderr.splitlines()[-1]
