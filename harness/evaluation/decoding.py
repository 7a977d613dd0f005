"""Decode utterances greedily with the prompt they were trained with -> transcripts and loss."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from harness.data.audio import SAMPLE_RATE
from harness.data.batches import chunks, labelled
from harness.data.store.prepare import Speech
from harness.hardware.meter import Clock, is_out_of_memory, is_poisoned
from harness.model.base import Base
from harness.model.encoder_cache import EncoderStates, LogMelInputs
from harness.model.loss import utterance_losses
from harness.model.methods import whisper_of
from harness.model.split_encoder import start_at_layer
from harness.model.trial_settings import window_frames
from harness.spec.result import Transcript


@dataclass(frozen=True)
class Decoding:
    """How every system of a study is decoded."""

    batch_size: int
    max_new_tokens: int
    task: str
    forced_language: bool = True
    sorting: bool = True  # by length
    static_cache: bool = False  # keys and values stay where they are, so that a GPU can decode by compiled code

    def described(self) -> dict[str, Any]:
        """For records and captions."""
        strategy = "greedy" if self.forced_language else "greedy, language detected"
        return {"strategy": strategy, "batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class DecodedUtterance:
    """Of one utterance: the teacher-forced loss summed over its label tokens, and what was decoded.

    `cut` where the decode limit came before the end. What was not asked for is None.
    """

    loss: float | None = None
    text: str | None = None
    cut: bool = False


class NoTimestamps(LogitsProcessor):
    """Never a timestamp, of which the prompt says that there are none.

    A model that is astray draws them all the same, and generate() would then seek there and decode the rest of the
    features again, which it cannot where only the encoder's output is given.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (clips, vocabulary) of the next token."""
        scores[:, self.first :] = -torch.inf
        return scores


def transcribe(
    model: nn.Module,
    base: Base,
    speech: Speech,
    rows: Sequence[int],
    decoding: Decoding,
    accelerator: Accelerator,
    encoder_states: EncoderStates | None = None,
) -> list[Transcript]:
    """Transcripts of some rows, in their order; several processes share the work, and each gets all."""
    heard = decode_with_loss(model, base, speech, rows, decoding, accelerator, encoder_states)
    return [transcript(speech, row, heard[row]) for row in rows]


def decode_with_loss(
    model: nn.Module,
    base: Base,
    speech: Speech,
    rows: Sequence[int],
    decoding: Decoding,
    accelerator: Accelerator,
    encoder_states: EncoderStates | None = None,
    labels: Sequence[list[int]] | None = None,
    texts: bool = True,
) -> dict[int, DecodedUtterance]:
    """Decode some rows and, given the labels of all rows, compute their loss; the encoder runs once for both.

    Several processes share the work, and each gets all. Inputs are the filled `prefix`'s, or features.
    """
    inputs = encoder_states or LogMelInputs(speech, window_frames(base))
    ordered = sort_by_length(speech, rows) if decoding.sorting else list(rows)
    mine = ordered[accelerator.process_index :: accelerator.num_processes]
    found = dict[int, DecodedUtterance]()
    model.eval()

    def hear(batch: Sequence[int]) -> dict[int, DecodedUtterance]:
        states = encode(model, inputs.take(batch), inputs.depth, accelerator)
        heard = [DecodedUtterance()] * len(batch)
        if texts:
            heard = generate(
                model, base, states, [speech.utterances[row].language for row in batch], decoding, accelerator
            )
        if labels is not None:
            losses = _losses(model, base, states, [labels[row] for row in batch], accelerator)
            heard = [replace(one, loss=loss) for one, loss in zip(heard, losses, strict=True)]
        return dict(zip(batch, heard, strict=True))

    for batch in chunks(mine, decoding.batch_size):
        found |= halve_on_out_of_memory(hear, batch)
    if accelerator.num_processes > 1:
        found = {row: heard for part in gather_object([found]) for row, heard in part.items()}
    return found


