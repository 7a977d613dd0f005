"""Load search spaces, baselines, tasks, augmentations and models by the names used on the command line."""

from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest
from harness.spec.augmentation import Augmentation
from harness.spec.base import read_yaml
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.task import Task

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "baselines" / "published.yaml"  # published error rates, not a recipe
DEMO_MODEL = ROOT / "harness" / "demo" / "model"


def names(folder: str) -> list[str]:
    """Return the names of the YAML files in a folder (see `find`)."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.yaml") if path != PUBLISHED)


def find(folder: str, given: str) -> Path:
    """Return the file that a name or a path refers to.

    Args:
        folder: One of search_spaces, baselines, tasks or augmentations.
        given: A name in that folder, or the path of a YAML file.

    Raises:
        UserError: There is no such file.
    """
    if given.endswith((".yaml", ".yml")):
        path = Path(given)
        if not path.is_file():
            raise UserError(f"there is no file {given}")
        return path
    if given not in names(folder):
        raise UserError(f"unknown name {given!r} in {folder}/; {nearest(given, names(folder))}")
    return ROOT / folder / f"{given}.yaml"


def space(given: str) -> tuple[str, SearchSpace]:
    """Load a search space; return its name and content."""
    path = find("search_spaces", given)
    return path.stem, SearchSpace.load(path)


def recipe(given: str) -> tuple[str, Recipe]:
    """Load a baseline's recipe; return its name and content."""
    path = find("baselines", given)
    return path.stem, Recipe.load(path)


def augmentation(given: str) -> Augmentation:
    """Load an augmentation by name or path; its `noise_folder` is relative to the file."""
    path = find("augmentations", given)
    raw: Any = read_yaml(path)
    if isinstance(raw, dict) and isinstance(raw.get("noise_folder"), str):
        raw["noise_folder"] = path.parent / Path(raw["noise_folder"]).expanduser()
    return Augmentation.parse(raw, str(path))


def task(given: str) -> Task:
    """Load a task by name, path, or folder of recordings.

    Args:
        given: A name in tasks/ or the path of a YAML file, with the task's options after a colon
            (`fleurs:language=de_de`, `common_voice:folder=/data/cv/sv,language=sv`); or a folder, whose task.yaml is
            used if there is one, else its metadata.csv.

    Raises:
        UserError: The task or an option is unknown, or a required option is missing.
    """
    if Path(given).is_dir():
        folder = Path(given)
        if (folder / "task.yaml").is_file():
            return _load_task_file(folder / "task.yaml", {})
        return Task.parse({"name": folder.resolve().name, "folder": folder}, given)
    name, colon, rest = given.partition(":")
    if not name.endswith((".yaml", ".yml")) and name not in names("tasks"):
        raise UserError(f"there is no task or folder {given!r}; {nearest(name, names('tasks'))}")
    pairs = [pair.partition("=") for pair in rest.split(",")] if colon else []
    if any(not key or not equals for key, equals, _ in pairs):
        raise UserError(f"{given!r}: a task's options are written {name}:OPTION=VALUE,OPTION=VALUE")
    return _load_task_file(find("tasks", name), {key.strip(): value.strip() for key, _, value in pairs})


def _load_task_file(path: Path, given: dict[str, str]) -> Task:
    """Load a task's file and fill in its options; its `options:` holds their defaults, null for a required option."""
    raw: Any = read_yaml(path)
    if not isinstance(raw, dict):
        return Task.parse(raw, str(path))
    options = raw.pop("options", None) or {}
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise UserError(f"task {path.stem} has no option {unknown[0]!r}; {nearest(unknown[0], options)}")
    values = {**options, **given}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        example = ",".join(f"{key}=…" for key in missing)
        description = f": {raw['description']}" if raw.get("description") else ""
        raise UserError(f"task {path.stem} needs --task {path.stem}:{example}\n       {path.stem}{description}")
    raw = _fill(raw, values)
    for part in [raw, *(raw.get("sources") or [])]:
        if isinstance(part, dict) and isinstance(part.get("folder"), str):
            # A path on the command line is relative to the working directory, one in a file to the file.
            from_user = any(part["folder"].startswith(value) for value in given.values() if value)
            part["folder"] = (Path() if from_user else path.parent) / Path(part["folder"]).expanduser()
    return Task.parse(raw, str(path))


def _fill(value: Any, options: dict[str, str]) -> Any:
    """Replace {option} in every string."""
    if isinstance(value, dict):
        return {_fill(key, options): _fill(item, options) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, options) for item in value]
    if isinstance(value, str):
        for name, given in options.items():
            value = value.replace(f"{{{name}}}", str(given))
    return value


def model_location(given: str) -> str:
    """Return what Transformers loads for a model: the demo's folder, a folder of the user, or a name on the hub."""
    if given == "demo":
        return str(DEMO_MODEL)
    return given
