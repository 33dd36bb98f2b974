"""Gumbel-softmax for PyTorch, with the sample drawn by the service and the gradient of the same draw.

The relaxed sample y = softmax((logits / temperature + noise) / tau) was found by Jang et al. 2017 ("Categorical
reparameterization with Gumbel-softmax") and Maddison et al. 2017 ("The concrete distribution"); passing its gradient
through the one-hot sample is the straight-through estimator of Bengio et al. 2013 ("Estimating or propagating gradients
through stochastic neurons for conditional computation").
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("gumball.torch needs PyTorch: pip install 'gumball[torch]'", name="torch") from error

from torch.autograd.function import once_differentiable

from gumball._codec import Sample
from gumball.client import Client

__all__ = ["gumbel_softmax"]


def gumbel_softmax(
    logits: torch.Tensor,
    tau: float = 1.0,
    hard: bool = False,
    dim: int = -1,
    *,
    client: Client,
    seed: int | None = None,
    temperature: float = 1.0,
    first_draw: int = 0,
    first_row: int = 0,
) -> torch.Tensor:
    """As `torch.nn.functional.gumbel_softmax`, but anyone with the seed can draw the sample again.

    Args:
        logits: [..., categories, ...] of a floating dtype, on any device; -inf masks a category. The leading dimensions
            (those other than `dim`), row-major, are the rows of the sample.
        tau: temperature of the relaxation, 2^-40 to 2^40.
        hard: answer the one-hot sample, with the gradient of the relaxed one (straight-through).
        dim: the dimension of the categories.
        client: where to draw; any address will do and gives the same bits.
        seed: 64-bit seed; the service draws one where none is given.
        temperature: divides the logits before the noise, 2^-40 to 2^40.
        first_draw: number of the draw: the training step, say, so that one seed serves a whole run.
        first_row: number of the first row: its offset, say, where the batch is one shard of many.

    Returns:
        The sample, in the shape, dtype and device of `logits`. Its gradient is
        (y * (v - <v, y>)) / (tau * temperature) for the incoming gradient v, and asks the service nothing.

    Raises:
        GumballError: see `gumball.errors`.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits: must be of a floating dtype, is {logits.dtype}")
    draw = partial(
        client.sample, tau=tau, temperature=temperature, seed=seed, first_draw=first_draw, first_row=first_row
    )
    rows = logits.movedim(dim, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    if hard and not (torch.is_grad_enabled() and logits.requires_grad):
        sample = _one_hot(draw(_array(flat), mode="hard"), flat)  # nobody needs the relaxed sample: have none sent
    else:
        sample = _GumbelSoftmax.apply(flat, draw, hard, tau * temperature)  # type: ignore[no-untyped-call]
    return sample.reshape(rows.shape).movedim(-1, dim)


class _GumbelSoftmax(torch.autograd.Function):
    """The sample of logits [rows, categories]; `scale` is what divides them in all."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, draw: Callable[..., Sample], hard: bool, scale: float) -> torch.Tensor:
        sample = draw(_array(logits), mode="straight_through" if hard else "soft")
        soft = torch.from_numpy(sample.outputs["soft"][:, 0]).to(logits)
        ctx.save_for_backward(soft)  # the result itself, unless hard
        ctx.scale = scale
        return _one_hot(sample, logits) if hard else soft

    @staticmethod
    @once_differentiable  # the hard sample would need a graph of its own for more
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (soft,) = ctx.saved_tensors
        # <v, y> cancels against v: in float32, small gradients would be rounding noise. Apple's GPUs have no float64.
        wide = torch.float32 if grad.device.type == "mps" else torch.float64
        y, v = soft.to(wide), grad.to(wide)
        inner = (v * y).sum(dim=-1, keepdim=True)
        return (y * (v - inner) / ctx.scale).to(grad.dtype), None, None, None


def _array(logits: torch.Tensor) -> npt.NDArray[Any]:
    """NumPy's view or copy of a tensor; bfloat16, which NumPy lacks, widened to float32 without loss."""
    host = logits.detach().cpu()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def _one_hot(sample: Sample, logits: torch.Tensor) -> torch.Tensor:
    """The one-hot rows of the drawn indices, like `logits`."""
    index = torch.from_numpy(sample.outputs["index"]).to(logits.device, torch.int64)  # [rows, one draw]
    return torch.zeros_like(logits, requires_grad=False).scatter_(-1, index, 1)
