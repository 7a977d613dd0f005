"""Word alignment as sclite makes it, for many utterances at once.

Source: NIST SCTK's sclite aligns with substitution 4, insertion 3, deletion 3, so that of two alignments with as many
errors it takes the one with more correct words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = Sequence[int]
DIAGONAL, DELETION, INSERTION = 0, 1, 2
SCLITE = (4, 3, 3)
# As sclite's, but never with more errors than the edit distance: that comes first, correct words second.
FEWEST_ERRORS = (10_001, 10_000, 10_000)
CELLS_AT_ONCE = 4_000_000  # backpointers held in memory for one batch, one byte each


@dataclass(frozen=True)
class Alignment:
    """The errors of one hypothesis, at the places where they stand.

    `slots` has 2 n + 1 entries for n reference words: the words inserted before the first, whether the first is wrong
    (substituted or deleted), the words inserted before the second, and so on, and those inserted after the last.
    """

    substitutions: int
    deletions: int
    insertions: int
    slots: npt.NDArray[np.int32]

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


def align(
    references: Sequence[Words], hypotheses: Sequence[Words], weights: tuple[int, int, int] = SCLITE
) -> list[Alignment]:
    """Align pairs of word sequences; words are compared as numbers.

    `weights` are the costs of a substitution, an insertion and a deletion. Equal ends are cut off first; that leaves
    the result as it is, because the backtrace goes along the diagonal wherever it can.
    """
    tails = [_equal_tail(r, h) for r, h in zip(references, hypotheses, strict=True)]
    lengths = [(len(r) - tail, len(h) - tail) for r, h, tail in zip(references, hypotheses, tails, strict=True)]
    found: dict[int, Alignment] = {}
    for rows in _batches(lengths):
        r = [references[row][: lengths[row][0]] for row in rows]
        h = [hypotheses[row][: lengths[row][1]] for row in rows]
        pointers = _pointers(_padded(r, -1), _padded(h, -2), weights)
        found |= zip(rows, _backtrace(pointers, r, h, [tails[row] for row in rows]), strict=True)
    return [found[row] for row in range(len(lengths))]


def _equal_tail(reference: Words, hypothesis: Words) -> int:
    shorter = min(len(reference), len(hypothesis))
    for count in range(shorter):
        if reference[-1 - count] != hypothesis[-1 - count]:
            return count
    return shorter


def _batches(lengths: list[tuple[int, int]]) -> list[list[int]]:
    """Rows in batches of similar lengths, so that little of the padded matrix is wasted."""
    order = sorted(range(len(lengths)), key=lambda row: (max(lengths[row]), lengths[row]))
    batches: list[list[int]] = []
    longest_reference = longest_hypothesis = 0
    for row in order:
        n, m = max(longest_reference, lengths[row][0]), max(longest_hypothesis, lengths[row][1])
        fits = batches and (len(batches[-1]) + 1) * (n + 1) * (m + 1) <= CELLS_AT_ONCE
        if fits and max(n, m) <= 1.5 * max(lengths[batches[-1][0]]) + 4:
            batches[-1].append(row)
            longest_reference, longest_hypothesis = n, m
        else:
            batches.append([row])
            longest_reference, longest_hypothesis = lengths[row]
    return batches


def _padded(rows: list[Words], filler: int) -> npt.NDArray[np.int64]:
    table = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table


def _pointers(
    reference: npt.NDArray[np.int64], hypothesis: npt.NDArray[np.int64], weights: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Where each cell of the cost matrix came from: (reference words + 1, batch, hypothesis words + 1)."""
    substitution, insertion, deletion = weights
    (batch, n), m = reference.shape, hypothesis.shape[1]
    along = insertion * np.arange(m + 1, dtype=np.int64)
    pointers = np.empty((n + 1, batch, m + 1), dtype=np.uint8)
    pointers[0] = INSERTION
    cost = np.broadcast_to(along, (batch, m + 1))
    for i in range(n):
        diagonal = cost[:, :-1] + substitution * (reference[:, i : i + 1] != hypothesis)
        without = cost + deletion
        best = without.copy()
        np.minimum(best[:, 1:], diagonal, out=best[:, 1:])
        # A run of insertions from any cell to the left: a running minimum once their cost is taken off.
        best = np.minimum.accumulate(best - along, axis=1) + along
        pointer = np.where(best == without, DELETION, INSERTION).astype(np.uint8)
        pointer[:, 1:][best[:, 1:] == diagonal] = DIAGONAL
        pointers[i + 1], cost = pointer, best
    return pointers


def _backtrace(
    pointers: npt.NDArray[np.uint8], references: list[Words], hypotheses: list[Words], tails: list[int]
) -> list[Alignment]:
    """Follow the pointers of all pairs at once, from the ends to the beginnings."""
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
        along = active[move == DIAGONAL]
        wrong = along[reference[along, i[along] - 1] != hypothesis[along, j[along] - 1]]
        slots[wrong, 2 * i[wrong] - 1] = 1
        counts[DIAGONAL, wrong] += 1
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


def numbered(texts: Sequence[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """Words as numbers; `vocabulary` grows with the words that are new."""
    return [[vocabulary.setdefault(word, len(vocabulary)) for word in text.split()] for text in texts]


def segments(
    lengths: npt.NDArray[np.integer],
    a: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]],
    b: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]],
) -> npt.NDArray[np.int64]:
    """Errors of A less errors of B in each segment of a corpus.

    A segment is a stretch with an error of either system, bounded on both sides by at least two reference words in a
    row that both systems have right, or by the ends of the utterance (Gillick & Cox 1989, as NIST's sc_stats does it).

    Args:
        lengths: reference words of each utterance, (utterances,).
        a: where system A's errors stand and how many: slots counted through the whole corpus, each utterance having
            2 n + 1 (see Alignment), and the errors there.
        b: the same of system B.
    """
    bounds = np.concatenate([[0], np.cumsum(2 * lengths.astype(np.int64) + 1)])
    difference = np.zeros(bounds[-1], dtype=np.int64)
    difference[a[0]] += a[1]
    difference[b[0]] -= b[1]
    bad = np.union1d(a[0], b[0])
    if len(bad) == 0:
        return np.zeros(0, dtype=np.int64)
    utterance = np.searchsorted(bounds, bad, side="right") - 1
    local = bad - bounds[utterance]
    # Reference word w stands at slot 2 w + 1: between two bad slots lie this many words that both have right.
    right = local[1:] // 2 - (local[:-1] + 1) // 2
    starts = np.flatnonzero(np.concatenate([[True], (right >= 2) | (np.diff(utterance) > 0)]))
    return np.add.reduceat(difference[bad], starts)
