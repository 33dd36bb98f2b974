"""What is drawn is distributed as it should be: tests against SciPy, each of which fails on samplers that are wrong.

python tests/statistics/distribution.py

Every test has its seed from its name, so it passes always or never: a p-value below LIMIT is a finding and not bad
luck. LIMIT is two-sided, for fitting too well is no better than fitting badly. It is 1e-6 because the suite has some
thirty p-values here and a thousand in ``independence``: that a perfect sampler was ever given one below it
has a chance of a thousandth, while the defects looked for lie far beyond it (``test_distribution.py`` has them).
"""

import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from parameters import ParameterKernels
from proof import Proof, Verdict, exit_status, report, timed
from samplers import Contract, Kernels, Sampler
from scipy import integrate, special, stats

LIMIT = 1e-6
LEAST_EXPECTED = 25  # of a cell of a G-test; smaller cells are put together

Array = np.ndarray


def seed_of(name: str) -> int:
    """The seed of a test."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """[categories] float64, by SciPy."""
    return special.softmax(logits.astype(np.float64) / temperature)


def two_sided(distribution: object, x: float) -> float:
    """The p-value of x under a frozen distribution of SciPy's, discrete or not."""
    upper = distribution.sf(x - 1) if hasattr(distribution, "pmf") else distribution.sf(x)
    return float(min(1.0, 2 * min(distribution.cdf(x), upper)))


def counts_of(drawn: Iterator[Array], categories: int) -> Array:
    """How often each category was drawn."""
    return sum(np.bincount(index, minlength=categories) for index in drawn)


def g_test(observed: Array, p: Array) -> tuple[float, int, float]:
    """G, degrees of freedom and p-value of counts against probabilities; rare cells are put together."""
    expected = p * observed.sum()
    rare = expected < LEAST_EXPECTED
    if rare.any():
        observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (observed, expected))
    seen = observed > 0
    g = 2 * float((observed[seen] * np.log(observed[seen] / expected[seen])).sum())
    freedom = observed.size - 1
    return g, freedom, two_sided(stats.chi2(freedom), g)


def fits(claim: str, observed: Array, p: Array) -> Verdict:
    """A G-test of counts."""
    g, freedom, p_value = g_test(observed, p)
    return Verdict(claim, f"{observed.sum():,} draws", f"G = {g:.1f} of {freedom}, p = {p_value:.3g}", p_value >= LIMIT)


def spread_logits(categories: int, name: str) -> Array:
    """[categories] float32 of standard deviation 1."""
    return np.random.default_rng(seed_of(name)).standard_normal(categories).astype(np.float32)


# Exact distribution of the index


def categories_fit(sampler: Sampler, categories: int, draws: int, temperature: float = 1.0) -> Verdict:
    """A G-test of every category of a row. Up to 128 of them, rows are packed; more are drawn lazily."""
    claim = f"index: {categories} categories at temperature {temperature:g}"
    logits = spread_logits(categories, claim)
    observed = counts_of(sampler.index(logits, seed_of(claim), draws, temperature), categories)
    return fits(claim, observed, probabilities(logits, temperature))


def soft_index_fits(sampler: Sampler, categories: int, draws: int) -> Verdict:
    """The same for the index that comes with a soft sample, which has a kernel of its own."""
    claim = f"index beside soft: {categories} categories"
    logits = spread_logits(categories, claim)
    drawn = sampler.straight_through(logits, seed_of(claim), draws, tau=0.5)
    return fits(claim, counts_of((index for index, _ in drawn), categories), probabilities(logits))


def real_row_fits(sampler: Sampler, draws: int) -> Verdict:
    """A G-test of next-token logits of a language model, 49,152 categories, at temperature 0.8."""
    claim = "index: next-token logits of a language model"
    path = Path(__file__).parents[1] / "data/smollm2-135m-logits.npy"
    logits = np.load(path, mmap_mode="r")[0].astype(np.float32)
    observed = counts_of(sampler.index(logits, seed_of(claim), draws, 0.8), logits.size)
    return fits(claim, observed, probabilities(logits, 0.8))


def rare_category(sampler: Sampler, p: float, draws: int, rare: int = 1) -> Verdict:
    """How often categories of probability p are drawn, each of them and together; a binomial test."""
    claim = f"rare: {rare} of p = {p:g}"
    logits = np.zeros(rare + 1, np.float32)
    logits[1:] = np.log(p / (1 - rare * p))
    observed = counts_of(sampler.index(logits, seed_of(claim), draws), rare + 1)[1:]
    each = probabilities(logits)[1]
    together = two_sided(stats.binom(draws, rare * each), observed.sum())
    alone = min(two_sided(stats.binom(draws, each), x) for x in observed)
    return Verdict(
        claim,
        f"{draws:,} draws",
        f"{observed.sum()} drawn of {draws * rare * each:.1f}, p = {min(together, alone):.3g}",
        min(together, alone) >= LIMIT,
    )


