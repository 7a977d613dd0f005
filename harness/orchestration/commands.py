"""The actions of run_sweep.py: sweep, status, data preparation, preflight, dry run."""

import json
import os
import shlex
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.command_line import mlflow_uri
from harness.errors import UserError
from harness.model_size.parameters import count, dimensions
from harness.orchestration.display import ProgressDisplay, print_data, settings
from harness.orchestration.startup import alone, first_trainer
from harness.orchestration.summary import summary
from harness.orchestration.trainer_launch import Trainer, TrainerDiedError
from harness.plan import CACHE_DIR, STORAGE_VARIABLE, ComputeOptions, Plan, SearchOptions, make_plan
from harness.records.files import write_json
from harness.records.study_folder import is_searched, open_study, without_attempts
from harness.records.tuned_baselines import tuned_baselines
from harness.spec.result import Record
from harness.spec.techniques import STANDARD, Technique
from harness.spec.trial import TrialConfig

PACK = {"auto": None, "off": 1}


def plan_of(options: Namespace) -> Plan:
    """The plan that the command line asks for."""
    return make_plan(
        options.space,
        trials=options.trials,
        seed=options.seed,
        results=options.results,
        task=options.task,
        model=options.model,
        study=options.study,
        baselines=options.baselines,
        timeout=options.timeout,
        cache_dir=options.cache_dir or CACHE_DIR,
        keep=options.keep,
        processes=options.processes,
        techniques=techniques(options),
        compute=compute_options(options),
        override=overrides(options),
        search_options=search_options(options),
    )


def techniques(options: Namespace) -> tuple[Technique, ...]:
    """The techniques in use: the standard ones without those turned off, and compiling if asked for."""
    wanted = (*STANDARD, "compile") if options.compile else STANDARD
    return tuple(name for name in wanted if name not in options.without)


def compute_options(options: Namespace) -> ComputeOptions:
    """Where and how the sweep runs.

    Raises:
        UserError: if a URL holds a password, which every process list would show.
    """
    storage = options.storage
    if storage is not None or STORAGE_VARIABLE in os.environ:
        from harness.search.storage import has_password, with_driver, without_password

        if storage is not None and has_password(storage):
            raise UserError(
                f"--storage holds a password, which other users of this machine can read; set PGPASSWORD, use "
                f"~/.pgpass, or put the whole URL in {STORAGE_VARIABLE}"
            )
        with_driver(given := os.environ.get(STORAGE_VARIABLE) or storage)
        storage = without_password(given)
    return ComputeOptions(
        workers=None if options.workers == "auto" else int(options.workers),
        trials_per_gpu=options.trials_per_gpu,
        pack=PACK[options.pack] if options.pack in PACK else int(options.pack),
        launcher=options.launcher,
        slurm=tuple(options.slurm),
        storage=storage,
        mlflow_uri=mlflow_uri(options.mlflow_uri),
    )


