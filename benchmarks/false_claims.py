"""How often two systems of equal true error are called different, under three intervals.

    python benchmarks/false_claims.py

2,000 draws for each number of speakers. A speaker has 20 utterances of 10 words; is harder or easier for both systems
(sd .06) and suits one of them better than the other (sd .03 each). The true rates are equal (.20): every rejection at
the 5 % level is a false claim.
"""

import numpy as np
import numpy.typing as npt

from harness.compare.statistics.tests import jackknife_many

DRAWS, UTTERANCES, WORDS, RESAMPLES = 2000, 20, 10, 1000
Floats = npt.NDArray[np.float64]


def drawn(speakers: int, draw: np.random.Generator) -> Floats:
    """Differences of errors, (draws, speakers, utterances)."""
    hard = draw.normal(0, 0.06, (DRAWS, speakers, 1))
    one, two = (
        draw.binomial(
            WORDS,
            np.broadcast_to(
                np.clip(0.2 + hard + draw.normal(0, 0.03, (DRAWS, speakers, 1)), 0.01, 0.99),
                (DRAWS, speakers, UTTERANCES),
            ),
        )
        for _ in range(2)
    )
    return (one - two).astype(np.float64)


def percentile_rejects(values: Floats, draw: np.random.Generator) -> bool:
    """Whether 0 lies outside the percentile interval of the mean of resampled values."""
    means = values[draw.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return bool(low > 0 or high < 0)


def main() -> None:
    """Print the shares."""
    for speakers in (10, 20):
        draw = np.random.default_rng(speakers)
        differences = drawn(speakers, draw)
        by_speaker = differences.sum(axis=2)
        _, _, p = jackknife_many(by_speaker, np.full(by_speaker.shape, float(UTTERANCES * WORDS)))
        utterance = np.mean([percentile_rejects(d.ravel(), draw) for d in differences])
        speaker = np.mean([percentile_rejects(d, draw) for d in by_speaker])
        print(f"K = {speakers}: jackknife-t {np.mean(p < 0.05):.3f}, speaker percentile bootstrap {speaker:.3f}, "
              f"utterance percentile bootstrap {utterance:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
