"""Align words like NIST's sclite, for many utterances at once.

Source: sclite (NIST SCTK) aligns with the costs substitution 4, insertion 3, deletion 3. Of two alignments with equally
many errors it therefore takes the one with more correct words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.evaluation.text_units import words

Words = Sequence[int]
DIAGONAL, DELETION, INSERTION = 0, 1, 2
SCLITE_COSTS = (4, 3, 3)  # substitution, insertion, deletion
# Minimizes errors first, so that there are never more than the edit distance, and maximizes correct words second.
FEWEST_ERRORS_COSTS = (10_001, 10_000, 10_000)
MAX_BATCH_CELLS = 4_000_000  # backpointers in memory for one batch, one byte each


@dataclass(frozen=True)
class Alignment:
    """Errors of one hypothesis, and their positions.

    Attributes:
        substitutions: Number of substituted words.
        deletions: Number of deleted words.
        insertions: Number of inserted words.
        slots: 2 n + 1 entries for n reference words: the number of words inserted before the first, whether the first
            is wrong (substituted or deleted), the number inserted before the second, and so on, and the number
            inserted after the last.
    """

    substitutions: int
    deletions: int
    insertions: int
    slots: npt.NDArray[np.int32]

    @property
    def errors(self) -> int:
        """Sum of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


def align(
    references: Sequence[Words], hypotheses: Sequence[Words], costs: tuple[int, int, int] = SCLITE_COSTS
) -> list[Alignment]:
    """Align pairs of word sequences.

    Equal ends are cut off first. This does not change the result, because the backtrace prefers the diagonal.

    Args:
        references: Reference words of each utterance, as numbers (see `encode_words`).
        hypotheses: Hypothesis words of each utterance.
        costs: Costs of a substitution, an insertion and a deletion.
    """
    tails = [_equal_tail(r, h) for r, h in zip(references, hypotheses, strict=True)]
    lengths = [(len(r) - tail, len(h) - tail) for r, h, tail in zip(references, hypotheses, tails, strict=True)]
    alignments: dict[int, Alignment] = {}
    for rows in _batches(lengths):
        r = [references[row][: lengths[row][0]] for row in rows]
        h = [hypotheses[row][: lengths[row][1]] for row in rows]
        pointers = _pointers(_padded(r, -1), _padded(h, -2), costs)
        alignments |= zip(rows, _backtrace(pointers, r, h, [tails[row] for row in rows]), strict=True)
    return [alignments[row] for row in range(len(lengths))]


def _equal_tail(reference: Words, hypothesis: Words) -> int:
    """Return how many words at the end are equal."""
    shorter = min(len(reference), len(hypothesis))
    for count in range(shorter):
        if reference[-1 - count] != hypothesis[-1 - count]:
            return count
    return shorter


def _batches(lengths: list[tuple[int, int]]) -> list[list[int]]:
    """Group rows into batches of similar lengths, so that little of the padded matrix is wasted."""
    order = sorted(range(len(lengths)), key=lambda row: (max(lengths[row]), lengths[row]))
    batches: list[list[int]] = []
    longest_reference = longest_hypothesis = 0
    for row in order:
        n, m = max(longest_reference, lengths[row][0]), max(longest_hypothesis, lengths[row][1])
        fits = batches and (len(batches[-1]) + 1) * (n + 1) * (m + 1) <= MAX_BATCH_CELLS
        if fits and max(n, m) <= 1.5 * max(lengths[batches[-1][0]]) + 4:
            batches[-1].append(row)
            longest_reference, longest_hypothesis = n, m
        else:
            batches.append([row])
            longest_reference, longest_hypothesis = lengths[row]
    return batches


