"""Compute corpus-level error rates from raw transcripts."""

from collections.abc import Sequence

import jiwer
from rapidfuzz.distance import Levenshtein

from harness.evaluation.normalizers import default_name, normalizer
from harness.spec.result import Scores, Transcript


def score(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> Scores:
    """Compute error rates over all utterances together.

    Rates are fractions: summed errors divided by summed reference words, never clipped. Utterances with an empty
    reference are included, so that their insertions count. Insertions, deletions and substitutions refer to the
    normalized text and come from jiwer's minimal alignment.

    Args:
        transcripts: Raw references and hypotheses.
        language: Whisper's language code.
        name: The normalizer; by default that of the language.

    Raises:
        ValueError: If there are no reference words at all.
    """
    normalize, label = normalizer(name or default_name(language), language)
    references, hypotheses = [t.reference for t in transcripts], [t.hypothesis for t in transcripts]
    normalized_references = [normalize(text) for text in references]
    normalized_hypotheses = [normalize(text) for text in hypotheses]
    words = jiwer.process_words(normalized_references, normalized_hypotheses)
    raw = jiwer.process_words(references, hypotheses)
    characters = jiwer.process_characters(normalized_references, normalized_hypotheses)
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


def word_errors(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> list[int]:
    """Return the word errors of each utterance, counted in the same words as `score`."""
    normalize, _ = normalizer(name or default_name(language), language)
    pairs = ((normalize(t.reference).split(), normalize(t.hypothesis).split()) for t in transcripts)
    return [Levenshtein.distance(reference, hypothesis) for reference, hypothesis in pairs]
