"""Rows with parameters, or with outputs that take more than the drawn category: from their distances."""

from numba import njit

from gumball_server.kernels._arithmetic import F32, I32
from gumball_server.kernels._certain import asks_for_one_category, surely_kept
from gumball_server.kernels._distinct import dense_draws, left
from gumball_server.kernels._distribution import write_distribution
from gumball_server.kernels._filters import least_kept
from gumball_server.kernels._hard import hard_draws
from gumball_server.kernels._logits import SHAPED
from gumball_server.kernels._memory import INLINED, ROW_BYTES, SPLICED, record_at, stack, uint64_at
from gumball_server.kernels._shape import measure_row, shape_row
from gumball_server.kernels._work import distances_of, peaks_of
from gumball_server.kernels.table import ROW, RowStatus

_TOO_FEW = int(RowStatus.TOO_FEW)
_ROW_WORDS = ROW_BYTES // 8


@njit(**INLINED)
def is_plain(record):
    """Whether a row has no parameters but temperature and tau, and only such outputs as a plain draw makes."""
    wanted = record.log_soft | record.log_prob | record.probs | record.entropy | record.top_index | record.top_log_prob
    return (
        wanted == 0
        and record.are_probs == 0
        and record.biases == 0
        and record.top_k >= record.categories
        and record.top_p >= 1.0
        and record.min_p <= 0.0
        and record.distinct == 1
    )


@njit(**SPLICED)
def _shaped(address, work, memory):
    """A copy, at `memory`, of the record at an address, with the distances in the place of the logits."""
    source, target = uint64_at(address, _ROW_WORDS), uint64_at(memory, _ROW_WORDS)
    for i in range(_ROW_WORDS):
        target[i] = source[i]
    record = record_at(memory, ROW)
    record.logits, record.logits_type = work.distances, I32(SHAPED)
    return record


@njit(**SPLICED)
def shaped_row(record, address, work):
    """Draws every draw of a row, and writes what is wanted of its distribution; returns its status."""
    status, peak, inv_temperature = measure_row(record, work)
    if status != 0:
        return status
    if asks_for_one_category(record):
        winner = hard_draws(record, peak, inv_temperature, F32(0), work)
        if surely_kept(record, peaks_of(work), peak, inv_temperature, winner, least_kept(record)):
            return status
    shape_row(record, peak, inv_temperature, work)
    if record.distinct > 1 and left(distances_of(work)) < record.distinct:
        return I32(_TOO_FEW)
    log_total = write_distribution(record, work)
    drawn = _shaped(address, work, stack(ROW_BYTES))
    if (record.soft | record.log_soft) != 0 or record.distinct > 1:
        dense_draws(drawn, log_total, work)
    elif (record.index | record.score | record.log_prob | record.one_hot) != 0:
        hard_draws(drawn, F32(0), F32(1), log_total, work)
    return status
