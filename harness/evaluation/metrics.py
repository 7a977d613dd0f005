"""Raw transcripts -> corpus-level error rates."""

from collections.abc import Sequence

import jiwer
from rapidfuzz.distance import Levenshtein

from harness.evaluation.normalizers import default_name, normalizer
from harness.spec.result import Scores, Transcript


def score(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> Scores:
    """Pool all utterances: rates are summed errors over summed reference words, never clipped, fractions.

    Empty references stay in, so that what was inserted there counts. Insertions, deletions and substitutions are
    those of the normalised text, from jiwer's minimal alignment.

    Raises:
        ValueError: if there is no reference word at all.
    """
    normalize, shown = normalizer(name or default_name(language), language)
    references, hypotheses = [t.reference for t in transcripts], [t.hypothesis for t in transcripts]
    plain_references, plain_hypotheses = [normalize(t) for t in references], [normalize(t) for t in hypotheses]
    words = jiwer.process_words(plain_references, plain_hypotheses)
    raw = jiwer.process_words(references, hypotheses)
    characters = jiwer.process_characters(plain_references, plain_hypotheses)
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
        normalizer=shown,
    )


def word_errors(transcripts: Sequence[Transcript], language: str, name: str | None = None) -> list[int]:
    """Errors of each utterance, in the words that `score` counts."""
    normalize, _ = normalizer(name or default_name(language), language)
    pairs = ((normalize(t.reference).split(), normalize(t.hypothesis).split()) for t in transcripts)
    return [Levenshtein.distance(reference, hypothesis) for reference, hypothesis in pairs]
