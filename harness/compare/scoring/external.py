"""Read references and transcripts of other systems from JSONL, CSV or NIST trn files."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from harness.compare.scoring.test_set import check_unique_ids
from harness.errors import UserError
from harness.spec.result import Transcript

FORMATS = ".jsonl, .csv or .trn"
_TRN = re.compile(r"^(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*$", re.DOTALL)


def parse_added_system(argument: str) -> tuple[str, Path]:
    """Split NAME=FILE.

    Raises:
        UserError: A part is missing.
    """
    name, equals, file = argument.rpartition("=")
    if not Path(file).is_file():  # name and path may both contain "=": the existing file decides
        name, equals, file = argument.partition("=")
    if not equals or not name.strip() or not file:
        raise UserError(f"--add expects NAME=FILE, such as --add 'my API=api.jsonl', but got {argument!r}")
    return name.strip(), Path(file)


def read_hypotheses(path: Path) -> dict[str, tuple[str | None, str]]:
    """Read the transcripts of a system.

    Returns:
        Reference (None if the file has none) and hypothesis by utterance id.

    Raises:
        UserError: The format is unknown, a line lacks its id or hypothesis, or an id is not unique.
    """
    rows = _rows(path, "hypothesis")
    check_unique_ids((row["id"] for row in rows), str(path))
    return {row["id"]: (row.get("reference"), row["hypothesis"]) for row in rows}


def read_references(path: Path) -> list[Transcript]:
    """Read references as transcripts with an empty hypothesis.

    In a trn file, the speaker is the part of the id before the first hyphen, as in sclite.
    """
    rows = _rows(path, "reference")
    if path.suffix.lower() == ".trn":
        for row in rows:
            speaker, hyphen, _ = row["id"].partition("-")
            row["speaker"] = speaker if hyphen and speaker else None
    fields = set(Transcript.model_fields) - {"hypothesis"}
    known = [{name: row[name] for name in fields if row.get(name) not in (None, "")} for row in rows]
    return [Transcript.parse({"reference": "", **row, "hypothesis": ""}, f"{path}: {row['id']}") for row in known]


def _rows(path: Path, field: str) -> list[dict[str, Any]]:
    """Read a file as dictionaries with `id` and `field`; a missing text is an error, an empty one is not."""
    readers = {".jsonl": _jsonl, ".csv": _csv, ".trn": _trn}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown format; transcripts are read from {FORMATS} files")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    rows = reader(content, path, field)
    if not rows:
        raise UserError(f"{path} contains no utterances")
    return rows


def _jsonl(content: str, path: Path, field: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); expected one object per line") from None
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


def _checked(row: dict[str, Any], location: str, field: str) -> dict[str, Any]:
    """Check that a row has the texts `id` and `field`; a whole number as id becomes text."""
    for name in ("id", field):
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and name == "id":
            row[name] = value = str(value)
        if not isinstance(value, str) or (name == "id" and not value):
            keys = ", ".join(sorted(str(key) for key in row if key)) or "nothing"
            raise UserError(f"{location}: {name} is missing or not text; expected id and {field}, found {keys}")
    if None in row:
        raise UserError(f"{location}: more cells than headings; put a text with a comma in quotation marks")
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise UserError(f"{location}: reference is not text")
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
