"""What training sees: the micro-batches of each optimizer step, in an order that depends on the seed alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from harness import catalog
from harness.bench import Bench
from harness.data.augment import augmented_features
from harness.data.batches import (
    IGNORED,
    Batch,
    Step,
    batched,
    chunks,
    collate,
    example_order,
    length_order,
    occurrences,
    prefetched,
)
from harness.data.waveforms import open_waveforms
from harness.model.regularize import window_frames
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig

Heard = Callable[[Sequence[int], Sequence[int]], npt.NDArray[np.float16]]


def feed(
    bench: Bench,
    config: TrialConfig,
    budget: Budget,
    seed: int,
    *,
    rank: int = 0,
    processes: int = 1,
    skip: int = 0,
    longest_first: bool = False,
) -> Iterator[Step]:
    """The optimizer steps of a trial, as process `rank` of several computes them; the first `skip` are left out.

    Each effective batch is dealt out to the processes. A budget in seconds has no end here.
    """
    batch_size = config.effective_batch_size * processes
    rows = bench.speech.rows("train")
    examples: Iterable[int] = example_order(rows, seed)
    if longest_first:
        examples = itertools.cycle(sorted(rows, key=lambda row: -len(bench.labels[row])))
    examples = itertools.islice(examples, budget.examples_in_all(batch_size))
    if config.group_by_length:
        examples = length_order(examples, [len(ids) for ids in bench.labels], batch_size, seed)
    drawn = itertools.islice(batched(occurrences(examples), batch_size), skip, None)
    made = _made(bench, config, drawn, _heard(bench, config, seed), rank, processes)
    # The thread that prepares ahead may draw from NumPy's global generator, as Whisper's own masking does.
    masked = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    yield from made if bench.base.device.type == "cpu" or masked else prefetched(made)


def _made(
    bench: Bench,
    config: TrialConfig,
    drawn: Iterable[list[tuple[int, int]]],
    hear: Heard,
    rank: int,
    processes: int,
) -> Iterator[Step]:
    cuda, frames = bench.base.device.type == "cuda", window_frames(bench.base)

    def batch(members: Sequence[tuple[int, int]]) -> Batch:
        rows, epochs = zip(*members, strict=True)
        labels = [bench.labels[row] for row in rows]
        return collate(hear(rows, epochs), labels, range(len(rows)), bench.pad, frames)

    for step in drawn:
        mine = step[rank::processes]
        sizes = chunks(range(len(mine)), config.per_device_train_batch_size)
        micro_batches = [batch([mine[place] for place in places]) for places in sizes] or [_silent(batch(step[:1]))]
        tokens = sum(len(bench.labels[row]) - 1 for row, _ in step)
        yield Step([b.pinned() if cuda else b for b in micro_batches], len(step), tokens)


def _silent(batch: Batch) -> Batch:
    """A batch that adds nothing to the loss, for a process that a cut last step leaves without examples."""
    return replace(batch, labels=torch.full_like(batch.labels, IGNORED))


def _heard(bench: Bench, config: TrialConfig, seed: int) -> Heard:
    """What training hears: (rows, how often each was heard before) -> features, augmented where that is asked for."""
    speech, extractor = bench.speech, bench.base.processor.feature_extractor
    if config.augmentation is None:
        return lambda rows, _: np.asarray(speech.features[np.asarray(rows)])
    what = catalog.augmentation(config.augmentation)
    waveforms = open_waveforms(speech) if what.on_waveform else None
    return lambda rows, epochs: augmented_features(speech, waveforms, extractor, what, rows, epochs, seed)
