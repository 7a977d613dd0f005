"""Prepare a task: log-mel features in a memory-mapped store that all trials, baselines and studies share."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from harness.data.audio import RESAMPLER, SAMPLE_RATE, Samples, audio_digest, decode
from harness.data.languages import with_own_languages
from harness.data.sources import Listing, read_sources
from harness.data.splits import assign_splits, repeat_by_weight
from harness.data.store.build import (
    LabelLength,
    Preparation,
    PreparedClips,
    Progress,
    build_features,
    check_undecodable,
)
from harness.data.store.entry import Entry, InvalidEntryError, commit_entry, file_stamp, open_entry
from harness.data.store.report import make_report, measure_long_recordings, with_weights
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.task import LONG, Task, Utterance

VERSION = 2  # of the entries: raise it when their content for the same input changes


@dataclass(frozen=True)
class Speech:
    """A prepared task.

    Attributes:
        features: Features of shape (clips, mel bins, frames), fp16, memory-mapped.
        utterances: The utterance of each row.
        report: The data report.
        task: The task.
        listing: All listed utterances, and the folders of their files.
        entry: The folder in the feature store.
        long: The utterances of test_long, without features.
        portion: Which part of train to use.
    """

    features: npt.NDArray[np.float16]
    utterances: list[Utterance]
    report: dict[str, Any]
    task: Task
    listing: Listing
    entry: Path
    long: list[Utterance]
    portion: DataSelection = WHOLE

    def rows(self, split: str) -> list[int]:
        """Return the rows of a split, in the order of the sources; those of train are limited to `portion`."""
        return [row for rows in self._rows_by_source(split) for row in rows]

    def epoch_rows(self, epoch: int, seed: int) -> list[int]:
        """Return the training rows of an epoch: those of train, repeated by their source's weight.

        Args:
            epoch: The epoch, from 0.
            seed: The seed by which the fraction of a weight is drawn, anew for each epoch.
        """
        by_source = self._rows_by_source("train")
        weights = [source.weight for source in self.task.sources]
        weights += [1.0] * (len(by_source) - len(weights))  # of validation
        parts = zip(by_source, weights, strict=True)
        return [row for rows, weight in parts for row in repeat_by_weight(rows, weight, epoch, seed)]

    def train_seconds(self) -> float:
        """Return the seconds of training speech, each recording counted once."""
        return sum(self.utterances[row].seconds or 0.0 for row in self.rows("train"))

    def _rows_by_source(self, split: str) -> list[list[int]]:
        """Return the rows of each source; if `portion` adds validation to train, its rows come as further lists."""
        splits = ["train", "validation"] if split == "train" and self.portion.with_validation else [split]
        by_source = [
            [row for row, u in enumerate(self.utterances) if u.split == part and u.dataset == name]
            for part in splits
            for name in self.task.source_names()
        ]
        if split != "train" or self.portion.fraction == 1.0:
            return by_source
        members = sorted(row for rows in by_source for row in rows)
        order = np.random.default_rng([self.portion.seed, len(members)]).permutation(members)
        chosen = set(order[: math.ceil(self.portion.fraction * len(members))].tolist())
        return [[row for row in rows if row in chosen] for rows in by_source]

    def path(self, utterance: Utterance) -> Path:
        """Return the path of an utterance's file on this machine."""
        return self.listing.path(utterance)

    def samples(self, utterance: Utterance) -> Samples:
        """Decode an utterance: float32, 16 kHz, mono."""
        return decode(self.path(utterance), utterance.offset, utterance.duration)

    def long_recordings(self) -> list[Utterance]:
        """Return the utterances of test_long, which have no features; `samples` decodes them."""
        return self.long


