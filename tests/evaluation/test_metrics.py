"""Corpus scores against jiwer and by hand."""

import random

import jiwer
import pytest

from harness.compare.scoring.counts import count_errors
from harness.evaluation.metrics import score, word_errors
from harness.evaluation.normalizers import normalizer
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


# Capitals and marks, so that raw differs from normalized; rates by hand.
MARKED = [("Häst, ko!", "häst ko"), ("En får.", "En för.")]


def test_raw_and_normalized_rates_by_hand():
    found = score(transcripts(*MARKED), "sv")
    assert found.wer == pytest.approx(1 / 4), "får"
    assert found.wer_raw == pytest.approx(3 / 4), "Häst, ko! får."
    assert found.cer == pytest.approx(1 / len("häst ko" + "en får"))
    assert word_errors(transcripts(*MARKED), "sv") == [0, 1]
    assert score(transcripts(*MARKED), "sv", "none").wer == found.wer_raw
    assert word_errors(transcripts(*MARKED), "sv", "none") == [2, 1]


ODD_SPACES = [
    ("私は\u3000学生\u3000です", "私は 学生 で"),  # ideographic space
    ("Quoi\u00a0? Rien\u202f!", "Quoi ? Rien !"),  # no-break spaces before French punctuation
    ("two  words\tand\nmore", " two words and more "),
    ("a b c", "a c"),
]


@pytest.mark.parametrize("language", ["en", "fr", "ja", "mul"])
@pytest.mark.parametrize("name", ["none", "basic"])
def test_validation_and_board_count_the_same_words_and_characters(language, name):
    found = score(transcripts(*ODD_SPACES), language, name)
    texts = zip(*ODD_SPACES, strict=True)
    counts = count_errors(*texts, normalizer(name, language)[0], language)
    assert found.wer_raw == pytest.approx(counts.raw.errors.sum() / counts.raw.reference.sum())
    assert found.wer == pytest.approx(counts.words.errors.sum() / counts.words.reference.sum())
    assert found.cer == pytest.approx(counts.character_errors.sum() / counts.characters.sum())
    assert word_errors(transcripts(*ODD_SPACES), language, name) == counts.words.errors.tolist()


def test_words_are_separated_by_any_white_space():
    assert score(transcripts(ODD_SPACES[0]), "ja").wer_raw == pytest.approx(1 / 3)
    assert score(transcripts(*ODD_SPACES[1:3]), "fr").wer_raw == 0
    assert score(transcripts(*ODD_SPACES[1:3]), "fr", "none").cer == 0


@pytest.mark.parametrize(("language", "expected"), [("ja", 0), ("th", 0), ("sv", 1 / 6)])
def test_characters_of_scripts_without_spaces_are_counted_without_spaces(language, expected):
    assert score(transcripts(("あい うえお", "あいうえお")), language).cer == pytest.approx(expected)


@pytest.mark.parametrize("language", ["en", "sv"])
def test_rates_are_jiwers_where_words_are_separated_by_single_spaces(language):
    draw = random.Random(1)
    texts = [" ".join(draw.choice(["Ja,", "nej", "Åh!", "kanske"]) for _ in range(1 + n % 7)) for n in range(120)]
    pairs = list(zip(texts[:60], texts[60:], strict=True))
    found, (references, hypotheses) = score(transcripts(*pairs), language, "none"), zip(*pairs, strict=True)
    assert found.wer == found.wer_raw == pytest.approx(jiwer.wer(list(references), list(hypotheses)))
    assert found.cer == pytest.approx(jiwer.cer(list(references), list(hypotheses)))
