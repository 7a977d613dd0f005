"""The tests against closed forms, published figures, and scipy's own functions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from harness.compare.statistics.comparisons import verdict
from harness.compare.statistics.groups import groupings
from harness.compare.statistics.tests import (
    Interval,
    block_bootstrap,
    blocks,
    holm,
    jackknife_many,
    jackknife_t,
    mapsswe,
    paired_t,
)


def test_holm_as_in_the_protocol():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested():
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert holm([]) == []


def test_jackknife_of_equal_blocks_is_the_t_interval_of_their_rates():
    # rates .1 .2 .3 .4 .9: mean .38, sum of squares .388, se = sqrt(.388/4/5), t(.975, 4) = 2.776445
    found = jackknife_t(np.array([1.0, 2, 3, 4, 9]), np.full(5, 10.0))
    assert found.estimate == pytest.approx(0.38)
    assert found.half == pytest.approx(2.776445 * math.sqrt(0.388 / 20), abs=1e-6)
    assert found.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3, 0.4, 0.9], 0).pvalue)


def test_jackknife_of_unequal_blocks_by_hand():
    # Three of the five leave-one-out rates: (10-1)/(100-10) = .1, (10-0)/(100-30) = 1/7, (10-5)/(100-20) = 1/16 ...
    errors, words = [1.0, 0, 5, 2, 2], [10.0, 30, 20, 25, 15]
    without = [9 / 90, 10 / 70, 5 / 80, 8 / 75, 8 / 85]
    se = math.sqrt(4 / 5 * sum((rate - 0.1) ** 2 for rate in without))
    found = jackknife_t(np.array(errors), np.array(words))
    assert found.estimate == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 2.776445105 * se)


def test_equal_systems_have_p_1():
    assert jackknife_t(np.zeros(8), np.full(8, 10.0)) == Interval(0, 0, 0, 1)


def test_a_difference_that_is_the_same_in_every_block_has_the_sign_flip_p():
    assert jackknife_t(np.full(8, 10.0), np.full(8, 10.0)) == Interval(1, 1, 1, 2 / 2**8)
    assert jackknife_t(np.full(8, -0.1), np.full(8, 10.0)).p == 2 / 2**8
    assert jackknife_t(np.full(5, 10.0), np.full(5, 10.0)) == Interval(1, None, None, 2 / 2**5)
    assert jackknife_t(np.array([3.0, 5, 7, 2, 4, 0]), np.array([3.0, 5, 7, 2, 4, 0])).p == 2 / 2**5  # a silent block
    assert mapsswe(np.full(9, 2)).p == 2 / 2**9
    assert mapsswe(np.zeros(9, dtype=int)).p == 1
    assert paired_t([0.1] * 8) == Interval(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 2 / 2**8)
    assert paired_t([0.1] * 3) == Interval(pytest.approx(0.1), None, None, 0.25)
    assert paired_t([0.0] * 8).p == 1


def made_up_blocks(rng, count):
    """Words and differences of errors in each block: of every shape that a test set can have, flat ones included."""
    words = rng.integers(1, 30, count).astype(float) if rng.random() < 0.5 else np.full(count, 10.0)
    difference = [
        lambda: np.zeros(count),
        lambda: words * rng.choice([-1.0, 0.5, 0.1]),
        lambda: np.where(np.arange(count) == 0, rng.integers(-3, 4), 0).astype(float),
        lambda: rng.integers(-2, 3, count).astype(float),
        lambda: rng.normal(rng.normal(), 1, count),
        lambda: words * 0.3 + rng.normal(0, 1e-6, count),
    ]
    return difference[rng.integers(len(difference))](), words


def test_an_interval_excludes_zero_exactly_where_its_test_rejects():
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(3000):
        found = jackknife_t(*made_up_blocks(rng, rng.integers(5, 15)))
        assert found.excludes_zero == (found.low is not None and found.p < 0.05), found
        seeds = paired_t(list(made_up_blocks(rng, rng.integers(3, 9))[0]))
        assert seeds.excludes_zero == (seeds.low is not None and seeds.p < 0.05), seeds
        said = verdict(found, found.p, seeds)
        assert said in ("no difference shown", "no inference") or found.excludes_zero
        rejected += found.excludes_zero
    assert 500 < rejected < 2500


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_than_five_blocks_have_no_interval(count):
    found = jackknife_t(np.arange(float(count)), np.full(count, 10.0))
    assert found == Interval(found.estimate)
    assert block_bootstrap(np.zeros(count), np.zeros(count), np.ones(count)) is None


def test_all_words_in_one_block_has_no_interval():
    assert jackknife_t(np.array([3.0, 1, 0, 0, 0]), np.array([10.0, 0, 0, 0, 0])).low is None


def test_bootstrap_is_scipys_and_near_the_jackknife():
    draw = np.random.default_rng(3)
    words = draw.integers(50, 150, 30).astype(float)
    a, b = (draw.binomial(words.astype(int), rate).astype(float) for rate in (0.2, 0.25))

    def difference(rows):
        rows = np.asarray(rows, dtype=int)
        return (a[rows].sum() - b[rows].sum()) / words[rows].sum()

    expected = stats.bootstrap(
        (np.arange(30),),
        difference,
        vectorized=False,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(9),
    )
    found = block_bootstrap(a, b, words)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.002)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.002)
    assert found.improvement == pytest.approx(np.mean(expected.bootstrap_distribution < 0), abs=0.01)
    jackknife = jackknife_t(a - b, words)
    assert found.low == pytest.approx(jackknife.low, abs=0.01)


def test_mapsswe_z_and_p():
    differences = np.array([1, -1, 2, 0, 3, 1, 0, 0, 1, -2])
    z = differences.mean() / (np.std(differences, ddof=1) / math.sqrt(10))
    found = mapsswe(differences)
    assert (found.segments, found.z) == (10, pytest.approx(z))
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert mapsswe(np.zeros(4, dtype=int)).p == 1
    assert mapsswe(np.zeros(0, dtype=int)).z is None


def test_paired_t_is_scipys():
    a, b = [0.31, 0.30, 0.33, 0.29], [0.35, 0.33, 0.34, 0.34]
    expected = stats.ttest_rel(a, b)
    found = paired_t([x - y for x, y in zip(a, b, strict=True)])
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert paired_t([0.1, 0.2]) is None


def test_claims_need_test_set_and_seeds():
    clear, none = Interval(-0.1, -0.15, -0.05, 0.001), Interval(-0.01, -0.05, 0.03, 0.5)
    assert verdict(clear, 0.004, clear) == "better"
    assert verdict(clear, 0.004, None) == "better on this test set only"
    assert verdict(clear, 0.004, none) == "no difference shown"
    assert verdict(clear, 0.06, clear) == "no difference shown"
    assert verdict(none, 0.5, clear) == "no difference shown"
    assert verdict(Interval(-0.1), None, clear) == "no inference"
    assert verdict(clear, 0.004, Interval(-0.1, p=0.25)) == "better on this test set only"  # equal seeds, too few
    assert verdict(clear, 0.004, Interval(0.1, 0.05, 0.15, 0.001)) == "no difference shown"


def test_blocks():
    assert blocks(["a", "b", "a"]).labels.tolist() == [0, 1, 0]
    assert blocks([None] * 7).number == 7
    single = blocks(["a"] * 100)
    assert single.number == 20
    assert "one speaker" in single.warning
    assert np.all(np.diff(single.labels) >= 0)
    assert np.bincount(single.labels).tolist() == [5] * 20


DRAWS = 400


def drawn(speakers: int, effect: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Error differences and words, (draws, speakers): 20 utterances of 10 words for each speaker.

    A speaker is harder or easier for both systems (sd .06), and suits one system better than the other (sd .03 for
    each): errors of one speaker go together. Both have a true rate of .20, but for the effect.
    """
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 0.06, (DRAWS, speakers))
    a, b = (
        draw.binomial(200, np.clip(0.2 + hard + draw.normal(0, 0.03, (DRAWS, speakers)) + shift, 0.01, 0.99))
        for shift in (0.0, effect)
    )
    return (a - b).astype(float), np.full((DRAWS, speakers), 200.0)


