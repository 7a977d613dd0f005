"""Transcripts from elsewhere: JSONL, CSV or NIST trn -> references and hypotheses by utterance id."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from harness.compare.scoring.test_set import refuse_doubled
from harness.errors import UserError
from harness.spec.result import Transcript

FORMATS = ".jsonl, .csv or .trn"
_TRN = re.compile(r"^(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*$", re.DOTALL)


def named(given: str) -> tuple[str, Path]:
    """The two parts of NAME=FILE."""
    name, equals, file = given.rpartition("=")
    if not Path(file).is_file():  # a name may hold the sign, a path too: the part that is a file decides
        name, equals, file = given.partition("=")
    if not equals or not name.strip() or not file:
        raise UserError(f"--add expects NAME=FILE, such as --add 'my API=api.jsonl'; {given!r} was given")
    return name.strip(), Path(file)


def read_hypotheses(path: Path) -> dict[str, tuple[str | None, str]]:
    """For each id the reference (None where the file gives none) and the hypothesis.

    Raises:
        UserError: an unknown format, a line without id or hypothesis, or an id that comes twice.
    """
    rows = _rows(path, "hypothesis")
    refuse_doubled((row["id"] for row in rows), str(path))
    return {row["id"]: (row.get("reference"), row["hypothesis"]) for row in rows}


def read_references(path: Path) -> list[Transcript]:
    """The utterances of a file of references, with an empty hypothesis.

    In trn the speaker is what stands before the first hyphen of the id, as sclite has it.
    """
    rows = _rows(path, "reference")
    if path.suffix.lower() == ".trn":
        for row in rows:
            speaker, hyphen, _ = row["id"].partition("-")
            row["speaker"] = speaker if hyphen and speaker else None
    fields = set(Transcript.model_fields) - {"hypothesis"}
    kept = [{name: row[name] for name in fields if row.get(name) not in (None, "")} for row in rows]
    return [Transcript.parse({"reference": "", **row, "hypothesis": ""}, f"{path}: {row['id']}") for row in kept]


def _rows(path: Path, field: str) -> list[dict[str, Any]]:
    """The lines of a file as dictionaries with `id` and `field`; a text that is missing is an error, "" is none."""
    readers = {".jsonl": _jsonl, ".csv": _csv, ".trn": _trn}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: transcripts are read from {FORMATS} files; the ending says which it is")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    rows = reader(content, path, field)
    if not rows:
        raise UserError(f"{path} holds no utterance")
    return rows


def _jsonl(content: str, path: Path, field: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected an object with id and {field}, but found {line[:40]!r}")
        rows.append(_checked(row, f"{path} line {number}", field))
    return rows


def _csv(content: str, path: Path, field: str) -> list[dict[str, Any]]:
    table = csv.DictReader(content.splitlines(keepends=True), strict=True)
    try:
        return [_checked(row, f"{path} line {table.line_num}", field) for row in table]
    except csv.Error as error:
        raise UserError(f"{path} line {table.line_num} is not CSV: {error}") from None


def _checked(row: dict[str, Any], place: str, field: str) -> dict[str, Any]:
    for name in ("id", field):
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and name == "id":
            row[name] = value = str(value)
        if not isinstance(value, str) or (name == "id" and not value):
            found = ", ".join(sorted(str(key) for key in row if key)) or "nothing"
            raise UserError(f"{place}: {name} is missing or not text; expected id and {field}, found {found}")
    if None in row:
        raise UserError(f"{place}: more cells than headings; a text with a comma needs quotation marks")
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise UserError(f"{place}: reference is not text")
    return row


def _trn(content: str, path: Path, field: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        match = _TRN.match(line)
        if match is None:
            raise UserError(f"{path} line {number}: expected 'words (utterance-id)', but found {line.strip()[:60]!r}")
        rows.append({"id": match["id"], field: match["text"].strip()})
    return rows
