"""Write files atomically, and link them."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON atomically, as `write_text` does.

    Raises:
        ValueError: The value contains a NaN or an infinity; a missing value must be None.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def sqlite_url(path: Path) -> str:
    """Return the address of a SQLite file, as SQLAlchemy reads it: `?`, `#` and `%` of the path are escaped.

    It names the driver because MLflow creates the folder of an address that begins with "sqlite:///" as it is written.
    """
    return f"sqlite+pysqlite:///{quote(str(path))}"


def link_files(files: Iterable[Path], base: Path, target: Path) -> None:
    """Create hard links in `target`, or copies where the file system has no links.

    Args:
        files: The files, inside `base`.
        base: The folder that their places in `target` are relative to.
        target: The folder of the links.
    """
    for source in sorted(files):
        link = target / source.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.link(source, link)
        except OSError:
            link.write_bytes(source.read_bytes())
