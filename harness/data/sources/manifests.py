"""Read manifests with one recording per line: JSON lines as in NeMo, and Kaldi data folders."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.data.sources.rows import Row, choose_columns, make_row
from harness.data.sources.tables import read_columns, read_records
from harness.errors import UserError
from harness.spec.task import Columns, KaldiSource, ManifestSource


def read_manifest(source: ManifestSource, columns: Columns) -> Iterator[Row]:
    """Read one manifest, or one per split.

    Raises:
        UserError: A line is not a JSON object, or no line has a file or text.
    """
    for split, relative in paths_by_split(source.manifests).items():
        path = source.folder / relative
        if path.suffix not in (".jsonl", ".json", ".ndjson"):
            raise UserError(f"{path} is not a manifest of JSON lines; its name must end in .jsonl or .json")
        existing = read_columns(path, source.encoding)
        chosen = choose_columns(columns, existing, path.name) if existing else {}
        for place, values in read_records(path, source.encoding):
            row = make_row(values, chosen, columns.groups, place)
            offset = _seconds(values, "offset", place)
            duration = _seconds(values, "duration", place) if offset is not None else None
            yield replace(row, split=row.split or split, offset=offset, duration=duration or None)


def paths_by_split(paths: dict[str, Path] | Path) -> dict[str, Path]:
    """Return one path for each split; the split of a single path is ""."""
    return paths if isinstance(paths, dict) else {"": paths}


def _seconds(values: dict[str, Any], name: str, place: str) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    raise UserError(f"{place}: {name} is {value!r}; expected seconds")


def read_kaldi(source: KaldiSource) -> Iterator[Row]:
    """Read the utterances of `text`, with their recordings from wav.scp, or from segments and wav.scp.

    Raises:
        UserError: A file is missing, an utterance has no recording, or a recording is a command.
    """
    for split, data in paths_by_split(source.data).items():
        folder = source.folder / data
        recordings = _read_pairs(folder / "wav.scp", source.encoding)
        texts = _read_pairs(folder / "text", source.encoding)
        speakers = _read_pairs(folder / "utt2spk", source.encoding) if (folder / "utt2spk").is_file() else {}
        segments = _read_pairs(folder / "segments", source.encoding) if (folder / "segments").is_file() else None
        for name, (line, text) in texts.items():
            place = f"{data / 'text'} line {line}"
            recording, offset, duration = name, None, None
            if segments is not None:
                if name not in segments:
                    raise UserError(f"{place}: utterance {name!r} is not in segments")
                recording, offset, duration = _parse_segment(*segments[name], data / "segments")
            if recording not in recordings:
                raise UserError(f"{place}: {recording!r} is not in wav.scp")
            file = _checked_path(*recordings[recording], data / "wav.scp")
            speaker = speakers[name][1] if name in speakers else None
            yield Row(place, file, text, split, id=name, speaker=speaker, offset=offset, duration=duration)


def _read_pairs(path: Path, encoding: str) -> dict[str, tuple[int, str]]:
    """Read lines of KEY REST; return key -> (line number, rest)."""
    try:
        lines = path.read_text(encoding=encoding).split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a Kaldi data folder contains wav.scp and text") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding.upper()} (byte {error.start}); name the source's encoding") from None
    pairs: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, start=1):
        key, _, rest = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        if not key:
            continue
        if key in pairs:
            raise UserError(f"{path.name} line {number}: {key!r} is listed twice, first at line {pairs[key][0]}")
        pairs[key] = (number, rest.strip())
    return pairs


def _parse_segment(line: int, rest: str, path: Path) -> tuple[str, float, float]:
    """Return recording, offset and duration in seconds."""
    parts = rest.split()
    try:
        recording, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise UserError(f"{path} line {line}: {rest!r}; expected RECORDING START END in seconds") from None
    if not 0 <= start < end:
        raise UserError(f"{path} line {line}: the segment from {start:g} to {end:g} s is empty")
    return recording, start, end - start


def _checked_path(line: int, given: str, path: Path) -> str:
    """Return the file of a recording; commands and archives are errors."""
    if given.endswith("|"):
        raise UserError(
            f"{path} line {line}: {given!r} is a command, which is not run; write the audio to files "
            "(wav-copy, or sox) and list their paths"
        )
    if ".ark:" in given:
        raise UserError(f"{path} line {line}: {given!r} is in a Kaldi archive; write it to a wav file (wav-copy)")
    return given
