"""Decode utterances greedily with the prompt they were trained with -> transcripts and loss."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from harness.data.audio import SAMPLE_RATE
from harness.data.batches import chunks, collate
from harness.data.features import Speech
from harness.meter import Clock
from harness.model.base import Base
from harness.model.method import whisper_of
from harness.model.regularize import window_frames
from harness.spec.result import Transcript
from harness.train import token_loss


@dataclass(frozen=True)
class Decoding:
    """How every system of a study is decoded."""

    batch_size: int
    max_new_tokens: int
    task: str
    forced_language: bool = True

    def described(self) -> dict[str, Any]:
        """For records and captions."""
        strategy = "greedy" if self.forced_language else "greedy, language detected"
        return {"strategy": strategy, "batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class Hypothesis:
    """What the model heard; `cut` where the decode limit came before the end."""

    text: str
    cut: bool


def transcribe(
    model: nn.Module, base: Base, speech: Speech, rows: Sequence[int], decoding: Decoding, accelerator: Accelerator
) -> list[Transcript]:
    """Transcripts of some rows, in their order; several processes share the work, and each gets all."""
    hypotheses: dict[int, Hypothesis] = {}
    mine = by_length(speech, rows)[accelerator.process_index :: accelerator.num_processes]
    for batch in chunks(mine, decoding.batch_size):
        languages = [speech.utterances[row].language for row in batch]
        mel = speech.features[list(batch)][:, :, : window_frames(base)]
        hypotheses |= zip(batch, generate(model, base, mel, languages, decoding, accelerator), strict=True)
    if accelerator.num_processes > 1:
        hypotheses = {row: heard for part in gather_object([hypotheses]) for row, heard in part.items()}
    return [_transcript(speech, row, hypotheses[row]) for row in rows]


def by_length(speech: Speech, rows: Sequence[int]) -> list[int]:
    """Rows from the shortest clip to the longest, so that a batch ends at about the same token."""
    return sorted(rows, key=lambda row: (speech.utterances[row].seconds or 0.0, row))


def generate(
    model: nn.Module,
    base: Base,
    mel: npt.NDArray[np.float16],
    languages: list[str],
    decoding: Decoding,
    accelerator: Accelerator,
) -> list[Hypothesis]:
    """Hypotheses for one batch of log-mel features (clips, mel bins, frames)."""
    model.eval()
    features = torch.from_numpy(np.asarray(mel, dtype=np.float32)).to(accelerator.device)
    with torch.inference_mode(), accelerator.autocast():
        ids = whisper_of(model).generate(
            features,
            language=languages if decoding.forced_language else None,
            task=decoding.task,
            max_new_tokens=decoding.max_new_tokens,
            num_beams=1,
            do_sample=False,
        )
    tokenizer = base.processor.tokenizer
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    return [Hypothesis(text.strip(), not end) for text, end in zip(texts, ended, strict=True)]


def real_time_factor(
    model: nn.Module,
    base: Base,
    speech: Speech,
    rows: Sequence[int],
    clips: Sequence[npt.NDArray[np.float32]],
    decoding: Decoding,
    accelerator: Accelerator,
    passes: int,
) -> float:
    """RTFx: audio seconds per second of feature extraction, generation and detokenising.

    `clips` are the samples of `rows`. The median of `passes` after one warm-up pass.
    """
    audio = sum(len(clip) for clip in clips) / SAMPLE_RATE
    timed = []
    for _ in range(passes + 1):
        clock = Clock(accelerator.device)
        clock.start()
        for batch in chunks(range(len(rows)), decoding.batch_size):
            mel = base.processor.feature_extractor(
                [clips[i] for i in batch], sampling_rate=SAMPLE_RATE, return_tensors="np"
            )
            languages = [speech.utterances[rows[i]].language for i in batch]
            generate(model, base, mel.input_features[:, :, : window_frames(base)], languages, decoding, accelerator)
        clock.stop()
        timed.append(clock.seconds)
    return audio / statistics.median(timed[1:])


def _transcript(speech: Speech, row: int, hypothesis: Hypothesis) -> Transcript:
    utterance = speech.utterances[row]
    return Transcript(
        id=utterance.id,
        reference=utterance.text,
        hypothesis=hypothesis.text,
        audio_seconds=utterance.seconds,
        speaker=utterance.speaker,
        condition=utterance.condition,
        dataset=utterance.dataset,
        cut=hypothesis.cut,
    )


def validation_loss(
    model: nn.Module,
    base: Base,
    speech: Speech,
    labels: Sequence[list[int]],
    rows: Sequence[int],
    decoding: Decoding,
    pad: int,
    accelerator: Accelerator,
) -> float:
    """Teacher-forced cross-entropy, mean over all label tokens."""
    model.eval()
    total, tokens = 0.0, 0
    for chosen in chunks(rows[accelerator.process_index :: accelerator.num_processes], decoding.batch_size):
        batch = collate(speech.features, labels, chosen, pad, window_frames(base))
        with torch.inference_mode():
            total += float(token_loss(model, batch.to(accelerator.device)))
        tokens += batch.label_tokens
    if accelerator.num_processes > 1:
        parts = gather_object([(total, tokens)])
        total, tokens = sum(part for part, _ in parts), sum(count for _, count in parts)
    return total / tokens
