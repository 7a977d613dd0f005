"""The utterances that all systems are scored on, and the check that a system transcribed exactly these."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from harness.errors import UserError
from harness.spec.result import Transcript

MAX_SHOWN_IDS = 3  # in an error


@dataclass(frozen=True)
class TestSet:
    """Utterances in a fixed order, with their references.

    Attributes:
        source: File or run that the utterances are from, for errors.
        ids: Id of each utterance.
        references: Reference of each utterance.
        seconds: Length of each recording; None where unknown, as in all of the following.
        speakers: Speaker of each utterance.
        conditions: Recording condition of each utterance.
        datasets: Dataset of each utterance.
    """

    __test__ = False  # pytest would collect it for its name

    source: str
    ids: tuple[str, ...]
    references: tuple[str, ...]
    seconds: tuple[float | None, ...]
    speakers: tuple[str | None, ...]
    conditions: tuple[str | None, ...]
    datasets: tuple[str | None, ...]

    @classmethod
    def from_transcripts(cls, transcripts: Sequence[Transcript], source: str) -> Self:
        """Take the utterances of transcripts, in their order.

        Raises:
            UserError: There are no transcripts, or an id is not unique.
        """
        if not transcripts:
            raise UserError(f"{source} contains no utterances")
        check_unique_ids((t.id for t in transcripts), source)
        return cls(
            source,
            tuple(t.id for t in transcripts),
            tuple(t.reference for t in transcripts),
            tuple(t.audio_seconds for t in transcripts),
            tuple(t.speaker for t in transcripts),
            tuple(t.condition for t in transcripts),
            tuple(t.dataset for t in transcripts),
        )

    def ordered_hypotheses(self, texts: dict[str, tuple[str | None, str]], source: str) -> tuple[str, ...]:
        """Return the hypotheses of a system in the order of this set.

        Args:
            texts: Reference (None if the file has none) and hypothesis by utterance id.
            source: File or run that they are from, for errors.

        Raises:
            UserError: An utterance is missing or not in this set, or a reference differs.
        """
        missing = [name for name in self.ids if name not in texts]
        known = set(self.ids)
        extra = [name for name in texts if name not in known]
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(self.ids)} utterances are missing ({_some(missing)})")
        if extra:
            problems.append(f"{len(extra)} are not in {self.source} ({_some(extra)})")
        if problems:
            raise UserError(
                f"{source}: {', and '.join(problems)}; all systems must have the same utterances, each with a line, "
                "if need be with an empty hypothesis"
            )
        for name, reference in zip(self.ids, self.references, strict=True):
            other = texts[name][0]
            if other is not None and other.split() != reference.split():
                raise UserError(
                    f"{source}: the reference of {name!r} is {_shortened(other)}, "
                    f"but in {self.source} it is {_shortened(reference)}; "
                    "all systems must have the same references"
                )
        return tuple(texts[name][1] for name in self.ids)


def check_unique_ids(ids: Iterable[str], source: str) -> None:
    """Raise a UserError if an id is not unique."""
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{source}: {len(repeated)} ids occur more than once ({_some(repeated)}); each utterance needs a unique id"
        )


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MAX_SHOWN_IDS else ""
    return ", ".join(repr(name) for name in names[:MAX_SHOWN_IDS]) + more


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
