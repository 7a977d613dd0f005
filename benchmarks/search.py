"""How much training samplers and pruners need to come near the best configuration: a replay of recorded curves.

    python -m benchmarks.search one        # choose settings on this table
    python -m benchmarks.search two        # report on this one

The tables of benchmarks/record_curves.py hold every configuration of a small grid trained to the end. A search draws
from the same grid (learning rate and rank as whole steps, targets as choices), by the harness's own samplers and
pruners; each proposal is answered by the recorded curve of that configuration, or of the nearest one that was
recorded (fewest grid steps). Spent is what it would have trained, in whole trials: a trial stopped at a quarter costs
a quarter. A search is done when a trial that ran to its end has a validation WER within 0.5 points of the best of the
table. A configuration drawn again is trained, and paid for, again, but by searches that try nothing twice, as the
harness does in a space that has an end. 20 seeds each; the median, and the quartiles.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from benchmarks.record_curves import read
from harness.search.finite_space import FiniteSpace, Key, WithoutRepeats, settings_key
from harness.search.pruners import make_pruner, rung_step, wilcoxon_rejects
from harness.search.samplers import trial_seed
from harness.spec.space import Pruner

SEEDS, NEAR, MOST = 20, 0.005, 100  # MOST: proposals after which a search is given up


@dataclass(frozen=True)
class Table:
    """Curves by place in the grid: WER (rungs,), errors (rungs, utterances), and the rungs' fractions."""

    axes: dict[str, list[Any]]
    fractions: tuple[float, ...]
    curves: dict[tuple[int, ...], dict[str, Any]]

    @property
    def best(self) -> float:
        """The lowest WER at the end of any configuration."""
        return min(curve["wer"][-1] for curve in self.curves.values())

    @property
    def near(self) -> float:
        """The share of configurations within half a point of the best."""
        return sum(c["wer"][-1] <= self.best + NEAR for c in self.curves.values()) / len(self.curves)

    def at(self, place: tuple[int, ...]) -> dict[str, Any]:
        """The curve recorded there, or at the nearest place."""
        nearest = min(
            self.curves, key=lambda known: (sum(abs(a - b) for a, b in zip(known, place, strict=True)), known)
        )
        return self.curves[nearest]


def load(name: str) -> Table:
    """A recorded table; a configuration that diverged keeps the WER it had last."""
    stored = read(name)
    axes, rungs = stored["grid"], len(stored["rungs"])
    curves = {}
    for curve in stored["curves"]:
        if not curve["errors"]:
            continue
        place = tuple(axes[name].index(curve["point"][name]) for name in axes)
        errors = np.asarray(curve["errors"] + [curve["errors"][-1]] * (rungs - len(curve["errors"])))
        loss = curve["loss"] + [curve["loss"][-1]] * (rungs - len(curve["loss"]))
        curves[place] = {"errors": errors, "wer": (errors.sum(axis=1) / curve["words"]).tolist(), "loss": loss}
    return Table(axes, tuple(stored["rungs"]), curves)


NONE = Pruner(name="none")


@dataclass(frozen=True)
class Method:
    """A way to search: the sampler of a seed, and who stops a trial."""

    name: str
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    pruner: Pruner = NONE
    first: int = 0  # rungs before this one judge nothing
    wilcoxon: bool = False
    judge: str = "wer"
    again: bool = True  # whether a configuration may be drawn again; the harness lets none in a space that has an end


