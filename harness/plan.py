"""What a command line asks for, resolved to files and values before anything runs."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from harness import catalog
from harness.errors import UserError
from harness.model_size.parameters import Dimensions, dimensions
from harness.records.files import write_json
from harness.records.study_folder import StudyFolder
from harness.spec.messages import Open
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.task import Task
from harness.spec.techniques import STANDARD, Technique

# The fields of a space that a study cannot change once it has begun.
SEARCHED = {"sampler", "pruner", "judge", "rung_utterances", "limits", "objectives", "fixed", "sampled"}
CACHE_DIR = Path(platformdirs.user_cache_dir("whisper-sweep"))


STORAGE_VARIABLE = "WHISPER_SWEEP_STORAGE"
KEEP = 3


@dataclass(frozen=True)
class ComputeOptions:
    """Who carries a sweep out, and where: nothing of it changes what is found."""

    workers: int | None = None  # None: one a GPU
    trials_per_gpu: int = 1
    pack: int | None = 1  # trials in one pass of a trainer; None: as many as pay
    launcher: str = "local"
    slurm: tuple[tuple[str, str], ...] = ()
    storage: str | None = None  # without a password: a plan is pickled for jobs
    mlflow_uri: str | None = None

    def address(self) -> str | None:
        """The database's address, with what the environment adds to it."""
        return os.environ.get(STORAGE_VARIABLE) or self.storage


@dataclass(frozen=True)
class SearchOptions:
    """Where a search starts from, when it has done enough, and what follows it."""

    warm_start: tuple[str, ...] = ()
    patience: int | None = None  # finished trials in a row without a better one
    gpu_hours: float | None = None  # training and evaluation, of all trials
    confirm: int = 0  # configurations run again
    seeds: int = 0  # fresh seeds for each
    refit: bool = False  # the winner, on train and validation
    data_fractions: tuple[float, ...] = ()  # of train, on which the winner's settings are tried
    tune_baselines: int = 0  # trials of each trained baseline's own search, the recipe's run among them


@dataclass(frozen=True)
class Plan:
    """A sweep about to run."""

    study: str
    space: SearchSpace
    task: Task
    task_given: str
    model: str
    recipes: dict[str, Recipe]
    trials: int
    seed: int
    timeout: float | None
    results: Path
    cache_dir: Path
    keep: int = KEEP
    processes: int = 1
    techniques: tuple[Technique, ...] = STANDARD
    place: ComputeOptions = ComputeOptions()
    search_options: SearchOptions = field(default_factory=lambda: SearchOptions())

    @property
    def folder(self) -> StudyFolder:
        """Where the study lives."""
        return StudyFolder(self.results / self.study)

    def opening(self) -> Open:
        """What a trainer of this study is told first."""
        return Open(
            model=self.model,
            task=self.task,
            cache_dir=str(self.cache_dir),
            seed=self.seed,
            techniques=self.techniques,
        )

    def identity(self) -> dict[str, Any]:
        """What must not change in the life of a study, free of paths, so that results can be moved."""
        return {
            "model": self.model,
            "task": self.task.without_paths(),
            "budget": self.space.budget.model_dump(mode="json"),
            "processes": self.processes,  # of a trial: they multiply its effective batch size
            "space": self.space.model_dump(mode="json", include=SEARCHED),
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
    keep: int = KEEP,
    processes: int = 1,
    techniques: tuple[Technique, ...] = STANDARD,
    place: ComputeOptions | None = None,
    override: Mapping[str, Any] | None = None,
    search_options: SearchOptions | None = None,
) -> Plan:
    """Resolve names; an option that is not given comes from the space.

    `baselines` of ["all"] means every recipe, and ["none"] none. `override` holds fields of the space.
    """
    space_name, chosen = catalog.space(space)
    if override:
        chosen = SearchSpace.parse(_merged(chosen.model_dump(mode="json"), override), f"{space_name} with the options")
    task_given = task or chosen.task
    spoken = catalog.task(task_given)
    names = list(chosen.baselines) if baselines is None else baselines
    if names == ["all"]:
        names = catalog.names("baselines")
    recipes = dict(catalog.recipe(name) for name in ([] if names == ["none"] else names))
    name = study or (f"{space_name}-{spoken.name}" if task else space_name)
    if not name or Path(name).name != name:
        raise UserError(f"a study's name becomes a folder in {results}; {name!r} cannot")
    return Plan(
        study=name,
        space=chosen,
        task=spoken,
        task_given=task_given,
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
        place=place or ComputeOptions(),
        search_options=search_options or SearchOptions(),
    )


def _merged(space: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """A space with some fields replaced; of sampler, pruner and limits only what is named."""
    return {
        **space,
        **{key: {**space[key], **value} if isinstance(value, Mapping) else value for key, value in override.items()},
    }


def needed_dimensions(plan: Plan) -> Dimensions | None:
    """The model's, where the search counts trainable parameters by arithmetic."""
    counts = plan.space.limits.trainable is not None or "trainable" in plan.space.objectives
    return dimensions(plan.model) if counts else None


def claim(plan: Plan) -> None:
    """Write study.json for a new study; refuse to go on with one that is about something else."""
    identity, path = plan.identity(), plan.folder.manifest
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    manifest = {
        "study": plan.study,
        "seed": plan.seed,
        "task": plan.task_given,  # where compare.py finds the speech again, unless told otherwise
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
