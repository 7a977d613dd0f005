"""Transcripts -> error counts per utterance, from which every rate and every test is made; counted once and kept."""

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

from harness.compare.scoring.alignment import FEWEST_ERRORS, align, numbered
from harness.evaluation.normalizers import Normalizer

Ints = npt.NDArray[np.int32]
VERSION = "1"  # of the counting; another one makes no use of what is kept
LOOP = 5  # words in a phrase that counts as a loop when it comes again


@dataclass(frozen=True)
class WordCounts:
    """Word errors of one run; arrays of (utterances,) but for the last two.

    `places` and `wrong` say where sclite's alignment has its errors and how many stand there, for MAPSSWE; places
    count slots through the whole corpus (see alignment.segments).
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
        """(utterances,): the word edit distance."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Counts:
    """All counts of one run: normalised words, raw words, normalised characters, and loops."""

    words: WordCounts
    raw: WordCounts
    characters: Ints
    character_errors: Ints
    loops: Ints

    def packed(self) -> bytes:
        """As a file."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("characters", "character_errors", "loops")}
        for kind in ("words", "raw"):
            part = getattr(self, kind)
            arrays |= {f"{kind}.{field.name}": getattr(part, field.name) for field in fields(WordCounts)}
        file = BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def unpacked(cls, path: Path) -> Self:
        """From a file."""
        with np.load(path) as held:
            parts = [
                WordCounts(**{field.name: held[f"{kind}.{field.name}"] for field in fields(WordCounts)})
                for kind in ("words", "raw")
            ]
            words, raw = parts
            return cls(words, raw, held["characters"], held["character_errors"], held["loops"])


def count_words(references: Sequence[str], hypotheses: Sequence[str]) -> WordCounts:
    """Word errors of each utterance.

    Their sum is the edit distance, as in jiwer. Its split is that of sclite's alignment; where that one has more
    errors than the edit distance (it prefers correct words), the split of the best alignment that has not.
    """
    vocabulary: dict[str, int] = {}
    r, h = numbered(references, vocabulary), numbered(hypotheses, vocabulary)
    alignments = align(r, h)
    slots = [alignment.slots for alignment in alignments]
    excess = [
        row
        for row, found in enumerate(alignments)
        if found.errors and found.errors > Levenshtein.distance(r[row], h[row])
    ]
    again = align([r[row] for row in excess], [h[row] for row in excess], FEWEST_ERRORS)
    for row, better in zip(excess, again, strict=True):
        alignments[row] = better
    everywhere = np.concatenate([*slots, np.zeros(0, dtype=np.int32)])
    places = np.flatnonzero(everywhere)
    return WordCounts(
        reference=_ints(map(len, r)),
        hypothesis=_ints(map(len, h)),
        substitutions=_ints(found.substitutions for found in alignments),
        deletions=_ints(found.deletions for found in alignments),
        insertions=_ints(found.insertions for found in alignments),
        places=places.astype(np.int32),
        wrong=everywhere[places].astype(np.int32),
    )


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int32)


def has_loop(reference: str, hypothesis: str) -> bool:
    """Whether a phrase of five words comes more often in the hypothesis than in the reference, and at least twice."""
    words = hypothesis.split()
    if len(words) <= LOOP:
        return False
    phrases = Counter(zip(*(words[start:] for start in range(LOOP)), strict=False))
    if max(phrases.values()) < 2:
        return False
    spoken = reference.split()
    expected = Counter(zip(*(spoken[start:] for start in range(LOOP)), strict=False))
    return any(times >= 2 and times > expected[phrase] for phrase, times in phrases.items())


def count(references: Sequence[str], hypotheses: Sequence[str], normalize: Normalizer) -> Counts:
    """Count everything once."""
    plain_r, plain_h = [normalize(text) for text in references], [normalize(text) for text in hypotheses]
    return Counts(
        words=count_words(plain_r, plain_h),
        raw=count_words(references, hypotheses),
        characters=_ints(map(len, plain_r)),
        character_errors=_ints(Levenshtein.distance(r, h) for r, h in zip(plain_r, plain_h, strict=True)),
        loops=_ints(has_loop(r, h) for r, h in zip(plain_r, plain_h, strict=True)),
    )


def kept(
    folder: Path | None, references: Sequence[str], hypotheses: Sequence[str], normalize: Normalizer, shown: str
) -> Counts:
    """The counts of a run, from `folder` where they were kept under these very texts and this normaliser.

    `shown` is the normaliser's name with its version; a `folder` of None keeps nothing.
    """
    if folder is None:
        return count(references, hypotheses, normalize)
    digest = hashlib.sha256(f"{VERSION}\0{shown}".encode())
    for text in (*references, *hypotheses):
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    path = folder / f"{digest.hexdigest()[:32]}.npz"
    if path.is_file():
        with suppress(OSError, KeyError, ValueError, BadZipFile):  # a damaged file is counted anew
            return Counts.unpacked(path)
    counts = count(references, hypotheses, normalize)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(counts.packed())
    os.replace(partial, path)
    return counts
