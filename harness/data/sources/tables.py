"""Read folders with a metadata.csv, .tsv or .jsonl, at the top or in a folder for each split (audiofolder)."""

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.data.sources.rows import SPLIT_NAMES, Row, choose_columns, make_row
from harness.errors import UserError
from harness.spec.task import SPLITS, Columns, FolderSource

TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
SPLIT_FOLDERS = {*SPLITS, *SPLIT_NAMES}


def read_folder(source: FolderSource, columns: Columns) -> Iterator[Row]:
    """Read the folder's table, or the tables in the folders of its splits.

    Raises:
        UserError: There is no table, or it cannot be read.
    """
    folder = source.folder
    if source.table is not None:
        yield from read_rows(folder / source.table, columns, source.encoding)
        return
    top = _table_in(folder)
    if top is not None:
        yield from _split_by_folder(list(read_rows(top, columns, source.encoding)))
        return
    parts = [path for path in sorted(folder.glob("*/")) if _table_in(path)]
    if not parts:
        raise UserError(
            f"{folder / TABLES[0]} is missing: a folder of speech contains a metadata.csv with columns file and text, "
            "and if known speaker, condition, language and split"
        )
    for part in parts:
        table = _table_in(part)
        assert table is not None
        for row in read_rows(table, columns, source.encoding):
            yield replace(row, file=f"{part.name}/{row.file}", split=row.split or part.name)


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _split_by_folder(rows: list[Row]) -> list[Row]:
    """Take the split from the first folder of each path, as audiofolder does, unless a row names a split."""
    folders = [row.file.split("/", 1)[0] for row in rows]
    if any(row.split for row in rows) or not all(folder in SPLIT_FOLDERS for folder in folders):
        return rows
    return [replace(row, split=folder) for row, folder in zip(rows, folders, strict=True)]


def read_rows(path: Path, columns: Columns, encoding: str) -> Iterator[Row]:
    """Read the rows of one .csv, .tsv or .jsonl table."""
    chosen: dict[str, str] | None = None
    existing = read_columns(path, encoding)
    for place, values in read_records(path, encoding):
        if chosen is None:
            chosen = choose_columns(columns, existing, path.name)
        yield make_row(values, chosen, columns.groups, place)
    if chosen is None:
        raise UserError(f"{path} lists no recordings")


def read_columns(path: Path, encoding: str) -> list[str]:
    """Return the columns of a table: of JSON lines the keys of all lines, because a line may leave out nulls."""
    records = read_records(path, encoding)
    if not _is_json(path):
        records = itertools.islice(records, 1)
    return list(dict.fromkeys(name for _, values in records for name in values))


def _is_json(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json", ".ndjson")


def read_records(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, values) for each line of a .csv, .tsv or .jsonl file; a byte order mark and CRLF are allowed."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield from _json_lines(file, path) if _is_json(path) else _delimited(file, path)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no table {path}") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} ({_undecodable_line(path, encoding)}); "
            "save it as UTF-8, or name its encoding in the task's source: encoding: latin-1"
        ) from None
    except LookupError:
        raise UserError(f"there is no encoding {encoding!r}; try utf-8, utf-16 or latin-1") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}") from None


def _delimited(file: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # In a .tsv, quotation marks are part of the text, as in Common Voice.
    tabs = path.suffix == ".tsv"
    reader = csv.DictReader(
        file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    for row in reader:
        place = f"{path.name} line {reader.line_num}"
        if None in row:
            raise UserError(
                f"{place}: more values than the table has columns; a text with a comma in it needs quotation marks: "
                f"{','.join(reader.fieldnames or [])!r}"
            )
        yield place, dict(row)


def _json_lines(file: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            value = json.loads(line, parse_constant=_constant)
        except json.JSONDecodeError as error:
            raise UserError(f"{place} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(value, dict):
            raise UserError(f"{place} is not a JSON object, such as {{'audio_filepath': …, 'text': …}}")
        yield place, value


def _constant(name: str) -> float | None:
    """Read NaN as null: pandas writes a missing value so."""
    return None if name == "NaN" else float(name)


def _undecodable_line(path: Path, encoding: str) -> str:
    """Return where decoding fails. The whole file is decoded, because a stream's error counts from its last buffer."""
    content = path.read_bytes()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        return f"line {content.count(bytes([10]), 0, error.start) + 1}, byte 0x{content[error.start]:02x}"
    return "at its end"