def halve_on_out_of_memory(
    hear: Callable[[Sequence[int]], dict[int, DecodedUtterance]], batch: Sequence[int]
) -> dict[int, DecodedUtterance]:
    """Hear a batch; where memory runs out, one half of it after the other."""
    try:
        return hear(batch)
    except Exception as error:
        if len(batch) == 1 or not is_out_of_memory(error) or is_poisoned(error):
            raise
    # Behind the handler: the exception held what the batch had taken.
    half = len(batch) // 2
    return halve_on_out_of_memory(hear, batch[:half]) | halve_on_out_of_memory(hear, batch[half:])


def sort_by_length(speech: Speech, rows: Sequence[int]) -> list[int]:
    """Rows from the shortest clip to the longest, so that a batch ends at about the same token."""
    return sorted(rows, key=lambda row: (speech.utterances[row].seconds or 0.0, row))


def encode(model: nn.Module, inputs: Tensor, depth: int | None, accelerator: Accelerator) -> Tensor:
    """The encoder's output for one batch of log-mel features, or of states behind `depth` layers."""
    with torch.inference_mode(), accelerator.autocast(), start_at_layer(model, depth):
        states: Tensor = whisper_of(model).model.encoder(inputs.to(accelerator.device)).last_hidden_state
    return states


def generate(
    model: nn.Module, base: Base, states: Tensor, languages: list[str], decoding: Decoding, accelerator: Accelerator
) -> list[DecodedUtterance]:
    """What is decoded from the encoder's output (clips, positions, width) of one batch."""
    whisper = whisper_of(model)
    first = base.processor.tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    with torch.inference_mode(), accelerator.autocast():
        ids = whisper.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            logits_processor=LogitsProcessorList([NoTimestamps(first)]),
            language=languages if decoding.forced_language else None,
            task=decoding.task,
            max_new_tokens=decoding.max_new_tokens,
            num_beams=1,
            do_sample=False,
            cache_implementation="static" if decoding.static_cache else None,
        )
    tokenizer = base.processor.tokenizer
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    # generate() takes the last end of a text away, so that the longest of a batch has none.
    full = ids.shape[1] >= decoding.max_new_tokens
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    return [DecodedUtterance(text=text.strip(), cut=full and not end) for text, end in zip(texts, ended, strict=True)]


def _losses(
    model: nn.Module, base: Base, states: Tensor, labels: list[list[int]], accelerator: Accelerator
) -> list[float]:
    batch = labelled(states, labels, base.processor.tokenizer.pad_token_id, base.model.config.encoder_layers)
    with torch.inference_mode(), accelerator.autocast():
        losses: list[float] = utterance_losses(model, batch.to(accelerator.device)).tolist()
    return losses


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
    model.eval()
    for _ in range(passes + 1):
        clock = Clock(accelerator.device)
        clock.start()
        for batch in chunks(range(len(rows)), decoding.batch_size):
            mel = base.processor.feature_extractor(
                [clips[i] for i in batch], sampling_rate=SAMPLE_RATE, return_tensors="np"
            )
            languages = [speech.utterances[rows[i]].language for i in batch]
            inputs = torch.from_numpy(mel.input_features[:, :, : window_frames(base)])
            states = encode(model, inputs, None, accelerator)
            generate(model, base, states, languages, decoding, accelerator)
        clock.stop()
        timed.append(clock.seconds)
    return audio / statistics.median(timed[1:])


def transcript(speech: Speech, row: int, heard: DecodedUtterance) -> Transcript:
    """What was heard of an utterance, beside what was said."""
    utterance = speech.utterances[row]
    return Transcript(
        id=utterance.id,
        reference=utterance.text,
        hypothesis=heard.text or "",
        audio_seconds=utterance.seconds,
        speaker=utterance.speaker,
        condition=utterance.condition,
        dataset=utterance.dataset,
        cut=heard.cut,
    )
