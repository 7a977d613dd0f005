"""Count errors per utterance, the input of every rate and test, and cache the counts in files."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from harness.compare.scoring.alignment import FEWEST_ERRORS_COSTS, align, encode_words
from harness.evaluation.normalizers import Normalizer
from harness.evaluation.text_units import characters, words

Ints = npt.NDArray[np.int32]
VERSION = "2"  # of the counting; counts cached under another version are not used
LOOP_WORDS = 5  # words in a phrase that counts as a loop when it is repeated


@dataclass(frozen=True)
class WordCounts:
    """Word errors of one run.

    Attributes:
        reference: Reference words, (utterances,).
        hypothesis: Hypothesis words, (utterances,).
        substitutions: Substituted words, (utterances,).
        deletions: Deleted words, (utterances,).
        insertions: Inserted words, (utterances,).
        places: For MAPSSWE, indices of the slots with errors in the whole corpus (see
            alignment.segment_differences), (slots with errors,).
        wrong: Number of errors in each of these slots, (slots with errors,).
    """

    reference: Ints
    hypothesis: Ints
    substitutions: Ints
    deletions: Ints
    insertions: Ints
    places: Ints
    wrong: Ints

    @property
    def errors(self) -> Ints:
        """Word edit distance, (utterances,)."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Counts:
    """All counts of one run.

    Attributes:
        words: Word errors of the normalised texts.
        raw: Word errors of the raw texts.
        characters: Reference characters of the normalised texts, (utterances,).
        character_errors: Character edit distance of the normalised texts, (utterances,).
        loops: 1 where the hypothesis has a loop (see `has_loop`), (utterances,).
    """

    words: WordCounts
    raw: WordCounts
    characters: Ints
    character_errors: Ints
    loops: Ints

    def to_bytes(self) -> bytes:
        """Return the content of an .npz file with these counts."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("characters", "character_errors", "loops")}
        for kind in ("words", "raw"):
            part = getattr(self, kind)
            arrays |= {f"{kind}.{field.name}": getattr(part, field.name) for field in fields(WordCounts)}
        file = BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a file that was written with `to_bytes`."""
        with np.load(path) as arrays:
            parts = [
                WordCounts(**{field.name: arrays[f"{kind}.{field.name}"] for field in fields(WordCounts)})
                for kind in ("words", "raw")
            ]
            words, raw = parts
            return cls(words, raw, arrays["characters"], arrays["character_errors"], arrays["loops"])


def count_words(references: Sequence[str], hypotheses: Sequence[str]) -> WordCounts:
    """Count the word errors of each utterance.

    Their sum is the edit distance, as in jiwer. Substitutions, deletions and insertions are those of sclite's
    alignment. Where that has more errors than the edit distance (it prefers correct words), they are those of the
    alignment with the most correct words among the alignments with the fewest errors.
    """
    vocabulary: dict[str, int] = {}
    r, h = encode_words(references, vocabulary), encode_words(hypotheses, vocabulary)
    alignments = align(r, h)
    slots = [alignment.slots for alignment in alignments]
    excess = [
        row
        for row, alignment in enumerate(alignments)
        if alignment.errors and alignment.errors > Levenshtein.distance(r[row], h[row])
    ]
    realigned = align([r[row] for row in excess], [h[row] for row in excess], FEWEST_ERRORS_COSTS)
    for row, alignment in zip(excess, realigned, strict=True):
        alignments[row] = alignment
    corpus_slots = np.concatenate([*slots, np.zeros(0, dtype=np.int32)])  # of sclite's alignment, as MAPSSWE needs it
    places = np.flatnonzero(corpus_slots)
    return WordCounts(
        reference=_ints(map(len, r)),
        hypothesis=_ints(map(len, h)),
        substitutions=_ints(alignment.substitutions for alignment in alignments),
        deletions=_ints(alignment.deletions for alignment in alignments),
        insertions=_ints(alignment.insertions for alignment in alignments),
        places=places.astype(np.int32),
        wrong=corpus_slots[places].astype(np.int32),
    )


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int32)


def has_loop(reference: str, hypothesis: str) -> bool:
    """Return whether a phrase of five words occurs at least twice, and more often than in the reference."""
    hypothesis_words = words(hypothesis)
    if len(hypothesis_words) <= LOOP_WORDS:
        return False
    phrases = Counter(zip(*(hypothesis_words[start:] for start in range(LOOP_WORDS)), strict=False))
    if max(phrases.values()) < 2:
        return False
    reference_words = words(reference)
    expected = Counter(zip(*(reference_words[start:] for start in range(LOOP_WORDS)), strict=False))
    return any(times >= 2 and times > expected[phrase] for phrase, times in phrases.items())


def count_errors(references: Sequence[str], hypotheses: Sequence[str], normalize: Normalizer, language: str) -> Counts:
    """Count the errors of one run, with and without normalisation."""
    r, h = [normalize(text) for text in references], [normalize(text) for text in hypotheses]
    pairs = [(characters(one, language), characters(other, language)) for one, other in zip(r, h, strict=True)]
    return Counts(
        words=count_words(r, h),
        raw=count_words(references, hypotheses),
        characters=_ints(len(reference) for reference, _ in pairs),
        character_errors=_ints(Levenshtein.distance(*pair) for pair in pairs),
        loops=_ints(has_loop(*pair) for pair in zip(r, h, strict=True)),
    )


def cached_counts(
    folder: Path | None,
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalize: Normalizer,
    normalizer_version: str,
    language: str,
) -> Counts:
    """Return the counts of a run from the cache, or count and cache them.

    Args:
        folder: Cache folder, with one file for each pair of texts and normaliser; None: do not cache.
        references: Reference of each utterance.
        hypotheses: Hypothesis of each utterance.
        normalize: Normaliser of the texts.
        normalizer_version: Its name with its version, part of the cache key.
        language: Whisper's language code, part of the cache key: lower case and characters depend on it.
    """
    if folder is None:
        return count_errors(references, hypotheses, normalize, language)
    digest = hashlib.sha256(f"{VERSION}\0{normalizer_version}\0{language}".encode())
    for text in (*references, *hypotheses):
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    path = folder / f"{digest.hexdigest()[:32]}.npz"
    if path.is_file():
        with suppress(OSError, KeyError, ValueError, BadZipFile):  # count again if the file is damaged
            return Counts.from_file(path)
    counts = count_errors(references, hypotheses, normalize, language)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(counts.to_bytes())
    os.replace(partial, path)
    return counts