def tail_race(sampler: Sampler, tail: int, gap: float, draws: int) -> Verdict:
    """How often any of many categories that lie far below the largest wins; a Poisson test."""
    claim = f"tail: {tail:,} categories {gap:g} below the largest"
    logits = np.full(tail + 1, -gap, np.float32)
    place = seed_of(claim) % tail  # anywhere: it must not matter
    logits[place] = 0
    won = sum(int((index != place).sum()) for index in sampler.index(logits, seed_of(claim), draws))
    expected = draws * (1 - probabilities(logits)[place])
    p_value = two_sided(stats.poisson(expected), won)
    return Verdict(claim, f"{draws:,} draws", f"{won} drawn of {expected:.1f}, p = {p_value:.3g}", p_value >= LIMIT)


# Without replacement


def plackett_luce(logits: Array, k: int) -> dict[tuple[int, ...], float]:
    """The probability of every ordered outcome of k draws without replacement."""
    weights = probabilities(logits)
    outcomes = itertools.permutations(range(logits.size), k)
    return {
        o: float(np.prod([weights[c] / (1 - weights[list(o[:i])].sum()) for i, c in enumerate(o)])) for o in outcomes
    }


def ordered_outcomes_fit(sampler: Contract, draws: int) -> Verdict:
    """A G-test of all 60 ordered outcomes of 3 of 5."""
    claim = "without replacement: all ordered outcomes of 3 of 5"
    logits = np.array([0.0, 0.5, -1.0, 1.25, 0.1], np.float32)
    expected = plackett_luce(logits, 3)
    place = np.full((5, 5, 5), -1)
    for i, outcome in enumerate(expected):
        place[outcome] = i
    drawn = (place[tuple(outcome.T)] for outcome in sampler.without_replacement(logits, seed_of(claim), draws, 3))
    return fits(claim, counts_of(drawn, len(expected)), np.array(list(expected.values())))


# The soft sample


def soft_marginals(sampler: Sampler, categories: int, tau: float, draws: int) -> Verdict:
    """Of two categories of a soft sample, tau log(y_i / y_j) is logistic about l_i - l_j; a Kolmogorov-Smirnov test.

    The difference of two Gumbel numbers is logistic. For two categories it is the whole distribution of the sample.
    """
    claim = f"soft: marginals of {categories} categories at tau {tau:g}, temperature 2"
    logits = spread_logits(categories, claim)
    i, j = 0, categories - 1
    drawn = sampler.straight_through(logits, seed_of(claim), draws, tau, temperature=2.0)
    z = np.concatenate(
        [tau * (np.log(y[:, i].astype(np.float64)) - np.log(y[:, j].astype(np.float64))) for _, y in drawn]
    )
    centre = float(logits[i] - logits[j]) / 2
    test = stats.kstest(z, stats.logistic(centre).cdf, method="asymp")
    return Verdict(claim, f"{draws:,} draws", f"D = {test.statistic:.2e}, p = {test.pvalue:.3g}", test.pvalue >= LIMIT)


def soft_mean(sampler: Sampler, tau: float, draws: int) -> Verdict:
    """The mean of a soft sample of two categories, against its integral; a z-test with the exact variance."""
    claim = f"soft: mean of two categories at tau {tau:g}"
    logits = np.array([0.75, 0.0], np.float32)

    def moment(n: int) -> float:
        def integrand(x: float) -> float:
            return special.expit((0.75 + x) / tau) ** n * stats.logistic.pdf(x)

        return integrate.quad(integrand, -60, 60, points=[-0.75], epsabs=1e-12, limit=500)[0]

    total = sum(
        float(y[:, 0].sum(dtype=np.float64)) for _, y in sampler.straight_through(logits, seed_of(claim), draws, tau)
    )
    mean, variance = moment(1), moment(2) - moment(1) ** 2
    z = (total / draws - mean) / np.sqrt(variance / draws)
    p_value = two_sided(stats.norm(), z)
    return Verdict(claim, f"{draws:,} draws", f"{total / draws:.6f} of {mean:.6f}, p = {p_value:.3g}", p_value >= LIMIT)


