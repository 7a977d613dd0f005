"""Decode all clips of a task and compute their features, in parallel and resumably."""

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

from harness.data.audio import SAMPLE_RATE, Samples, UndecodableError, decode_with_digest
from harness.data.sources import Listing
from harness.data.store.entry import FEATURES, STAMPS
from harness.data.store.log_mel import log_mel
from harness.errors import UserError
from harness.records.files import write_json
from harness.spec.task import SPLITS, Task, Utterance

CHUNK = 64  # clips between two points at which preparation can be resumed
JOURNAL = "progress.jsonl"
UNDECODABLE = "cannot be decoded"  # the reason for exclusion that max_bad_fraction limits

LabelLength = Callable[[str, str], int]  # (text, language) -> number of label tokens
Progress = Callable[[str], None]  # takes a sentence for the user


@dataclass(frozen=True)
class Preparation:
    """The input that determines the features.

    Attributes:
        task: The task.
        listing: The clips with features, which excludes test_long.
        extractor: The model's feature extractor.
        label_length: Number of label tokens of a text.
        limits: min_seconds, max_seconds and max_label_tokens.
        times: Time of modification of each clip's file, ns.
    """

    task: Task
    listing: Listing
    extractor: WhisperFeatureExtractor
    label_length: LabelLength
    limits: dict[str, Any]
    times: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one clip's features."""
        return 2 * int(self.extractor.feature_size) * int(self.extractor.nb_max_frames)


@dataclass(frozen=True)
class PreparedClips:
    """The result of preparing clips.

    Attributes:
        kept: Utterances with features, with their seconds.
        digests: Digest of the audio of each clip that was read, by id; None if it cannot be decoded.
        excluded: Id, split, reason and detail of the other clips.
    """

    kept: list[Utterance]
    digests: dict[str, str | None]
    excluded: list[dict[str, str]]


