"""Resolve the command line of a sweep to a plan: validated files and values."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from harness import catalog
from harness.errors import UserError
from harness.model_size.parameters import Dimensions, dimensions
from harness.records.files import write_json
from harness.records.study_folder import StudyFolder, checked_name
from harness.spec.messages import Open
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.task import Task
from harness.spec.techniques import STANDARD, Technique

# Fields of a space that cannot change during a study.
IDENTITY_FIELDS = {"sampler", "pruner", "judge", "rung_utterances", "limits", "objectives", "fixed", "sampled"}
CACHE_DIR = Path(platformdirs.user_cache_dir("whisper-sweep"))


STORAGE_VARIABLE = "WHISPER_SWEEP_STORAGE"
DEFAULT_KEEP = 3


@dataclass(frozen=True)
class ComputeOptions:
    """Workers, launcher and servers of a sweep; they do not change its results."""

    workers: int | None = None  # None: one per GPU
    trials_per_gpu: int = 1
    pack: int | None = 1  # trials in one pass of a trainer; None: estimated
    launcher: str = "local"
    slurm: tuple[tuple[str, str], ...] = ()
    storage: str | None = None  # without a password: a plan is pickled for jobs
    mlflow_uri: str | None = None

    def address(self) -> str | None:
        """Return the database's address; the environment variable, which may hold a password, comes first."""
        return os.environ.get(STORAGE_VARIABLE) or self.storage


@dataclass(frozen=True)
class SearchOptions:
    """Warm start, stop conditions, tuned baselines and follow-up runs of a search."""

    warm_start: tuple[str, ...] = ()
    patience: int | None = None  # finished trials in a row without improvement
    gpu_hours: float | None = None  # training and evaluation, of all trials
    confirm: int = 0  # configurations to repeat
    seeds: int = 0  # fresh seeds of each
    refit: bool = False  # train the best configuration on train and validation
    data_fractions: tuple[float, ...] = ()  # of train, for the data curve
    tune_baselines: int = 0  # trials of each trained baseline, the recipe's run included


@dataclass(frozen=True)
class Plan:
    """A sweep that is about to run."""

    study: str
    space: SearchSpace
    task: Task
    task_argument: str
    model: str
    recipes: dict[str, Recipe]
    trials: int
    seed: int
    timeout: float | None
    results: Path
    cache_dir: Path
    keep: int = DEFAULT_KEEP
    processes: int = 1
    techniques: tuple[Technique, ...] = STANDARD
    compute: ComputeOptions = ComputeOptions()
    search_options: SearchOptions = field(default_factory=lambda: SearchOptions())

    @property
    def folder(self) -> StudyFolder:
        """Folder of the study."""
        return StudyFolder(self.results / self.study)

    def open_message(self) -> Open:
        """Return the first message to a trainer of this study."""
        return Open(
            model=self.model,
            task=self.task,
            cache_dir=str(self.cache_dir),
            seed=self.seed,
            techniques=self.techniques,
        )

    def identity(self) -> dict[str, Any]:
        """Return what must not change during a study; without paths, so that results can be moved."""
        return {
            "model": self.model,
            "task": self.task.without_paths(),
            "budget": self.space.budget.model_dump(mode="json"),
            "processes": self.processes,  # of a trial: they multiply its effective batch size
            "space": self.space.model_dump(mode="json", include=IDENTITY_FIELDS),
        }


def make_plan(
    space: str,
    *,
    trials: int,
    seed: int,
    results: Path,
    task: str | None = None,
    model: str | None = None,
    study: str | None = None,
    baselines: list[str] | None = None,
    timeout: float | None = None,
    cache_dir: Path = CACHE_DIR,
    keep: int = DEFAULT_KEEP,
    processes: int = 1,
    techniques: tuple[Technique, ...] = STANDARD,
    compute: ComputeOptions | None = None,
    override: Mapping[str, Any] | None = None,
    search_options: SearchOptions | None = None,
) -> Plan:
    """Resolve names; options that are None come from the space.

    Args:
        space: Name or path of a search space.
        trials: Number of trials.
        seed: Seed of search and training.
        results: Folder of all studies.
        task: Name or path of a task.
        model: Base model.
        study: Name of the study.
        baselines: Names or paths of recipes; ["all"]: every recipe, ["none"]: none.
        timeout: Seconds after which no trial begins.
        cache_dir: Folder of the feature store and caches.
        keep: Trials that keep their weights.
        processes: Processes of each trial.
        techniques: Techniques of training that save time or memory.
        compute: Workers, launcher and servers.
        override: Fields of the space to replace.
        search_options: Warm start, stop conditions and follow-up runs.

    Raises:
        UserError: A name is unknown, or a file is invalid.
    """
    space_name, chosen = catalog.space(space)
    if override:
        chosen = SearchSpace.parse(_merged(chosen.model_dump(mode="json"), override), f"{space_name} with the options")
    task_argument = task or chosen.task
    spoken = catalog.task(task_argument)
    names = list(chosen.baselines) if baselines is None else baselines
    if names == ["all"]:
        names = catalog.names("baselines")
    recipes = _recipes([] if names == ["none"] else names)
    name = study or (f"{space_name}-{spoken.name}" if task else space_name)
    return Plan(
        study=checked_name(name, results),
        space=chosen,
        task=spoken,
        task_argument=task_argument,
        model=model or chosen.model,
        recipes=recipes,
        trials=trials,
        seed=seed,
        timeout=timeout,
        results=results,
        cache_dir=cache_dir,
        keep=keep,
        processes=processes,
        techniques=techniques,
        compute=compute or ComputeOptions(),
        search_options=search_options or SearchOptions(),
    )


def _recipes(given: Sequence[str]) -> dict[str, Recipe]:
    """Return recipes by name.

    Raises:
        UserError: Two files have one name, which would be that of both in records and tables.
    """
    recipes: dict[str, Recipe] = {}
    for path in given:
        name, recipe = catalog.recipe(path)
        if recipes.setdefault(name, recipe) != recipe:
            raise UserError(f"two different baselines are named {name!r} ({', '.join(given)}); rename one of the files")
    return recipes


def _merged(space: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Replace fields of a space; of sampler, pruner and limits only the given ones."""
    return {
        **space,
        **{key: {**space[key], **value} if isinstance(value, Mapping) else value for key, value in override.items()},
    }


def needed_dimensions(plan: Plan) -> Dimensions | None:
    """Return the model's dimensions if the search limits or minimizes trainable parameters."""
    counts = plan.space.limits.trainable is not None or "trainable" in plan.space.objectives
    return dimensions(plan.model) if counts else None


def ensure_manifest(plan: Plan) -> None:
    """Write study.json of a new study, or check that of an existing one.

    Raises:
        UserError: The study has another identity or seed.
    """
    identity, path = plan.identity(), plan.folder.manifest
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    manifest = {
        "study": plan.study,
        "seed": plan.seed,
        "task": plan.task_argument,  # where compare.py finds the speech again, unless told otherwise
        "identity": identity,
        "hash": digest,
    }
    if not path.is_file():
        write_json(path, manifest)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["hash"] != digest:
        changed = [key for key in identity if identity[key] != stored["identity"].get(key)]
        raise UserError(
            f"study {plan.study!r} was begun with another {' and '.join(changed)}; "
            f"name a new study with --study, or move {plan.folder.path} away"
        )
    if stored["seed"] != plan.seed:
        raise UserError(
            f"study {plan.study!r} was begun with --seed {stored['seed']}, not {plan.seed}; use that, or --study"
        )
