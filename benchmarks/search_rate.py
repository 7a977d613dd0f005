"""How soon a search has a configuration that is nearly the best: seconds on one clock, real runs, nothing replayed.

    python -m benchmarks.search_rate                                    # the demo, two scopes, three sweeps each
    python -m benchmarks.search_rate --epsilon 1 --sweeps 5 --search '--pruner none' --json found.json
    python -m benchmarks.search_rate --model random-toy --grid two --sweeps 1    # to see that it runs

First run_sweep.py trains every configuration of a grid to the end, which gives the WER of each. A configuration is good
when its validation WER is within --epsilon points of the best one's. Then, how long it takes until a good one is found:

`plain, random`: benchmarks/plain.py, one process a trial. A random order without repeats meets the first of g good ones
among n after (n + 1) / (g + 1) trials on average; a trial's seconds are those of --processes real ones, spread over the
grid, of which the first also prepares the features. `reload, random`: the harness's loop in one process that loads its
base anew for each trial, reckoned in the same way. `harness, random`: likewise, from the run over the whole grid.
`harness`: run_sweep.py as a user calls it (TPE, ASHA, three rungs), from the start of the process until the record of a
good trial that ran to its end is there; then it is stopped. A sweep that tries all there is and finds none has missed:
it counts with its whole time, which is too little. Behind a sweep's seconds: by how many points of WER its best trial
was above the best of all. Processes and sweeps take turns; each sweep begins with no cache.

The seed of a study is also that of its trainings. For all to train alike it is the same in all sweeps; they propose
other configurations because each has the choices in another order. The gate: a configuration has the same WER, to the
last bit on a CPU, in every arm but `plain`, whose dropout is drawn elsewhere; that it has as many good ones is assumed.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import sweep
from benchmarks.arms import RANDOM, SEED, Job, made
from harness.catalog import ROOT
from harness.spec.trial import ALL_LINEAR, TrialConfig

GRIDS: dict[str, dict[str, list[Any]]] = {
    "24": {
        "learning_rate": [1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 1e-2],
        "r": [8, 32],
        "target_modules": [["q_proj", "v_proj"], list(ALL_LINEAR)],
    },
    "two": {"learning_rate": [1e-4, 1e-2], "r": [4], "target_modules": [["q_proj", "v_proj"]]},
}
RUNGS = [0.25, 0.5, 1.0]
# Trainings of about four to eight seconds on one core; with a frozen encoder a step takes a third of the time.
EXAMPLES = {"both": 400, "decoder": 800}
SECONDS_BETWEEN_LOOKS = 0.2

Point = tuple[float, int, str]


@dataclass(frozen=True)
class GridJob(Job):
    """A job over some configurations of a grid: all of them, or those at `places`."""

    places: tuple[int, ...] = ()

    def configurations(self) -> list[TrialConfig]:
        """The configurations."""
        axes = GRIDS[self.grid]
        points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        chosen = [points[place] for place in self.places] if self.places else points
        return [TrialConfig.model_validate(self.fixed | point) for point in chosen]

    def only(self, places: Sequence[int]) -> "GridJob":
        """The same over these places."""
        return dataclasses.replace(self, places=tuple(places))

    def spread(self, count: int) -> list[int]:
        """So many places, evenly over the grid; the odd step meets every target."""
        size = len(self.configurations())
        step = size // max(1, count) // 2 * 2 + 1
        return [number * step % size for number in range(count)]


@dataclass(frozen=True)
class Ended:
    """A trial whose record is there, `seconds` after the process was started; `wer` where it ran to its end."""

    seconds: float
    point: Point
    wer: float | None


def point(config: TrialConfig) -> Point:
    """What tells configurations of a grid apart."""
    assert config.r is not None and config.target_modules is not None
    return config.learning_rate, config.r, "+".join(sorted(config.target_modules))


def space(job: Job, order: int | None = None) -> dict[str, Any]:
    """The grid as a search space with the search that is the default, its choices shuffled by `order`.

    Without `order` every configuration is trained to its end and evaluated there alone.
    """
    fixed = {name: value for name, value in job.fixed.items() if name != "target_modules"}
    axes = GRIDS[job.grid]
    whole = {"budget": {"examples": job.examples}, "sampler": {"name": "grid"}, "pruner": {"name": "none"}}
    search = {"budget": {"examples": job.examples, "rungs": RUNGS}}
    if order is not None:
        draw = random.Random(order)
        axes = {name: draw.sample(values, len(values)) for name, values in axes.items()}
    sampled = {name: {"choices": values} for name, values in axes.items()}
    what = {"description": "for benchmarks/search_rate.py", "model": job.model, "task": job.task, "baselines": []}
    return what | (whole if order is None else search) | {"fixed": fixed, "sampled": sampled}


def run(job: Job, order: int | None = None, target: float = -1.0, options: Sequence[str] = ()) -> list[Ended]:
    """run_sweep.py until a trial has ended with a WER of at most `target`, or all have; its trials as they ended."""
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        folder = Path(name)
        (folder / "grid.yaml").write_text(yaml.safe_dump(space(job, order)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "run_sweep.py"), "--space", "grid.yaml", "--study", "grid"]
        command += ["--trials", str(len(job.configurations())), "--seed", str(SEED), "--cache-dir", "cache", *options]
        environment = dict(os.environ, PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false")
        began, stopped = time.time(), False
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
            while process.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if not stopped and found(ended(folder / "results" / "grid", began), target) is not None:
                    process.terminate()
                    stopped = True
        if process.returncode and not stopped:
            raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'log').read_text()[-3000:]}")
        return ended(folder / "results" / "grid", began)


def ended(study: Path, began: float) -> list[Ended]:
    """The trials of a study that have ended, in that order."""
    paths = study.glob("trials/*/result.json")
    records = [(path.stat().st_mtime - began, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    trials = [
        Ended(
            seconds,
            point(TrialConfig.model_validate(record["config"])),
            record["rungs"][-1]["scores"]["wer"] if record["state"] == "complete" else None,
        )
        for seconds, record in records
    ]
    return sorted(trials, key=lambda trial: trial.seconds)


def found(trials: Sequence[Ended], target: float) -> int | None:
    """How many trials had ended when the first good one had, itself among them; None where none has."""
    good = (number for number, trial in enumerate(trials, 1) if trial.wer is not None and trial.wer <= target)
    return next(good, None)


def draws(size: int, good: int) -> Fraction:
    """Trials until the first good one of a random order of `size` without repeats, on average.

    The bad ones fall evenly into the good + 1 gaps before, between and behind the good ones.
    """
    return Fraction(size + 1, good + 1)


def expected(times: Sequence[float], size: int, good: int) -> dict[str, float]:
    """A random search's row, from the seconds after which trials in turn had ended; start-up is the first one's."""
    later = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0]
    trials = float(draws(size, good))
    return {"first": times[0], "later": later, "trials": trials, "seconds": times[0] + (trials - 1) * later}


def plain(job: GridJob, place: int, folder: Path) -> tuple[float, float]:
    """One process of the plain recipe: (seconds, WER)."""
    [trial] = sweep.plain(job.only([place]), folder).values()
    # From the order that it was given to its answer: listing the clips for it is not in its time.
    return (folder / "found.json").stat().st_mtime - (folder / "job.json").stat().st_mtime, trial.wer


def reload(job: GridJob, folder: Path) -> list[Ended]:
    """One process that loads its base anew for each trial."""
    given = dataclasses.asdict(job) | {"folder": str(folder)}
    (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")
    began = time.time()
    sweep._run([sys.executable, "-m", "benchmarks.search_rate", "--inside", str(folder / "job.json")])
    trials = []
    for number, config in enumerate(job.configurations()):
        path = folder / str(number) / "result.json"
        wer = json.loads(path.read_text(encoding="utf-8"))["rungs"][-1]["scores"]["wer"]
        trials.append(Ended(path.stat().st_mtime - began, point(config), wer))
    return trials


def gate(trials: Sequence[Ended], truth: dict[Point, float]) -> str:
    """Whether every trial that ran to its end has the WER that its configuration has."""
    differing = sum(trial.wer is not None and trial.wer != truth[trial.point] for trial in trials)
    return f"{differing} of {len(trials)} differ" if differing else "equal"


def searched(sweeps: Sequence[Sequence[Ended]], target: float, best: float) -> dict[str, Any]:
    """The row of the real sweeps: means, and how many points above the best the best of each was, a miss or not."""
    counts = [found(trials, target) for trials in sweeps]
    upto = [trials[: count or len(trials)] for trials, count in zip(sweeps, counts, strict=True)]
    row: dict[str, Any] = {"runs": [trials[-1].seconds for trials in upto], "missed": counts.count(None)}
    wers = [[trial.wer for trial in trials if trial.wer is not None] for trials in upto]
    row["above"] = [100 * (min(whole) - best) if whole else None for whole in wers]
    row["first"] = statistics.mean(trials[0].seconds for trials in upto)
    row["trials"] = statistics.mean(map(len, upto))
    row["stopped"] = statistics.mean(sum(trial.wer is None for trial in trials) for trials in upto)
    row["seconds"] = statistics.mean(row["runs"])
    row["later"] = (row["seconds"] - row["first"]) / (row["trials"] - 1) if row["trials"] > 1 else None
    return row


def measure(job: GridJob, given: argparse.Namespace, say: Console) -> dict[str, Any]:
    """All arms on one scope."""
    sweeps, processes, epsilon = given.sweeps, given.processes, given.epsilon
    every = run(job)
    truth = {trial.point: trial.wer for trial in every if trial.wer is not None}
    best = min(truth.values())
    target = best + epsilon / 100
    size, good = len(job.configurations()), sum(wer <= target for wer in truth.values())
    say.print(f"{job.scope}: {size} configurations, best {best:.1%}, {good} good", highlight=False)
    places, times, apart, searches = job.spread(processes), list[float](), list[float](), list[list[Ended]]()
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        for number in range(max(sweeps, processes)):
            if number < processes:
                seconds, wer = plain(job, places[number], Path(name))
                times.append(sum(times[-1:]) + seconds)
                [config] = job.only([places[number]]).configurations()
                apart.append(abs(wer - truth.get(point(config), wer)))
            if number < sweeps:
                searches.append(run(job, number, target, shlex.split(given.search)))
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        reloaded = reload(job.only(places), Path(name)) if places else []
    rows: list[dict[str, Any]] = []
    for arm, seconds, results in (
        ("plain, random", times, f"WER {100 * max(apart, default=0):.1f} points off"),
        ("reload, random", [trial.seconds for trial in reloaded], gate(reloaded, truth)),
        ("harness, random", [trial.seconds for trial in every], "the truth"),
    ):
        if seconds:
            rows.append({"arm": arm, "results": results} | expected(seconds, size, good))
    own = {"arm": "harness", "results": gate([*itertools.chain(*searches)], truth)}
    rows.append(own | searched(searches, target, best))
    wers = sorted(truth.values())
    head = {"scope": job.scope, "epsilon": epsilon, "size": size, "good": good, "wers": wers}
    return head | {"rows": [row | {"faster": rows[0]["seconds"] / row["seconds"]} for row in rows]}


def show(found: dict[str, Any], console: Console) -> None:
    """The table of one scope."""
    where = "encoder and decoder" if found["scope"] == "both" else "the decoder"
    title = f"LoRA in {where}: until within {found['epsilon']:g} points of the best of {found['size']}, seconds"
    table = Table(title=title, box=None)
    for column in ("arm", "first trial", "a later one", "trials", "in all", "faster", "each sweep", "results"):
        table.add_column(column, justify="left" if column in ("arm", "each sweep", "results") else "right")
    for row in found["rows"]:
        numbers = ["" if row[key] is None else f"{row[key]:.1f}" for key in ("first", "later", "trials", "seconds")]
        ends = zip(row.get("runs", ()), row.get("above", ()), strict=True)
        each = ", ".join(f"{seconds:.0f} ({'none' if above is None else f'+{above:.1f}'})" for seconds, above in ends)
        each += f"; {row['missed']} missed" if row.get("missed") else ""
        each += f"; {row['stopped']:.1f} trials stopped" if row.get("stopped") else ""
        table.add_row(row["arm"], *numbers, f"{row['faster']:.2f}x", each, row["results"])
    console.print(table)


def main() -> None:
    """Run the arms and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a name, a folder, or " + ", ".join(RANDOM))
    parser.add_argument("--task", default="demo")
    parser.add_argument("--scopes", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    parser.add_argument("--examples", type=int, help=f"that a trial sees (default: {EXAMPLES})")
    parser.add_argument("--grid", choices=GRIDS, default="24")
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3, help="trials of plain and reload (default 3; 0: without)")
    parser.add_argument("--epsilon", type=float, default=0.5, help="points of WER above the best (default 0.5)")
    parser.add_argument("--search", default="", metavar="OPTIONS", help="of run_sweep.py, such as '--pruner none'")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        given = json.loads(options.inside.read_text(encoding="utf-8"))
        sweep.inside(GridJob(**given | {"folder": Path(given["folder"])}))
        return
    console, results = Console(width=140), list[dict[str, Any]]()
    console.print(f"{torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made(options.model, folder / "model") if options.model in RANDOM else options.model
        for scope in options.scopes:
            examples = options.examples or EXAMPLES[scope]
            job = GridJob(model, options.task, scope, examples, options.grid, folder)
            results.append(measure(job, options, console))
            show(results[-1], console)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
