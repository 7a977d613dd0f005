"""Recordings longer than the model's window -> transcripts, by a named algorithm."""

import hashlib
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
from harness.model.base import Base
from harness.model.methods import whisper_of
from harness.spec.messages import Algorithm
from harness.spec.result import Transcript

Samples = npt.NDArray[np.float32]
Way = Callable[[WhisperForConditionalGeneration, Base, Samples, str | None, str], str]
FRAME_SECONDS = 0.02  # in which loudness is measured
PAUSE_SECONDS = 0.2  # over which it is averaged: the shortest pause that counts
SILENCE = 1e-5  # of the power of loud speech: 50 dB below it
SHORTEST = 1 / 3  # of the longest segment: no cut comes earlier
BATCH = 8
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps


@dataclass(frozen=True)
class Segment:
    """A part of a recording, in seconds from its beginning, and what was said in it."""

    start: float
    end: float
    text: str


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
    tokens (transformers' speech recognition pipeline). `pauses` cuts where it is quietest and decodes each part as a
    clip, without timestamps, as models are trained here.
    """
    ways: dict[Algorithm, Way] = {"sequential": _sequential, "chunked": _chunked, "pauses": _by_pauses}
    way = ways[algorithm]
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


def _by_pauses(
    model: WhisperForConditionalGeneration, base: Base, clip: Samples, language: str | None, task: str
) -> str:
    return " ".join(segment.text for segment in transcribe_segments(model, base, clip, language, task) if segment.text)


def transcribe_segments(
    model: nn.Module, base: Base, clip: Samples, language: str | None, task: str, seconds: float | None = None
) -> list[Segment]:
    """Cut a recording at its pauses and decode each part as a clip, greedily, without timestamps.

    Args:
        model: made of the base.
        base: for its processor and window.
        clip: 16 kHz mono.
        language: Whisper's code; None: detected in each part.
        task: transcribe or translate.
        seconds: the longest part; at most, and by default, the model's window.
    """
    longest = min(seconds or window_seconds(base), window_seconds(base))
    parts = cut_at_pauses(clip, longest)
    found = []
    for first in range(0, len(parts), BATCH):
        chosen = parts[first : first + BATCH]
        texts = _clips(whisper_of(model.eval()), base, [clip[start:end] for start, end in chosen], language, task)
        found += [
            Segment(start / SAMPLE_RATE, end / SAMPLE_RATE, text)
            for (start, end), text in zip(chosen, texts, strict=True)
        ]
    return found


def cut_at_pauses(clip: Samples, longest: float) -> list[tuple[int, int]]:
    """(first sample, end) of parts of at most `longest` seconds, cut where the sound is quietest.

    The quietest is the least mean square over PAUSE_SECONDS, between a third of `longest` and `longest` after the
    beginning; of equals the last, so that parts are long. Silence at the beginning of a part is skipped, so that
    speech of nearly the longest duration still fits.
    """
    if not len(clip):
        return []
    frame, most = round(FRAME_SECONDS * SAMPLE_RATE), round(longest * SAMPLE_RATE)
    frames = np.pad(np.square(clip, dtype=np.float64), (0, -len(clip) % frame)).reshape(-1, frame).mean(axis=1)
    width = round(PAUSE_SECONDS / FRAME_SECONDS)
    loudness = np.convolve(frames, np.ones(width) / width, mode="same")
    heard = np.flatnonzero(frames > SILENCE * np.quantile(frames, 0.95))
    parts, start = list[tuple[int, int]](), 0
    while start < len(clip):
        next_event = np.searchsorted(heard, start // frame)
        if next_event == len(heard):
            break
        start = max(start, int(heard[next_event]) * frame)
        if len(clip) - start <= most:
            parts.append((start, len(clip)))
            break
        low, high = (start + round(SHORTEST * most)) // frame, (start + most) // frame
        end = (high - 1 - int(np.argmin(loudness[low:high][::-1]))) * frame
        parts.append((start, end))
        start = end
    return parts


def _clips(
    model: WhisperForConditionalGeneration, base: Base, clips: list[Samples], language: str | None, task: str
) -> list[str]:
    extractor, config = base.processor.feature_extractor, model.config
    mel = extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    with torch.inference_mode():
        ids = model.generate(
            mel[:, :, : 2 * config.max_source_positions].to(base.device),
            language=language,
            task=task,
            max_new_tokens=config.max_target_positions - PROMPT_TOKENS,
            num_beams=1,
            do_sample=False,
        )
    texts: list[str] = base.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]
