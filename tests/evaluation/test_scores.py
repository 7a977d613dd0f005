"""Error rates and normalisers against values worked out by hand."""

import pytest

from harness.errors import UserError
from harness.evaluation.metrics import score
from harness.evaluation.normalizers import default_name, normalizer
from harness.spec.result import Transcript


def line(reference: str, hypothesis: str) -> Transcript:
    return Transcript(id=reference, reference=reference, hypothesis=hypothesis)


def test_errors_are_pooled_over_the_corpus_not_averaged_over_utterances():
    # One error in one word, one error in nine: 2 of 10, where the mean of the rates would be 5/9.
    transcripts = [line("hund", "katt"), line("a b c d e f g h i", "a b c d e f g h")]
    scores = score(transcripts, "sv", "none")
    assert scores.wer == pytest.approx(0.2)
    assert (scores.substitutions, scores.deletions, scores.insertions) == pytest.approx((0.1, 0.1, 0.0))
    assert (scores.utterances, scores.reference_words) == (2, 10)


def test_a_loop_is_not_clipped_and_an_empty_reference_counts_its_insertions():
    scores = score([line("ja", "ja ja ja ja"), line("", "hm")], "sv", "none")
    assert scores.wer == pytest.approx(4.0)
    assert scores.insertions == pytest.approx(4.0)


def test_raw_and_normalised_are_both_kept():
    scores = score([line("Colour, please!", "color please")], "en")
    assert (scores.wer, scores.wer_raw) == (0.0, 1.0)


def test_no_reference_words_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="no reference words"):
        score([line("", "a")], "sv")


@pytest.mark.parametrize(
    "language, text, normal",
    [
        ("en", "Mr. Colour's 3 cats", "mister color is 3 cats"),
        ("sv", "Åsa, Östen!", "åsa östen"),
        ("hi", "नमस्ते दुनिया।", "नमस्ते दुनिया"),
        ("ar", "كِتَابٌ", "كِتَابٌ"),
        ("tr", "İSTANBUL Işık", "istanbul ışık"),
    ],
)
def test_default_normalisers(language, text, normal):
    assert normalizer(default_name(language), language)[0](text) == normal


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(UserError, match="did you mean 'english'"):
        normalizer("englsh", "en")
