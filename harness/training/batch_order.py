"""Prepare the micro-batches of each optimizer step, in an order that depends on the seed alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from harness import catalog
from harness.data.augment import augmented_features
from harness.data.batches import (
    IGNORED,
    Batch,
    Step,
    batched,
    chunks,
    example_order,
    length_order,
    make_batch,
    prefetch,
    with_epochs,
)
from harness.data.store.waveforms import open_waveforms
from harness.model.encoder_cache import EncoderStates, LogMelInputs
from harness.model.trial_settings import window_frames
from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext

InputReader = Callable[[Sequence[int], Sequence[int]], Tensor]  # (rows, epoch of each) -> model inputs


def training_steps(
    context: TrainerContext,
    config: TrialConfig,
    budget: Budget,
    seed: int,
    *,
    rank: int = 0,
    processes: int = 1,
    skip: int = 0,
    longest_first: bool = False,
    encoder_states: EncoderStates | None = None,
) -> Iterator[Step]:
    """Yield the optimizer steps of a trial.

    Args:
        context: The trainer's context.
        config: The configuration.
        budget: How long to train; a budget in seconds yields steps without end.
        seed: Determines the order of examples and their augmentation.
        rank: The process to compute the steps for; each effective batch is divided among the processes.
        processes: The number of processes.
        skip: How many steps to leave out at the beginning, for a resumed trial.
        longest_first: Train on the longest transcripts, to measure peak memory.
        encoder_states: Cached states to use instead of features.
    """
    batch_size = config.effective_batch_size * processes
    examples: Iterable[int] = _examples(context, budget.total_examples(batch_size), seed, longest_first)
    if config.group_by_length:
        examples = length_order(examples, [len(ids) for ids in context.labels], batch_size, seed)
    step_examples = itertools.islice(batched(with_epochs(examples), batch_size), skip, None)
    if encoder_states:
        read, depth = _cached_state_reader(encoder_states), encoder_states.depth
    else:
        read, depth = _feature_reader(context, config, seed), None
    steps = _build_steps(context, config, step_examples, read, depth, rank, processes)
    # The thread that prefetches may draw from NumPy's global generator, which Whisper's own masking uses.
    masked = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    yield from steps if context.base.device.type == "cpu" or masked else prefetch(steps)


def rows_used(context: TrainerContext, config: TrialConfig, order: Train, processes: int) -> list[int]:
    """Return the training rows that a trial will use; all of them for a budget in seconds."""
    rows, examples = context.speech.rows("train"), order.budget.total_examples(config.effective_batch_size * processes)
    if examples is None or examples >= len(rows):
        return rows
    return sorted(set(_examples(context, examples, order.seed, order.longest_first)))


def _examples(context: TrainerContext, count: int | None, seed: int, longest_first: bool) -> Iterator[int]:
    rows = context.speech.rows("train")
    examples: Iterable[int] = example_order(lambda epoch: context.speech.epoch_rows(epoch, seed), seed)
    if longest_first:
        examples = itertools.cycle(sorted(rows, key=lambda row: -len(context.labels[row])))
    return itertools.islice(examples, count)


def _build_steps(
    context: TrainerContext,
    config: TrialConfig,
    step_examples: Iterable[list[tuple[int, int]]],
    read: InputReader,
    depth: int | None,
    rank: int,
    processes: int,
) -> Iterator[Step]:
    cuda = context.base.device.type == "cuda"

    def build_batch(examples: Sequence[tuple[int, int]]) -> Batch:
        rows, epochs = zip(*examples, strict=True)
        return make_batch(read(rows, epochs), [context.labels[row] for row in rows], context.pad_token, depth)

    for examples in step_examples:
        own = examples[rank::processes]
        parts = chunks(range(len(own)), config.per_device_train_batch_size)
        micro_batches = [build_batch([own[index] for index in part]) for part in parts]
        micro_batches = micro_batches or [_without_loss(build_batch(examples[:1]))]
        tokens = sum(len(context.labels[row]) - 1 for row, _ in examples)
        yield Step([batch.pinned() if cuda else batch for batch in micro_batches], len(examples), tokens)


def _without_loss(batch: Batch) -> Batch:
    """Return a batch that adds nothing to the loss, for a process without examples in a shortened last step."""
    return replace(batch, labels=torch.full_like(batch.labels, IGNORED))


def _feature_reader(context: TrainerContext, config: TrialConfig, seed: int) -> InputReader:
    """Return a function that reads features, augmented if the configuration asks for it."""
    speech, extractor, frames = context.speech, context.base.processor.feature_extractor, window_frames(context.base)
    if config.augmentation is None:
        mel = LogMelInputs(speech, frames)
        return lambda rows, _: mel.take(rows)
    augmentation = catalog.augmentation(config.augmentation)
    waveforms = open_waveforms(speech) if augmentation.on_waveform else None

    def read(rows: Sequence[int], epochs: Sequence[int]) -> Tensor:
        features = augmented_features(speech, waveforms, extractor, augmentation, rows, epochs, seed, frames)
        return torch.from_numpy(np.asarray(features, dtype=np.float32))

    return read


def _cached_state_reader(encoder_states: EncoderStates) -> InputReader:
    return lambda rows, _: encoder_states.take(rows)
