"""What all trials of a trainer share: the resident base, the prepared speech, and how it is decoded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from harness.data.batches import label_ids
from harness.data.features import Speech
from harness.evaluate import Decoding
from harness.metrics import score, word_errors
from harness.model.base import Base, load_base
from harness.prefix import Prefixes
from harness.spec.result import Scores, Transcript
from harness.spec.task import Task
from harness.spec.trial import BaseWeights, Precision, TrialConfig

EVALUATION_BATCH = 32
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps


@dataclass(frozen=True)
class Bench:
    """The base, the prepared speech, its labels, and how it is decoded."""

    base: Base
    speech: Speech
    task: Task
    labels: list[list[int]]
    decoding: Decoding
    prefixes: Prefixes
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
        return replace(self, base=load_base(self.base.name, self.base.device, weights))


def make_bench(base: Base, speech: Speech, task: Task, prefixes: Path | None = None) -> Bench:
    """Tokenise the transcripts; decoding may take twice the longest training label, within the model's own limit.

    `prefixes` is the folder of what frozen layers of the encoder make; without one nothing of it is kept.
    """
    labels = [label_ids(base.processor.tokenizer, u.text, u.language, task.task) for u in speech.utterances]
    longest = max(len(labels[row]) for row in speech.rows("train"))
    limit = min(2 * longest, base.model.config.max_target_positions - PROMPT_TOKENS)
    return Bench(base, speech, task, labels, Decoding(EVALUATION_BATCH, limit, task.task), Prefixes(speech, prefixes))


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """An Accelerator in this precision; the one of the trial before is forgotten, or a second precision would raise."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def decoding_of(bench: Bench, config: TrialConfig) -> Decoding:
    """The decoding that all systems share, in which a configuration may leave the language to be detected."""
    return replace(bench.decoding, forced_language=config.forced_language)


def score_split(bench: Bench, transcripts: list[Transcript]) -> Scores:
    """Score transcripts with the task's normaliser; several languages have the rules of none in particular."""
    return score(transcripts, _language(bench), bench.task.normalizer)


def errors_of(bench: Bench, transcripts: list[Transcript]) -> tuple[int, ...]:
    """Word errors of each utterance."""
    return tuple(word_errors(transcripts, _language(bench), bench.task.normalizer))


def _language(bench: Bench) -> str:
    languages: list[str] = bench.speech.report["languages"]
    return languages[0] if len(languages) == 1 else "mul"
