"""Decoding and features of all clips in parallel, into a folder that an interrupted preparation goes on in."""

import errno
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from transformers import WhisperFeatureExtractor

from harness.data.audio import SAMPLE_RATE, Samples, UndecodableError, load
from harness.data.sources import Listing
from harness.data.store.entry import FEATURES, STAMPS
from harness.data.store.log_mel import log_mel
from harness.errors import UserError
from harness.records.files import write_json
from harness.spec.task import SPLITS, Task, Utterance

CHUNK = 64  # clips between two points from which an interrupted preparation goes on
JOURNAL = "progress.jsonl"
BAD = "cannot be decoded"  # the reason that counts for max_bad_fraction

Labels = Callable[[str, str], int]  # (text, language) -> number of label tokens
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """All that decides what the features are."""

    task: Task
    listing: Listing
    extractor: WhisperFeatureExtractor
    label_length: Labels
    limits: dict[str, Any]
    times: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one clip's features."""
        return 2 * int(self.extractor.feature_size) * int(self.extractor.nb_max_frames)


@dataclass(frozen=True)
class Prepared:
    """What became of the clips: kept ones with their seconds, digests of all that were read, and the rest."""

    kept: list[Utterance]
    digests: dict[str, str | None]
    excluded: list[dict[str, str]]


def build(job: Job, folder: Path, say: Say) -> Prepared:
    """Write the features of every usable clip to `folder`, in the order of the listing, going on where it stopped.

    Threads, not processes: decoding, resampling and the STFT leave Python's lock, and each thread computes with
    one BLAS thread, so that cores are not shared out twice.

    Raises:
        UserError: if the disk is full, or more files are broken than the task allows.
    """
    clips = job.listing.utterances
    done = _resume(job, folder)
    prepared = Prepared([], {}, [])
    for line in done:
        _add(prepared, line)
    check_bad(job.task, prepared.excluded, len(clips))
    remaining = clips[len(done) * CHUNK :]
    _check_space(job, folder, len(remaining))
    with _disk_full(folder), (folder / FEATURES).open("ab") as features, (folder / JOURNAL).open("ab") as journal:
        for line, mel in _computed(job, remaining):
            _append(features, mel.tobytes())
            _append(journal, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            _add(prepared, line)
            count = len(prepared.kept) + len(prepared.excluded)
            say(f"preparing {job.task.name}: {count:,} of {len(clips):,} clips")
            check_bad(job.task, prepared.excluded, len(clips))
    return prepared


def check_bad(task: Task, excluded: list[dict[str, str]], listed: int) -> None:
    """Stop with the list where more files are broken than the task allows."""
    bad = [item for item in excluded if item["reason"] == BAD]
    if len(bad) > task.max_bad_fraction * listed:
        shown = "".join(f"\n       {item['id']}: {item['detail']}" for item in bad[:50])
        more = f"\n       and {len(bad) - 50} more" if len(bad) > 50 else ""
        raise UserError(
            f"task {task.name}: {len(bad)} of {listed} files cannot be decoded, over max_bad_fraction "
            f"{task.max_bad_fraction:g}; mend or remove them, or raise it in the task:{shown}{more}"
        )


def _append(file: BinaryIO, content: bytes) -> None:
    """A chunk counts once its line is in the journal, so the features before it must be on the disk."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _add(prepared: Prepared, line: dict[str, Any]) -> None:
    prepared.kept.extend(Utterance.model_validate(u) for u in line["kept"])
    prepared.digests.update(line["digests"])
    prepared.excluded.extend(line["excluded"])


def _resume(job: Job, folder: Path) -> list[dict[str, Any]]:
    """The chunks that an interrupted preparation finished; what it left half-written is cut off."""
    stamps, journal = folder / STAMPS, folder / JOURNAL
    if stamps.is_file() and json.loads(stamps.read_text(encoding="utf-8")) != list(job.times):
        shutil.rmtree(folder)  # a recording was replaced meanwhile
    folder.mkdir(parents=True, exist_ok=True)
    write_json(stamps, list(job.times), indent=None)
    lines = []
    if journal.is_file():
        for line in journal.read_bytes().split(b"\n")[:-1]:
            lines.append(json.loads(line))
    rows = sum(len(line["kept"]) for line in lines)
    features = folder / FEATURES
    if lines and (not features.is_file() or features.stat().st_size < rows * job.row_bytes):
        lines, rows = [], 0
    features.touch()
    os.truncate(features, rows * job.row_bytes)
    journal.write_bytes(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
    return lines


def _check_space(job: Job, folder: Path, clips: int) -> None:
    needed, free = clips * job.row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features of {clips:,} clips take up to {needed / 1e9:.1f} GB, and {folder.parent} has "
            f"{free / 1e9:.1f} GB left; make room, or name another place with --cache-dir"
        )


@contextmanager
def _disk_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full: {folder.parent}; make room, or name another place with --cache-dir. What is "
            "prepared stays, and the same command goes on from there"
        ) from None


def _computed(job: Job, clips: list[Utterance]) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float16]]]:
    """Journal line and features of each chunk, in order; a few chunks ahead, so that memory stays bounded."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[tuple[dict[str, Any], npt.NDArray[np.float16]]]] = deque()
    try:
        for start in range(0, len(clips), CHUNK):
            chunk = clips[start : start + CHUNK]
            # The tokenizer is not safe in threads: labels are measured here.
            refusals = [_refusal(job, utterance) for utterance in chunk]
            waiting.append(pool.submit(_chunk, job, chunk, refusals))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _refusal(job: Job, utterance: Utterance) -> str:
    """Why a clip is left out before its audio is read; "" if it is not."""
    if utterance.split not in SPLITS:
        return f"of split {utterance.split}"
    if not utterance.text:
        return "empty text"
    if job.label_length(utterance.text, utterance.language) > job.limits["max_label_tokens"]:
        return "too many label tokens"
    return ""


def _chunk(job: Job, chunk: list[Utterance], refusals: list[str]) -> tuple[dict[str, Any], npt.NDArray[np.float16]]:
    kept, samples, digests, excluded = [], list[Samples](), dict[str, str | None](), []
    for utterance, refusal in zip(chunk, refusals, strict=True):
        reason, detail = refusal, ""
        if not reason:
            try:
                clip, digests[utterance.id] = load(job.listing.path(utterance), utterance.offset, utterance.duration)
            except UndecodableError as error:
                reason, detail, digests[utterance.id] = BAD, str(error), None
            else:
                seconds = len(clip) / SAMPLE_RATE
                reason = _duration_fault(job.limits, seconds)
                detail = f"{seconds:.2f} s"
        if reason:
            excluded.append({"id": utterance.id, "split": utterance.split, "reason": reason, "detail": detail})
        else:
            samples.append(clip)
            kept.append(utterance.model_copy(update={"seconds": round(seconds, 3)}).model_dump(exclude_defaults=True))
    mel = log_mel(job.extractor, samples)
    return {"kept": kept, "digests": digests, "excluded": excluded}, mel


def _duration_fault(limits: dict[str, Any], seconds: float) -> str:
    if seconds < limits["min_seconds"]:
        return f"shorter than {limits['min_seconds']:g} s"
    if seconds > limits["max_seconds"]:
        return f"longer than {limits['max_seconds']:g} s"
    return ""