def random_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Independent draws."""
    return optuna.samplers.RandomSampler(seed=seed)


def tpe(startup: int = 10, **options: Any) -> Callable[[int], optuna.samplers.BaseSampler]:
    """TPE as the harness makes it."""
    return lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True, **options)


def halving(factor: int) -> Pruner:
    """ASHA, one in `factor` going on."""
    return Pruner(name="successive_halving", reduction_factor=factor)


METHODS = [
    Method("random, no pruning", random_sampler),
    Method("random, nothing twice", random_sampler, again=False),
    Method("TPE, no pruning", tpe()),
    Method("TPE, nothing twice", tpe(), again=False),
    Method("TPE + ASHA 2, WER from rung 0", tpe(), halving(2)),
    Method("TPE + ASHA 2, WER from rung 2", tpe(), halving(2), first=2),
    Method("TPE + ASHA 2, WER from rung 2, nothing twice", tpe(), halving(2), first=2, again=False),
    Method("TPE + ASHA 2, WER from rung 3, nothing twice", tpe(), halving(2), first=3, again=False),
    Method(
        "TPE + ASHA 2, loss from rung 1, nothing twice",
        tpe(),
        halving(2),
        judge="loss",
        first=1,
        again=False,
    ),
    Method("TPE + ASHA 3, WER from rung 2", tpe(), halving(3), first=2),
    Method("TPE + Hyperband 3, WER", tpe(), Pruner(name="hyperband", reduction_factor=3)),
    Method("TPE + median, WER", tpe(), Pruner(name="median")),
    Method("TPE + Wilcoxon", tpe(), wilcoxon=True),
    Method("TPE + Wilcoxon from rung 3", tpe(), first=3, wilcoxon=True),
    Method("random + ASHA 2, loss", random_sampler, halving(2), judge="loss"),
    Method("TPE + ASHA 2, loss", tpe(), halving(2), judge="loss"),
    Method("TPE + ASHA 2, loss from rung 1", tpe(), halving(2), judge="loss", first=1),
    Method("TPE + ASHA 3, loss", tpe(), halving(3), judge="loss"),
    Method("TPE + ASHA 3, loss from rung 1", tpe(), halving(3), judge="loss", first=1),
    Method("TPE + ASHA 4, loss from rung 1", tpe(), halving(4), judge="loss", first=1),
    Method("TPE + Hyperband 3, loss", tpe(), Pruner(name="hyperband", reduction_factor=3), judge="loss"),
]


def spent(table: Table, method: Method, seed: int) -> float:
    """Whole trials' worth of training until a finished trial is near the best; MOST proposals at the utmost.

    A search that may try nothing twice, and has stopped what it looked for, never finds it: MOST.
    """
    judged = len(table.fractions) - method.first
    study = optuna.create_study(study_name=f"{method.name}/{seed}", pruner=make_pruner(method.pruner, judged))
    cost, best = 0.0, None
    finite, tried = everything(table), set[Key]()
    for number in range(MOST):
        study.sampler = method.sampler(trial_seed(seed, number))
        if not method.again:
            if not finite.has_untried(tried):
                return float(MOST)
            study.sampler = WithoutRepeats(study.sampler, finite, tried, trial_seed(seed, number))
        trial = study.ask()
        curve = table.at(tuple(_ask(trial, name, held) for name, held in table.axes.items()))
        tried.add(settings_key(trial.params))
        stopped = _climb(table, method, trial, curve, best)
        cost += table.fractions[stopped if stopped is not None else -1]
        if stopped is not None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, curve["wer"][-1])
        if curve["wer"][-1] <= table.best + NEAR:
            return cost
        if best is None or curve["wer"][-1] < best["wer"][-1]:
            best = curve
    return cost


def everything(table: Table) -> FiniteSpace:
    """All that can be proposed."""
    return FiniteSpace(
        {name: held if isinstance(held[0], str) else range(len(held)) for name, held in table.axes.items()}
    )


def _ask(trial: optuna.Trial, name: str, held: list[Any]) -> int:
    if isinstance(held[0], str):
        return held.index(trial.suggest_categorical(name, held))
    return trial.suggest_int(name, 0, len(held) - 1)


def _climb(
    table: Table, method: Method, trial: optuna.Trial, curve: dict[str, Any], best: dict[str, Any] | None
) -> int | None:
    """The rung at which the trial is stopped, or None."""
    for rung in range(method.first, len(table.fractions) - 1):
        trial.report(curve[method.judge][rung], rung_step(method.pruner, rung - method.first))
        if trial.should_prune():
            return rung
        if method.wilcoxon and best is not None and wilcoxon_rejects(curve["errors"][rung], best["errors"][rung], 0.05):
            return rung
    return None


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("table", choices=("one", "two"))
    options.add_argument("--method", nargs="+", help="only these")
    given = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    table = load(given.table)
    print(f"{len(table.curves)} configurations, best {table.best:.1%}, {table.near:.1%} of them within half a point")
    reference = None
    for method in METHODS:
        if given.method and method.name not in given.method and method is not METHODS[0]:
            continue
        costs = [spent(table, method, seed) for seed in range(SEEDS)]
        low, middle, high = statistics.quantiles(costs, n=4)
        reference = reference or middle
        print(f"{method.name:40} {middle:6.2f} trials ({low:.2f} to {high:.2f}), {reference / middle:4.1f} times less")


if __name__ == "__main__":
    main()
