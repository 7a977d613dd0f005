"""Store an entry of the feature store atomically, and check it when it is opened."""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from harness.data.audio import UndecodableError
from harness.records.files import write_json
from harness.spec.task import Utterance

FEATURES = "features.f16"
DESCRIPTION = "entry.json"
STAMPS = "stamps.json"
BLOCK = 1 << 24

Stamp = tuple[int, int]  # a file's size and its time of modification in ns; (-1, -1) if it is missing


class InvalidEntryError(Exception):
    """The entry is missing, damaged, or of other audio."""


@dataclass(frozen=True)
class Entry:
    """A loaded entry.

    Attributes:
        features: Features of shape (clips, mel bins, frames), fp16, memory-mapped.
        utterances: The utterance of each row.
        long: The utterances of test_long, without features.
        report: The data report.
    """

    features: npt.NDArray[np.float16]
    utterances: list[Utterance]
    long: list[Utterance]
    report: dict[str, Any]


def file_stamp(path: Path) -> Stamp:
    """Return size and time of modification of a file."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def checksum(path: Path) -> str:
    """Return the xxh3 of a file's content."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def commit_entry(
    partial: Path,
    folder: Path,
    description: dict[str, Any],
    digests: dict[str, str | None],
    times: Sequence[int],
) -> None:
    """Turn a folder with complete features into an entry: describe it, then rename it.

    Args:
        partial: The folder with the features.
        folder: The folder of the entry; an old one is replaced.
        description: Task, shape, report and utterances.
        digests: Digests of the listed audio by id, also of excluded clips.
        times: Time of modification of each listed file, ns.
    """
    features = partial / FEATURES
    description = {**description, "checksum": checksum(features), "bytes": features.stat().st_size}
    write_json(partial / "digests.json", digests, indent=None)
    write_json(partial / STAMPS, {"features": file_stamp(features), "audio": list(times)}, indent=None)
    write_json(partial / DESCRIPTION, description, indent=None)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def open_entry(folder: Path, ids: Sequence[str], times: Sequence[int], digest_of: Callable[[str], str]) -> Entry:
    """Open an entry and check that it is complete and that the audio is unchanged.

    Files whose size and time have not changed since the last check are not read again, so opening takes milliseconds.
    Others, for example after copying the cache or the corpus to another machine, are compared by content once.

    Args:
        folder: The folder of the entry.
        ids: Ids of the listed utterances.
        times: Time of modification of each one's file, ns.
        digest_of: Returns the digest of an utterance's audio by id.

    Raises:
        InvalidEntryError: The entry cannot be used; the message says why.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        entry = _read_entry(folder, description)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidEntryError(f"{type(error).__name__}: {error}") from None
    now = {"features": list(file_stamp(folder / FEATURES)), "audio": list(times)}
    if now == stamps:
        return entry
    if now["features"] != stamps["features"] and checksum(folder / FEATURES) != description["checksum"]:
        raise InvalidEntryError("the features differ from those that were written")
    _check_audio(folder, ids, times, stamps["audio"], digest_of)
    write_json(folder / STAMPS, now, indent=None)
    return entry


def _read_entry(folder: Path, description: dict[str, Any]) -> Entry:
    shape = tuple(description["shape"])
    size = (folder / FEATURES).stat().st_size
    if size != description["bytes"] or size != 2 * int(np.prod(shape)):
        raise InvalidEntryError(f"the features have {size:,} bytes, not {description['bytes']:,}")
    features = np.memmap(folder / FEATURES, dtype=np.float16, mode="r", shape=shape)
    utterances = [Utterance.model_validate(u) for u in description["utterances"]]
    long = [Utterance.model_validate(u) for u in description["long"]]
    return Entry(features, utterances, long, description["report"])


def _check_audio(
    folder: Path, ids: Sequence[str], times: Sequence[int], old_times: Sequence[int], digest_of: Callable[[str], str]
) -> None:
    """Compare the digests of files whose time has changed."""
    if len(times) != len(old_times):
        raise InvalidEntryError("the list of recordings changed")
    stored: dict[str, str | None] = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
    changed = [name for name, new, old in zip(ids, times, old_times, strict=True) if new != old and name in stored]

    def same(name: str) -> bool:
        try:
            return stored.get(name) == digest_of(name)
        except UndecodableError:
            return stored.get(name) is None

    with ThreadPoolExecutor() as pool:
        for name, unchanged in zip(changed, pool.map(same, changed), strict=True):
            if not unchanged:
                raise InvalidEntryError(f"{name} differs from the recording that was prepared")
