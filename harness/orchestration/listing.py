"""List what the command line can name: search spaces, tasks, baselines and studies."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import catalog
from harness.errors import UserError
from harness.records.study_folder import StudyFolder, studies, without_attempts
from harness.spec.base import read_yaml

SHOWN = 3  # sampled settings that are named; --dry-run shows all


def print_names(results: Path, console: Console | None = None) -> int:
    """Print a table of each kind of name, with descriptions from the files themselves."""
    console = console or Console()
    console.print(spaces_table(read_all("search_spaces")), "", tasks_table(read_all("tasks")), "", sep="\n")
    console.print(baselines_table(read_all("baselines")), "", sep="\n")
    if names := studies(results):
        console.print(studies_table(results, names))
    else:
        console.print(Text(f"No studies in {results}"))
    return 0


def read_all(folder: str) -> dict[str, Mapping[str, Any]]:
    """The content of each file of a folder; of a file that cannot be read, the error is the description."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in catalog.names(folder):
        path = catalog.ROOT / folder / f"{name}.yaml"
        try:
            content = read_yaml(path)
        except UserError as error:
            content = {"description": f"error: {str(error).splitlines()[0]}"}
        found[name] = {"description": leading_comment(path), **mapping(content)}
    return found


def leading_comment(path: Path) -> str:
    """The first line of a file, where it is a comment."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping as it is; anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def spaces_table(spaces: Mapping[str, Mapping[str, Any]]) -> Table:
    """Name; description, base model, methods and sampled settings."""
    table = titled("Search spaces (--space NAME)", "description: model, method, sampled settings")
    for name, space in spaces.items():
        sampled = mapping(space.get("sampled"))
        methods = mapping(sampled.get("method")).get("choices") or [mapping(space.get("fixed")).get("method")]
        about = joined([space.get("model"), " or ".join(str(method) for method in methods if method)])
        settings = [setting for setting in sampled if setting != "method"]
        if len(settings) > SHOWN + 1:
            settings[SHOWN:] = [f"{len(settings) - SHOWN} more"]
        table.add_row(name, described(space, f"{about}: {joined(settings)}" if settings else about))
    return table


def tasks_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Name; language; description, sources, and how to give a task the options that it requires."""
    table = titled("Tasks (--task NAME)", "description: sources", "language")
    for name, task in tasks.items():
        sources = [mapping(source) for source in task.get("sources") or [task]]
        kinds = joined(
            dict.fromkeys(str(s.get("dataset") or s.get("kind", "folder")).replace("_", " ") for s in sources)
        )
        options = mapping(task.get("options"))
        required = ",".join(f"{option}={option.upper()}" for option, value in options.items() if value is None)
        language = str(task.get("language") or "per clip")
        shown = f"{kinds} (--task {name}:{required})" if required else kinds
        table.add_row(
            name, "option" if language.startswith("{") else language, described(task, shown, r"[;:.(]\s|\s\(")
        )
    return table


def baselines_table(baselines: Mapping[str, Mapping[str, Any]]) -> Table:
    """Name; method; description."""
    table = titled("Baselines (--baselines NAME ...)", "description", "method")
    for name, recipe in baselines.items():
        method = mapping(recipe.get("config")).get("method", "?")
        table.add_row(name, "zero-shot" if method == "none" else str(method), described(recipe))
    return table


def studies_table(results: Path, names: Iterable[str]) -> Table:
    """Name; trials recorded, trials complete, and the best WER on validation."""
    table = titled(
        f"Studies in {results} (--status NAME, compare.py --study NAME)", "best on validation", "trials", "complete"
    )
    for name in names:
        try:
            records = without_attempts(StudyFolder(results / name).records())
            trials = [record for _, record in records if record.kind == "trial"]
        except (UserError, OSError) as error:
            table.add_row(name, "?", "?", Text(f"error: {error}"))
            continue
        complete = [(r.scores.wer, r.name) for r in trials if r.state == "complete" and r.scores]
        best = f"WER {min(complete)[0]:.1%} ({min(complete)[1]})" if complete else "no complete trial"
        table.add_row(name, str(len(trials)), str(len(complete)), best)
    return table


def titled(title: str, last: str, *between: str) -> Table:
    """An empty table whose first column is `name` and whose last one folds."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in between:
        table.add_column(column, no_wrap=True, justify="right" if column in ("trials", "complete") else "left")
    table.add_column(last, overflow="fold")
    return table


def described(content: Mapping[str, Any], details: str = "", end: str = r"\.\s") -> Text:
    """A description up to the first `end`, a pattern, and the details on a line of their own."""
    description = re.split(end, str(content.get("description") or ""), maxsplit=1)[0].strip().removesuffix(".")
    return Text("\n").join([Text(description), Text(details, style="dim")] if details else [Text(description)])


def joined(parts: Iterable[object]) -> str:
    """Parts as text, without those that are missing."""
    return ", ".join(str(part) for part in parts if part)
