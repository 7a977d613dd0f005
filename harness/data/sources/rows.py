"""Rows, as the readers of all kinds of sources yield them, -> checked utterances."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.languages import token_language
from harness.errors import UserError, nearest
from harness.spec.task import Columns, Source, Task, Utterance

USUAL = {
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
    """One recording as a source tells of it; `place` says in an error where."""

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
    """The source's own columns, else the task's."""
    return source.columns or task.columns


def choose_columns(columns: Columns, there: Sequence[str], place: str) -> dict[str, str]:
    """Role -> column: the one that is named, else the first usual name that is there.

    Raises:
        UserError: if a named column is missing, or there is none for file or text.
    """
    chosen = {}
    for role, usual in USUAL.items():
        named: str | None = getattr(columns, role)
        if named is not None and named not in there:
            raise UserError(f"{place} has no column {named!r} for {role}; {nearest(named, there)}")
        column = named or next((name for name in usual if name in there), None)
        if column is None and role in ("file", "text"):
            raise UserError(
                f"{place} has no {role} column (one of {', '.join(usual)}); it has {', '.join(there)}; "
                f"name it in the task: columns: {{{role}: NAME}}"
            )
        if column is not None:
            chosen[role] = column
    for name in columns.groups:
        if name not in there:
            raise UserError(f"{place} has no group column {name!r}; {nearest(name, there)}")
    return chosen


def make_row(values: dict[str, Any], chosen: dict[str, str], groups: Iterable[str], place: str) -> Row:
    """A row of a table or manifest: missing optional values are None."""
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
        groups={name: _text(values.get(name), name, place) for name in groups},
    )


def _text(value: Any, column: str, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    raise UserError(f"{place}: {column} is {value!r}; text was expected")


class Root:
    """A folder that no path may leave, not even through a symbolic link."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {str(folder)!r}")
        self._real = os.path.realpath(folder)
        self._parents: dict[str, str] = {}  # resolving a folder once instead of for each clip: 100,000 in a second

    def relative(self, given: str) -> str | None:
        """The path relative to the folder; None if it does not lie in it."""
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


def utterances(task: Task, source: Source, name: str, folder: Path, rows: Iterable[Row]) -> list[Utterance]:
    """Check rows and give each its id, split and language; `split` is "" where the source gives none.

    Raises:
        UserError: a file outside the folder, a doubled id, no language, or nothing at all.
    """
    root, found, places = Root(folder), list[Utterance](), dict[str, str]()
    several, seen_splits = len(task.sources) > 1, set[str]()
    proxy = source.proxy_language or task.proxy_language
    for row in rows:
        file = root.relative(row.file)
        if file is None:
            raise UserError(f"{row.place}: {row.file!r} does not lie in {folder}")
        given = source.language or task.language or row.language
        if not given:
            raise UserError(
                f"{row.place}: no language; add a language column, or a task.yaml that names one: language: sv"
            )
        language, spoken = token_language(given, proxy)
        own = row.id or (file if row.offset is None else f"{file}@{row.offset:g}")
        identity = f"{name}/{own}" if several else own
        if identity in places:
            raise UserError(f"{row.place}: {own!r} is listed twice, first at {places[identity]}")
        places[identity] = row.place
        seen_splits.add(row.split)
        found.append(
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
    if not found:
        raise UserError(f"source {name}: {folder} lists no recordings")
    unknown = sorted(set(source.splits) - seen_splits)
    if unknown:
        raise UserError(f"source {name} has no split {unknown[0]!r}; {nearest(unknown[0], seen_splits - {''})}")
    return found


def _split(source: Source, given: str) -> str:
    if source.split is not None:
        return source.split
    if given in source.splits:
        return source.splits[given] or f"{given} (left out by the task)"
    return SPLIT_NAMES.get(given, given)
