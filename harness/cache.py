"""python -m harness.cache: list or clear the cache of prepared data."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from harness.command_line import Parser, add_cache, run
from harness.errors import UserError, nearest

DESCRIPTION = "List or clear the cache of prepared data."
EXAMPLES = (
    "python -m harness.cache",
    "python -m harness.cache --clear fleurs_sv",
    "python -m harness.cache --clear",
)


@dataclass(frozen=True)
class Stored:
    """One entry: features of a task, encoder states, an unfinished preparation, or a dataset from the hub."""

    path: Path
    kind: str
    task: str
    clips: int | None
    size: int
    used: float


def entries(cache: Path) -> Iterator[Stored]:
    """All entries, oldest first."""
    found = [path for folder in ("features", "prefixes", "hub") for path in (cache / folder).glob("*/")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime):
        size = sum(512 * file.stat().st_blocks for file in path.rglob("*") if file.is_file())  # states may have holes
        kind, task, clips = "unfinished" if path.suffix == ".partial" else "damaged", "", None
        if path.parent.name == "hub":
            kind, task = "hub dataset" if (path / "done.json").is_file() else "unfinished", path.name.rsplit("-", 1)[0]
        elif (path / "entry.json").is_file():
            about = json.loads((path / "entry.json").read_text(encoding="utf-8"))
            kind = "features" if path.parent.name == "features" else "encoder states"
            task, clips = about["task"], about["shape"][0]
        stamps = path / "stamps.json"
        yield Stored(path, kind, task, clips, size, (stamps if stamps.is_file() else path).stat().st_mtime)


def print_entries(cache: Path) -> int:
    """List the cache as a table."""
    table, total = Table("entry", "kind", "task", box=None, pad_edge=False), 0
    table.add_column("clips", justify="right")
    table.add_column("size", justify="right")
    table.add_column("written")
    for entry in entries(cache):
        total += entry.size
        clips = "" if entry.clips is None else f"{entry.clips:,}"
        written = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.path.name, entry.kind, entry.task, clips, _megabytes(entry.size), written)
    console = Console(soft_wrap=True)
    if table.row_count:
        console.print(table)
    console.print(f"{table.row_count} entries, {_megabytes(total)}, in {cache}", highlight=False)
    return 0


def clear(cache: Path, names: list[str]) -> int:
    """Delete the named entries and all entries of the named tasks, or everything without names; skip those in use.

    Raises:
        UserError: if a name is neither an entry nor a task.
    """
    stored = list(entries(cache))
    known = {entry.path.name for entry in stored} | {entry.task for entry in stored if entry.task}
    for name in names:
        if name not in known:
            raise UserError(f"no entry or task {name!r} in {cache}; {nearest(name, known)}")
    for entry in stored:
        if names and entry.path.name not in names and entry.task not in names:
            continue
        lock = entry.path.with_name(f"{entry.path.name.removesuffix('.partial')}.lock")
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(entry.path)
        except Timeout:
            print(f"kept {entry.path.name}: a process is preparing it")
            continue
        print(f"removed {entry.path.name}: {entry.kind} {entry.task}, {_megabytes(entry.size)}")
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def parser() -> Parser:
    """The command line."""
    options = Parser("python -m harness.cache", "[options]", DESCRIPTION, EXAMPLES)
    group = options.add_argument_group("cache")
    add_cache(group)
    group.add_argument("--clear", nargs="*", metavar="NAME", help="delete entries by entry or task name (default: all)")
    return options


def cache(options: argparse.Namespace) -> int:
    """List or clear."""
    folder = options.cache_dir or default_folder()
    return print_entries(folder) if options.clear is None else clear(folder, options.clear)


def default_folder() -> Path:
    """Where sweeps keep prepared data; imported only when needed, so that --help is fast."""
    from harness.plan import CACHE_DIR

    return CACHE_DIR


def main(arguments: list[str] | None = None) -> int:
    """Parse, then list or clear."""
    return run(parser(), cache, arguments)


if __name__ == "__main__":
    sys.exit(main())
