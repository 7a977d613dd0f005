"""A task -> log-mel features in a memory-mapped cache that all trials, baselines and studies share."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from transformers import WhisperFeatureExtractor

from harness.data.audio import RESAMPLER, SAMPLE_RATE, Samples, decode, digest
from harness.data.sources import Listing, read
from harness.data.splits import assign, weighted
from harness.data.store.build import Job, Labels, Prepared, Say, build, check_bad
from harness.data.store.entry import CorruptError, Entry, commit, open_entry, stamp
from harness.data.store.report import make_report, measure_long
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.task import LONG, Task, Utterance

VERSION = 2  # of what is written to the cache: raise it when the content for the same input changes


@dataclass(frozen=True)
class Speech:
    """Prepared data: features of shape (clips, mel bins, frames), fp16, memory-mapped; one utterance a row."""

    features: npt.NDArray[np.float16]
    utterances: list[Utterance]
    report: dict[str, Any]
    task: Task
    listing: Listing
    entry: Path
    long: list[Utterance]
    portion: DataSelection = WHOLE

    def rows(self, split: str) -> list[int]:
        """The rows of one split, in the sources' order; those of train as often as their source's weight says.

        Of train it is the portion that is to be trained on.
        """
        if split != "train":
            return self._rows(split)
        rows = self._rows(split) + (self._rows("validation") if self.portion.with_validation else [])
        if self.portion.fraction == 1.0:
            return rows
        members = sorted(set(rows))
        order = np.random.default_rng([self.portion.seed, len(members)]).permutation(members)
        kept = set(order[: math.ceil(self.portion.fraction * len(members))].tolist())
        return [row for row in rows if row in kept]

    def train_seconds(self) -> float:
        """Seconds of speech to train on, each recording once."""
        return sum(self.utterances[row].seconds or 0.0 for row in set(self.rows("train")))

    def _rows(self, split: str) -> list[int]:
        chosen: list[int] = []
        for name, source in zip(self.task.source_names(), self.task.sources, strict=True):
            own = [row for row, u in enumerate(self.utterances) if u.split == split and u.dataset == name]
            if split == "train" and source.weight != 1:
                own = weighted(own, source.weight, self.task.split_seed, [u.id for u in self.utterances])
            chosen += own
        return chosen

    def path(self, utterance: Utterance) -> Path:
        """The file that an utterance lies in, on this machine."""
        return self.listing.path(utterance)

    def samples(self, utterance: Utterance) -> Samples:
        """An utterance's audio, decoded: float32, 16 kHz, mono."""
        return decode(self.path(utterance), utterance.offset, utterance.duration)

    def long_recordings(self) -> list[Utterance]:
        """The utterances of test_long, which have no features; `samples` decodes them."""
        return self.long


def prepare(
    task: Task,
    extractor: WhisperFeatureExtractor,
    label_length: Labels,
    max_label_tokens: int,
    cache: Path,
    vocabulary: str = "",
    say: Say = lambda text: None,
) -> Speech:
    """Features of every usable clip of a task, computed once; a second call only opens them.

    Processes that prepare the same data at once wait for the first one; an interrupted preparation goes on.

    Args:
        task: what to read, and what to leave out.
        extractor: the model's own; its settings decide the features.
        label_length: (text, language) -> tokens of the label.
        max_label_tokens: longer labels are left out.
        cache: the folder of all entries.
        vocabulary: a name for the tokenizer's vocabulary, which `label_length` depends on.
        say: told in a sentence how far the preparation is.

    Raises:
        UserError: whatever the user must mend in the task, its files or the disk.
    """
    cache.mkdir(parents=True, exist_ok=True)
    listing, notes, cuts = list_clips(task, cache)
    window = min(task.max_seconds, extractor.n_samples / SAMPLE_RATE)
    limits = {"min_seconds": task.min_seconds, "max_seconds": window, "max_label_tokens": max_label_tokens}
    short = Listing([u for u in listing.utterances if u.split != LONG], listing.folders)
    stamps = [stamp(short.path(u)) for u in short.utterances]
    job = Job(task, short, extractor, label_length, limits, tuple(time for _, time in stamps))
    sizes = [size for size, _ in stamps] + [stamp(listing.path(u))[0] for u in _long(listing.utterances)]
    what = [VERSION, RESAMPLER, limits, extractor.to_dict(), vocabulary, task.name, notes]
    what += [
        [u.model_dump(exclude_defaults=True) for u in listing.utterances],
        sizes,
    ]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache / "features" / key
    with _alone(folder, lambda: say(f"waiting for another process that prepares {task.name}")):
        try:
            return _open(job, folder, listing)
        except CorruptError as error:
            if folder.exists():
                say(f"preparing {task.name} anew: {error}")
        _write(job, folder, listing, notes, cuts, say)
        return _open(job, folder, listing)


@contextmanager
def _alone(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the entry's lock; the system frees it if the process dies."""
    folder.parent.mkdir(exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def list_clips(task: Task, cache: Path) -> tuple[Listing, list[str], list[dict[str, object]]]:
    """The task's utterances with their splits, notes on what was cut, and the cuts."""
    listing = read(task, cache)
    placed, notes, cuts = assign(task, listing.utterances)
    return Listing(placed, listing.folders), notes, cuts


def long_recordings(task: Task, cache: Path) -> list[tuple[Utterance, Path]]:
    """The utterances of test_long with their files, without preparing anything."""
    listing, _, _ = list_clips(task, cache)
    return [(u, listing.path(u)) for u in _long(listing.utterances)]


def _long(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [u for u in utterances if u.split == LONG]


def _open(job: Job, folder: Path, listing: Listing) -> Speech:
    by_id = {u.id: u for u in job.listing.utterances}

    def digest_of(name: str) -> str:
        utterance = by_id[name]
        return digest(job.listing.path(utterance), utterance.offset, utterance.duration)

    entry: Entry = open_entry(folder, list(by_id), job.times, digest_of)
    check_bad(job.task, entry.report["excluded_clips"], len(by_id))
    return Speech(entry.features, entry.utterances, entry.report, job.task, listing, folder, entry.long)


def _write(job: Job, folder: Path, listing: Listing, notes: list[str], cuts: list[dict[str, object]], say: Say) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    prepared: Prepared = build(job, partial, say)
    long, unreadable = measure_long(_long(listing.utterances), listing)
    prepared.excluded.extend(unreadable)
    report = make_report(job.task, prepared, long, notes, cuts, job.limits)
    shape = (len(prepared.kept), job.extractor.feature_size, job.extractor.nb_max_frames)
    about = {
        "task": job.task.name,
        "shape": shape,
        "report": report,
        "utterances": [u.model_dump(exclude_defaults=True) for u in prepared.kept],
        "long": [u.model_dump(exclude_defaults=True) for u in long],
    }
    shutil.rmtree(folder, ignore_errors=True)
    commit(partial, folder, about, prepared.digests, job.times)
