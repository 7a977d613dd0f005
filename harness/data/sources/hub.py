"""Datasets of the Hugging Face hub -> a folder of audio files in the cache, as the hub stores them, undecoded."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.data.sources.rows import SPLIT_NAMES
from harness.errors import UserError, nearest
from harness.spec.task import SPLITS, HubSource

MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff", ".mp3"))


def export(source: HubSource, cache: Path) -> Path:
    """Stream the dataset's splits to disk, once: SPLIT/0000000.EXT and SPLIT/metadata.jsonl.

    An interrupted export goes on after the last row that was written. Audio is written byte for byte
    (`Audio(decode=False)`), so neither torchcodec nor FFmpeg is needed.

    Raises:
        UserError: if the dataset is not there, gated, a script, or without the audio column.
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
                raise UserError(f"{source.dataset}: none of its splits is wanted; see the source's splits")
            done.write_text(json.dumps(counts), encoding="utf-8")
    return folder


def _key(source: HubSource) -> str:
    """A name for the export: another revision, configuration or state of a local folder is another one."""
    local = Path(source.dataset)
    files: list[Any] = []
    if local.is_dir():
        paths = sorted(path for path in local.rglob("*") if path.is_file())
        files = [[path.relative_to(local).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    what = [source.dataset, source.config, source.revision, source.data_files, source.audio_column, files]
    what.append([source.splits, source.split])
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def _wanted(source: HubSource, split: str) -> bool:
    if split in source.splits:
        return source.splits[split] is not None
    return source.split is not None or SPLIT_NAMES.get(split, split) in SPLITS


def _open(source: HubSource) -> dict[str, Any]:
    """Split -> streamed rows with undecoded audio."""
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
        opened = {}
        for name, rows in splits.items():
            features: dict[str, Any] = rows.features or next(iter(rows.take(1)), {})
            if source.audio_column not in features:
                raise UserError(
                    f"{source.dataset} has no audio column {source.audio_column!r}; "
                    f"{nearest(source.audio_column, features)}; name it with audio_column"
                )
            is_audio = isinstance(features[source.audio_column], Audio)
            opened[name] = rows.cast_column(source.audio_column, Audio(decode=False)) if is_audio else rows
        return opened
    except UserError:
        raise
    except DatasetNotFoundError as error:
        raise UserError(_advice(source, str(error))) from None
    except Exception as error:  # the hub's client, pyarrow and fsspec each raise their own kinds
        raise UserError(_advice(source, f"{type(error).__name__}: {error}")) from None


def _advice(source: HubSource, said: str) -> str:
    """What the user can do about what the hub's client said."""
    lowered, first_line = said.lower(), said.strip().splitlines()[0]
    if "gated" in lowered or "401" in lowered or "403" in lowered:
        advice = f"accept its terms on the page of {source.dataset}, then log in: hf auth login (or set HF_TOKEN)"
    elif "scripts are no longer supported" in lowered:
        advice = "script datasets cannot be read; name its parquet branch: revision: refs/convert/parquet"
    elif "builderconfig" in lowered or "config name" in lowered:
        advice = "name one of its configurations in the source: config: NAME"
    elif any(word in lowered for word in ("connection", "resolve", "offline", "timed out", "cannot find")):
        advice = "the hub cannot be reached; prepare on a machine that can (--prepare-only) and share its --cache-dir"
    else:
        advice = "expected a hub name such as google/fleurs, or a folder of parquet files"
    return f"cannot open the dataset {source.dataset!r}: {first_line}\n       {advice}"


def _write_split(source: HubSource, rows: Any, folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    table = folder / "metadata.jsonl"
    written = _whole_lines(table)
    with table.open("a", encoding="utf-8") as file:
        for number, row in enumerate(_go_on(source, rows.skip(written) if written else rows), start=written):
            content, ending = _audio(source, row[source.audio_column])
            name = f"{number:07d}{ending}"
            (folder / name).write_bytes(content)
            values = {key: value for key, value in row.items() if isinstance(value, (str, int, float, bool))}
            # The row counts once its line is there, after the audio.
            file.write(json.dumps({**values, "file_name": name}, ensure_ascii=False) + "\n")
            file.flush()
            written = number + 1
        os.fsync(file.fileno())
    return written


def _go_on(source: HubSource, rows: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except OSError as error:
        raise UserError(
            f"reading {source.dataset} broke off: {error}; the same command goes on where it stopped"
        ) from None


def _whole_lines(table: Path) -> int:
    """How many rows an interrupted export had written; a torn last line is cut off."""
    if not table.is_file():
        return 0
    content = table.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(table, len(whole))
    return whole.count(b"\n")


def _audio(source: HubSource, value: Any) -> tuple[bytes, str]:
    """The bytes of one clip and the ending of its file."""
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise UserError(f"{source.dataset}: column {source.audio_column!r} holds {type(value).__name__}, no audio")
    path = str(value.get("path") or "")
    content: bytes = value.get("bytes") or Path(path).read_bytes()
    return content, next((ending for magic, ending in MAGIC if content.startswith(magic)), Path(path).suffix or ".bin")
