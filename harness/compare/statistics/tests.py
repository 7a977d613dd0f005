"""Intervals and tests: jackknife-t, block bootstrap, MAPSSWE, Holm, paired t; see docs/explanation/statistics.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIN_BLOCKS = 5  # below, no interval is printed
MIN_SEEDS = 3  # below, nothing is said about seeds
LEVEL = 0.95
ALPHA = 1 - LEVEL
RESAMPLES = 9999
CELLS_AT_ONCE = 2_000_000  # numbers that the bootstrap holds at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and p; None: no inference."""

    estimate: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval, printed after ±."""
        return None if self.high is None else self.high - self.estimate

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def jackknife_t(errors: Floats, words: Floats) -> Interval:
    """Return the pooled rate sum(errors) / sum(words) with its delete-one-block jackknife-t interval.

    se^2 = (K-1)/K * sum (D_(k) - D)^2 and D +- t(.975, K-1) se, with the two-sided p of D = 0 (Efron & Tibshirani
    1993, chapter 11; t for few blocks). Where every block shows the same difference, se is 0 and t is not defined: p is
    that of the exact sign-flip test (see `sign_flip_p`), and the interval is the point itself if that test rejects 0,
    else there is none. Thus the interval excludes 0 exactly where p < .05.

    Args:
        errors: errors, or differences of errors, summed in each of K blocks, (K,).
        words: reference words in each block, (K,).
    """
    from scipy import stats

    estimate, se, p = jackknife_many(errors[None], words[None])
    value, blocks = float(estimate[0]), len(errors)
    if blocks < MIN_BLOCKS or not math.isfinite(se[0]):
        return Interval(value)
    if se[0] == 0 and value != 0 and p[0] >= ALPHA:
        return Interval(value, p=float(p[0]))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, blocks - 1)) * float(se[0])
    return Interval(value, value - half, value + half, float(p[0]))


def sign_flip_p(blocks: int) -> float:
    """Return the exact two-sided p of a difference that is the same, and not 0, in every block.

    Under the null hypothesis each block's difference has either sign with equal probability (Fisher's randomization
    test; Good 2005, section 3.2), and of the 2^blocks assignments only the two with equal signs are as extreme.
    """
    return min(1.0, 2.0 ** (1 - blocks))


def jackknife_many(errors: Floats, words: Floats) -> tuple[Floats, Floats, Floats]:
    """Return rates, standard errors and p of many cases; both arguments are (cases, K), the results (cases,)."""
    from scipy import stats

    blocks = errors.shape[1]
    all_errors, all_words = errors.sum(axis=1, keepdims=True), words.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = all_errors / all_words
        without = (all_errors - errors) / (all_words - words)
        se = np.sqrt((blocks - 1) / blocks * ((without - estimate) ** 2).sum(axis=1))
        # What rounding leaves of a difference that is the same in all blocks is no spread.
        flat = se <= 1e-12 * np.maximum(1.0, np.abs(estimate[:, 0]))
        flat_p = np.minimum(1.0, 2.0 ** (1 - np.count_nonzero(errors, axis=1)))  # sign_flip_p of each case; 1 at zero
        p = np.where(flat, flat_p, 2 * stats.t.sf(np.abs(estimate[:, 0]) / np.where(flat, 1.0, se), blocks - 1))
    return estimate[:, 0], np.where(flat, 0.0, se), p


@dataclass(frozen=True)
class Bootstrap:
    """Percentile interval of the block bootstrap, and the share of resamples in which the system is better."""

    low: float
    high: float
    improvement: float


def block_bootstrap(a: Floats, b: Floats, words: Floats, seed: int = 0) -> Bootstrap | None:
    """Resample blocks with replacement (Liu & Peng 2020); `improvement` is Bisani & Ney's (2004), ties count half.

    Args:
        a: errors of the system in each block, (K,).
        b: errors of the reference in each block, (K,).
        words: reference words in each block, (K,).
        seed: of the resampling.

    Returns:
        None with fewer than 5 blocks.
    """
    from scipy import stats

    if len(words) < MIN_BLOCKS or np.count_nonzero(words) < MIN_BLOCKS:
        return None

    def difference(a: Floats, b: Floats, words: Floats, axis: int = -1) -> Floats:
        rate: Floats = (a - b).sum(axis=axis) / words.sum(axis=axis)
        return rate

    found = stats.bootstrap(
        (a, b, words),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES if len(words) <= 1000 else 999,
        batch=max(1, CELLS_AT_ONCE // len(words)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    spread = found.bootstrap_distribution
    better = float(np.mean(spread < 0) + np.mean(spread == 0) / 2)
    return Bootstrap(float(found.confidence_interval.low), float(found.confidence_interval.high), better)


@dataclass(frozen=True)
class Mapsswe:
    """Result of MAPSSWE; mean and sd in words per segment, as in NIST's sc_stats."""

    segments: int
    mean: float | None
    sd: float | None
    z: float | None
    p: float | None