def soft_peaks_at_index(sampler: Sampler, draws: int) -> Verdict:
    """The soft sample is largest at the index of the same draw, at every tau, and sums to 1."""
    claim = "soft: largest at the index, sums to 1"
    wrong, worst, tried = 0, 0.0, 0
    for categories, tau in itertools.product((2, 16, 128, 129, 2000), (2.0**-40, 0.1, 1.0, 30.0)):
        logits = spread_logits(categories, claim)
        n = max(1, draws // categories)
        for index, soft in sampler.straight_through(logits, seed_of(claim), n, tau):
            wrong += int((soft[np.arange(index.size), index] != soft.max(axis=1)).sum())
            worst = max(worst, float(abs(soft.sum(axis=1, dtype=np.float64) - 1).max()))
            tried += index.size
    return Verdict(claim, f"{tried:,} draws", f"{wrong} are not, sums within {worst:.1e}", wrong == 0 and worst < 1e-6)


# Limits of temperature and tau


def cold_is_argmax(sampler: Sampler, draws: int) -> Verdict:
    """Temperature 0 gives the lowest of the largest logits; 2^-40 the largest, and equal ones equally often."""
    claim = "temperature: to 0, the largest logit"
    logits = spread_logits(300, claim)
    logits[[200, 100]] = logits.max() + np.float32(2.0**-20)
    zero = counts_of(sampler.index(logits, seed_of(claim), draws, 0.0), 300)
    least = counts_of(sampler.index(logits, seed_of(claim), draws, 2.0**-40), 300)
    others = draws - least[100] - least[200]
    p_value = two_sided(stats.binom(draws, 0.5), least[100])
    found = f"{draws - zero[100]} at 0 and {others} at 2^-40 are not, p = {p_value:.3g}"
    return Verdict(claim, f"2 x {draws:,} draws", found, zero[100] == draws and others == 0 and p_value >= LIMIT)


def hot_is_uniform(sampler: Sampler, draws: int) -> Verdict:
    """At temperature 2^40 every category that is not masked is as likely as any other; the masked are never drawn."""
    claim = "temperature: to infinity, uniform over what is not masked"
    logits = spread_logits(150, claim)
    logits[::5] = -np.inf
    observed = counts_of(sampler.index(logits, seed_of(claim), draws, 2.0**40), 150)
    verdict = fits(claim, observed[np.isfinite(logits)], np.full(120, 1 / 120))
    masked = int(observed[::5].sum())
    found = f"{verdict.found}, {masked} masked"
    return Verdict(claim, f"{draws:,} draws", found, verdict.holds and masked == 0)


def tau_limits(sampler: Sampler, draws: int) -> Verdict:
    """At tau 2^-40 the soft sample is the one-hot vector of the index, at 2^40 uniform; the index is that of tau 1."""
    claim = "tau: from one-hot to uniform, and never another index"
    logits = spread_logits(50, claim)
    taus = (2.0**-40, 1.0, 2.0**40)
    indices, softs = zip(*(_gathered(sampler, logits, claim, draws, tau) for tau in taus), strict=True)
    one_hot = (softs[0] == (indices[0][:, None] == np.arange(50))).all()
    uniform = float(abs(softs[2] * 50 - 1).max())
    moved = sum(int((index != indices[1]).sum()) for index in indices)
    found = f"one-hot: {bool(one_hot)}, from uniform {uniform:.1e}, {moved} moved"
    return Verdict(claim, f"3 x {draws:,} draws", found, bool(one_hot) and uniform < 1e-6 and moved == 0)


def _gathered(sampler: Sampler, logits: Array, claim: str, draws: int, tau: float) -> tuple[Array, Array]:
    index, soft = zip(*sampler.straight_through(logits, seed_of(claim), draws, tau), strict=True)
    return np.concatenate(index), np.concatenate(soft)


# Filters, probabilities and entropy against float64

CLOSE = 1e-6  # shares of the weight nearer than this to a limit may fall on either side of it


def rows_to_try(name: str, rows: int) -> Iterator[tuple[Array, float]]:
    """Logits of many kinds and a temperature."""
    random = np.random.default_rng(seed_of(name))
    kinds: tuple[Callable[[int], Array], ...] = (
        random.standard_normal,
        lambda n: 8 * random.standard_normal(n),
        lambda n: random.integers(-3, 3, n).astype(float),
        lambda n: np.where(random.random(n) < 0.7, -np.inf, 2 * random.standard_normal(n)),
        lambda n: 1e4 + random.standard_normal(n),
        lambda n: -30 * random.random(n) ** 2,
        lambda n: np.zeros(n),
        lambda n: np.append(np.full(n - 1, -np.log(max(n - 1, 1)) * random.random()), 0.0),
    )
    for r in range(rows):
        logits = kinds[r % len(kinds)](int(2 ** random.uniform(0, 15))).astype(np.float32)
        logits[random.integers(logits.size)] = 1e4 if r % len(kinds) == 4 else 1.0
        yield logits, float(random.choice([0.3, 0.7, 1.0, 1.0, 1.9]))


def top_p_keeps_the_nucleus(sampler: Contract, rows: int) -> Verdict:
    """The kept set is the shortest prefix, by probability, with a share p of the weight in float64."""
    claim = "top_p: the shortest prefix with a share p"
    random = np.random.default_rng(seed_of(claim))
    wrong, exact = 0, 0
    for logits, temperature in rows_to_try(claim, rows):
        p = float(random.choice([1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, random.random()]))
        kept = sampler.kept(logits, temperature, top_p=p)
        running = np.cumsum(np.sort(probabilities(logits, temperature))[::-1])
        shortest, longest = (int((running < share).sum()) + 1 for share in (p - CLOSE, p + CLOSE))
        exact += shortest == longest
        wrong += not (shortest <= kept.sum() <= longest and _is_prefix(kept, logits, temperature))
    return Verdict(
        claim, f"{rows:,} rows", f"{wrong} wrong, {exact:,} have but one answer", wrong == 0 and 2 * exact > rows
    )


def _is_prefix(kept: Array, logits: Array, temperature: float) -> bool:
    """Whether nothing that is left out is more likely than something kept, nor equal to it and before it."""
    if kept.all():
        return True
    d = (logits - logits.max()) * np.float32(1 / temperature)  # what is equal in float32 is a tie
    least, most = d[kept].min(), d[~kept].max()
    if least != most:
        return bool(least > most)
    return bool(np.flatnonzero(kept & (d == least)).max() < np.flatnonzero(~kept & (d == least)).min())


def min_p_keeps_the_likely(sampler: Contract, rows: int) -> Verdict:
    """The kept set is what has at least p times the largest probability in float64."""
    claim = "min_p: at least p times the most likely"
    random = np.random.default_rng(seed_of(claim))
    wrong, near = 0, 0
    for logits, temperature in rows_to_try(claim, rows):
        p = float(random.choice([1e-30, 0.01, 0.1, 0.5, 1.0, random.random()]))
        kept = sampler.kept(logits, temperature, min_p=p)
        shifted = logits.astype(np.float64) - float(logits.max())
        over = shifted / temperature - np.log(p)
        unclear = abs(over) <= CLOSE * max(1.0, -np.log(p))
        unclear &= shifted != 0  # the most likely stays, whatever p is
        near += int(unclear.sum())
        wrong += bool(((over >= 0) != kept)[~unclear].any())
    return Verdict(claim, f"{rows:,} rows", f"{wrong} wrong, {near} categories at the limit", wrong == 0)


def top_k_keeps_k(sampler: Contract, rows: int) -> Verdict:
    """Exactly k are kept, or all there are, and they are the first by probability, then by category."""
    claim = "top_k: exactly the first k"
    random = np.random.default_rng(seed_of(claim))
    wrong = 0
    for logits, temperature in rows_to_try(claim, rows):
        k = int(random.integers(1, logits.size + 2))
        kept = sampler.kept(logits, temperature, top_k=k)
        left = min(k, int(np.isfinite(logits).sum()))
        wrong += not (kept.sum() == left and _is_prefix(kept, logits, temperature))
    return Verdict(claim, f"{rows:,} rows", f"{wrong} wrong", wrong == 0)


def log_probs_are_exact(sampler: Contract, rows: int) -> Verdict:
    """log_prob of every category within 1e-6 max(1, |x|) of SciPy's log_softmax; -inf where masked."""
    claim = "log_prob: within 1e-6 max(1, |x|) of SciPy"
    worst, categories = 0.0, 0
    for logits, temperature in rows_to_try(claim, rows):
        exact = special.log_softmax((logits.astype(np.float64) - float(logits.max())) / temperature)
        given = sampler.log_probs(logits, temperature).astype(np.float64)
        if (np.isfinite(given) != np.isfinite(exact)).any():
            worst = np.inf
        given, exact = (x[np.isfinite(exact)] for x in (given, exact))
        worst = max(worst, float((abs(given - exact) / np.maximum(1, abs(exact))).max()))
        categories += logits.size
    return Verdict(claim, f"{categories:,} categories", f"largest error {worst:.2e}", worst <= 1e-6)


def entropy_is_exact(sampler: Contract, rows: int) -> Verdict:
    """Entropy within 1e-6 max(1, |x|) of SciPy's."""
    claim = "entropy: within 1e-6 max(1, |x|) of SciPy"
    worst = 0.0
    for logits, temperature in rows_to_try(claim, rows):
        exact = float(stats.entropy(special.softmax((logits.astype(np.float64) - float(logits.max())) / temperature)))
        worst = max(worst, abs(sampler.entropy(logits, temperature) - exact) / max(1, exact))
    return Verdict(claim, f"{rows:,} rows", f"largest error {worst:.2e}", worst <= 1e-6)


def worst_rows(name: str, categories: int, rows: int) -> Iterator[tuple[Array, float]]:
    """One category against many equal ones, of half the weight or so far below that their weights are rounded away.

    An error of theirs is the same for all of them, so nothing averages out.
    """
    random = np.random.default_rng(seed_of(name))
    for r in range(rows):
        gap = 28.42 if r == 0 else np.log(categories) * random.uniform(0.95, 1.05)  # exp(-28.42) is 2^-41, half a step
        temperature = 1.0 if r == 0 else float(np.exp(random.uniform(-2, 2)))
        top = np.float32(0 if r == 0 else random.uniform(0, 100))
        logits = np.full(categories, top - gap * temperature, np.float32)
        logits[0] = top
        yield logits, temperature


def worst_rows_are_close(sampler: Contract, categories: int, rows: int, bound: float) -> Verdict:
    """log_prob and entropy where every error adds up: within a wider bound, relative as above."""
    claim = f"log_prob, entropy: within {bound:g} on the worst rows of {categories:,}"
    log_prob, entropy = 0.0, 0.0
    for logits, temperature in worst_rows(claim, categories, rows):
        shifted = (logits.astype(np.float64) - float(logits[0])) / temperature
        exact, h = special.log_softmax(shifted), float(stats.entropy(special.softmax(shifted)))
        given = sampler.log_probs(logits, temperature)
        log_prob = max(log_prob, float((abs(given - exact) / np.maximum(1, abs(exact))).max()))
        entropy = max(entropy, abs(sampler.entropy(logits, temperature) - h) / max(1, h))
    found = f"largest errors {log_prob:.2e}, {entropy:.2e}"
    return Verdict(claim, f"{rows:,} rows", found, max(log_prob, entropy) <= bound)


def proofs(sampler: Sampler, contract: Contract | ParameterKernels) -> tuple[Proof, ...]:
    """All of them, in full size."""
    each = functools.partial
    return (
        each(categories_fit, sampler, 16, 1 << 24),
        each(categories_fit, sampler, 16, 1 << 22, temperature=0.5),
        each(categories_fit, sampler, 100, 1 << 22, temperature=2.0),
        each(categories_fit, sampler, 1000, 1 << 22),
        each(real_row_fits, sampler, 100_000),
        each(soft_index_fits, sampler, 16, 1 << 22),
        each(soft_index_fits, sampler, 200, 1 << 20),
        each(rare_category, sampler, 1e-6, 10**8),
        each(rare_category, sampler, 1e-8, 10**9, rare=7),
        each(tail_race, sampler, 262_144, 20.5, 100_000),
        each(tail_race, sampler, 129_279, 18.0, 100_000),
        each(tail_race, sampler, 129_279, 20.0, 100_000),
        each(ordered_outcomes_fit, contract, 1 << 21),
        *(each(soft_marginals, sampler, n, tau, 1 << 20) for n in (2, 16) for tau in (0.3, 1.0)),
        each(soft_marginals, sampler, 200, 1.0, 1 << 18),
        *(each(soft_mean, sampler, tau, 1 << 22) for tau in (0.2, 1.0, 4.0)),
        each(soft_peaks_at_index, sampler, 1 << 20),
        each(cold_is_argmax, sampler, 100_000),
        each(hot_is_uniform, sampler, 1 << 22),
        each(tau_limits, sampler, 50_000),
        each(top_k_keeps_k, contract, 2000),
        each(top_p_keeps_the_nucleus, contract, 2000),
        each(min_p_keeps_the_likely, contract, 2000),
        each(log_probs_are_exact, contract, 2000),
        each(entropy_is_exact, contract, 2000),
        each(worst_rows_are_close, contract, 1 << 20, 100, 1.5e-6),
        each(worst_rows_are_close, contract, 1 << 22, 10, 4e-6),
    )


def verdicts() -> Iterator[Verdict]:
    """Of the service, and of the contract where the kernels lack something."""
    return timed(proofs(Kernels(), ParameterKernels()))


if __name__ == "__main__":
    sys.exit(exit_status(report(verdicts())))
