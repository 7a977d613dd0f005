"""Decode utterances greedily with a Whisper model, and compute their teacher-forced loss."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from harness.data.audio import SAMPLE_RATE
from harness.data.batches import chunks, make_batch
from harness.data.store.prepare import Speech
from harness.evaluation.generation import DecodedUtterance, DecodingSettings, decode_states, window_features
from harness.hardware.clock import Clock
from harness.hardware.memory import is_cuda_error, is_out_of_memory
from harness.model.base import Base
from harness.model.encoder_cache import EncoderStates, LogMelInputs
from harness.model.loss import utterance_losses
from harness.model.methods import whisper_of
from harness.model.split_encoder import start_at_layer
from harness.model.trial_settings import window_frames
from harness.spec.result import Transcript


@dataclass(frozen=True)
class Decoder:
    """Decode utterances of a task with one model.

    In a trial of several processes all of them must call these methods: they share the work, and each gets all
    results.

    Attributes:
        model: The model, with or without an adapter.
        base: The base model that it was made from, for its processor.
        speech: The prepared task.
        settings: How to decode.
        accelerator: Device, precision and processes.
        encoder_states: Cached encoder states to decode from, already filled; None: log-mel features.
    """

    model: nn.Module
    base: Base
    speech: Speech
    settings: DecodingSettings
    accelerator: Accelerator
    encoder_states: EncoderStates | None = None

    def transcribe(self, rows: Sequence[int]) -> list[Transcript]:
        """Return the transcripts of utterances, in the order of `rows`."""
        decoded = self.decode(rows)
        return [make_transcript(self.speech, row, decoded[row]) for row in rows]

    def decode(
        self, rows: Sequence[int], labels: Sequence[list[int]] | None = None, texts: bool = True
    ) -> dict[int, DecodedUtterance]:
        """Decode utterances and, if labels are given, compute their loss; the encoder runs once for both.

        Args:
            rows: The utterances, as row numbers of `speech`.
            labels: Label tokens of all utterances of `speech`; None computes no loss.
            texts: Whether to generate texts.

        Returns:
            The result of each row.
        """
        model, speech, accelerator = self.model, self.speech, self.accelerator
        inputs = self.encoder_states or LogMelInputs(speech, window_frames(self.base))
        ordered = sort_by_length(speech, rows) if self.settings.sorting else list(rows)
        own = ordered[accelerator.process_index :: accelerator.num_processes]
        results = dict[int, DecodedUtterance]()
        model.eval()

        def decode_batch(batch: Sequence[int]) -> dict[int, DecodedUtterance]:
            states = encode(model, inputs.take(batch), inputs.depth, accelerator)
            decoded = [DecodedUtterance()] * len(batch)
            if texts:
                decoded = self.generate(states, [speech.utterances[row].language for row in batch])
            if labels is not None:
                losses = self._losses(states, [labels[row] for row in batch])
                decoded = [replace(utterance, loss=loss) for utterance, loss in zip(decoded, losses, strict=True)]
            return dict(zip(batch, decoded, strict=True))

        for batch in chunks(own, self.settings.batch_size):
            results |= halve_on_out_of_memory(decode_batch, batch)
        if accelerator.num_processes > 1:
            results = {row: decoded for part in gather_object([results]) for row, decoded in part.items()}
        return results

    def generate(self, states: Tensor, languages: list[str]) -> list[DecodedUtterance]:
        """Generate the texts of one batch from the encoder's output (clips, positions, width)."""
        with self.accelerator.autocast():
            return decode_states(self.model, self.base, states, languages, self.settings)

    def _losses(self, states: Tensor, labels: list[list[int]]) -> list[float]:
        layers = self.base.model.config.encoder_layers
        batch = make_batch(states, labels, self.base.processor.tokenizer.pad_token_id, layers)
        with torch.inference_mode(), self.accelerator.autocast():
            losses: list[float] = utterance_losses(self.model, batch.to(self.accelerator.device)).tolist()
        return losses

    def measure_rtfx(self, rows: Sequence[int], clips: Sequence[npt.NDArray[np.float32]], passes: int) -> float:
        """Measure RTFx: audio seconds per second of feature extraction, generation and detokenization.

        Args:
            rows: The utterances.
            clips: Their samples.
            passes: Timed passes after one warm-up pass. The median counts.
        """
        audio = sum(len(clip) for clip in clips) / SAMPLE_RATE
        durations = []
        self.model.eval()
        for _ in range(passes + 1):
            clock = Clock(self.accelerator.device)
            clock.start()
            for batch in chunks(range(len(rows)), self.settings.batch_size):
                languages = [self.speech.utterances[rows[i]].language for i in batch]
                inputs = window_features(self.base, [clips[i] for i in batch])
                self.generate(encode(self.model, inputs, None, self.accelerator), languages)
            clock.stop()
            durations.append(clock.seconds)
        return audio / statistics.median(durations[1:])


def halve_on_out_of_memory(
    decode_batch: Callable[[Sequence[int]], dict[int, DecodedUtterance]], batch: Sequence[int]
) -> dict[int, DecodedUtterance]:
    """Decode a batch; if memory runs out, decode its halves one after the other.

    Raises:
        Exception: What `decode_batch` raises for a single clip, or after a CUDA error.
    """
    try:
        return decode_batch(batch)
    except Exception as error:
        if len(batch) == 1 or not is_out_of_memory(error) or is_cuda_error(error):
            raise
    # Outside the handler: the exception keeps the batch's tensors alive.
    half = len(batch) // 2
    return halve_on_out_of_memory(decode_batch, batch[:half]) | halve_on_out_of_memory(decode_batch, batch[half:])


def sort_by_length(speech: Speech, rows: Sequence[int]) -> list[int]:
    """Return rows from the shortest clip to the longest."""
    return sorted(rows, key=lambda row: (speech.utterances[row].seconds or 0.0, row))


def encode(model: nn.Module, inputs: Tensor, depth: int | None, accelerator: Accelerator) -> Tensor:
    """Return the encoder's output (clips, positions, width) for one batch.

    Args:
        model: The model.
        inputs: Log-mel features, or encoder states after `depth` layers.
        depth: The number of layers already applied; None for features.
        accelerator: Device and precision.
    """
    with torch.inference_mode(), accelerator.autocast(), start_at_layer(model, depth):
        states: Tensor = whisper_of(model).model.encoder(inputs.to(accelerator.device)).last_hidden_state
    return states


def make_transcript(speech: Speech, row: int, decoded: DecodedUtterance) -> Transcript:
    """Combine the reference and properties of an utterance with its hypothesis."""
    utterance = speech.utterances[row]
    return Transcript(
        id=utterance.id,
        reference=utterance.text,
        hypothesis=decoded.text or "",
        audio_seconds=utterance.seconds,
        speaker=utterance.speaker,
        condition=utterance.condition,
        dataset=utterance.dataset,
        cut=decoded.cut,
    )