def mapsswe(differences: npt.NDArray[np.integer]) -> Mapsswe:
    """Test differences of errors in segments (Gillick & Cox 1989): Z = mean / (sd / sqrt(n)), normal p."""
    from scipy import stats

    n = len(differences)
    if n < 2:
        return Mapsswe(n, float(differences.mean()) if n else None, None, None, None)
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    if sd == 0:
        return Mapsswe(n, mean, sd, None, sign_flip_p(n) if mean else 1.0)
    z = mean / (sd / math.sqrt(n))
    return Mapsswe(n, mean, sd, z, float(2 * stats.norm.sf(abs(z))))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p values of a family after Holm's (1979) step-down adjustment; None is not a member."""
    from statsmodels.stats.multitest import multipletests

    given = [p for p in p_values if p is not None]
    adjusted = iter(multipletests(given, method="holm")[1]) if given else iter(())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def paired_t(differences: Sequence[float]) -> Interval | None:
    """Return the mean over seeds with its t interval; None below 3 seeds."""
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < MIN_SEEDS:
        return None
    mean, se = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    if se <= 1e-15:
        p = sign_flip_p(len(values)) if mean else 1.0
        return Interval(mean, mean, mean, p) if p < ALPHA else Interval(mean, p=p)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * se
    return Interval(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / se, len(values) - 1)))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a test set: the block of each utterance, and what the blocks are."""

    labels: npt.NDArray[np.int64]
    number: int
    kind: str
    warning: str | None

    def sums(self, values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> Floats:
        """Return the sum of (utterances,) values in each block, (K,)."""
        return np.bincount(self.labels, weights=values, minlength=self.number).astype(np.float64)


CONSECUTIVE = 20  # blocks that a single speaker's recordings are cut into


def blocks(speakers: Sequence[str | None]) -> Blocks:
    """Return speakers as blocks; utterances if speakers are unknown; stretches of utterances of one speaker."""
    count = len(speakers)
    if any(speaker is None for speaker in speakers):
        some = any(speaker is not None for speaker in speakers)
        warning = "not every utterance has a speaker, so each utterance is its own block" if some else None
        shown = warning or "no speakers are known, so each utterance is its own block: intervals may be too narrow"
        return Blocks(np.arange(count), count, "utterances", shown)
    names = {name: place for place, name in enumerate(dict.fromkeys(speakers))}
    if len(names) > 1:
        few = f"only {len(names)} speakers: no inference below {MIN_BLOCKS} blocks" if len(names) < MIN_BLOCKS else None
        return Blocks(np.array([names[name] for name in speakers]), len(names), "speakers", few)
    number = min(CONSECUTIVE, count)
    warning = (
        f"one speaker only: {number} blocks of consecutive utterances stand in, and nothing is said about other voices"
    )
    return Blocks(np.arange(count) * number // count, number, "stretches of consecutive utterances", warning)


def recordings(count: int) -> Blocks:
    """Return each long recording as a block."""
    few = f"only {count} recordings: no inference below {MIN_BLOCKS} blocks" if count < MIN_BLOCKS else None
    return Blocks(np.arange(count), count, "recordings", few)
