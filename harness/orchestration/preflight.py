"""Forecast memory, hours and cost of a sweep by training its heaviest configuration and baselines for a few steps."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.errors import UserError
from harness.orchestration.display import settings
from harness.orchestration.trainer_launch import Trainer, TrainerDiedError
from harness.plan import Plan
from harness.spec.budget import Budget, epoch_examples
from harness.spec.messages import Decide, Failed, Finished, Report, Train
from harness.spec.result import Cost, Rung
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig

STEPS = 4  # two to warm up, two to measure


def _rank(*values: Any) -> Callable[[Any], float]:
    return lambda value: float(values.index(value)) if value in values else -1.0


# Order of the values of a setting by memory and time; numeric settings that are not listed are ordered by value.
WEIGHT: dict[str, Callable[[Any], float]] = {
    "method": _rank("none", "lora", "frozen_encoder", "full"),
    "target_modules": lambda modules: 6.0 if modules == "all-linear" else float(len(modules)),
    "scope": _rank("decoder", "encoder", "both", None),
    "layers_to_transform": lambda layers: float("inf") if layers is None else float(len(layers)),
    "bias": _rank(None, "none", "lora_only", "all"),
    "init_lora_weights": _rank(None, "default", "gaussian", "olora", "pissa"),
    "optim": _rank("paged_adamw_8bit", "adamw_8bit", "adafactor", "adamw"),
    "lr_scheduler_type": lambda _: 0.0,
    "precision": _rank("bf16", "fp16", "tf32", "fp32"),
    "base_weights": _rank("nf4_double", "nf4", "int8", "full"),
    "gradient_checkpointing": lambda on: float(not on),
    "gradient_accumulation_steps": lambda steps: -float(steps),  # no memory, and time in proportion only
    "learning_rate": lambda rate: -float(rate),  # no influence; a low one does not diverge
    "augmentation": lambda name: float(name is not None),
    "encoder_window_seconds": lambda seconds: float("inf") if seconds is None else float(seconds),
}


def heaviest(space: SearchSpace) -> TrialConfig:
    """Return the configuration that takes the most memory and time, choosing each setting on its own."""
    sampled = {
        name: max(dimension.extremes(), key=WEIGHT.get(name, lambda value: float(value or 0)))
        for name, dimension in space.sampled.items()
    }
    return TrialConfig.model_validate(space.with_fixed(sampled))


@dataclass(frozen=True)
class Forecast:
    """Forecast of one run of a system; `cost` is None if it ran out of memory."""

    name: str
    config: TrialConfig
    cost: Cost | None
    rung: Rung | None

    def train_seconds(self, budget: Budget, processes: int) -> float:
        """Return the seconds of training for the whole budget."""
        if self.cost is None or self.config.method == "none":
            return 0.0
        if budget.train_seconds is not None:
            return budget.train_seconds
        examples = budget.total_examples(self.config.effective_batch_size * processes)
        assert examples is not None
        return examples / (self.cost.samples_per_second or float("inf"))

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of one evaluation of validation."""
        return self.rung.evaluation_seconds if self.rung else 0.0

    def hours(self, budget: Budget, processes: int, kept: float | None = None) -> float:
        """Return the hours of one run, or of the average trial if a share `kept` continues at each rung."""
        reached, before, seconds = 1.0, 0.0, 0.0
        for fraction in budget.rungs if self.config.method != "none" else (1.0,):
            seconds += reached * ((fraction - before) * self.train_seconds(budget, processes) + self.evaluation_seconds)
            before, reached = fraction, reached * (kept or 1.0)
        return seconds / 3600


def preflight(plan: Plan, price: float | None, deadline: float | None, console: Console) -> None:
    """Train the heaviest configuration and each baseline for four steps, and print the forecast.

    Args:
        plan: The plan of the sweep.
        price: Price of an hour of this machine, in any currency.
        deadline: Hours available.
        console: Where to print.

    Raises:
        UserError: A configuration does not fit into memory, or the data cannot be used.
    """
    log = plan.folder.path / "preflight.log"
    try:
        with Trainer(plan.open_message(), log, processes=plan.processes) as trainer:
            trainer.come_up(lambda text: console.print(text))
            budget = plan.space.budget.resolved(epoch_examples(trainer.ready.data))
            device = trainer.ready.device
            _refuse(plan, budget, device)
            forecasts = [_measure(trainer, name, config) for name, config in _systems(plan, budget, device)]
    except TrainerDiedError as error:
        raise UserError(f"{error}; see {log}") from None
    _print(plan, budget, forecasts, price, deadline, console)
    starved = [forecast.name for forecast in forecasts if forecast.cost is None]
    if starved:
        raise UserError(
            f"out of memory: {', '.join(starved)}; set auto_micro_batch, a smaller batch, "
            f"gradient_checkpointing or an 8-bit optimizer, or leave it out"
        )


def _refuse(plan: Plan, budget: Budget, device: str) -> None:
    if refusal := plan.space.refused_on(device):
        raise UserError(f"the space cannot run here: {refusal}")
    for name, recipe in plan.recipes.items():
        if refusal := recipe.adapt(budget, device, processes=plan.processes)[0].refused_on(device):
            raise UserError(f"baseline {name} cannot run here: {refusal}")