def prepare(
    task: Task,
    extractor: WhisperFeatureExtractor,
    label_length: LabelLength,
    max_label_tokens: int,
    cache: Path,
    vocabulary: str = "",
    progress: Progress = lambda text: None,
    languages: Collection[str] = LANGUAGES.keys(),
) -> Speech:
    """Compute the features of every usable clip of a task, or open them if that has been done.

    If several processes prepare the same data, one does and the others wait. An interrupted preparation is resumed.

    Args:
        task: The sources, and which clips to exclude.
        extractor: The model's feature extractor; its settings determine the features.
        label_length: Returns the number of label tokens of (text, language).
        max_label_tokens: Clips with longer labels are excluded.
        cache: The cache folder.
        vocabulary: Identifies the tokenizer's vocabulary, which `label_length` depends on.
        progress: Called with a sentence about the progress.
        languages: The languages that the model has a token for.

    Raises:
        UserError: The task, its files or the disk need the user's attention.
    """
    cache.mkdir(parents=True, exist_ok=True)
    listing, notes, cuts = list_clips(task, cache)
    listing = Listing(with_own_languages(task, listing.utterances, languages), listing.folders)
    window = min(task.max_seconds, extractor.n_samples / SAMPLE_RATE)
    limits = {"min_seconds": task.min_seconds, "max_seconds": window, "max_label_tokens": max_label_tokens}
    short = Listing([u for u in listing.utterances if u.split != LONG], listing.folders)
    stamps = [file_stamp(short.path(u)) for u in short.utterances]
    times = tuple(time for _, time in stamps)
    preparation = Preparation(task, short, extractor, label_length, limits, times)
    sizes = [size for size, _ in stamps] + [file_stamp(listing.path(u))[0] for u in _long(listing.utterances)]
    identity = [VERSION, RESAMPLER, limits, extractor.to_dict(), vocabulary, task.name, notes]
    identity += [
        [u.model_dump(exclude_defaults=True) for u in listing.utterances],
        sizes,
    ]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache / "features" / key
    with _entry_lock(folder, lambda: progress(f"waiting for another process that prepares {task.name}")):
        try:
            return _open_speech(preparation, folder, listing)
        except InvalidEntryError as error:
            if folder.exists():
                progress(f"preparing {task.name} again: {error}")
        _write_entry(preparation, folder, listing, notes, cuts, progress)
        return _open_speech(preparation, folder, listing)


@contextmanager
def _entry_lock(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the entry's lock; the operating system releases it if the process dies."""
    folder.parent.mkdir(exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def list_clips(task: Task, cache: Path) -> tuple[Listing, list[str], list[dict[str, object]]]:
    """Return the task's utterances with their splits, and the notes and cuts of `assign_splits`."""
    listing = read_sources(task, cache)
    assigned, notes, cuts = assign_splits(task, listing.utterances)
    return Listing(assigned, listing.folders), notes, cuts


def long_recordings(task: Task, cache: Path) -> list[tuple[Utterance, Path]]:
    """Return the utterances of test_long with their files, without preparing the task."""
    listing, _, _ = list_clips(task, cache)
    return [(u, listing.path(u)) for u in _long(listing.utterances)]


def _long(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [u for u in utterances if u.split == LONG]


def _open_speech(preparation: Preparation, folder: Path, listing: Listing) -> Speech:
    by_id = {u.id: u for u in preparation.listing.utterances}

    def digest_of(name: str) -> str:
        utterance = by_id[name]
        return audio_digest(preparation.listing.path(utterance), utterance.offset, utterance.duration)

    entry: Entry = open_entry(folder, list(by_id), preparation.times, digest_of)
    check_undecodable(preparation.task, entry.report["excluded_clips"], len(by_id))
    report = with_weights(entry.report, preparation.task)
    return Speech(entry.features, entry.utterances, report, preparation.task, listing, folder, entry.long)


def _write_entry(
    preparation: Preparation,
    folder: Path,
    listing: Listing,
    notes: list[str],
    cuts: list[dict[str, object]],
    progress: Progress,
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    task, extractor = preparation.task, preparation.extractor
    prepared: PreparedClips = build_features(preparation, partial, progress)
    long, undecodable = measure_long_recordings(_long(listing.utterances), listing)
    prepared.excluded.extend(undecodable)
    report = make_report(task, prepared, long, notes, cuts, preparation.limits)
    shape = (len(prepared.kept), extractor.feature_size, extractor.nb_max_frames)
    description = {
        "task": task.name,
        "shape": shape,
        "report": report,
        "utterances": [u.model_dump(exclude_defaults=True) for u in prepared.kept],
        "long": [u.model_dump(exclude_defaults=True) for u in long],
    }
    shutil.rmtree(folder, ignore_errors=True)
    commit_entry(partial, folder, description, prepared.digests, preparation.times)
