"""What the study engine itself costs: a sweep whose trainer answers at once.

    python -m benchmarks.engine                      # 1,000 trials, random and tpe
    python -m benchmarks.engine --stored 10000       # how fast a study of so many trials loads and reports

Everything but the trainer is the real thing: Optuna on SQLite, records on disk, the MLflow mirror. Printed are CPU
milliseconds a trial early and late in the sweep, which show growth, by part: the sampler (proposing, without the
storage), calls of the storage, the MLflow mirror's thread, and the engine, which is the rest. Asking and telling alone,
on a study without rungs, records and MLflow, stands beside them.
"""

import argparse
import functools
import io
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
from rich.console import Console

import harness.orchestration.trainer_client as conversation
from harness.orchestration.display import ProgressDisplay
from harness.orchestration.startup import alone
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.sweep import Sweep
from harness.orchestration.worker import Worker
from harness.plan import Plan, make_plan
from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import Run, store, write_transcripts
from harness.search.best_trials import ranked_trials
from harness.search.samplers import make_sampler
from harness.search.sampling import suggest_configuration
from harness.search.storage import REPEATABLE, RetryingStorage
from harness.search.study import Study
from harness.spec.messages import Answer, Finished, Open, Order, Ready, Report, Train
from harness.spec.result import Cost, Rung, Scores, TrialResult

SPLIT = {"utterances": 1, "seconds": 1.0, "speakers": 1, "hash": "0"}
DATA = {
    "splits": {"train": SPLIT, "validation": SPLIT},
    "sources": {},
    "excluded": {},
    "notes": [],
    "languages": ["en"],
}
UTTERANCES = 100
MARKS, WINDOW = (100, 300), 50  # trials, beside the last one


class Instant:
    """A trainer that answers at once, with a WER that depends on the learning rate and the rank."""

    def __init__(self, order: Open, log: Path, *_: Any, **__: Any) -> None:
        """Nothing is loaded."""
        environment = {"device": "cpu", "device_name": "none", "threads": 1}
        self.began = time.monotonic()
        self.ready = Ready(device="cpu", environment=environment, data=DATA)
        self.log, self._answers = log, deque[Answer]()

    def come_up(self, say: Callable[[str], None]) -> Self:
        """It has."""
        return self

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


class Spent:
    """CPU seconds by part, as threads count them; of calls within calls each counts what is its own."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._inner = threading.local()

    def watch(self, part: str, owner: type, name: str) -> None:
        """Count a method's time as this part's, each time it is called."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*arguments: Any, **named: Any) -> Any:
            outer, began = getattr(self._inner, "seconds", 0.0), time.thread_time()
            self._inner.seconds = 0.0
            try:
                return original(*arguments, **named)
            finally:
                seconds = time.thread_time() - began
                self.total[part] += seconds - self._inner.seconds
                self._inner.seconds = outer + seconds

        setattr(owner, name, watched)


class Clocked(ProgressDisplay):
    """Notes what was spent when each trial ended."""

    def __init__(self, plan: Plan, spent: Spent) -> None:
        super().__init__(plan, Console(file=io.StringIO()))
        self.spent = spent
        self.ends = [self.now()]

    def now(self) -> Counter[str]:
        """CPU seconds of the process so far, in all and by part."""
        return Counter({"all": time.process_time(), **self.spent.total})

    def end(self, run: Run, record: Any) -> None:
        """A trial ended."""
        super().end(run, record)
        self.ends.append(self.now())


def sweep(spent: Spent, sampler: str, trials: int) -> list[Counter[str]]:
    """What a sweep had spent after each trial."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_in(Path(folder), sampler, trials)
        display = Clocked(plan, spent)
        with alone(plan):
            Sweep(plan, display).run()
        return [*display.ends, display.now()]


def asking(sampler: str, trials: int) -> list[Counter[str]]:
    """What Optuna's ask and tell alone spend, on SQLite."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ends = [Counter({"all": time.process_time()})]
    with tempfile.TemporaryDirectory() as folder:
        space = plan_in(Path(folder), sampler, trials).space
        study = optuna.create_study(storage=f"sqlite:///{folder}/o.db")
        for number in range(trials):
            study.sampler = make_sampler(space, 1, number, study)
            trial = study.ask()
            config = suggest_configuration(space, trial)
            study.tell(trial, config.learning_rate)
            ends.append(Counter({"all": time.process_time()}))
    return ends


def print_parts(name: str, ends: list[Counter[str]], parts: Sequence[str], marks: Sequence[int]) -> None:
    """Milliseconds a trial of each part, over the trials before each mark; what no part counts is the engine's."""
    for part in parts:
        shown = []
        for mark in marks:
            size = min(WINDOW, mark)
            spent = Counter(ends[mark])
            spent.subtract(ends[mark - size])
            spent["engine"] = spent["all"] - spent["sampler"] - spent["storage"] - spent["mirror"]
            shown.append(f"{1000 * spent[part] / size:8.1f}")
        print(f"{name:8} {part:20} {' '.join(shown)}", flush=True)


def stored(trials: int) -> None:
    """Make a study of many trials straight in its storage and on disk, then time what reads it."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_in(Path(folder), "random", trials)
        plan.folder.path.mkdir(parents=True)
        study = Study(plan.folder, plan.study, plan.space, plan.seed)
        worker = Worker(plan, ProgressDisplay(plan, Console(file=io.StringIO())), [], StopSignals())
        conversation.Trainer = Instant  # type: ignore[misc, assignment]
        draw = optuna.create_study()
        made = []
        for number in range(trials):
            draw.sampler = make_sampler(plan.space, 1, number)
            trial = draw.ask()
            config = suggest_configuration(plan.space, trial)
            draw.tell(trial, 0.5)
            made.append(draw._storage.get_trial(trial._trial_id))
            run = Run("trial", f"trial {number}", config, 1, plan.folder.trial(number), number=number)
            rungs = [rung(index, index + 1, 0.5) for index in range(3)]
            result = Finished(result=TrialResult(state="complete", rungs=tuple(rungs), cost=COST))
            store(plan.folder.attempt(), run.folder, worker.record(run, "2026-01-01T00:00:00+00:00", rungs, result))
        study.optuna.add_trials(made)
        for name, call in {
            "open the study and count": lambda: Study(plan.folder, plan.study, plan.space, plan.seed).count_finished(),
            "rank its trials": lambda: ranked_trials(study),
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
    marks = [mark for mark in MARKS if mark < given.trials] + [given.trials]
    spent = Spent()
    conversation.Trainer = Instant  # type: ignore[misc, assignment]
    for call in REPEATABLE:
        spent.watch("storage", RetryingStorage, call)
    spent.watch("sampler", Study, "ask")
    for call in ("__init__", "begin", "rung", "end", "catch_up", "close"):
        spent.watch("mirror", MLflowMirror, call)
    print(f"CPU milliseconds a trial, mean of the {WINDOW} before trial{' ' * 9}" + " ".join(f"{m:8}" for m in marks))
    for sampler in given.samplers:
        ends = sweep(spent, sampler, given.trials)
        print_parts(sampler, ends, ("sampler", "storage", "engine", "mirror", "all"), marks)
        whole = (ends[-1]["all"] - ends[0]["all"]) / given.trials
        print(f"{sampler:8} {'all, whole sweep':20} {1000 * whole:8.1f}", flush=True)
        print_parts(sampler, [Counter({"ask and tell alone": e["all"]}) for e in asking(sampler, given.trials)],
                    ["ask and tell alone"], marks)  # fmt: skip


if __name__ == "__main__":
    main()
