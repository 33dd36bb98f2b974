"""Writing one draw where the record of its row wants it."""

from numba import njit

from gumball_server.kernels._arithmetic import F32, I32
from gumball_server.kernels._logits import fill
from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED, float32_at, int32_at


@njit(**INLINED)
def _of_draw(address, record, draw):
    categories = record.categories
    return float32_at(address, record.draws * categories)[draw * categories : (draw + 1) * categories]


@njit(**COMPILED)
def soft_of(record, draw):
    """[categories] float32: where the soft sample of a draw goes, for a record that wants one."""
    return _of_draw(record.soft, record, draw)


@njit(**SPLICED)
def log_soft_of(record, draw):
    """[categories] float32: where its logarithm goes, likewise."""
    return _of_draw(record.log_soft, record, draw)


@njit(**COMPILED)
def _write_one_hot(record, draw, winner):
    one_hot = _of_draw(record.one_hot, record, draw)
    fill(one_hot, F32(0))
    one_hot[winner] = F32(1)


@njit(**SPLICED)
def write_winner(record, draw, winner, score):
    """The drawn category, as index and as one-hot vector, and its score, each if wanted."""
    if record.index != 0:
        int32_at(record.index, record.draws)[draw] = I32(winner)
    if record.score != 0:
        float32_at(record.score, record.draws)[draw] = score
    if record.one_hot != 0:
        _write_one_hot(record, draw, winner)


@njit(**SPLICED)
def write_log_prob(record, draw, winner, log_total):
    """The log-probability of the drawn category, if wanted; the record is of a shaped row."""
    if record.log_prob != 0:
        distance = float32_at(record.logits, record.categories)[winner]
        float32_at(record.log_prob, record.draws)[draw] = distance - log_total
