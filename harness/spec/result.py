"""Define the record of a run, result.json, and its parts."""

from typing import Any, Literal, Self

from pydantic import Field

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.trial import TrialConfig

Kind = Literal["zero_shot", "recipe", "trial", "published", "replicate", "external"]
State = Literal["complete", "pruned", "fail"]
ProposedBy = Literal["random", "sampler", "grid", "warm_start"]  # "sampler": its model of the trials so far
OUT_OF_MEMORY = "out_of_memory"  # the reason of a trial that ran out of memory


class Transcript(Spec):
    """One line of transcripts.jsonl; the texts are not normalized."""

    id: str
    reference: str
    hypothesis: str
    audio_seconds: float | None = None
    speaker: str | None = None
    condition: str | None = None
    dataset: str | None = None
    cut: bool = Field(False, description="decoding stopped at the token limit")


class Scores(Spec):
    """Corpus-level rates, fractions of the reference words or characters; normalized, except `wer_raw`."""

    wer: float
    wer_raw: float
    cer: float
    insertions: float
    deletions: float
    substitutions: float
    utterances: int
    reference_words: int
    normalizer: str


class Rung(Spec):
    """One evaluation of a trial on validation."""

    index: int
    step: int
    examples: int
    train_loss: float | None = Field(description="mean over label tokens since the previous rung; null for zero-shot")
    loss: float = Field(description="teacher-forced loss on validation, mean over label tokens")
    scores: Scores | None = Field(description="null if only the loss was evaluated")
    train_seconds: float
    evaluation_seconds: float
    max_new_tokens: int | None = Field(None, description="token limit of decoding")
    cut: int | None = Field(
        None, description="hypotheses that reached the token limit, usually because of repetition loops"
    )
    peak_memory_bytes: int | None = Field(None, description="peak since the start of the trial")


class Cost(Spec):
    """Cost of a run. train_seconds excludes evaluation, logging and data preparation."""

    steps: int
    skipped_steps: int | None = Field(
        None,
        description="the part of steps that fp16's loss scaler skipped: they changed neither weights nor the learning "
        "rate; null for other precisions",
    )
    examples: int
    data_seconds: float | None = Field(None, description="seconds of training speech, each recording counted once")
    train_seconds: float
    first_steps_seconds: float = Field(0.0, description="the part of train_seconds that the first two steps took")
    evaluation_seconds: float
    samples_per_second: float | None = Field(
        None, description="training examples per second, without the first two steps"
    )
    audio_seconds_per_second: float | None = None
    peak_memory_bytes: int = Field(description="maximum of training and evaluation; see memory_kind")
    memory_kind: Literal["cuda_reserved", "process_rss"] = Field(
        description="cuda_reserved: reserved by torch in this process, without the CUDA context and other processes; "
        "process_rss, on a CPU: resident memory of the process"
    )
    train_peak_bytes: int | None = None
    evaluation_peak_bytes: int | None = None
    train_peak_allocated_bytes: int | None = Field(None, description="tensors only; null on a CPU")
    evaluation_peak_allocated_bytes: int | None = None
    memory_before_bytes: int | None = Field(
        None,
        description="in use before the trial: on a GPU by others, not in the peaks; on a CPU by this process, in them",
    )
    host_peak_bytes: int | None = Field(None, description="resident memory of the trainer process")
    trainable_parameters: int
    total_parameters: int
    adapter_bytes: int | None = Field(description="size of the weights on disk; null if nothing was trained")
    optimizer_8bit_share: float | None = Field(
        None, description="share of the optimizer's state that is in 8 bit, of tensors with at least 4096 elements"
    )
    train_joules: float | None = Field(None, description="energy of the GPU during training, if NVML measures it")
    evaluation_joules: float | None = None
    train_flops: float | None = Field(None, description="model FLOPs of training, computed by harness.model_size.flops")
    matmul_rate: float | None = Field(
        None,
        description="highest FLOP/s of large matrix products measured so far on this machine, in the trial's precision",
    )
    matmul_share: float | None = Field(
        None,
        description="training FLOP/s, first steps included, as a share of that rate on all processes of the trial; "
        "null if it would be above 1, because other work slowed the measurement down",
    )
    cached_encoder_layers: int = Field(
        0, description="frozen encoder layers whose output came from the encoder-state cache; not in train_flops"
    )
    resident_bytes: int = Field(
        0, description="GPU memory of the encoder-state cache, which all trials share; not in the peaks"
    )
    prefix_seconds: float = Field(
        0.0, description="time to fill the encoder-state cache, also for later trials; not in the other times"
    )
    processes: int = Field(1, description="data-parallel processes of the trial")
    packed: int | None = Field(
        None,
        description="largest number of trials in one pass with this one, itself included; null if it was not packed. "
        "Training seconds and joules are then its own (batches, optimizer) plus an equal part of each pass, and memory "
        "is an equal part of what the trials use in addition to the process",
    )
    per_device_train_batch_size: int | None = Field(None, description="as run, after auto_micro_batch")
    gradient_accumulation_steps: int | None = None


class TrialResult(Spec):
    """Result of a trial as the trainer reports it."""

    state: State
    reason: str | None = None
    rungs: tuple[Rung, ...]
    cost: Cost | None = Field(description="null if memory ran out before anything was measured")

    @classmethod
    def out_of_memory(cls) -> Self:
        """Return the result of a trial that ran out of memory: pruned, so that the sampler learns from it."""
        return cls(state="pruned", reason=OUT_OF_MEMORY, rungs=(), cost=None)


class Record(Spec):
    """Contents of result.json, the authoritative record of a run; the MLflow mirror and all tables derive from it."""

    schema_version: Literal[1] = 1
    kind: Kind
    name: str
    number: int | None = Field(None, description="number of the trial in the study, or in a baseline's tuning")
    proposed_by: ProposedBy | None = Field(
        None, description="how the configuration of a trial was chosen; null for other runs and in records of 0.2"
    )
    retry_of: int | None = Field(None, description="number of the interrupted trial that this one is a retry of")
    seed: int
    state: State
    reason: str | None = None
    config: TrialConfig
    budget: Budget
    portion: DataSelection = WHOLE
    notes: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    cost: Cost | None = Field(None, description="null if the run failed before it was measured")
    started: str
    ended: str
    environment: dict[str, Any]
    data: dict[str, Any]

    @property
    def scores(self) -> Scores | None:
        """Validation scores at the last rung; None if there is none or only its loss was evaluated."""
        return self.rungs[-1].scores if self.rungs else None
