"""Recordings longer than the model's window -> transcripts, by a named algorithm."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import WhisperForConditionalGeneration

from harness.data.audio import SAMPLE_RATE
from harness.data.features import Speech
from harness.errors import UserError
from harness.model.base import Base
from harness.model.method import whisper_of
from harness.spec.messages import Algorithm
from harness.spec.result import Transcript

Samples = npt.NDArray[np.float32]


def recordings(speech: Speech, split: str) -> tuple[list[Transcript], list[Samples], list[str], str]:
    """A split's utterances without hypotheses, their samples and languages, and a hash of samples and texts.

    Raises:
        UserError: if the split is empty.
    """
    found = [utterance for utterance in speech.long if utterance.split == split]
    if not found:
        raise UserError(
            f"task {speech.task.name} has no recording of split {split}; mark long recordings so in its table"
        )
    clips = [speech.samples(utterance) for utterance in found]
    digest = hashlib.sha256()
    transcripts = []
    for utterance, clip in zip(found, clips, strict=True):
        digest.update(clip.tobytes() + utterance.text.encode())
        transcripts.append(
            Transcript(
                id=utterance.id,
                reference=utterance.text,
                hypothesis="",
                audio_seconds=len(clip) / SAMPLE_RATE,
                speaker=utterance.speaker,
                condition=utterance.condition,
                dataset=utterance.dataset,
            )
        )
    return transcripts, clips, [utterance.language for utterance in found], digest.hexdigest()[:16]


def transcribe_long(
    model: nn.Module,
    base: Base,
    clips: Sequence[Samples],
    languages: Sequence[str | None],
    task: str,
    algorithm: Algorithm,
) -> list[str]:
    """Texts of recordings of any length, by a model made of the base.

    `sequential` is Whisper's own way (Radford et al. 2023, section 4.5), as transformers' generate has it: the window
    moves on to where the last predicted timestamp ends; greedy, no temperature fallback, not conditioned on earlier
    text. `chunked` cuts windows that overlap by a sixth on each side, decodes each alone and joins them on their common
    tokens (transformers' speech recognition pipeline).
    """
    way = _sequential if algorithm == "sequential" else _chunked
    with torch.inference_mode():
        return [
            way(whisper_of(model), base, clip, language, task).strip()
            for clip, language in zip(clips, languages, strict=True)
        ]


def window_seconds(base: Base) -> float:
    """What the encoder takes at once: 30 s for OpenAI's models, less for the demo's."""
    extractor = base.processor.feature_extractor
    return float(extractor.n_samples / extractor.sampling_rate)


def _sequential(
    model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str
) -> str:
    long = len(clip) > base.processor.feature_extractor.n_samples
    padding = {"truncation": False, "padding": "longest"} if long else {}
    inputs = base.processor.feature_extractor(
        clip, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **padding
    )
    ids = model.generate(
        inputs.input_features.to(base.device),
        attention_mask=inputs.attention_mask.to(base.device),
        return_timestamps=True,
        condition_on_prev_tokens=False,
        language=language,
        task=task,
        num_beams=1,
        do_sample=False,
    )
    text: str = base.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    return text


def _chunked(model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str) -> str:
    from transformers import AutomaticSpeechRecognitionPipeline

    pipeline = AutomaticSpeechRecognitionPipeline(
        model=model,
        tokenizer=base.processor.tokenizer,
        feature_extractor=base.processor.feature_extractor,
        chunk_length_s=window_seconds(base),
        device=base.device,
        ignore_warning=True,  # that this is experimental: the table names the algorithm
    )
    said: Any = pipeline(
        {"raw": clip, "sampling_rate": SAMPLE_RATE},
        generate_kwargs={"language": language, "task": task, "num_beams": 1, "do_sample": False},
    )
    return str(said["text"])
