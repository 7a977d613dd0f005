"""Generate texts from encoder states, in one way for evaluation, transcription and checks of published forms."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, WhisperFeatureExtractor
from transformers.modeling_outputs import BaseModelOutput

from harness.data.audio import SAMPLE_RATE
from harness.data.labels import is_multilingual
from harness.model.base import Base
from harness.model.methods import whisper_of
from harness.model.trial_settings import window_frames


@dataclass(frozen=True)
class DecodingSettings:
    """Decoding settings that all systems of a study share.

    Attributes:
        batch_size: Clips decoded together.
        max_new_tokens: Limit of generated tokens per clip.
        task: "transcribe" or "translate".
        forced_language: Put each utterance's language into the prompt; False lets the model detect it.
        sorting: Decode clips in order of length, so that the clips of a batch end at about the same token.
        static_cache: Use a key-value cache of fixed size, which compiled decoding on a GPU needs.
    """

    batch_size: int
    max_new_tokens: int
    task: str
    forced_language: bool = True
    sorting: bool = True
    static_cache: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the settings as stored in records and shown in captions."""
        strategy = "greedy" if self.forced_language else "greedy, language detected"
        return {"strategy": strategy, "batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class DecodedUtterance:
    """Result of decoding one utterance. What was not requested is None.

    Attributes:
        loss: Teacher-forced cross-entropy, summed over the label tokens.
        text: The hypothesis.
        cut: Whether the token limit was reached before the end of the text.
    """

    loss: float | None = None
    text: str | None = None
    cut: bool = False


class SuppressTimestamps(LogitsProcessor):
    """Forbid timestamp tokens, which the prompt already excludes.

    A badly trained model may predict them anyway. generate() would then seek to that time and decode the remaining
    features again, which it cannot do where only the encoder's output is given.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (clips, vocabulary) of the next token, those of timestamps set to minus infinity."""
        scores[:, self.first :] = -torch.inf
        return scores


def decode_states(
    model: nn.Module, base: Base, states: Tensor, languages: list[str] | None, settings: DecodingSettings
) -> list[DecodedUtterance]:
    """Generate texts, as all evaluation, transcription and checks do: greedily, without timestamps.

    Args:
        model: A model made from `base`.
        base: The base model, for its processor.
        states: The encoder's output (clips, positions, width).
        languages: The language of each clip; None detects it.
        settings: How to decode. The language is detected, too, if it is not forced.

    Returns:
        A text for each clip, of at most `max_new_tokens` tokens.
    """
    whisper, tokenizer = whisper_of(model), base.processor.tokenizer
    with torch.inference_mode():
        ids = whisper.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            **generation_options(base, languages if settings.forced_language else None, settings.task),
            max_new_tokens=settings.max_new_tokens,
            cache_implementation="static" if settings.static_cache else None,
        )
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    # generate() removes the end token of the longest text of a batch: below the limit every text has ended.
    full = ids.shape[1] >= settings.max_new_tokens
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    return [DecodedUtterance(text=text.strip(), cut=full and not end) for text, end in zip(texts, ended, strict=True)]


def generation_options(base: Base, languages: str | list[str] | None, task: str) -> dict[str, Any]:
    """Return generate()'s arguments for greedy decoding without timestamps.

    English-only models have neither language nor task tokens.
    """
    generation: Any = base.model.generation_config
    multilingual = is_multilingual(generation)
    return {
        "language": languages if multilingual else None,
        "task": task if multilingual else None,
        "logits_processor": LogitsProcessorList([SuppressTimestamps(int(generation.no_timestamps_token_id) + 1)]),
        "num_beams": 1,
        "do_sample": False,
    }


def window_extractor(base: Base) -> WhisperFeatureExtractor:
    """Return the feature extractor of the encoder's present window, which a trial can make shorter."""
    extractor: WhisperFeatureExtractor = copy.copy(base.processor.feature_extractor)
    extractor.nb_max_frames = window_frames(base)
    extractor.n_samples = extractor.nb_max_frames * extractor.hop_length
    extractor.chunk_length = extractor.n_samples / SAMPLE_RATE
    return extractor


def window_features(base: Base, clips: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """Return log-mel features (clips, mel bins, frames) of the encoder's present window, as the feature store has."""
    features: Tensor = base.processor.feature_extractor(
        list(clips), sampling_rate=SAMPLE_RATE, return_tensors="pt"
    ).input_features
    return features[:, :, : window_frames(base)]
