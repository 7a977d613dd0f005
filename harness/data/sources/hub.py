"""Export a dataset of the Hugging Face Hub to a folder of audio files in the cache, without decoding them."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from filelock import FileLock

from harness.data.sources.rows import SPLIT_NAMES
from harness.errors import UserError, nearest
from harness.spec.task import SPLITS, HubSource

MAGIC_BYTES = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff", ".mp3"))


def export_hub_dataset(source: HubSource, cache: Path) -> Path:
    """Stream the dataset's splits to disk, once: SPLIT/0000000.EXT and SPLIT/metadata.jsonl.

    An interrupted export resumes after the last row that was written. Audio is written byte for byte
    (`Audio(decode=False)`), so neither torchcodec nor FFmpeg is needed.

    Returns:
        The folder of the export.

    Raises:
        UserError: The dataset does not exist, is gated, is a script, or lacks the audio column.
    """
    folder = cache / "hub" / f"{source.dataset.rstrip('/').rsplit('/', 1)[-1]}-{_key(source)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        done = folder / "done.json"
        if not done.is_file():
            counts = {}
            for split, rows in _open(source).items():
                if _wanted(source, split):
                    counts[split] = _write_split(source, rows, folder / split)
            if not counts:
                raise UserError(f"{source.dataset}: the task uses none of its splits; name them in the source's splits")
            done.write_text(json.dumps(counts), encoding="utf-8")
    return folder


def _key(source: HubSource) -> str:
    """Return a key that differs for another revision, configuration or state of a local folder."""
    local = Path(source.dataset)
    files: list[Any] = []
    if local.is_dir():
        paths = sorted(path for path in local.rglob("*") if path.is_file())
        files = [[path.relative_to(local).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    identity = [source.dataset, source.config, source.revision, source.data_files, source.audio_column, files]
    identity.append([source.splits, source.split])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _wanted(source: HubSource, split: str) -> bool:
    if split in source.splits:
        return source.splits[split] is not None
    return source.split is not None or SPLIT_NAMES.get(split, split) in SPLITS


def _open(source: HubSource) -> dict[str, Any]:
    """Return the streamed rows of each split, with undecoded audio."""
    from datasets import Audio, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        splits = load_dataset(
            source.dataset,
            name=source.config,
            revision=source.revision,
            data_files=source.data_files,
            streaming=True,
        )
        streams = {}
        for name, rows in splits.items():
            features: dict[str, Any] = rows.features or next(iter(rows.take(1)), {})
            if source.audio_column not in features:
                raise UserError(
                    f"{source.dataset} has no audio column {source.audio_column!r}; "
                    f"{nearest(source.audio_column, features)}; name it with audio_column"
                )
            is_audio = isinstance(features[source.audio_column], Audio)
            streams[name] = rows.cast_column(source.audio_column, Audio(decode=False)) if is_audio else rows
        return streams
    except UserError:
        raise
    except DatasetNotFoundError as error:
        raise UserError(_advice(source, str(error))) from None
    except Exception as error:  # the hub's client, pyarrow and fsspec raise different types
        raise UserError(_advice(source, f"{type(error).__name__}: {error}")) from None


def _advice(source: HubSource, message: str) -> str:
    """Return an error message that quotes the hub client's and says what to do."""
    lowered, first_line = message.lower(), message.strip().splitlines()[0]
    if "gated" in lowered or "401" in lowered or "403" in lowered:
        advice = f"accept its terms on the page of {source.dataset}, then log in: hf auth login (or set HF_TOKEN)"
    elif "scripts are no longer supported" in lowered:
        advice = "script datasets cannot be read; name its parquet branch: revision: refs/convert/parquet"
    elif "builderconfig" in lowered or "config name" in lowered:
        advice = "name one of its configurations in the source: config: NAME"
    elif any(word in lowered for word in ("connection", "resolve", "offline", "timed out", "cannot find")):
        advice = "the hub is unreachable; prepare on a machine with access (--prepare-only) and share its --cache-dir"
    else:
        advice = "expected a hub name such as google/fleurs, or a folder of parquet files"
    return f"cannot open the dataset {source.dataset!r}: {first_line}\n       {advice}"


def _write_split(source: HubSource, rows: Any, folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    table = folder / "metadata.jsonl"
    written = _count_complete_lines(table)
    with table.open("a", encoding="utf-8") as file:
        for number, row in enumerate(_iterate(source, rows.skip(written) if written else rows), start=written):
            content, suffix = _audio_bytes(source, row[source.audio_column])
            name = f"{number:07d}{suffix}"
            (folder / name).write_bytes(content)
            # Nulls are written too, so that the table keeps its columns.
            plain = {key: value for key, value in row.items() if isinstance(value, (str, int, float, NoneType))}
            # The line comes after the audio, because it makes the row count as exported.
            file.write(json.dumps({**plain, "file_name": name}, ensure_ascii=False) + "\n")
            file.flush()
            written = number + 1
        os.fsync(file.fileno())
    return written


def _iterate(source: HubSource, rows: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows; a failing connection is a UserError."""
    try:
        yield from rows
    except OSError as error:
        raise UserError(
            f"reading {source.dataset} was interrupted: {error}; run the same command again to resume"
        ) from None


def _count_complete_lines(table: Path) -> int:
    """Return how many rows an interrupted export has written; an incomplete last line is removed."""
    if not table.is_file():
        return 0
    content = table.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(table, len(complete))
    return complete.count(b"\n")


def _audio_bytes(source: HubSource, value: Any) -> tuple[bytes, str]:
    """Return the bytes of one clip and the suffix of its file."""
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise UserError(f"{source.dataset}: column {source.audio_column!r} contains {type(value).__name__}, not audio")
    path = str(value.get("path") or "")
    content: bytes = value.get("bytes") or Path(path).read_bytes()
    return content, next(
        (suffix for magic, suffix in MAGIC_BYTES if content.startswith(magic)), Path(path).suffix or ".bin"
    )
