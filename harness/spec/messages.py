"""Define the messages between supervisor and trainer process: one JSON object per line, distinguished by `type`.

| order of the supervisor | answers of the trainer |
|---|---|
| Open | Preparing while data is prepared, then Ready or Refused |
| Train | Report at each rung, with `judging.chunk` also Partial; at the end Finished or Failed |
| Decide | none; it answers a Partial, or the Report of any rung but the last |
| Leave | none |
| Transcribe, TranscribeLong | Transcribed or Failed |
"""

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
    """Base of all messages; `lane` is the trial's place in a packed trainer."""

    lane: int = Field(0, description="lane of the worker that sends or receives it")


class Open(Message):
    """Load the model and prepare the data; answered by Preparing in the meantime, then by Ready or Refused."""

    type: Literal["open"] = "open"
    model: str
    task: Task
    cache_dir: str
    seed: int
    techniques: tuple[Technique, ...] = Field(STANDARD, description="optional speed-ups")
    prepare_only: bool = Field(False, description="only prepare the data; of the model, only its processor is loaded")


class Train(Message):
    """Run one trial; answered by Report at each rung (with judging.chunk also Partial), then Finished or Failed."""

    type: Literal["train"] = "train"
    config: TrialConfig
    budget: Budget
    seed: int
    attempt: str = Field(description="folder for transcripts.jsonl, weights/ and, until the end, checkpoint/")
    resume: str | None = Field(
        None,
        description="checkpoint/ of an earlier attempt: its last rung is reported again, for a new decision, and "
        "training resumes there",
    )
    judging: RungEvaluation = RungEvaluation()
    portion: DataSelection = Field(
        WHOLE,
        description="the data to train on; a run that trains on validation reports no rung and keeps no checkpoint",
    )
    packed: bool = Field(False, description="train it in one pass with the other running packed trials")
    longest_first: bool = Field(False, description="train on the longest transcripts, to measure peak memory")


class Decide(Message):
    """Answer a Partial or a Report, except that of the last rung: continue or prune the trial."""

    type: Literal["decide"] = "decide"
    go_on: bool


class Leave(Message):
    """Abort the running trial of this lane, whose checkpoint of the last rung stays; not answered."""

    type: Literal["leave"] = "leave"


class Transcribe(Message):
    """Decode a split with stored weights, which are merged; answered by Transcribed or Failed."""

    type: Literal["transcribe"] = "transcribe"
    config: TrialConfig
    weights: str | None = Field(description="a weights/ folder; null for the base model")
    split: str
    output: str = Field(description="transcripts.jsonl to write")
    speed_passes: int = Field(3, ge=0, description="timed passes after a warm-up; 0: no timing")
    speed_clips: int = Field(64, ge=1, description="clips of a timed pass, evenly spaced over the durations")


class Preparing(Message):
    """Progress of the preparation, as a sentence."""

    type: Literal["preparing"] = "preparing"
    text: str


class TranscribeLong(Message):
    """Decode recordings longer than the model's window with stored weights; answered by Transcribed or Failed."""

    type: Literal["transcribe_long"] = "transcribe_long"
    config: TrialConfig
    weights: str | None = Field(description="a weights/ folder; null for the base model")
    split: str
    algorithm: Algorithm
    output: str = Field(description="transcripts.jsonl to write")


class Ready(Message):
    """Model and features are loaded."""

    type: Literal["ready"] = "ready"
    device: str
    environment: dict[str, Any]
    data: dict[str, Any] = Field(description="the data report: counts, hours, exclusions, hashes")
    prepare_seconds: float = Field(0.0, description="seconds of the start that preparing the data took")


class Report(Message):
    """A rung was evaluated; the trainer waits for Decide, except at the last rung."""

    type: Literal["report"] = "report"
    rung: Rung
    last: bool
    errors: tuple[int, ...] = Field((), description="word errors of each utterance, in the order of evaluation")


class Partial(Message):
    """Part of a rung's utterances have been decoded; the trainer waits for Decide."""

    type: Literal["partial"] = "partial"
    index: int = Field(description="index of the rung")
    errors: tuple[int, ...] = Field(description="word errors of each utterance so far, in the order of evaluation")


class Finished(Message):
    """A trial ended; transcripts and weights are in the attempt folder."""

    type: Literal["finished"] = "finished"
    result: TrialResult
    poisoned: bool = Field(False, description="a CUDA error occurred, and the process must be replaced")


class Transcribed(Message):
    """A split was decoded into the requested file."""

    type: Literal["transcribed"] = "transcribed"
    rtfx: float | None
    decoding: dict[str, Any]
    latency_seconds: float | None = Field(None, description="mean seconds of a single clip, in the median pass")
    data: str | None = Field(None, description="hash of the decoded data, if the data report has none")


class Failed(Message):
    """The order failed. If `poisoned`, the process must be replaced."""

    type: Literal["failed"] = "failed"
    reason: str
    poisoned: bool


class Refused(Message):
    """The user must act; `message` is that of a UserError."""

    type: Literal["refused"] = "refused"
    message: str


Order = Annotated[Open | Train | Decide | Leave | Transcribe | TranscribeLong, Field(discriminator="type")]
Answer = Annotated[
    Preparing | Ready | Report | Partial | Finished | Transcribed | Failed | Refused, Field(discriminator="type")
]

order_adapter: TypeAdapter[Order] = TypeAdapter(Order)
answer_adapter: TypeAdapter[Answer] = TypeAdapter(Answer)
