"""The Optuna side of a study: asking, reporting, telling, and putting interrupted trials right."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.record import StudyFolder, has_rungs, store
from harness.sampling import configuration, make_pruner, make_sampler, rung_step
from harness.spec.result import Record, Rung, State
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig
from harness.supervisor.storage import Database

OUT_OF_MEMORY = "out_of_memory"
SLOTS = "trials"  # of the study, an attribute: how many it shall have, for whoever looks
Retry = Literal["died", "interrupted"]
# A trainer that dies may die of its trial; what stops a supervisor seldom does. What fails by itself would fail again.
RETRIES: dict[Retry, int] = {"died": 1, "interrupted": 20}
STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}


class Study:
    """One Optuna study, by default in results/<study>/optuna.db. Several workers may ask it, each under its lock."""

    def __init__(
        self, folder: StudyFolder, name: str, space: SearchSpace, seed: int, database: Database | None = None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.name, self.space, self.seed = folder, name, space, seed
        self.database = database or Database(folder.path)
        with self.lock():
            self.optuna = optuna.create_study(
                study_name=name,
                storage=self.database.storage,
                direction="minimize",
                pruner=make_pruner(space.pruner),
                load_if_exists=True,
            )

    def lock(self) -> AbstractContextManager[None]:
        """For one worker at a time: claiming a slot, and ending a trial."""
        return self.database.lock(self.name)

    def used(self) -> int:
        """Slots of N that are used up: finished trials, without the failures that were tried again."""
        trials = self.optuna.get_trials(deepcopy=False)
        again = retried(trials)
        return sum(t.state.is_finished() and t.number not in again for t in trials)

    def running(self) -> list[FrozenTrial]:
        """Trials that somebody has asked for and not ended."""
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def claim(self, slots: int, worker: str, attempt: str) -> tuple[optuna.Trial, TrialConfig] | None:
        """The next trial for a worker and its attempt; None while all slots are used up or being worked on."""
        with self.lock():
            if self.used() + len(self.running()) >= slots:
                return None
            trial, config = self.ask()
            trial.set_user_attr("worker", worker)
            trial.set_user_attr("attempt_id", attempt)
            return trial, config

    def ask(self) -> tuple[optuna.Trial, TrialConfig]:
        """The next trial: one that waits (to be tried again, or enqueued), else what the sampler proposes.

        A trial draws by its slot, which a retry has from the trial before, so that a study that was disturbed
        proposes what an undisturbed one does.
        """
        trials = self.optuna.get_trials(deepcopy=False)
        waiting = next((t for t in trials if t.state == TrialState.WAITING), None)
        asked = sum(t.state != TrialState.WAITING and "retry_of" not in t.user_attrs for t in trials)
        slot = int(waiting.user_attrs.get("slot", asked)) if waiting else asked
        self.optuna.sampler = make_sampler(self.space.sampler, self.seed, slot)
        trial = self.optuna.ask()
        trial.set_user_attr("slot", slot)
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

    def replay(self, trial: optuna.Trial, rungs: Sequence[Rung]) -> None:
        """Report the rungs of the attempt before, in order: successive halving would take a late one for all below."""
        for rung in rungs:
            self.report(trial, rung)

    def holds(self, trial: optuna.Trial, attempt: str) -> bool:
        """Whether an attempt still owns its trial: it has not been ended, or given to another."""
        stored = trial.storage.get_trial(trial._trial_id)
        return stored.state == TrialState.RUNNING and stored.user_attrs.get("attempt_id") == attempt

    def finish(self, trial: optuna.Trial, attempt: Path, record: Record, retry: Retry | None = None) -> bool:
        """Store the record of an attempt, then tell Optuna; False, and nothing is done, where it lost its trial."""
        with self.lock():
            if not self.holds(trial, attempt.name):
                return False
            store(attempt, self.folder.trial(trial.number), record)
            self.tell(trial, record, retry)
        return True

    def tell(self, trial: optuna.Trial, record: Record, retry: Retry | None = None) -> None:
        """Tell Optuna how a recorded trial ended; a second time changes nothing.

        A retry is enqueued before the failure is told: a crash between the two then costs nothing.
        """
        if trial.storage.get_trial(trial._trial_id).state.is_finished():
            return
        self.replay(trial, record.rungs)
        if record.reason:
            trial.set_user_attr("reason", record.reason)
        self._constrain(trial, record)
        if retry and record.state == "fail" and self._may_retry(trial, retry):
            self._enqueue_again(trial, retry)
        value = record.scores.wer if record.state == "complete" and record.scores else None
        # The state may have been stored though the answer was lost: told again, Optuna says it is finished.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.optuna.tell(trial.number, value, state=STATES[record.state], skip_if_finished=True)

    def _constrain(self, trial: optuna.Trial, record: Record) -> None:
        """Tell which limits were kept: every trial sets every constraint, at most 0 where it holds.

        Running out of memory told as a failure would teach the sampler nothing; as a broken constraint it does.
        """
        if record.state != "fail":
            trial.set_constraint(OUT_OF_MEMORY, 1.0 if record.reason == OUT_OF_MEMORY else -1.0)

    def _may_retry(self, trial: optuna.Trial, retry: Retry) -> bool:
        return int(trial.user_attrs.get(retry, 0)) < RETRIES[retry]

    def _enqueue_again(self, trial: optuna.Trial, retry: Retry) -> None:
        """Parameters and user attributes go on; what Optuna keeps of rungs and constraints must not."""
        trials = self.optuna.get_trials(deepcopy=False)
        if trial.number in retried(trials):
            return
        known = {k: v for k, v in trial.user_attrs.items() if k not in ("worker", "attempt_id", "reason")}
        # A trial that was lost before it was claimed may lack settings: all are drawn again, and come out the same.
        params = trial.params if "attempt_id" in trial.user_attrs else {}
        slot = sum("retry_of" not in t.user_attrs for t in trials[: trial.number])
        again = {"slot": slot, **known, "retry_of": trial.number, retry: int(known.get(retry, 0)) + 1}
        self.optuna.enqueue_trial(params, user_attrs=again)

    def trial(self, frozen: FrozenTrial) -> tuple[optuna.Trial, TrialConfig]:
        """A trial that another process asked for; where that died before it had drawn everything, the rest is drawn."""
        trial = optuna.Trial(self.optuna, frozen._trial_id)
        self.optuna.sampler = optuna.samplers.RandomSampler(self.seed)
        return trial, configuration(self.space, trial)

    def checkpoint(self, trial: optuna.Trial) -> Path | None:
        """Where the newest rung of the attempts before this trial is kept, if one was reached."""
        trials = self.optuna.get_trials(deepcopy=False)
        earlier = trial.user_attrs.get("retry_of")
        while earlier is not None:
            if has_rungs(folder := self.folder.trial(earlier) / "checkpoint"):
                return folder
            earlier = trials[earlier].user_attrs.get("retry_of")
        return None

    def forget_checkpoints(self, trial: optuna.Trial) -> None:
        """Remove what the attempts before a trial that has ended had kept."""
        trials = self.optuna.get_trials(deepcopy=False)
        earlier: int | None = trial.number
        while earlier is not None:
            shutil.rmtree(self.folder.trial(earlier) / "checkpoint", ignore_errors=True)
            earlier = trials[earlier].user_attrs.get("retry_of")

    def ranked(self) -> list[int]:
        """The numbers of the complete trials, the lowest validation WER first."""
        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        valued = [(t.value, t.number) for t in complete if t.value is not None]
        return [number for _, number in sorted(valued)]

    def best(self) -> int | None:
        """The number of the trial with the lowest validation WER."""
        return next(iter(self.ranked()), None)


def retried(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the failed trials that were tried again: they use up no slot."""
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