@pytest.mark.parametrize("speakers", [10, 20])
def test_equal_systems_are_called_different_in_three_to_seven_percent(speakers):
    _, _, p = jackknife_many(*drawn(speakers, 0.0, seed=20 + speakers))
    assert 0.03 <= np.mean(p < 0.05) <= 0.07


@pytest.mark.parametrize("speakers, effect", [(10, 0.07), (20, 0.05)])
def test_a_stated_effect_is_found_in_at_least_eighty_percent(speakers, effect):
    _, _, p = jackknife_many(*drawn(speakers, effect, seed=40 + speakers))
    assert np.mean(p < 0.05) >= 0.8


@pytest.mark.parametrize(
    ("seconds", "label"),
    [
        (None, "unknown"), (0.5, "under 2 s"), (1.99, "under 2 s"), (2.0, "2 to 5 s"), (4.99, "2 to 5 s"),
        (5.0, "5 to 10 s"), (10.0, "10 to 30 s"), (29.9, "10 to 30 s"), (30.0, "30 s and more"),
    ],
)  # fmt: skip
def test_a_clip_stands_in_the_group_that_its_name_says(seconds, label):
    test = SimpleNamespace(conditions=["a", "a"], datasets=["a", "a"], speakers=["a", "a"], seconds=[seconds, 99.0])
    expected = {} if label == "30 s and more" else {"duration": [label, "30 s and more"]}
    assert groupings(test) == expected