def _padded(rows: list[Words], filler: int) -> npt.NDArray[np.int64]:
    table = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _pointers(
    reference: npt.NDArray[np.int64], hypothesis: npt.NDArray[np.int64], costs: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Return the backpointer of each cell of the cost matrix, (reference words + 1, batch, hypothesis words + 1)."""
    substitution, insertion, deletion = costs
    (batch, n), m = reference.shape, hypothesis.shape[1]
    insertions = insertion * np.arange(m + 1, dtype=np.int64)
    pointers = np.empty((n + 1, batch, m + 1), dtype=np.uint8)
    pointers[0] = INSERTION
    cost = np.broadcast_to(insertions, (batch, m + 1))
    for i in range(n):
        diagonal = cost[:, :-1] + substitution * (reference[:, i : i + 1] != hypothesis)
        deleted = cost + deletion
        best = deleted.copy()
        np.minimum(best[:, 1:], diagonal, out=best[:, 1:])
        # Insertions from any cell to the left: a running minimum, once their cost is subtracted.
        best = np.minimum.accumulate(best - insertions, axis=1) + insertions
        pointer = np.where(best == deleted, DELETION, INSERTION).astype(np.uint8)
        pointer[:, 1:][best[:, 1:] == diagonal] = DIAGONAL
        pointers[i + 1], cost = pointer, best
    return pointers


def _backtrace(
    pointers: npt.NDArray[np.uint8], references: list[Words], hypotheses: list[Words], tails: list[int]
) -> list[Alignment]:
    """Follow the backpointers of all pairs at once, from the ends to the beginnings."""
    batch = np.arange(len(references))
    i, j = np.array([len(r) for r in references]), np.array([len(h) for h in hypotheses])
    reference, hypothesis = _padded(references, -1), _padded(hypotheses, -2)
    slots = np.zeros((len(references), 2 * reference.shape[1] + 1), dtype=np.int32)
    counts = np.zeros((3, len(references)), dtype=np.int64)
    active = batch[(i > 0) | (j > 0)]
    while len(active):
        row, column = i[active], j[active]
        move = pointers[row, active, column]
        inserted = active[move == INSERTION]
        slots[inserted, 2 * i[inserted]] += 1
        counts[INSERTION, inserted] += 1
        deleted = active[move == DELETION]
        slots[deleted, 2 * i[deleted] - 1] = 1
        counts[DELETION, deleted] += 1
        diagonal = active[move == DIAGONAL]
        substituted = diagonal[reference[diagonal, i[diagonal] - 1] != hypothesis[diagonal, j[diagonal] - 1]]
        slots[substituted, 2 * i[substituted] - 1] = 1
        counts[DIAGONAL, substituted] += 1
        i[active] -= move != INSERTION
        j[active] -= move != DELETION
        active = active[(i[active] > 0) | (j[active] > 0)]
    return [
        Alignment(
            int(counts[DIAGONAL, row]),
            int(counts[DELETION, row]),
            int(counts[INSERTION, row]),
            np.concatenate([slots[row, : 2 * len(references[row]) + 1], np.zeros(2 * tails[row], dtype=np.int32)]),
        )
        for row in batch
    ]


def encode_words(texts: Sequence[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """Replace each word by a number; new words are added to `vocabulary`."""
    return [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]


def segment_differences(
    lengths: npt.NDArray[np.integer],
    a: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]],
    b: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]],
) -> npt.NDArray[np.int64]:
    """Return the errors of A minus the errors of B in each segment of a corpus, (segments,).

    A segment is a stretch with an error of either system, bounded on both sides by at least two consecutive reference
    words that both systems have right, or by the ends of the utterance (Gillick & Cox 1989, as in NIST's sc_stats).

    Args:
        lengths: Number of reference words of each utterance, (utterances,).
        a: Positions and numbers of system A's errors: the indices of slots in the whole corpus, where each utterance
            has 2 n + 1 slots (see Alignment), and the number of errors in each of these slots.
        b: The same for system B.
    """
    bounds = np.concatenate([[0], np.cumsum(2 * lengths.astype(np.int64) + 1)])
    difference = np.zeros(bounds[-1], dtype=np.int64)
    difference[a[0]] += a[1]
    difference[b[0]] -= b[1]
    slots = np.union1d(a[0], b[0])
    if len(slots) == 0:
        return np.zeros(0, dtype=np.int64)
    utterance = np.searchsorted(bounds, slots, side="right") - 1
    local = slots - bounds[utterance]
    # Reference word w is slot 2 w + 1, so this many words between two slots with errors are right in both systems.
    right = local[1:] // 2 - (local[:-1] + 1) // 2
    starts = np.flatnonzero(np.concatenate([[True], (right >= 2) | (np.diff(utterance) > 0)]))
    return np.add.reduceat(difference[slots], starts)
