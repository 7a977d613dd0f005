"""Alignment against exhaustive search, and counts against jiwer."""

import random
from functools import cache

import jiwer
import numpy as np
import pytest

from harness.compare.scoring.alignment import align, segment_differences
from harness.compare.scoring.counts import count_words, has_loop


def cheapest(reference, hypothesis) -> int:
    """The cost of the best alignment by plain recursion: substitution 4, insertion 3, deletion 3."""

    @cache
    def cost(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 3 * (i + j)
        here = 0 if reference[i - 1] == hypothesis[j - 1] else 4
        return min(cost(i - 1, j - 1) + here, cost(i - 1, j) + 3, cost(i, j - 1) + 3)

    return cost(len(reference), len(hypothesis))


def random_pairs(count: int, seed: int = 1) -> list[tuple[list[int], list[int]]]:
    draw = random.Random(seed)
    return [
        ([draw.randrange(4) for _ in range(draw.randrange(12))], [draw.randrange(4) for _ in range(draw.randrange(15))])
        for _ in range(count)
    ]


def test_alignments_are_the_cheapest_and_consistent():
    pairs = random_pairs(800)
    for (reference, hypothesis), found in zip(pairs, align(*zip(*pairs, strict=True)), strict=True):
        assert 4 * found.substitutions + 3 * (found.insertions + found.deletions) == cheapest(reference, hypothesis)
        assert len(reference) - found.deletions + found.insertions == len(hypothesis)
        assert len(found.slots) == 2 * len(reference) + 1
        assert found.slots.sum() == found.errors
        assert found.slots[::2].sum() == found.insertions


def test_totals_are_jiwers_even_where_sclite_would_count_more():
    pairs = random_pairs(800, seed=2)
    pairs = [(r, h) for r, h in pairs if r]  # jiwer wants at least one word for an utterance alone
    texts = [(" ".join(map(str, r)), " ".join(map(str, h))) for r, h in pairs]
    counts = count_words([r for r, _ in texts], [h for _, h in texts])
    expected = [jiwer.process_words(r, h) for r, h in texts]
    assert counts.errors.tolist() == [e.substitutions + e.deletions + e.insertions for e in expected]
    sclite = [found.errors for found in align(*zip(*pairs, strict=True))]
    assert sum(sclite) > counts.errors.sum(), "the draw must hold cases in which the two differ"


def test_empty_texts():
    counts = count_words(["", "a", "", "a b"], ["x y", "", "", "a b"])
    assert counts.insertions.tolist() == [2, 0, 0, 0]
    assert counts.deletions.tolist() == [0, 1, 0, 0]


def segmented(slots_a, slots_b):
    """One utterance's segment_differences."""
    places = [np.flatnonzero(s) for s in (slots_a, slots_b)]
    words = np.array([len(slots_a) // 2])
    return segment_differences(
        words, *((p, np.array(s)[p]) for p, s in zip(places, (slots_a, slots_b), strict=True))
    ).tolist()


@pytest.mark.parametrize(
    "a, b, expected",
    [
        # four words; errors at the first and at the last, two good words between: two segment_differences
        ([0, 1, 0, 0, 0, 0, 0, 1, 0], [0] * 9, [1, 1]),
        # three words: one good word between does not part
        ([0, 1, 0, 0, 0, 1, 0], [0] * 7, [2]),
        # an insertion amid two good words parts them
        ([0, 1, 0, 0, 3, 0, 0, 1, 0], [0] * 9, [5]),
        # both err at the same place: one segment, no difference
        ([0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0]),
        # insertions before the first and after the last word
        ([2, 0, 0, 0, 0], [0, 0, 0, 0, 1], [2, -1]),
        ([0, 0, 0], [0, 0, 0], []),
    ],
)
def test_segments(a, b, expected):
    assert segmented(a, b) == expected


@pytest.mark.parametrize(
    "reference, hypothesis, expected",
    [
        ("a b", "x " * 10_000, True),
        ("a b c d e f", "a b c d e f", False),
        ("row row row row row row row", "row row row row row row row", False),
        ("one two three four five", "one two three four five one two three four five", True),
        ("", "", False),
    ],
)
def test_loops(reference, hypothesis, expected):
    assert has_loop(reference, hypothesis) is expected
