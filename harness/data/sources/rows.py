"""Turn the rows that the readers of all sources yield into checked utterances."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.languages import token_language
from harness.errors import UserError, nearest
from harness.spec.task import Columns, Source, Task, Utterance

USUAL_COLUMNS = {
    "file": ("file", "file_name", "path", "audio", "audio_filepath"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "id": (),
    "speaker": ("speaker", "voice", "speaker_id", "client_id"),
    "condition": ("condition",),
    "language": ("language", "locale", "lang"),
    "split": ("split",),
}
SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "test"}


@dataclass(frozen=True, slots=True)
class Row:
    """One recording as listed by a source.

    Attributes:
        place: File and line of the row, for error messages.
        file: Path of the audio, relative to the source's folder or absolute.
        text: The transcript.
        split: The split as the source names it; "" if it does not.
        id: Id of the utterance.
        speaker: The speaker.
        condition: The recording condition.
        language: The language.
        groups: Values of the task's group columns.
        offset: Start of the clip in the file, seconds.
        duration: Length of the clip, seconds.
    """

    place: str
    file: str
    text: str
    split: str = ""
    id: str | None = None
    speaker: str | None = None
    condition: str | None = None
    language: str | None = None
    groups: dict[str, str] = field(default_factory=dict)
    offset: float | None = None
    duration: float | None = None


def columns_of(task: Task, source: Source) -> Columns:
    """Return the source's columns, else the task's."""
    return source.columns or task.columns


def choose_columns(columns: Columns, existing: Sequence[str], place: str) -> dict[str, str]:
    """Choose the column of each role: the named one, else the first usual name that exists.

    Args:
        columns: The columns that the task names.
        existing: The columns of the table.
        place: The table or line, for error messages.

    Returns:
        Role -> column; a role without a column is missing.

    Raises:
        UserError: A named column does not exist, or there is none for file or text.
    """
    chosen = {}
    for role, usual in USUAL_COLUMNS.items():
        named: str | None = getattr(columns, role)
        if named is not None and named not in existing:
            raise UserError(f"{place} has no column {named!r} for {role}; {nearest(named, existing)}")
        column = named or next((name for name in usual if name in existing), None)
        if column is None and role in ("file", "text"):
            raise UserError(
                f"{place} has no {role} column (one of {', '.join(usual)}); it has {', '.join(existing)}; "
                f"name it in the task: columns: {{{role}: NAME}}"
            )
        if column is not None:
            chosen[role] = column
    for name in columns.groups:
        if name not in existing:
            raise UserError(f"{place} has no group column {name!r}; {nearest(name, existing)}")
    return chosen


def make_row(values: dict[str, Any], chosen: dict[str, str], groups: Iterable[str], place: str) -> Row:
    """Make a row from the values of a table or manifest; missing optional values are None."""
    texts = {role: _text(values.get(column), column, place) for role, column in chosen.items()}
    return Row(
        place=place,
        file=texts["file"],
        text=texts["text"],
        split=texts.get("split", ""),
        id=texts.get("id") or None,
        speaker=texts.get("speaker") or None,
        condition=texts.get("condition") or None,
        language=texts.get("language") or None,
        groups={name: value for name in groups if (value := _text(values.get(name), name, place))},
    )


def _text(value: Any, column: str, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    raise UserError(f"{place}: {column} is {value!r}; expected text")


class ContainedPaths:
    """Check that paths stay inside a folder, also through symbolic links."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {str(folder)!r}")
        self._real = os.path.realpath(folder)
        self._parents: dict[str, str] = {}  # resolve a folder once, not for each clip: 100,000 in a second

    def relative(self, given: str) -> str | None:
        """Return the path relative to the folder; None if it is outside."""
        if not given or "\0" in given:
            return None
        parent, name = os.path.split(os.path.join(self._real, given))
        if name in ("", ".", ".."):
            return None
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        path = os.path.join(self._parents[parent], name)
        if os.path.islink(path):
            path = os.path.realpath(path)
        return path[len(self._real) + 1 :] if path.startswith(self._real + os.sep) else None


def make_utterances(task: Task, source: Source, name: str, folder: Path, rows: Iterable[Row]) -> list[Utterance]:
    """Check the rows of one source and return its utterances.

    Args:
        task: The task.
        source: The source, already exported if it is on the hub.
        name: Name of the source.
        folder: Folder of its audio.
        rows: Its rows.

    Returns:
        The utterances; their split is "" where the source names none.

    Raises:
        UserError: A file is outside the folder, an id occurs twice, a language is missing, or there are no rows.
    """
    paths, utterances, places = ContainedPaths(folder), list[Utterance](), dict[str, str]()
    several, seen_splits = len(task.sources) > 1, set[str]()
    proxy = source.proxy_language or task.proxy_language
    for row in rows:
        file = paths.relative(row.file)
        if file is None:
            raise UserError(f"{row.place}: {row.file!r} is not in {folder}")
        given = source.language or task.language or row.language
        if not given:
            raise UserError(
                f"{row.place}: no language; add a language column, or a task.yaml that names one: language: sv"
            )
        language, spoken = token_language(given, proxy)
        row_id = row.id or (file if row.offset is None else f"{file}@{row.offset:g}")
        identity = f"{name}/{row_id}" if several else row_id
        if identity in places:
            raise UserError(f"{row.place}: {row_id!r} is listed twice, first at {places[identity]}")
        places[identity] = row.place
        seen_splits.add(row.split)
        utterances.append(
            Utterance(
                id=identity,
                file=file,
                text=row.text,
                language=language,
                spoken=spoken,
                split=_split(source, row.split),
                speaker=row.speaker,
                condition=row.condition,
                dataset=name,
                groups=row.groups,
                offset=row.offset,
                duration=row.duration,
            )
        )
    if not utterances:
        raise UserError(f"source {name}: {folder} lists no recordings")
    unknown = sorted(set(source.splits) - seen_splits)
    if unknown:
        raise UserError(f"source {name} has no split {unknown[0]!r}; {nearest(unknown[0], seen_splits - {''})}")
    return utterances


def _split(source: Source, given: str) -> str:
    if source.split is not None:
        return source.split
    if given in source.splits:
        return source.splits[given] or f"{given} (left out by the task)"
    return SPLIT_NAMES.get(given, given)
