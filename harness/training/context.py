"""What all trials of a trainer share: the resident base, the prepared speech, and how it is decoded."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from harness.data.batches import label_ids
from harness.data.store.prepare import Speech
from harness.evaluation.decoding import Decoding
from harness.evaluation.metrics import score, word_errors
from harness.model.base import Base, load_base
from harness.model.encoder_cache import EncoderStateCache
from harness.model.parameters import Dimensions, dimensions_of
from harness.spec.result import Scores, Transcript
from harness.spec.task import Task
from harness.spec.techniques import STANDARD, Technique
from harness.spec.trial import BaseWeights, Precision, TrialConfig

EVALUATION_BATCH = 32  # on a CPU
MOST_AT_ONCE = 128
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps


@dataclass(frozen=True)
class TrainerContext:
    """The base, the prepared speech, its labels, and how it is decoded."""

    base: Base
    speech: Speech
    task: Task
    labels: list[list[int]]
    decoding: Decoding
    encoder_cache: EncoderStateCache
    techniques: tuple[Technique, ...] = STANDARD
    prepare_seconds: float = 0.0  # what the data took when the trainer came up

    @property
    def pad(self) -> int:
        """The token that fills a batch; it is never in the loss."""
        return int(self.base.processor.tokenizer.pad_token_id)

    @property
    def cache(self) -> Path:
        """The cache's folder, in which the prepared speech lies."""
        return self.speech.entry.parents[1]

    def on(self, weights: BaseWeights) -> Self:
        """The same bench with the base in these weights, loaded anew where it is in others."""
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
    """Tokenise the transcripts; decoding may take twice the longest training label, within the model's own limit.

    `prefixes` is the folder of what frozen layers of the encoder make; without one nothing of it is kept.
    """
    labels = [label_ids(base.processor.tokenizer, u.text, u.language, task.task) for u in speech.utterances]
    longest = max(len(labels[row]) for row in speech.rows("train"))
    limit = min(2 * longest, base.model.config.max_target_positions - PROMPT_TOKENS)
    decoding = Decoding(
        batch_size=clips_at_once(dimensions_of(base.model.config), limit, base.device),
        max_new_tokens=limit,
        task=task.task,
        sorting="sorting" in techniques,
        static_cache="compile" in techniques,
    )
    kept = EncoderStateCache(speech, encoder_cache if "encoder_cache" in techniques else None, "resident" in techniques)
    return TrainerContext(base, speech, task, labels, decoding, kept, techniques)


def clips_at_once(dims: Dimensions, tokens: int, device: torch.device) -> int:
    """Clips that are decoded together: on a GPU a power of two, up to 128, that half of its memory should hold.

    It has that memory whoever else uses it now, so that one machine decodes alike at all times.
    """
    if device.type != "cuda":
        return EVALUATION_BATCH
    room = torch.cuda.get_device_properties(device).total_memory / 2
    return min(MOST_AT_ONCE, 1 << max(0, math.floor(math.log2(room / decoding_bytes(dims, tokens)))))


def decoding_bytes(dims: Dimensions, tokens: int) -> int:
    """Bytes that a clip takes while `tokens` are decoded, in fp32: an estimate from above, measured nowhere.

    Keys and values of both attentions, six copies of the encoder's states and two of its widest ones, and the loss's
    three copies of the logits.
    """
    kept = 2 * dims.decoder_layers * dims.d_model * (dims.max_source_positions + tokens + PROMPT_TOKENS)
    encoding = dims.max_source_positions * (6 * dims.d_model + 2 * dims.encoder_ffn_dim)
    return 4 * (kept + encoding + 3 * tokens * dims.vocab_size)


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """An Accelerator in this precision; the one of the trial before is forgotten, or a second precision would raise."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def decoding_of(context: TrainerContext, config: TrialConfig) -> Decoding:
    """The decoding that all systems share, in which a configuration may leave the language to be detected."""
    return replace(context.decoding, forced_language=config.forced_language)


def score_split(context: TrainerContext, transcripts: list[Transcript]) -> Scores:
    """Score transcripts with the task's normaliser; several languages have the rules of none in particular."""
    return score(transcripts, _language(context), context.task.normalizer)


def errors_of(context: TrainerContext, transcripts: list[Transcript]) -> tuple[int, ...]:
    """Word errors of each utterance."""
    return tuple(word_errors(transcripts, _language(context), context.task.normalizer))


def _language(context: TrainerContext) -> str:
    languages: list[str] = context.speech.report["languages"]
    return languages[0] if len(languages) == 1 else "mul"
