"""What a trial, a baseline or a replicate leaves behind: one record for all three."""

from typing import Any, Literal, Self

from pydantic import Field

from harness.spec.base import Spec
from harness.spec.budget import Budget
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.trial import TrialConfig

Kind = Literal["zero_shot", "recipe", "trial", "published", "replicate", "external"]
State = Literal["complete", "pruned", "fail"]
OUT_OF_MEMORY = "out_of_memory"  # the reason of a trial that memory was too small for


class Transcript(Spec):
    """One line of transcripts.jsonl: raw text, never normalised."""

    id: str
    reference: str
    hypothesis: str
    audio_seconds: float | None = None
    speaker: str | None = None
    condition: str | None = None
    dataset: str | None = None
    cut: bool = Field(False, description="the decode limit came before the end")


class Scores(Spec):
    """Corpus-level rates as fractions of the reference words (or characters); `wer` is normalised, `wer_raw` is not."""

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
    """An evaluation on validation on the way of a trial."""

    index: int
    step: int
    examples: int
    train_loss: float | None = Field(description="mean over label tokens since the rung before; null for zero-shot")
    loss: float = Field(description="teacher-forced loss on validation, mean over label tokens")
    scores: Scores | None = Field(description="null where the rung was judged on the loss alone")
    train_seconds: float
    evaluation_seconds: float
    max_new_tokens: int | None = Field(None, description="the decode limit")
    cut: int | None = Field(None, description="hypotheses that the decode limit cut: loops, as a rule")
    peak_memory_bytes: int | None = Field(None, description="since the trial began")


class Cost(Spec):
    """What a trial took. Evaluation, logging and data preparation are not in train_seconds."""

    steps: int
    examples: int
    data_seconds: float | None = Field(None, description="speech that was there to train on, each recording once")
    train_seconds: float
    first_steps_seconds: float = Field(0.0, description="of train_seconds, what the first two steps took")
    evaluation_seconds: float
    samples_per_second: float | None = Field(None, description="training examples a second, first steps left out")
    audio_seconds_per_second: float | None = None
    peak_memory_bytes: int = Field(description="the higher of both phases; see memory_kind")
    memory_kind: Literal["cuda_reserved", "process_rss"] = Field(
        description="on a GPU what torch reserved in this process, without other processes and the CUDA context; "
        "on a CPU the whole process stands in"
    )
    train_peak_bytes: int | None = None
    evaluation_peak_bytes: int | None = None
    train_peak_allocated_bytes: int | None = Field(None, description="tensors alone; null on a CPU")
    evaluation_peak_allocated_bytes: int | None = None
    memory_before_bytes: int | None = Field(
        None, description="in use before: on a GPU by others, not in the peaks; on a CPU by this process, in them"
    )
    host_peak_bytes: int | None = Field(None, description="resident memory of the trainer process")
    trainable_parameters: int
    total_parameters: int
    adapter_bytes: int | None = Field(description="weights on disk; null where nothing was trained")
    optimizer_8bit_share: float | None = Field(
        None, description="of the optimizer's state for tensors of 4096 numbers and more, the share really in 8 bit"
    )
    train_joules: float | None = Field(None, description="energy of the GPU while training, where NVML counts it")
    evaluation_joules: float | None = None
    train_flops: float | None = Field(None, description="model FLOPs of the training, by harness.model_size.flops")
    matmul_rate: float | None = Field(
        None, description="FLOP/s of large matrix products on this machine in the trial's precision, measured once"
    )
    matmul_share: float | None = Field(
        None, description="of that rate on all its processes, the share that training reached, its first steps included"
    )
    cached_encoder_layers: int = Field(
        0, description="layers of the frozen encoder whose results training took from the cache, not in train_flops"
    )
    resident_bytes: int = Field(
        0, description="of the GPU's memory, what that cache had there for all trials; not in the peaks"
    )
    prefix_seconds: float = Field(
        0.0, description="filling that cache with what was missing, for this trial and those after it; in no other time"
    )
    processes: int = Field(1, description="data-parallel processes of the trial")
    packed: int | None = Field(
        None,
        description="the most trials that trained in one pass with this one, itself among them; seconds and joules of "
        "training are then its own (batches, optimizer) and an equal part of each pass's, and of the memory that the "
        "trials take beyond what the process held before them it is an equal part too. Null: it trained alone",
    )
    per_device_train_batch_size: int | None = Field(None, description="as run, after auto_micro_batch")
    gradient_accumulation_steps: int | None = None


class TrialResult(Spec):
    """What a trainer reports at the end of a trial."""

    state: State
    reason: str | None = None
    rungs: tuple[Rung, ...]
    cost: Cost | None = Field(description="null where memory ran out before anything could be measured")

    @classmethod
    def out_of_memory(cls) -> Self:
        """Memory ran out: an outcome that the sampler learns from, not a failure."""
        return cls(state="pruned", reason=OUT_OF_MEMORY, rungs=(), cost=None)


class Record(Spec):
    """result.json: the truth about one run, from which the MLflow mirror and every table are made."""

    schema_version: Literal[1] = 1
    kind: Kind
    name: str
    number: int | None = Field(None, description="the Optuna trial's number; of a baseline, which of its own search")
    seed: int
    state: State
    reason: str | None = None
    config: TrialConfig
    budget: Budget
    portion: DataSelection = WHOLE
    notes: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    cost: Cost | None = Field(None, description="null where the run died before it could be measured")
    started: str
    ended: str
    environment: dict[str, Any]
    data: dict[str, Any]

    @property
    def scores(self) -> Scores | None:
        """Validation scores at the last rung that was reached; None where that was judged on the loss alone."""
        return self.rungs[-1].scores if self.rungs else None
