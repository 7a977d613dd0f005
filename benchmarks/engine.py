"""What the study engine itself costs: a sweep whose trainer answers at once.

    python -m benchmarks.engine                      # 1,000 trials, random and tpe
    python -m benchmarks.engine --stored 10000       # how fast a study of so many trials loads and reports

Everything but the trainer is the real thing: Optuna on SQLite, records on disk, the MLflow mirror. Printed are CPU
milliseconds of all threads, a trial, over each fifth of the sweep, which show growth; the sampler's own asking and
telling, on a study without records and MLflow, stands beside it.
"""

import argparse
import io
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

import harness.supervisor.worker as working
from harness.record import Run, store, write_transcripts
from harness.samplers import make_sampler
from harness.sampling import configuration
from harness.spec.messages import Answer, Finished, Open, Order, Ready, Report, Train
from harness.spec.result import Cost, Rung, Scores, TrialResult
from harness.supervisor.display import Terminal
from harness.supervisor.plan import Plan, make_plan
from harness.supervisor.run import Sweep
from harness.supervisor.study import Study

SPLIT = {"utterances": 1, "seconds": 1.0, "speakers": 1, "hash": "0"}
DATA = {
    "splits": {"train": SPLIT, "validation": SPLIT},
    "sources": {},
    "excluded": {},
    "notes": [],
    "languages": ["en"],
}
UTTERANCES = 100


class Instant:
    """A trainer that answers at once, with a WER that depends on the learning rate and the rank."""

    def __init__(self, order: Open, log: Path, *_: Any, **__: Any) -> None:
        """Nothing is loaded."""
        environment = {"device": "cpu", "device_name": "none", "threads": 1}
        self.ready = Ready(device="cpu", environment=environment, data=DATA)
        self.log, self._answers = log, deque[Answer]()

    def send(self, order: Order) -> None:
        """Answers to a train order are made; the rest needs none."""
        if not isinstance(order, Train):
            return
        rungs = []
        for index, fraction in enumerate(order.budget.rungs):
            wer = min(
                1.0, abs(order.config.learning_rate - 4e-3) * 50 + 0.2 / (order.config.r or 1) + 0.3 / (index + 1)
            )
            rungs.append(rung(index, round(fraction * order.budget.examples), wer))
            self._answers.append(Report(rung=rungs[-1], last=fraction == 1.0, errors=tuple([round(wer)] * UTTERANCES)))
        write_transcripts(Path(order.attempt) / "transcripts.jsonl", [])
        self._answers.append(Finished(result=TrialResult(state="complete", rungs=tuple(rungs), cost=COST)))

    def receive(self) -> Answer:
        """The next answer."""
        return self._answers.popleft()

    def close(self) -> None:
        """Nothing to close."""

    kill = close


COST = Cost(
    steps=1,
    examples=1536,
    train_seconds=1.0,
    evaluation_seconds=1.0,
    peak_memory_bytes=10**9,
    memory_kind="process_rss",
    trainable_parameters=10**5,
    total_parameters=10**6,
    adapter_bytes=None,
)


def rung(index: int, examples: int, wer: float) -> Rung:
    """An evaluation."""
    scores = Scores(wer=wer, wer_raw=wer, cer=wer, insertions=0, deletions=0, substitutions=wer, utterances=UTTERANCES,
                    reference_words=1000, normalizer="none")  # fmt: skip
    return Rung(index=index, step=index + 1, examples=examples, train_loss=1.0, loss=wer, scores=scores,
                train_seconds=1.0, evaluation_seconds=1.0)  # fmt: skip


def plan_in(folder: Path, sampler: str, trials: int) -> Plan:
    """A sweep of the demo's space without a pruner, so that every trial has all its rungs."""
    override = {"sampler": {"name": sampler}, "pruner": {"name": "none"}}
    return make_plan(
        "demo", trials=trials, seed=1, results=folder, study=sampler, baselines=["none"], override=override
    )


class Clocked(Terminal):
    """Notes when each trial ended."""

    ends: list[float]

    def end(self, run: Run, record: Any) -> None:
        """A trial ended."""
        super().end(run, record)
        self.ends.append(time.process_time())


def sweep(sampler: str, trials: int) -> list[float]:
    """CPU seconds a trial in each fifth of a sweep."""
    working.Trainer = Instant  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_in(Path(folder), sampler, trials)
        display = Clocked(plan, Console(file=io.StringIO()))
        display.ends = [time.process_time()]
        Sweep(plan, display).run()
    return fifths(display.ends)


def asking(sampler: str, trials: int) -> list[float]:
    """Seconds of Optuna's ask and tell alone, on SQLite, in each fifth."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        space = plan_in(Path(folder), sampler, trials).space
        study = optuna.create_study(storage=f"sqlite:///{folder}/o.db")
        ends = [time.process_time()]
        for number in range(trials):
            study.sampler = make_sampler(space, 1, number, study)
            trial = study.ask()
            config = configuration(space, trial)
            study.tell(trial, config.learning_rate)
            ends.append(time.process_time())
    return fifths(ends)


def fifths(ends: list[float]) -> list[float]:
    """Mean seconds between ends, in five parts."""
    size = max(1, (len(ends) - 1) // 5)
    return [(ends[min(i + size, len(ends) - 1)] - ends[i]) / size for i in range(0, 5 * size, size)]


def stored(trials: int) -> None:
    """Make a study of many trials straight in its storage and on disk, then time what reads it."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_in(Path(folder), "random", trials)
        plan.folder.path.mkdir(parents=True)
        study = Study(plan.folder, plan.study, plan.space, plan.seed)
        worker = working.Worker(plan, Terminal(plan, Console(file=io.StringIO())), [], working.Stop())
        working.Trainer = Instant  # type: ignore[misc, assignment]
        draw = optuna.create_study()
        made = []
        for number in range(trials):
            draw.sampler = make_sampler(plan.space, 1, number)
            trial = draw.ask()
            config = configuration(plan.space, trial)
            draw.tell(trial, 0.5)
            made.append(draw._storage.get_trial(trial._trial_id))
            run = Run("trial", f"trial {number}", config, 1, plan.folder.trial(number), number=number)
            rungs = [rung(index, index + 1, 0.5) for index in range(3)]
            result = Finished(result=TrialResult(state="complete", rungs=tuple(rungs), cost=COST))
            store(plan.folder.attempt(), run.folder, worker.record(run, "2026-01-01T00:00:00+00:00", rungs, result))
        study.optuna.add_trials(made)
        for name, call in {
            "open the study and count": lambda: Study(plan.folder, plan.study, plan.space, plan.seed).used(),
            "rank its trials": study.ranked,
            "read every record": lambda: list(plan.folder.records()),
        }.items():
            began = time.process_time()
            call()
            print(f"{name:30} {time.process_time() - began:6.1f} s with {trials} trials", flush=True)


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    options.add_argument("--stored", type=int, help="instead: load and report a study of so many trials")
    given = options.parse_args()
    if given.stored:
        stored(given.stored)
        return
    print("CPU milliseconds a trial, by fifths of the sweep")
    for sampler in given.samplers:
        for name, measure in (("sweep", sweep), ("ask and tell alone", asking)):
            shown = " ".join(f"{1000 * seconds:7.1f}" for seconds in measure(sampler, given.trials))
            print(f"{sampler:8} {name:20} {shown}", flush=True)


if __name__ == "__main__":
    main()
