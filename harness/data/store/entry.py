"""An entry of the feature cache on disk: whole or absent, checked when it is opened."""

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
ABOUT = "entry.json"
STAMPS = "stamps.json"
BLOCK = 1 << 24

Stamp = tuple[int, int]  # a file's size and its time of modification in ns; (-1, -1) if it is not there


class CorruptError(Exception):
    """The entry is damaged, or no longer of the audio that is there."""


@dataclass(frozen=True)
class Entry:
    """What an entry holds; `digests` are of the listed audio by utterance id, also of what was left out."""

    features: npt.NDArray[np.float16]
    utterances: list[Utterance]
    long: list[Utterance]
    report: dict[str, Any]


def stamp(path: Path) -> Stamp:
    """Size and time of a file."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def checksum(path: Path) -> str:
    """xxh3 of a file's content."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def commit(
    partial: Path,
    folder: Path,
    about: dict[str, Any],
    digests: dict[str, str | None],
    times: Sequence[int],
) -> None:
    """Make a folder with complete features an entry: describe it, then rename it over what was there."""
    features = partial / FEATURES
    about = {**about, "checksum": checksum(features), "bytes": features.stat().st_size}
    write_json(partial / "digests.json", digests, indent=None)
    write_json(partial / STAMPS, {"features": stamp(features), "audio": list(times)}, indent=None)
    write_json(partial / ABOUT, about, indent=None)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def open_entry(folder: Path, ids: Sequence[str], times: Sequence[int], digest_of: Callable[[str], str]) -> Entry:
    """Open an entry after checking that it is whole and of the audio that is there.

    What was not touched since it was last found right, by size and time, is not read again: opening takes
    milliseconds. What was, such as a cache or a corpus copied to another machine, is compared by content once.

    Raises:
        CorruptError: with what is wrong.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        entry = _read(folder, about)
    except (OSError, ValueError, KeyError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None
    now = {"features": list(stamp(folder / FEATURES)), "audio": list(times)}
    if now == stamps:
        return entry
    if now["features"] != stamps["features"] and checksum(folder / FEATURES) != about["checksum"]:
        raise CorruptError("the features are not those that were written")
    _check_audio(folder, ids, times, stamps["audio"], digest_of)
    write_json(folder / STAMPS, now, indent=None)
    return entry


def _read(folder: Path, about: dict[str, Any]) -> Entry:
    shape = tuple(about["shape"])
    size = (folder / FEATURES).stat().st_size
    if size != about["bytes"] or size != 2 * int(np.prod(shape)):
        raise CorruptError(f"the features have {size:,} bytes, not {about['bytes']:,}")
    features = np.memmap(folder / FEATURES, dtype=np.float16, mode="r", shape=shape)
    utterances = [Utterance.model_validate(u) for u in about["utterances"]]
    return Entry(features, utterances, [Utterance.model_validate(u) for u in about["long"]], about["report"])


def _check_audio(
    folder: Path, ids: Sequence[str], now: Sequence[int], then: Sequence[int], digest_of: Callable[[str], str]
) -> None:
    if len(now) != len(then):
        raise CorruptError("the list of recordings changed")
    stored: dict[str, str | None] = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
    changed = [name for name, one, other in zip(ids, now, then, strict=True) if one != other and name in stored]

    def same(name: str) -> bool:
        try:
            return stored.get(name) == digest_of(name)
        except UndecodableError:
            return stored.get(name) is None

    with ThreadPoolExecutor() as pool:
        for name, unchanged in zip(changed, pool.map(same, changed), strict=True):
            if not unchanged:
                raise CorruptError(f"{name} is not the recording that was prepared")
