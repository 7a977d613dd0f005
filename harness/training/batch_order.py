"""What training sees: the micro-batches of each optimizer step, in an order that depends on the seed alone."""

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
    labelled,
    length_order,
    occurrences,
    prefetched,
)
from harness.data.store.waveforms import open_waveforms
from harness.model.encoder_cache import EncoderStates, LogMelInputs
from harness.model.trial_settings import window_frames
from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext

FeatureReader = Callable[[Sequence[int], Sequence[int]], Tensor]


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
    """The optimizer steps of a trial, as process `rank` of several computes them; the first `skip` are left out.

    Each effective batch is dealt out to the processes. A budget in seconds has no end here. With a `prefix` the
    batches hold the states that it has, not features.
    """
    batch_size = config.effective_batch_size * processes
    examples: Iterable[int] = _examples(context, budget.examples_in_all(batch_size), seed, longest_first)
    if config.group_by_length:
        examples = length_order(examples, [len(ids) for ids in context.labels], batch_size, seed)
    drawn = itertools.islice(batched(occurrences(examples), batch_size), skip, None)
    depth, hear = (
        (encoder_states.depth, _kept(encoder_states)) if encoder_states else (None, _heard(context, config, seed))
    )
    made = _made(context, config, drawn, hear, depth, rank, processes)
    # The thread that prepares ahead may draw from NumPy's global generator, as Whisper's own masking does.
    masked = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    yield from made if context.base.device.type == "cpu" or masked else prefetched(made)


def rows_used(context: TrainerContext, config: TrialConfig, order: Train, processes: int) -> list[int]:
    """The training rows that an order's trial will meet, in as far as that is known: all for a budget in seconds."""
    rows, examples = context.speech.rows("train"), order.budget.examples_in_all(config.effective_batch_size * processes)
    if examples is None or examples >= len(rows):
        return rows
    return sorted(set(_examples(context, examples, order.seed, order.longest_first)))


def _examples(context: TrainerContext, count: int | None, seed: int, longest_first: bool) -> Iterator[int]:
    rows = context.speech.rows("train")
    examples: Iterable[int] = example_order(rows, seed)
    if longest_first:
        examples = itertools.cycle(sorted(rows, key=lambda row: -len(context.labels[row])))
    return itertools.islice(examples, count)


def _made(
    context: TrainerContext,
    config: TrialConfig,
    drawn: Iterable[list[tuple[int, int]]],
    hear: FeatureReader,
    depth: int | None,
    rank: int,
    processes: int,
) -> Iterator[Step]:
    cuda = context.base.device.type == "cuda"

    def batch(members: Sequence[tuple[int, int]]) -> Batch:
        rows, epochs = zip(*members, strict=True)
        return labelled(hear(rows, epochs), [context.labels[row] for row in rows], context.pad, depth)

    for step in drawn:
        mine = step[rank::processes]
        sizes = chunks(range(len(mine)), config.per_device_train_batch_size)
        micro_batches = [batch([mine[place] for place in places]) for places in sizes] or [_silent(batch(step[:1]))]
        tokens = sum(len(context.labels[row]) - 1 for row, _ in step)
        yield Step([b.pinned() if cuda else b for b in micro_batches], len(step), tokens)


def _silent(batch: Batch) -> Batch:
    """A batch that adds nothing to the loss, for a process that a cut last step leaves without examples."""
    return replace(batch, labels=torch.full_like(batch.labels, IGNORED))


def _heard(context: TrainerContext, config: TrialConfig, seed: int) -> FeatureReader:
    """What training hears: (rows, how often each was heard before) -> features, augmented where that is asked for."""
    speech, extractor, frames = context.speech, context.base.processor.feature_extractor, window_frames(context.base)
    if config.augmentation is None:
        mel = LogMelInputs(speech, frames)
        return lambda rows, _: mel.take(rows)
    what = catalog.augmentation(config.augmentation)
    waveforms = open_waveforms(speech) if what.on_waveform else None

    def hear(rows: Sequence[int], epochs: Sequence[int]) -> Tensor:
        changed = augmented_features(speech, waveforms, extractor, what, rows, epochs, seed)
        return torch.from_numpy(np.asarray(changed[:, :, :frames], dtype=np.float32))

    return hear


def _kept(encoder_states: EncoderStates) -> FeatureReader:
    return lambda rows, _: encoder_states.take(rows)
