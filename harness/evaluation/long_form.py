"""Transcribe recordings longer than the model's window, by one of three algorithms."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import WhisperForConditionalGeneration

from harness.data.audio import SAMPLE_RATE
from harness.data.store.prepare import Speech
from harness.errors import UserError
from harness.evaluation.generation import (
    DecodingSettings,
    decode_states,
    generation_options,
    window_extractor,
    window_features,
)
from harness.model.base import Base
from harness.model.methods import whisper_of
from harness.model.trial_settings import window_frames
from harness.model_size.parameters import POSITIONS_PER_SECOND
from harness.spec.messages import Algorithm
from harness.spec.result import Transcript

Samples = npt.NDArray[np.float32]
LongFormDecoder = Callable[[WhisperForConditionalGeneration, Base, Samples, str | None, str], str]
FRAME_SECONDS = 0.02  # resolution of the loudness
PAUSE_SECONDS = 0.2  # loudness is averaged over this: the shortest pause that counts
SILENCE_RATIO = 1e-5  # of the power of loud speech: 50 dB below it
MIN_SEGMENT_SHARE = 1 / 3  # of the longest segment: no cut comes earlier
BATCH_SIZE = 8
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps
STUCK = (
    "the model predicts timestamps that hardly advance; decode the recordings with --long-form pauses, which needs no "
    "timestamps"
)
WINDOWS_PER_WINDOW = 10  # how often `sequential` may decode, for each window of the recording


@dataclass(frozen=True)
class Segment:
    """Part of a recording with its text; `start` and `end` are in seconds from the beginning of the recording."""

    start: float
    end: float
    text: str


def recordings(speech: Speech, split: str) -> tuple[list[Transcript], list[Samples], list[str], str]:
    """Read the long recordings of a split.

    Returns:
        Transcripts without hypotheses, samples (16 kHz mono), languages, and a hash of all samples and texts.

    Raises:
        UserError: If the split has no recordings.
    """
    utterances = [utterance for utterance in speech.long if utterance.split == split]
    if not utterances:
        raise UserError(
            f"task {speech.task.name} has no recordings of split {split}; "
            f"set split to {split} for long recordings in the task's table"
        )
    clips = [speech.samples(utterance) for utterance in utterances]
    digest = hashlib.sha256()
    transcripts = []
    for utterance, clip in zip(utterances, clips, strict=True):
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
    return transcripts, clips, [utterance.language for utterance in utterances], digest.hexdigest()[:16]


def transcribe_long(
    model: nn.Module,
    base: Base,
    clips: Sequence[Samples],
    languages: Sequence[str | None],
    task: str,
    algorithm: Algorithm,
) -> list[str]:
    """Return the texts of recordings of any length.

    Args:
        model: A model made from `base`.
        base: The base model, for its processor and window.
        clips: 16 kHz mono samples.
        languages: Whisper's language code of each clip; None detects it.
        task: "transcribe" or "translate".
        algorithm: `sequential` is Whisper's own (Radford et al. 2023, section 4.5), as implemented by transformers'
            generate: the window moves to the end of the last predicted timestamp; greedy, without temperature
            fallback, not conditioned on earlier text. `chunked` is that of transformers' speech recognition pipeline:
            windows that overlap by a sixth on each side are decoded independently and joined on their common tokens.
            `pauses` cuts where the sound is quietest and decodes each part as a clip, without timestamps, as models
            are trained here.
    """
    decoders: dict[Algorithm, LongFormDecoder] = {
        "sequential": _decode_sequentially,
        "chunked": _decode_chunks,
        "pauses": _decode_between_pauses,
    }
    decode = decoders[algorithm]
    with torch.inference_mode():
        return [
            decode(whisper_of(model), base, clip, language, task).strip()
            for clip, language in zip(clips, languages, strict=True)
        ]


def window_seconds(base: Base) -> float:
    """Return the length of the encoder's present window: 30 s for OpenAI's models unless a trial shortens it."""
    return window_frames(base) / 2 / POSITIONS_PER_SECOND


def _decode_sequentially(
    model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str
) -> str:
    extractor = window_extractor(base)
    padding: dict[str, Any] = {"truncation": False, "padding": "longest"} if len(clip) > extractor.n_samples else {}
    inputs = extractor(clip, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **padding)
    ids = model.generate(
        inputs.input_features.to(base.device),
        attention_mask=inputs.attention_mask.to(base.device),
        return_timestamps=True,
        condition_on_prev_tokens=False,
        monitor_progress=window_limit(len(clip) / SAMPLE_RATE, window_seconds(base), STUCK),
        **(generation_options(base, language, task) | {"logits_processor": None}),
    )
    text: str = base.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    return text


def window_limit(seconds: float, window: float, message: str) -> Callable[[Any], None]:
    """Return a callback for each window that raises after ten times as many windows as the recording has.

    A model can predict timestamps that move its window by nothing, and generate() would ask it for ever.

    Raises:
        UserError: The callback raises it, with this message.
    """
    left = WINDOWS_PER_WINDOW * (1 + math.ceil(seconds / window))

    def check(_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(message)

    return check


def _decode_chunks(
    model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str
) -> str:
    from transformers import AutomaticSpeechRecognitionPipeline

    pipeline = AutomaticSpeechRecognitionPipeline(
        model=model,
        tokenizer=base.processor.tokenizer,
        feature_extractor=window_extractor(base),
        chunk_length_s=window_seconds(base),
        device=base.device,
        ignore_warning=True,  # the warning that this is experimental: result tables name the algorithm
    )
    output: Any = pipeline(
        {"raw": clip, "sampling_rate": SAMPLE_RATE},
        generate_kwargs=generation_options(base, language, task),
    )
    return str(output["text"])


def _decode_between_pauses(
    model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str
) -> str:
    return " ".join(segment.text for segment in transcribe_segments(model, base, clip, language, task) if segment.text)


def transcribe_segments(
    model: nn.Module, base: Base, clip: Samples, language: str | None, task: str, seconds: float | None = None
) -> list[Segment]:
    """Cut a recording at its pauses and decode each part as a clip, greedily, without timestamps.

    Args:
        model: A model made from `base`.
        base: The base model, for its processor and its present window.
        clip: 16 kHz mono samples.
        language: Whisper's language code; None detects it in each part.
        task: "transcribe" or "translate".
        seconds: Length of the longest part; by default, and at most, the model's window.
    """
    longest = min(seconds or window_seconds(base), window_seconds(base))
    parts = cut_at_pauses(clip, longest)
    limit = base.model.config.max_target_positions - PROMPT_TOKENS
    settings = DecodingSettings(BATCH_SIZE, max_new_tokens=limit, task=task)
    encoder, segments = whisper_of(model.eval()).model.encoder, []
    for first in range(0, len(parts), BATCH_SIZE):
        batch = parts[first : first + BATCH_SIZE]
        with torch.inference_mode():
            mel = window_features(base, [clip[start:end] for start, end in batch])
            states = encoder(mel.to(base.device)).last_hidden_state
        decoded = decode_states(model, base, states, [language] * len(batch) if language else None, settings)
        segments += [
            Segment(start / SAMPLE_RATE, end / SAMPLE_RATE, utterance.text or "")
            for (start, end), utterance in zip(batch, decoded, strict=True)
        ]
    return segments


def cut_at_pauses(clip: Samples, longest: float) -> list[tuple[int, int]]:
    """Return (first sample, end) of parts of at most `longest` seconds, cut where the sound is quietest.

    The quietest point has the lowest mean square over PAUSE_SECONDS, between a third of `longest` and `longest` after
    the beginning of the part; the last of several, so that parts are long. Silence at the beginning of a part is
    skipped, so that speech of nearly `longest` still fits.
    """
    if not len(clip):
        return []
    frame, most = round(FRAME_SECONDS * SAMPLE_RATE), round(longest * SAMPLE_RATE)
    power = np.pad(np.square(clip, dtype=np.float64), (0, -len(clip) % frame)).reshape(-1, frame).mean(axis=1)
    width = round(PAUSE_SECONDS / FRAME_SECONDS)
    loudness = np.convolve(power, np.ones(width) / width, mode="same")
    audible = np.flatnonzero(power > SILENCE_RATIO * np.quantile(power, 0.95))
    parts, start = list[tuple[int, int]](), 0
    while start < len(clip):
        next_audible = np.searchsorted(audible, start // frame)
        if next_audible == len(audible):
            break
        start = max(start, int(audible[next_audible]) * frame)
        if len(clip) - start <= most:
            parts.append((start, len(clip)))
            break
        low, high = (start + round(MIN_SEGMENT_SHARE * most)) // frame, (start + most) // frame
        end = (high - 1 - int(np.argmin(loudness[low:high][::-1]))) * frame
        parts.append((start, end))
        start = end
    return parts