def build_features(preparation: Preparation, folder: Path, progress: Progress) -> PreparedClips:
    """Write the features of every usable clip to `folder`, in the order of the listing; resume if interrupted.

    Threads are enough: decoding, resampling and the STFT release Python's lock. Each thread uses one BLAS thread, so
    that there are not more threads than cores.

    Raises:
        UserError: The disk is full, or more files are undecodable than the task allows.
    """
    clips = preparation.listing.utterances
    done = _resume(preparation, folder)
    prepared = PreparedClips([], {}, [])
    for line in done:
        _add_chunk(prepared, line)
    check_undecodable(preparation.task, prepared.excluded, len(clips))
    remaining = clips[len(done) * CHUNK :]
    _check_space(preparation, folder, len(remaining))
    with (
        _report_disk_full(folder),
        (folder / FEATURES).open("ab") as features,
        (folder / JOURNAL).open("ab") as journal,
    ):
        for line, mel in _compute_chunks(preparation, remaining):
            _append(features, mel.tobytes())
            _append(journal, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            _add_chunk(prepared, line)
            count = len(prepared.kept) + len(prepared.excluded)
            progress(f"preparing {preparation.task.name}: {count:,} of {len(clips):,} clips")
            check_undecodable(preparation.task, prepared.excluded, len(clips))
    return prepared


def check_undecodable(task: Task, excluded: list[dict[str, str]], listed: int) -> None:
    """Check the number of undecodable files.

    Args:
        task: The task, with its `max_bad_fraction`.
        excluded: The excluded clips.
        listed: The number of listed clips.

    Raises:
        UserError: There are more than the task allows; the message lists the first 50.
    """
    bad = [item for item in excluded if item["reason"] == UNDECODABLE]
    if len(bad) > task.max_bad_fraction * listed:
        lines = "".join(f"\n       {item['id']}: {item['detail']}" for item in bad[:50])
        more = f"\n       and {len(bad) - 50} more" if len(bad) > 50 else ""
        raise UserError(
            f"task {task.name}: {len(bad)} of {listed} files cannot be decoded, over max_bad_fraction "
            f"{task.max_bad_fraction:g}; repair or remove them, or raise it in the task:{lines}{more}"
        )


def _append(file: BinaryIO, content: bytes) -> None:
    """Append and sync: a chunk's features must be on the disk before its journal line, which makes it count."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _add_chunk(prepared: PreparedClips, line: dict[str, Any]) -> None:
    prepared.kept.extend(Utterance.model_validate(u) for u in line["kept"])
    prepared.digests.update(line["digests"])
    prepared.excluded.extend(line["excluded"])


def _resume(preparation: Preparation, folder: Path) -> list[dict[str, Any]]:
    """Return the journal lines of the finished chunks; remove what an interrupted preparation wrote after them."""
    stamps, journal = folder / STAMPS, folder / JOURNAL
    if stamps.is_file() and json.loads(stamps.read_text(encoding="utf-8")) != list(preparation.times):
        shutil.rmtree(folder)  # a recording was replaced in between
    folder.mkdir(parents=True, exist_ok=True)
    write_json(stamps, list(preparation.times), indent=None)
    lines = []
    if journal.is_file():
        for line in journal.read_bytes().split(b"\n")[:-1]:
            lines.append(json.loads(line))
    rows = sum(len(line["kept"]) for line in lines)
    features = folder / FEATURES
    if lines and (not features.is_file() or features.stat().st_size < rows * preparation.row_bytes):
        lines, rows = [], 0
    features.touch()
    os.truncate(features, rows * preparation.row_bytes)
    journal.write_bytes(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
    return lines


def _check_space(preparation: Preparation, folder: Path, clips: int) -> None:
    needed, free = clips * preparation.row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features of {clips:,} clips take up to {needed / 1e9:.1f} GB, and {folder.parent} has "
            f"{free / 1e9:.1f} GB left; free some space, or name another folder with --cache-dir"
        )


@contextmanager
def _report_disk_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full: {folder.parent}; free some space, or name another folder with --cache-dir. What is "
            "prepared is kept: run the same command again to resume"
        ) from None


def _compute_chunks(
    preparation: Preparation, clips: list[Utterance]
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float16]]]:
    """Yield journal line and features of each chunk, in order; only a few chunks ahead, so that memory is bounded."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[tuple[dict[str, Any], npt.NDArray[np.float16]]]] = deque()
    try:
        for start in range(0, len(clips), CHUNK):
            chunk = clips[start : start + CHUNK]
            # The tokenizer is not thread-safe, so labels are measured here.
            reasons = [_exclusion_reason(preparation, utterance) for utterance in chunk]
            waiting.append(pool.submit(_compute_chunk, preparation, chunk, reasons))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _exclusion_reason(preparation: Preparation, utterance: Utterance) -> str:
    """Return why a clip is excluded before its audio is read; "" if it is not."""
    if utterance.split not in SPLITS:
        return f"of split {utterance.split}"
    if not utterance.text:
        return "empty text"
    if preparation.label_length(utterance.text, utterance.language) > preparation.limits["max_label_tokens"]:
        return "too many label tokens"
    return ""


def _compute_chunk(
    preparation: Preparation, chunk: list[Utterance], reasons: list[str]
) -> tuple[dict[str, Any], npt.NDArray[np.float16]]:
    kept, samples, digests, excluded = [], list[Samples](), dict[str, str | None](), []
    for utterance, reason in zip(chunk, reasons, strict=True):
        detail, path = "", preparation.listing.path(utterance)
        if not reason:
            try:
                clip, digests[utterance.id] = decode_with_digest(path, utterance.offset, utterance.duration)
            except UndecodableError as error:
                reason, detail, digests[utterance.id] = UNDECODABLE, str(error), None
            else:
                seconds = len(clip) / SAMPLE_RATE
                reason = _duration_reason(preparation.limits, seconds)
                detail = f"{seconds:.2f} s"
        if reason:
            excluded.append({"id": utterance.id, "split": utterance.split, "reason": reason, "detail": detail})
        else:
            samples.append(clip)
            kept.append(utterance.model_copy(update={"seconds": round(seconds, 3)}).model_dump(exclude_defaults=True))
    mel = log_mel(preparation.extractor, samples)
    return {"kept": kept, "digests": digests, "excluded": excluded}, mel


def _duration_reason(limits: dict[str, Any], seconds: float) -> str:
    """Return why a clip of this duration is excluded; "" if it is not."""
    if seconds < limits["min_seconds"]:
        return f"shorter than {limits['min_seconds']:g} s"
    if seconds > limits["max_seconds"]:
        return f"longer than {limits['max_seconds']:g} s"
    return ""