def overrides(options: Namespace) -> dict[str, Any]:
    """The fields of the search space that options override."""
    limits = {name: getattr(options, f"max_{name}") for name in ("vram", "train_time", "trainable")}
    given: dict[str, Any] = {
        "sampler": {"name": options.sampler} if options.sampler else None,
        "pruner": {"name": options.pruner} if options.pruner else None,
        "judge": options.judge,
        "objectives": options.objectives.split(",") if options.objectives else None,
        "limits": {name: value for name, value in limits.items() if value is not None} or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def search_options(options: Namespace) -> SearchOptions:
    """Warm start, stop conditions and follow-up runs of the search."""
    return SearchOptions(
        warm_start=tuple(options.warm_start or ()),
        patience=options.patience,
        gpu_hours=options.budget_gpu_hours,
        confirm=options.confirm,
        seeds=options.seeds,
        tune_baselines=options.tune_baselines,
        refit=options.refit,
        data_fractions=options.data_fractions,
    )


def sweep(options: Namespace) -> int:
    """Run or resume a study, and print the best run."""
    plan, console = plan_of(options), Console(soft_wrap=True)
    print_plan(plan, console)
    with alone(plan), first_trainer(plan) as trainer:
        from harness.orchestration.sweep import (
            Sweep,  # MLflow and SQLAlchemy take seconds, in which the trainer comes up
        )

        with ProgressDisplay(plan, console) as display:
            sweep = Sweep(plan, display, trainer)
            best = sweep.run()
    print_end(plan, best, console, sweep.ended)
    return 0


def status(options: Namespace) -> int:
    """Print the progress of a study, running or not."""
    from harness.orchestration.status import print_status

    folder = open_study(options.results, options.status)
    print_status(folder, compute_options(options).address(), Console())
    return 0


def prepare_only(options: Namespace) -> int:
    """Prepare the data only, for example on a machine without a GPU that shares the cache with one that has it."""
    plan, console = plan_of(options), Console(soft_wrap=True)
    order = plan.open_message().model_copy(update={"prepare_only": True})
    try:
        with Trainer(order, plan.folder.path / "trainer.log") as trainer:
            report = trainer.come_up(lambda text: print(text, flush=True)).ready.data
    except TrainerDiedError as error:
        raise UserError(str(error)) from None
    write_json(plan.folder.path / "data_report.json", report)
    print_data(report, console)
    console.print(f"prepared {plan.task.name} for {plan.model} in {plan.cache_dir}", highlight=False)
    console.print(f"data report: {plan.folder.path / 'data_report.json'}", highlight=False)
    return 0


def preflight(options: Namespace) -> int:
    """Run a few steps of the heaviest configuration and the baselines, and print a forecast."""
    from harness.orchestration.preflight import preflight as measure

    plan, console = plan_of(options), Console(soft_wrap=True)
    print_plan(plan, console)
    measure(plan, options.price_per_hour, options.deadline, console)
    return 0


def print_plan(plan: Plan, console: Console) -> None:
    """Print the study, its search and its baselines before they run."""
    budget = plan.space.budget
    console.print(f"study {plan.study}: {plan.space.description}", highlight=False)
    console.print(f"  model {plan.model}, task {plan.task.name}, seed {plan.seed}", highlight=False)
    rungs = ", ".join(budget.describe(fraction) for fraction in budget.rungs)
    console.print(f"  {plan.trials} trials of {budget.describe()}, evaluated after {rungs}", highlight=False)
    console.print(f"  sampled: {', '.join(plan.space.sampled)}", highlight=False)
    space = plan.space
    console.print(
        f"  sampler {space.sampler.name}, pruner {space.pruner.name}, metric of early rungs {space.judge}",
        highlight=False,
    )
    if limits := space.limits.as_dict():
        console.print(
            f"  limits: {', '.join(f'{name} {value:,.0f}' for name, value in limits.items())}", highlight=False
        )
    if len(space.objectives) > 1:
        console.print(f"  objectives: {', '.join(space.objectives)}", highlight=False)
    console.print(f"  baselines: {', '.join(plan.recipes) or 'none'}", highlight=False)
    console.print(f"  results in {plan.folder.path}", highlight=False)


def print_end(plan: Plan, best: Record | None, console: Console, ended: str | None = None) -> None:
    """Print the best trial, a summary of all runs, and the next commands."""
    console.print()
    if best is None or best.scores is None:
        console.print("no completed trial" if plan.trials else "no trials requested (--trials 0)", highlight=False)
    else:
        console.print(f"best: {best.name}, validation WER {best.scores.wer:.1%}", style="bold", highlight=False)
        console.print(f"  {settings(best.config)}", highlight=False)
    stored = list(plan.folder.records())
    for line in summary(plan.space, [record for _, record in without_attempts(stored)], ended):
        console.print(line, highlight=False, markup=False)
    for _, record in stored:
        if record.kind in ("zero_shot", "recipe") and not is_searched(record):
            wer = f"{record.scores.wer:.1%}" if record.scores else record.reason
            notes = f" ({'; '.join(record.notes)})" if record.notes else ""
            console.print(f"  {record.name}: {wer}{notes}", highlight=False)
    for held in tuned_baselines(stored):
        assert held.best[1].scores is not None
        console.print(f"  {held.name}: {held.best[1].scores.wer:.1%} ({held.note})", highlight=False, markup=False)
    for line in next_commands(plan, [record for _, record in stored]):
        console.print(line, highlight=False, markup=False)


def next_commands(plan: Plan, records: Iterable[Record]) -> Iterator[str]:
    """Yield the commands that usually follow a sweep, quoted for a shell."""
    results = [] if plan.results == Path("results") else ["--results", str(plan.results)]
    server = ["--mlflow-uri", plan.compute.mlflow_uri] if plan.compute.mlflow_uri else []
    study = ["--study", plan.study]
    yield f"compare on the test set: {shlex.join(['python', 'compare.py', *study, *results, *server])}"
    if any(record.portion.with_validation and record.state == "complete" for record in records):
        refit = ["python", "-m", "harness.publish", *study, "--refit", *results]
        yield f"publish the refit:       {shlex.join(refit)}"
    place = [f"STUDY={plan.study}", *([f"RESULTS={plan.results}"] if results else [])]
    yield f"browse the runs:         {shlex.join(['make', 'ui', *place])}"


def dry_run(options: Namespace) -> int:
    """Print sample configurations with their parameter counts; needs no weights, data or GPU."""
    from harness.search.preview import sample_configurations

    plan = plan_of(options)
    dims = dimensions(plan.model)
    named: list[tuple[str, TrialConfig]] = [(name, recipe.config) for name, recipe in plan.recipes.items()]
    named += [
        (f"trial {number}", config)
        for number, config in enumerate(sample_configurations(plan.space, plan.trials, plan.seed))
    ]
    rows: list[dict[str, Any]] = []
    for name, config in named:
        trainable, total = count(dims, config)
        rows.append(
            {"name": name, "config": config.settings(), "trainable_parameters": trainable, "total_parameters": total}
        )
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    table = Table("name", "settings", box=None, pad_edge=False)
    table.add_column("trainable", justify="right")
    table.add_column("total", justify="right")
    for row, (_, config) in zip(rows, named, strict=True):
        table.add_row(row["name"], settings(config), f"{row['trainable_parameters']:,}", f"{row['total_parameters']:,}")
    Console().print(table)
    return 0
