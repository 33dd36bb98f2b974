"""Writing one draw where the record of its row wants it."""

from numba import njit

from gumball_server.kernels._arithmetic import F32, I32
from gumball_server.kernels._logits import fill
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, int32_at


@njit(**COMPILED)
def soft_of(record, draw):
    """[categories] float32: where the soft sample of a draw goes, for a record that wants one."""
    categories = record.categories
    return float32_at(record.soft, record.draws * categories)[draw * categories : (draw + 1) * categories]


@njit(**COMPILED)
def _write_one_hot(record, draw, winner):
    categories = record.categories
    one_hot = float32_at(record.one_hot, record.draws * categories)[draw * categories : (draw + 1) * categories]
    fill(one_hot, F32(0))
    one_hot[winner] = F32(1)


@njit(**SPLICED)
def write_winner(record, draw, winner):
    """The drawn category, as index and as one-hot vector, each if wanted."""
    if record.index != 0:
        int32_at(record.index, record.draws)[draw] = I32(winner)
    if record.one_hot != 0:
        _write_one_hot(record, draw, winner)
