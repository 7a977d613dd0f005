"""A sample spread over an ordered sequence."""

import itertools

import pytest

from harness.data.sampling import spread


def test_a_sample_reaches_from_the_first_to_the_last():
    assert spread(range(100), 64)[0] == 0 and spread(range(100), 64)[-1] == 99
    assert spread(range(9), 3) == [0, 4, 8] and spread(range(5), 1) == [2]
    assert spread("abc", 3) == spread("abc", 8) == ["a", "b", "c"] and spread([], 4) == []


@pytest.mark.parametrize("size", [16, 17, 63, 64, 65, 100, 127, 128, 300])
def test_it_is_even(size):
    chosen = spread(range(size), 16)
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert len(set(chosen)) == min(16, size) and max(gaps) - min(gaps) <= 1
