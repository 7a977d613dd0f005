"""Compute corpus-level error rates from raw transcripts."""

from collections.abc import Sequence

import jiwer
from rapidfuzz.distance import Levenshtein

from harness.evaluation import text_units
from harness.evaluation.normalizers import default_name, normalizer
from harness.spec.result import Scores, Transcript


def score(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> Scores:
    """Compute error rates over all utterances together.

    Rates are fractions: summed errors divided by summed reference words, never clipped. Utterances with an empty
    reference are included, so that their insertions count. Insertions, deletions and substitutions refer to the
    normalized text and come from jiwer's minimal alignment. Words and characters are those of `text_units`.

    Args:
        transcripts: Raw references and hypotheses.
        language: Whisper's language code.
        name: The normalizer; by default that of the language.

    Raises:
        ValueError: If there are no reference words at all.
    """
    normalize, label = normalizer(name or default_name(language), language)
    raw_references, raw_hypotheses = [t.reference for t in transcripts], [t.hypothesis for t in transcripts]
    references, hypotheses = [normalize(text) for text in raw_references], [normalize(text) for text in raw_hypotheses]
    words = jiwer.process_words(_spaced(references), _spaced(hypotheses))
    raw = jiwer.process_words(_spaced(raw_references), _spaced(raw_hypotheses))
    characters = jiwer.process_characters(
        [text_units.characters(text, language) for text in references],
        [text_units.characters(text, language) for text in hypotheses],
    )
    count = words.hits + words.substitutions + words.deletions
    if count == 0:
        raise ValueError("no reference words to score against")
    return Scores(
        wer=words.wer,
        wer_raw=raw.wer,
        cer=characters.cer,
        insertions=words.insertions / count,
        deletions=words.deletions / count,
        substitutions=words.substitutions / count,
        utterances=len(transcripts),
        reference_words=count,
        normalizer=label,
    )


def _spaced(texts: Sequence[str]) -> list[str]:
    """Join the words of each text by single spaces, at which alone jiwer splits."""
    return [" ".join(text_units.words(text)) for text in texts]


def word_errors(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> list[int]:
    """Return the word errors of each utterance, counted in the same words as `score`."""
    normalize, _ = normalizer(name or default_name(language), language)
    split = text_units.words
    return [Levenshtein.distance(split(normalize(t.reference)), split(normalize(t.hypothesis))) for t in transcripts]
