"""What all systems are judged on: utterances in one order, and the check that a system transcribed just these."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from harness.errors import UserError
from harness.spec.result import Transcript

SHOWN = 3  # ids named in an error


@dataclass(frozen=True)
class TestSet:
    """Utterances with what was said; every tuple has one entry for each, None where it is not known."""

    __test__ = False  # no test case, whatever pytest makes of its name

    source: str
    ids: tuple[str, ...]
    references: tuple[str, ...]
    seconds: tuple[float | None, ...]
    speakers: tuple[str | None, ...]
    conditions: tuple[str | None, ...]
    datasets: tuple[str | None, ...]

    @classmethod
    def of(cls, transcripts: Sequence[Transcript], source: str) -> Self:
        """The utterances of some transcripts, in their order.

        Raises:
            UserError: none at all, or an id that comes twice.
        """
        if not transcripts:
            raise UserError(f"{source} holds no utterance")
        refuse_doubled((t.id for t in transcripts), source)
        return cls(
            source,
            tuple(t.id for t in transcripts),
            tuple(t.reference for t in transcripts),
            tuple(t.audio_seconds for t in transcripts),
            tuple(t.speaker for t in transcripts),
            tuple(t.condition for t in transcripts),
            tuple(t.dataset for t in transcripts),
        )

    def hypotheses(self, texts: dict[str, tuple[str | None, str]], source: str) -> tuple[str, ...]:
        """The hypotheses of a system in this set's order.

        Args:
            texts: for each id the reference (None where the file gives none) and the hypothesis.
            source: where they come from, for an error.

        Raises:
            UserError: an utterance is missing, there is one too many, or a reference reads differently.
        """
        missing = [name for name in self.ids if name not in texts]
        known = set(self.ids)
        extra = [name for name in texts if name not in known]
        faults = []
        if missing:
            faults.append(f"{len(missing)} of {len(self.ids)} utterances are missing ({_some(missing)})")
        if extra:
            faults.append(f"{len(extra)} are not in {self.source} ({_some(extra)})")
        if faults:
            raise UserError(
                f"{source}: {', and '.join(faults)}; every system must have transcribed the same utterances, and one "
                "that heard nothing needs a line with an empty hypothesis"
            )
        for name, reference in zip(self.ids, self.references, strict=True):
            given = texts[name][0]
            if given is not None and given.split() != reference.split():
                raise UserError(
                    f"{source}: the reference of {name!r} reads {_short(given)}, "
                    f"but in {self.source} {_short(reference)}; "
                    "systems are compared on the same references only"
                )
        return tuple(texts[name][1] for name in self.ids)


def refuse_doubled(ids: Iterable[str], source: str) -> None:
    """Raise a UserError where an id comes twice."""
    doubled = [name for name, times in Counter(ids).items() if times > 1]
    if doubled:
        raise UserError(
            f"{source}: {len(doubled)} ids come more than once ({_some(doubled)}); "
            "each utterance needs an id of its own"
        )


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