def _systems(plan: Plan, budget: Budget, device: str) -> Iterator[tuple[str, TrialConfig]]:
    yield "heaviest trial", heaviest(plan.space)
    for name, recipe in plan.recipes.items():
        yield name, recipe.adapt(budget, device, plan.model, plan.processes)[0]


def _measure(trainer: Trainer, name: str, config: TrialConfig) -> Forecast:
    """Train four steps on the longest transcripts, and evaluate once."""
    with tempfile.TemporaryDirectory() as attempt:
        trainer.send(Train(config=config, budget=Budget(steps=STEPS), seed=1, attempt=attempt, longest_first=True))
        while not isinstance(answer := trainer.receive(), Finished):
            if isinstance(answer, Failed):
                raise UserError(f"{name} fails: {answer.reason}")
            if isinstance(answer, Report) and not answer.last:
                trainer.send(Decide(go_on=True))
    result = answer.result
    if result.cost is None and answer.poisoned:
        raise UserError(f"{name} runs out of memory in a way that ends the process; make its batch smaller")
    return Forecast(name, config, result.cost, result.rungs[-1] if result.rungs else None)


def _print(
    plan: Plan,
    budget: Budget,
    forecasts: list[Forecast],
    price: float | None,
    deadline: float | None,
    console: Console,
) -> None:
    kind = next((f.cost.memory_kind for f in forecasts if f.cost), "cuda_reserved")
    table = Table("system", "batch", "peak GB", "samples/s", "evaluation, s", "a run", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for forecast in forecasts:
        cost = forecast.cost
        if cost is None:
            table.add_row(forecast.name, str(forecast.config.per_device_train_batch_size), "out of memory", "", "", "")
            continue
        rate = "" if cost.samples_per_second is None else f"{cost.samples_per_second:.1f}"
        trained = forecast.config.method != "none"
        batch = f"{cost.per_device_train_batch_size} x {cost.gradient_accumulation_steps}" if trained else ""
        hours = _time(forecast.hours(budget, plan.processes))
        peak = f"{cost.peak_memory_bytes / 1e9:.2f}"
        table.add_row(forecast.name, batch, peak, rate, f"{forecast.evaluation_seconds:.1f}", hours)
    console.print(table)
    console.print(f"heaviest trial: {settings(forecasts[0].config)}", highlight=False)
    if kind == "process_rss":
        console.print("peak: memory of the whole trainer process (no GPU)", highlight=False)
    most, likely = _sum(plan, budget, forecasts, None), _sum(plan, budget, forecasts, _kept(plan))
    said = f"the sweep: at most {_time(most)} for {plan.trials} trials and {len(plan.recipes)} baselines"
    if after := _followups(plan, budget, forecasts):
        said += f", of which {_time(after)} for follow-up runs"
    if likely < most:
        said += f", about {_time(likely)} with {plan.space.pruner.name.replace('_', ' ')}"
    console.print(said, highlight=False)
    if price is not None:
        money = f"at most {most * price:.2f}, about {likely * price:.2f}"
        console.print(f"cost at {price:g} an hour: {money}", highlight=False)
    if deadline is not None:
        pruned = "fits if pruning stops as many trials as expected" if likely <= deadline else "does not fit"
        console.print(
            f"a deadline of {deadline:g} h: the sweep {'fits' if most <= deadline else pruned}", highlight=False
        )


def _time(hours: float) -> str:
    """Format hours, or minutes or seconds if shorter."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def _kept(plan: Plan) -> float | None:
    """Return the share of trials that continue at each rung; None if the pruner does not stop them by rank."""
    pruner = plan.space.pruner
    return 1 / pruner.reduction_factor if pruner.name in ("successive_halving", "hyperband") else None


def _sum(plan: Plan, budget: Budget, forecasts: list[Forecast], kept: float | None) -> float:
    """Return the hours of all trials, each like the heaviest, and of baselines and follow-up runs."""
    trial, *baselines = forecasts
    hours = plan.trials * trial.hours(budget, plan.processes, kept)
    for forecast in baselines:
        times = max(1, plan.search_options.tune_baselines) if forecast.config.method != "none" else 1
        hours += times * forecast.hours(budget, plan.processes)
    return hours + _followups(plan, budget, forecasts)


def _followups(plan: Plan, budget: Budget, forecasts: list[Forecast]) -> float:
    """Return the hours of replicates, data fractions and refit, as if the heaviest trial were the best."""
    search_options, trial = plan.search_options, forecasts[0].hours(budget, plan.processes)
    trained = sum(f.hours(budget, plan.processes) for f in forecasts[1:] if f.config.method != "none")
    baselines = trained * (2 if search_options.tune_baselines else 1)  # as they are, and tuned
    confirmed = search_options.seeds * (search_options.confirm * trial + baselines) if search_options.confirm else 0.0
    parts = sum(fraction < 1 for fraction in search_options.data_fractions) * (
        search_options.seeds if search_options.confirm else 1
    )
    return confirmed + (parts + search_options.refit) * trial
