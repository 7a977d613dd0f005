"""Names on the command line -> the files they mean: search_spaces/, tasks/ and their like, and the embedded demo."""

from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest
from harness.spec.augmentation import Augmentation
from harness.spec.base import read_yaml
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.task import Task

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "baselines" / "published.yaml"  # figures from elsewhere, no recipe
DEMO_MODEL = ROOT / "harness" / "demo" / "model"


def names(folder: str) -> list[str]:
    """What can be named in one of the folders of YAML files."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.yaml") if path != PUBLISHED)


def find(folder: str, given: str) -> Path:
    """The file that a name or a path means; `folder` is search_spaces, baselines, tasks or augmentations."""
    if given.endswith((".yaml", ".yml")):
        path = Path(given)
        if not path.is_file():
            raise UserError(f"there is no file {given}")
        return path
    if given not in names(folder):
        raise UserError(f"unknown name {given!r} in {folder}/; {nearest(given, names(folder))}")
    return ROOT / folder / f"{given}.yaml"


def space(given: str) -> tuple[str, SearchSpace]:
    """A search space and its name."""
    path = find("search_spaces", given)
    return path.stem, SearchSpace.load(path)


def recipe(given: str) -> tuple[str, Recipe]:
    """A baseline's recipe and its name."""
    path = find("baselines", given)
    return path.stem, Recipe.load(path)


def augmentation(given: str) -> Augmentation:
    """An augmentation by name or file; its noise folder relates to the file."""
    path = find("augmentations", given)
    raw: Any = read_yaml(path)
    if isinstance(raw, dict) and isinstance(raw.get("noise_folder"), str):
        raw["noise_folder"] = path.parent / Path(raw["noise_folder"]).expanduser()
    return Augmentation.parse(raw, str(path))


def task(given: str) -> Task:
    """A task by name or file, or a folder of speech: its task.yaml, else what its metadata.csv tells.

    A task's options follow a colon: `fleurs:language=de_de`, `common_voice:folder=/data/cv/sv,language=sv`.
    """
    if Path(given).is_dir():
        folder = Path(given)
        if (folder / "task.yaml").is_file():
            return _task_file(folder / "task.yaml", {})
        return Task.parse({"name": folder.resolve().name, "folder": folder}, given)
    name, colon, rest = given.partition(":")
    if not name.endswith((".yaml", ".yml")) and name not in names("tasks"):
        raise UserError(f"there is no task or folder {given!r}; {nearest(name, names('tasks'))}")
    pairs = [pair.partition("=") for pair in rest.split(",")] if colon else []
    if any(not key or not equals for key, equals, _ in pairs):
        raise UserError(f"{given!r}: a task's options are written {name}:OPTION=VALUE,OPTION=VALUE")
    return _task_file(find("tasks", name), {key.strip(): value.strip() for key, _, value in pairs})


def _task_file(path: Path, given: dict[str, str]) -> Task:
    """A task's file with its options filled in; `options:` gives each its default, or null where it must be given."""
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
        about = f": {raw['description']}" if raw.get("description") else ""
        raise UserError(f"task {path.stem} needs --task {path.stem}:{example}\n       {path.stem}{about}")
    raw = _filled(raw, values)
    for holder in [raw, *(raw.get("sources") or [])]:
        if isinstance(holder, dict) and isinstance(holder.get("folder"), str):
            # What the user gives relates to where they are, what a file says to the file.
            from_user = any(holder["folder"].startswith(value) for value in given.values() if value)
            holder["folder"] = (Path() if from_user else path.parent) / Path(holder["folder"]).expanduser()
    return Task.parse(raw, str(path))


def _filled(value: Any, options: dict[str, str]) -> Any:
    """Replace {option} in every text."""
    if isinstance(value, dict):
        return {_filled(key, options): _filled(item, options) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, options) for item in value]
    if isinstance(value, str):
        for name, given in options.items():
            value = value.replace(f"{{{name}}}", str(given))
    return value


def model_location(given: str) -> str:
    """What transformers loads for a model's name: the embedded folder, the user's folder, or a hub name."""
    if given == "demo":
        return str(DEMO_MODEL)
    return given
