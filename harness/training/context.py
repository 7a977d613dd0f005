"""Hold what all trials of a trainer share: base model, prepared data, decoding settings and caches."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from harness.data.labels import label_ids
from harness.data.store.prepare import Speech
from harness.errors import UserError
from harness.evaluation.generation import DecodingSettings
from harness.evaluation.metrics import score, word_errors
from harness.model.base import Base, load_base
from harness.model.encoder_cache import EncoderStateCache
from harness.model_size.parameters import Dimensions, dimensions_of
from harness.spec.result import Scores, Transcript
from harness.spec.task import Task
from harness.spec.techniques import STANDARD, Technique
from harness.spec.trial import BaseWeights, Precision, TrialConfig

CPU_DECODING_BATCH = 32
MAX_DECODING_BATCH = 128
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps


@dataclass(frozen=True)
class TrainerContext:
    """What all trials of a trainer share.

    Attributes:
        base: The base model.
        speech: The prepared task.
        task: The task.
        labels: Label tokens of each utterance of `speech`, the prompt included.
        decoding: Decoding settings of all systems.
        encoder_cache: The encoder-state cache.
        techniques: Which optional speed-ups are on.
        prepare_seconds: How long preparing the data took when the trainer started.
    """

    base: Base
    speech: Speech
    task: Task
    labels: list[list[int]]
    decoding: DecodingSettings
    encoder_cache: EncoderStateCache
    techniques: tuple[Technique, ...] = STANDARD
    prepare_seconds: float = 0.0

    @property
    def pad_token(self) -> int:
        """The token that batches are padded with; it is never in the loss."""
        return int(self.base.processor.tokenizer.pad_token_id)

    @property
    def cache(self) -> Path:
        """The cache folder, which contains the feature store."""
        return self.speech.entry.parents[1]

    def with_base_weights(self, weights: BaseWeights) -> Self:
        """Return the context with the base in these weights; it is loaded again if they differ from the current."""
        if weights == self.base.weights:
            return self
        return replace(self, base=load_base(self.base.name, self.base.device, weights, "sdpa" in self.techniques))


def make_context(
    base: Base,
    speech: Speech,
    task: Task,
    encoder_cache: Path | None = None,
    techniques: tuple[Technique, ...] = STANDARD,
) -> TrainerContext:
    """Create the context of a trainer.

    Decoding is limited to twice the length of the longest training label, within the model's own limit.

    Args:
        base: The base model.
        speech: The prepared task.
        task: The task.
        encoder_cache: Folder of the encoder-state cache; None switches it off.
        techniques: Which optional speed-ups are on.
    """
    labels = make_labels(base, speech, task)
    longest = max(len(labels[row]) for row in speech.rows("train"))
    limit = min(2 * longest, base.model.config.max_target_positions - PROMPT_TOKENS)
    decoding = DecodingSettings(
        batch_size=decoding_batch_size(dimensions_of(base.model.config), limit, base.device),
        max_new_tokens=limit,
        task=task.task,
        sorting="sorting" in techniques,
        static_cache="compile" in techniques,
    )
    folder = encoder_cache if "encoder_cache" in techniques else None
    cache = EncoderStateCache(speech, folder, use_gpu_memory="resident" in techniques)
    return TrainerContext(base, speech, task, labels, decoding, cache, techniques)


def make_labels(base: Base, speech: Speech, task: Task, leading_space: bool = True) -> list[list[int]]:
    """Return the label tokens of each utterance; see `label_ids`."""
    tokenizer, generation = base.processor.tokenizer, base.model.generation_config
    return [label_ids(tokenizer, generation, u.text, u.language, task.task, leading_space) for u in speech.utterances]


def check_window(speech: Speech, config: TrialConfig) -> None:
    """Refuse an encoder window that would cut the audio of a clip and leave its transcript whole.

    Raises:
        UserError: The window is shorter than a clip.
    """
    window = config.encoder_window_seconds
    longer = [u.seconds for u in speech.utterances if window is not None and (u.seconds or 0.0) > window]
    if longer:
        longest = math.ceil(100 * max(seconds or 0.0 for seconds in longer)) / 100
        raise UserError(
            f"encoder_window_seconds {window:g} is shorter than {len(longer)} of the {len(speech.utterances)} clips; "
            f"set it to {longest:g} or more, or exclude longer clips by max_seconds: {window:g} in the task"
        )


def decoding_batch_size(dims: Dimensions, tokens: int, device: torch.device) -> int:
    """Return how many clips to decode together: on a GPU a power of two up to 128 that fits into half of its memory.

    The size depends on the GPU's total memory, not on what is free now, so that a machine always decodes alike.
    """
    if device.type != "cuda":
        return CPU_DECODING_BATCH
    available = torch.cuda.get_device_properties(device).total_memory / 2
    return min(MAX_DECODING_BATCH, 1 << max(0, math.floor(math.log2(available / decoding_bytes(dims, tokens)))))


def decoding_bytes(dims: Dimensions, tokens: int) -> int:
    """Estimate the memory of decoding one clip to `tokens` tokens in fp32, in bytes.

    An upper bound by formula, not a measurement: keys and values of both attentions, six copies of the encoder's states
    and two of its widest layer, and three copies of the logits for the loss.
    """
    keys_and_values = 2 * dims.decoder_layers * dims.d_model * (dims.max_source_positions + tokens + PROMPT_TOKENS)
    encoding = dims.max_source_positions * (6 * dims.d_model + 2 * dims.encoder_ffn_dim)
    return 4 * (keys_and_values + encoding + 3 * tokens * dims.vocab_size)


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """Create an Accelerator of this precision, after resetting Accelerate's state: a second precision would raise."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def decoding_settings(context: TrainerContext, config: TrialConfig) -> DecodingSettings:
    """Return the shared decoding settings, with the configuration's choice whether the language is detected."""
    return replace(context.decoding, forced_language=config.forced_language)


def score_split(context: TrainerContext, transcripts: list[Transcript]) -> Scores:
    """Score transcripts with the task's normalizer; a task of several languages is normalized as "mul"."""
    return score(transcripts, _language(context), context.task.normalizer)


def utterance_errors(context: TrainerContext, transcripts: list[Transcript]) -> tuple[int, ...]:
    """Return the word errors of each utterance."""
    return tuple(word_errors(transcripts, _language(context), context.task.normalizer))


def _language(context: TrainerContext) -> str:
    languages: list[str] = context.speech.report["languages"]
    return languages[0] if len(languages) == 1 else "mul"
