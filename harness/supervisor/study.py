"""The Optuna side of a study: asking, reporting, telling, and putting interrupted trials right."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.record import StudyFolder, is_stored, read_record
from harness.sampling import configuration, make_pruner, make_sampler, rung_step
from harness.spec.result import Record, Rung, State
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig

OUT_OF_MEMORY = "out_of_memory"
RETRIES = 1  # for a trial whose process died; what fails by itself would fail again
STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}


class Study:
    """One Optuna study in results/<study>/optuna.db; this process alone asks it (the supervisor holds a lock)."""

    def __init__(self, folder: StudyFolder, name: str, space: SearchSpace, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # SQLite gives up after 5 s by default, and a tell would be lost.
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder.path / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        self.folder, self.space, self.seed = folder, space, seed
        self.optuna = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="minimize",
            pruner=make_pruner(space.pruner),
            load_if_exists=True,
        )

    def used(self) -> int:
        """Slots of N that are used up: finished trials, without the failures that were tried again."""
        trials = self.optuna.get_trials(deepcopy=False)
        retried = _retried(trials)
        return sum(t.state.is_finished() and t.number not in retried for t in trials)

    def ask(self) -> tuple[optuna.Trial, TrialConfig]:
        """The next trial: one to be tried again, else what the sampler proposes."""
        number = len(self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = make_sampler(self.space.sampler, self.seed, number)
        trial = self.optuna.ask()
        return trial, configuration(self.space, trial)

    def report(self, trial: optuna.Trial, rung: Rung) -> None:
        """Store what a rung is judged by; reporting one again changes nothing."""
        step = rung_step(self.space.pruner, rung.index)
        if step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(rung.loss if self.space.judge == "loss" or not rung.scores else rung.scores.wer, step=step)

    def may_go_on(self, trial: optuna.Trial, rung: Rung) -> bool:
        """Report a rung and ask the pruner."""
        self.report(trial, rung)
        return not trial.should_prune()

    def tell(self, trial: optuna.Trial, record: Record, retry: bool = False) -> None:
        """Tell Optuna how a recorded trial ended; a second time changes nothing.

        A retry is enqueued before the failure is told: a crash between the two then costs nothing.
        """
        if trial.storage.get_trial(trial._trial_id).state.is_finished():
            return
        for rung in record.rungs:
            self.report(trial, rung)
        if record.reason:
            trial.set_user_attr("reason", record.reason)
        self._constrain(trial, record)
        if retry:
            self._enqueue_again(trial)
        value = record.scores.wer if record.state == "complete" and record.scores else None
        self.optuna.tell(trial.number, value, state=STATES[record.state])

    def _constrain(self, trial: optuna.Trial, record: Record) -> None:
        """Tell which limits were kept: every trial sets every constraint, at most 0 where it holds.

        Running out of memory told as a failure would teach the sampler nothing; as a broken constraint it does.
        """
        if record.state != "fail":
            trial.set_constraint(OUT_OF_MEMORY, 1.0 if record.reason == OUT_OF_MEMORY else -1.0)

    def may_retry(self, trial: optuna.Trial) -> bool:
        """Whether a trial whose process died is to be tried again."""
        return int(trial.user_attrs.get("attempt", 1)) <= RETRIES

    def _enqueue_again(self, trial: optuna.Trial) -> None:
        if trial.number not in _retried(self.optuna.get_trials(deepcopy=False)):
            attributes = {"retry_of": trial.number, "attempt": trial.user_attrs.get("attempt", 1) + 1}
            self.optuna.enqueue_trial(trial.params, user_attrs=attributes)

    def interrupted(self) -> list[tuple[optuna.Trial, TrialConfig, Record | None]]:
        """Trials that a killed supervisor left running, with the record of those that had ended."""
        found = []
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = optuna.Trial(self.optuna, frozen._trial_id)
            folder = self.folder.trial(frozen.number)
            record = read_record(folder) if is_stored(folder) else None
            # A kill between ask and suggest leaves settings to be drawn, as the first time.
            self.optuna.sampler = make_sampler(self.space.sampler, self.seed, frozen.number)
            found.append((trial, configuration(self.space, trial), record))
        return found

    def best(self) -> int | None:
        """The number of the trial with the lowest validation WER."""
        complete = [
            t for t in self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.value is not None
        ]
        return min(complete, key=lambda t: (t.value, t.number)).number if complete else None


def _retried(trials: list[FrozenTrial]) -> set[int]:
    return {t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs}


def dry_run(space: SearchSpace, trials: int, seed: int) -> list[TrialConfig]:
    """Configurations as a fresh study would draw them, without results to learn from."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    configurations = []
    for number in range(trials):
        study.sampler = make_sampler(space.sampler, seed, number)
        trial = study.ask()
        configurations.append(configuration(space, trial))
        study.tell(trial, state=TrialState.FAIL)
    return configurations
