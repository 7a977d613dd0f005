"""What supervisor and trainer say to each other: one JSON object a line, told apart by `type`."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.result import Rung, TrialResult
from harness.spec.rung_evaluation import RungEvaluation
from harness.spec.task import Task
from harness.spec.techniques import STANDARD, Technique
from harness.spec.trial import TrialConfig

Algorithm = Literal["sequential", "chunked", "pauses"]


class Message(Spec):
    """What both say; a trainer that carries out several trials together tells them apart by their lanes."""

    lane: int = Field(0, description="of the worker that it comes from or goes to")


class Open(Message):
    """Load the model and prepare the data; answered by Preparing while that goes on, then by Ready or Refused."""

    type: Literal["open"] = "open"
    model: str
    task: Task
    cache_dir: str
    seed: int
    techniques: tuple[Technique, ...] = Field(STANDARD, description="what makes trials fast")
    prepare_only: bool = Field(False, description="only prepare: of the model its processor is read, no weights")


class Train(Message):
    """Run one trial; answered by Report at each rung (with judging.chunk Partial on the way), Finished or Failed."""

    type: Literal["train"] = "train"
    config: TrialConfig
    budget: Budget
    seed: int
    attempt: str = Field(description="folder for transcripts.jsonl, weights/ and, until the end, checkpoint/")
    resume: str | None = Field(
        None,
        description="checkpoint/ of an earlier attempt: its last rung is reported again, to be decided anew, and "
        "training goes on from there",
    )
    judging: RungEvaluation = RungEvaluation()
    portion: DataSelection = Field(
        WHOLE,
        description="of the speech; a trial that trains on validation reports no rung, and keeps no checkpoint",
    )
    packed: bool = Field(False, description="train it in one pass with the other packed trials under way")
    longest_first: bool = Field(False, description="train on the longest transcripts, to see the peak of memory")


class Decide(Message):
    """The answer to a Partial or a Report: whether the trial goes on. After the Report of the last rung none is due."""

    type: Literal["decide"] = "decide"
    go_on: bool


class Leave(Message):
    """Drop the trial that is under way in this lane, as it stands at its last rung; nothing is answered."""

    type: Literal["leave"] = "leave"


class Transcribe(Message):
    """Decode a split with stored weights, merged; answered by Transcribed or Failed."""

    type: Literal["transcribe"] = "transcribe"
    config: TrialConfig
    weights: str | None = Field(description="a weights/ folder; null for the base as it is")
    split: str
    output: str = Field(description="transcripts.jsonl to write")
    speed_passes: int = Field(3, ge=0, description="timed passes after a warm-up; 0: no timing")
    speed_clips: int = Field(64, ge=1, description="clips in a timed pass, spread over the durations")


class Preparing(Message):
    """How far the preparation is, in a sentence."""

    type: Literal["preparing"] = "preparing"
    text: str


class TranscribeLong(Message):
    """Decode recordings longer than the model's window with stored weights; answered by Transcribed or Failed."""

    type: Literal["transcribe_long"] = "transcribe_long"
    config: TrialConfig
    weights: str | None = Field(description="a weights/ folder; null for the base as it is")
    split: str
    algorithm: Algorithm
    output: str = Field(description="transcripts.jsonl to write")


class Ready(Message):
    """The trainer holds model and features."""

    type: Literal["ready"] = "ready"
    device: str
    environment: dict[str, Any]
    data: dict[str, Any] = Field(description="the data report: counts, hours, exclusions, hashes")
    prepare_seconds: float = Field(0.0, description="of coming up, what the data took")


class Report(Message):
    """A rung was reached; the trainer waits for Decide unless it is the last."""

    type: Literal["report"] = "report"
    rung: Rung
    last: bool
    errors: tuple[int, ...] = Field((), description="word errors of each utterance, in the order of evaluation")


class Partial(Message):
    """Part of a rung's utterances are decoded; the trainer waits for Decide."""

    type: Literal["partial"] = "partial"
    index: int = Field(description="of the rung")
    errors: tuple[int, ...] = Field(description="word errors of each utterance so far, in the order of evaluation")


class Finished(Message):
    """A trial ended; transcripts and weights lie in the attempt folder."""

    type: Literal["finished"] = "finished"
    result: TrialResult
    poisoned: bool = Field(False, description="the process met a CUDA error and must be replaced")


class Transcribed(Message):
    """A split was decoded to the file asked for."""

    type: Literal["transcribed"] = "transcribed"
    rtfx: float | None
    decoding: dict[str, Any]
    latency_seconds: float | None = Field(None, description="of one clip alone: mean, of the median pass")
    data: str | None = Field(None, description="hash of what was decoded, where the data report has none")


class Failed(Message):
    """The order could not be carried out. After `poisoned` the process must be replaced."""

    type: Literal["failed"] = "failed"
    reason: str
    poisoned: bool


class Refused(Message):
    """The user must act: the message is a UserError's."""

    type: Literal["refused"] = "refused"
    message: str


Order = Annotated[Open | Train | Decide | Leave | Transcribe | TranscribeLong, Field(discriminator="type")]
Answer = Annotated[
    Preparing | Ready | Report | Partial | Finished | Transcribed | Failed | Refused, Field(discriminator="type")
]

order_adapter: TypeAdapter[Order] = TypeAdapter(Order)
answer_adapter: TypeAdapter[Answer] = TypeAdapter(Answer)
