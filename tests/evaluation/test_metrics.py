"""Corpus scores against jiwer and by hand."""

import jiwer
import pytest

from harness.evaluation.metrics import score
from harness.spec.result import Transcript


def transcripts(*pairs):
    return [Transcript(id=str(n), reference=r, hypothesis=h) for n, (r, h) in enumerate(pairs)]


PAIRS = [("The colour of it", "the color of that"), ("one two", "one two three"), ("", "noise"), ("a b c", "")]


def test_rates_are_pooled_not_averaged():
    found = score(transcripts(("a b c d e f g h", "a b c d e f g h"), ("x y", "y")), "sv")
    assert found.wer == pytest.approx(1 / 10)
    assert found.deletions == pytest.approx(1 / 10)


def test_raw_is_jiwers():
    found = score(transcripts(*PAIRS), "en")
    assert found.wer_raw == pytest.approx(jiwer.wer([r for r, _ in PAIRS], [h for _, h in PAIRS]))


def test_an_insertion_loop_goes_over_one_hundred_percent():
    assert score(transcripts(("a", "a " * 50)), "sv").wer == pytest.approx(49)


def test_nothing_to_score_against():
    with pytest.raises(ValueError, match="no reference words"):
        score(transcripts(("", "noise")), "en")
