"""Collect single clips with condition, time, reference, hypothesis and WER."""

from harness.compare.leaderboard import Leaderboard
from harness.compare.scoring.systems import run_errors
from harness.spec.base import Spec


class Example(Spec):
    """One clip by one system. WER is a fraction; null if the reference has no words."""

    system: str
    id: str
    speaker: str | None
    condition: str | None
    audio_seconds: float | None
    inference_seconds: float | None
    truth: str
    prediction: str
    wer: float | None


def examples(leaderboard: Leaderboard, count: int) -> list[Example]:
    """`count` clips, evenly spread over the split, by every system; inference is what one clip alone takes on average.

    Of several seeds the first is shown.
    """
    test = leaderboard.test
    places = range(0, len(test.ids), max(1, len(test.ids) // count)) if count else range(0)
    rows = []
    for place in list(places)[:count]:
        for system in leaderboard.systems:
            run = system.runs[0]
            words = int(run.counts.words.reference[place])
            errors = int(run_errors(run.counts, "wer")[place])
            rows.append(
                Example(
                    system=system.name,
                    id=test.ids[place],
                    speaker=test.speakers[place],
                    condition=test.conditions[place],
                    audio_seconds=test.seconds[place],
                    inference_seconds=system.latency_seconds,
                    truth=test.references[place],
                    prediction=run.hypotheses[place],
                    wer=errors / words if words else None,
                )
            )
    return rows
