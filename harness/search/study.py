"""Run the Optuna side of a study: ask for trials, report rungs, tell results and enqueue retries."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.model_size.parameters import Dimensions, count
from harness.records.study_folder import StudyFolder, has_rungs, read_rungs, store
from harness.search.constraints import constraint_values, infeasible_before_training, measured_value
from harness.search.finite_space import Key, WithoutRepeats, finite_space, settings_key
from harness.search.pruners import make_pruner, rung_step
from harness.search.samplers import make_sampler, proposed_by, trial_seed
from harness.search.sampling import suggest_configuration
from harness.search.slots import trial_slots
from harness.search.storage import Database
from harness.spec.result import Record, Rung, State
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig

N_TRIALS = "trials"  # study attribute: number of trials that it shall have
PROPOSED_BY = "proposed_by"  # trial attribute: how its configuration was chosen
SECONDS_ATTRIBUTE = "seconds"  # trial attribute: training and evaluation
ATTEMPT = ("worker", "attempt_id", "reason", SECONDS_ATTRIBUTE)  # attributes that a retry does not take over
PENALTY = 2.0  # WER of a trial that broke a limit, for samplers that do not learn from constraints
Retry = Literal["died", "interrupted"]
# The trial may be the cause of a dead trainer, but hardly of an interruption. A trial that fails itself is not retried.
RETRIES: dict[Retry, int] = {"died": 1, "interrupted": 20}
STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}


class Study:
    """One Optuna study, by default in results/<study>/optuna.db. Workers share it under its lock."""

    def __init__(
        self,
        folder: StudyFolder,
        name: str,
        space: SearchSpace,
        seed: int,
        database: Database | None = None,
        dims: Dimensions | None = None,
    ) -> None:
        """Open or create the study; `dims` are the model's, if trainable parameters are limited or minimized."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.name, self.space, self.seed = folder, name, space, seed
        self.database, self.dims = database or Database(folder.path), dims
        self._finite = finite_space(space)
        with self.lock():
            self.optuna = optuna.create_study(
                study_name=name,
                storage=self.database.storage,
                directions=["minimize"] * len(space.objectives),
                pruner=make_pruner(space.pruner, len(space.budget.rungs)),
                load_if_exists=True,
            )

    def lock(self) -> AbstractContextManager[None]:
        """Lock the study for one worker, to claim or end a trial."""
        return self.database.lock(self.name)

    def count_finished(self) -> int:
        """Return the number of finished trials, without failures that were retried."""
        return _count_finished(self.optuna.get_trials(deepcopy=False))

    def running(self) -> list[FrozenTrial]:
        """Return the running trials."""
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def next_trial(self, n_trials: int, worker: str, attempt: str) -> tuple[optuna.Trial, TrialConfig] | None:
        """Return the next trial for a worker and its attempt; None if enough trials are finished or running."""
        with self.lock():
            trials = self.optuna.get_trials(deepcopy=False)
            running = sum(t.state == TrialState.RUNNING for t in trials)
            if _count_finished(trials) + running >= n_trials or self._nothing_left(trials):
                return None
            trial, config = self.ask(trials)
            trial.set_user_attr("worker", worker)
            trial.set_user_attr("attempt_id", attempt)
            return trial, config

    def ask(self, trials: list[FrozenTrial] | None = None) -> tuple[optuna.Trial, TrialConfig]:
        """Return the next trial: a waiting one (a retry, or enqueued), else one from the sampler.

        A trial is sampled by its slot, which a retry inherits, so that an interrupted study proposes what an
        uninterrupted one does. `trials` are all trials, if the caller has just read them.
        """
        trials = self.optuna.get_trials(deepcopy=False) if trials is None else trials
        waiting = next((t for t in trials if t.state == TrialState.WAITING), None)
        asked = sum(t.state != TrialState.WAITING and "retry_of" not in t.user_attrs for t in trials)
        slot = int(waiting.user_attrs.get("slot", asked)) if waiting else asked
        self.optuna.sampler = make_sampler(self.space, self.seed, slot, self.optuna)
        if self._finite is not None:
            seed = trial_seed(self.seed, slot)
            self.optuna.sampler = WithoutRepeats(self.optuna.sampler, self._finite, _tried(trials), seed)
        enqueued = waiting is not None and "retry_of" not in waiting.user_attrs
        proposed = "warm_start" if enqueued else proposed_by(self.space, self.optuna)
        trial = self.optuna.ask()
        if PROPOSED_BY not in trial.user_attrs:
            trial.set_user_attr(PROPOSED_BY, proposed)
        return trial, suggest_configuration(self.space, trial)

    def _nothing_left(self, trials: list[FrozenTrial]) -> bool:
        if self._finite is None or self._finite.has_untried(_tried(trials)):
            return False
        return all(t.state != TrialState.WAITING for t in trials)

    def exhausted(self) -> bool:
        """Whether every configuration was tried, and no running trial may need a retry."""
        trials = self.optuna.get_trials(deepcopy=False)
        return self._nothing_left(trials) and all(t.state != TrialState.RUNNING for t in trials)

    def may_continue(self, trial: optuna.Trial, rung: Rung, attempt: str | None) -> bool:
        """Report a rung and ask the pruner, if there is one objective.

        Returns False, and reports nothing, if the trial was given to another worker.
        """
        stored = _stored(trial)
        if not _holds(stored, attempt):
            return False
        self._report(trial, [rung], stored)
        return len(self.space.objectives) > 1 or not trial.should_prune()

    def replay(self, trial: optuna.Trial, rungs: Sequence[Rung], attempt: str | None) -> None:
        """Report the rungs of an earlier attempt again, ignoring the pruner's answer.

        Successive halving notes the value of a rung when it is asked there. Asked at a later rung only, it would use
        that value for all lower ones, and the trial would beat trials that had trained less.
        """
        for rung in rungs:
            self.may_continue(trial, rung, attempt)

    def _report(self, trial: optuna.Trial, rungs: Sequence[Rung], stored: FrozenTrial) -> None:
        """Report rungs to Optuna, once each; with several objectives nothing is reported."""
        if len(self.space.objectives) > 1:
            return
        told = stored.intermediate_values
        for rung in rungs:
            if (step := rung_step(self.space.pruner, rung.index)) not in told:
                trial.report(rung.loss if self.space.judge == "loss" or not rung.scores else rung.scores.wer, step=step)

    def finish(self, trial: optuna.Trial, attempt: Path, record: Record, retry: Retry | None = None) -> Record | None:
        """Store the record of an attempt, then tell Optuna.

        Returns:
            The record as it was stored; None if the trial was given to another worker.
        """
        with self.lock():
            stored = _stored(trial)
            if not _holds(stored, attempt.name):
                return None
            record = with_origin(record, stored)
            store(attempt, self.folder.trial(trial.number), record)
            self.tell(trial, record, retry, stored)
        return record

    def tell(
        self, trial: optuna.Trial, record: Record, retry: Retry | None = None, stored: FrozenTrial | None = None
    ) -> None:
        """Tell Optuna how a recorded trial ended; a second call changes nothing.

        A retry is enqueued before the failure is told, so that a crash in between loses nothing. `stored` is the trial
        in the storage, if the caller has just read it.
        """
        stored = stored or _stored(trial)
        if stored.state.is_finished():
            return
        self._report(trial, record.rungs, stored)
        if record.reason:
            trial.set_user_attr("reason", record.reason)
        kept = self._constrain(trial, record, stored)
        resumed = self.checkpoint(trial)
        before = rung_seconds(read_rungs(resumed)) if resumed else 0.0  # counted with the attempt that spent them
        trial.set_user_attr(SECONDS_ATTRIBUTE, max(0.0, _seconds(record) - before))
        if retry and record.state == "fail" and self._may_retry(trial, retry):
            self._enqueue_again(trial, retry)
        state, values = self._outcome(record, kept)
        # The state may have been stored though the answer was lost: told again, Optuna says it is finished.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.optuna.tell(trial.number, values, state=state, skip_if_finished=True)

    def _outcome(self, record: Record, kept: bool) -> tuple[TrialState, list[float] | None]:
        """Return state and values for Optuna.

        TPE learns from a broken constraint and the state PRUNED. Other samplers do not; they get a finite penalty.
        """
        found = [measured_value(record, name) for name in self.space.objectives]
        if not kept and self.space.sampler.name != "tpe":
            return TrialState.COMPLETE, [
                PENALTY if name == "wer" else value if value is not None else PENALTY * self._worst(place)
                for place, (name, value) in enumerate(zip(self.space.objectives, found, strict=True))
            ]
        complete = record.state == "complete" and all(value is not None for value in found)
        return STATES[record.state], [value for value in found if value is not None] if complete else None

    def _worst(self, place: int) -> float:
        seen = [t.values[place] for t in self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        return max(seen, default=1.0)

    def trainable_parameters(self, config: TrialConfig) -> int | None:
        """Return the trainable parameters of a configuration; None if the model's dimensions are not known."""
        return None if self.dims is None else count(self.dims, config)[0]

    def refusal(self, config: TrialConfig) -> str | None:
        """Return why a configuration is infeasible even without training, or None."""
        return infeasible_before_training(self.space.limits, self.dims, config)

    def _constrain(self, trial: optuna.Trial, record: Record, stored: FrozenTrial) -> bool:
        """Set every constraint of a trial, and return whether all hold.

        Samplers learn from running out of memory as a broken constraint; from a failure they would not.
        """
        if record.state == "fail":
            return True
        found = constraint_values(self.space.limits, record, self.trainable_parameters(record.config))
        for name, value in found.items():
            if name not in stored.constraints:
                trial.set_constraint(name, value)
        return all(value <= 0 for value in found.values())

    def _may_retry(self, trial: optuna.Trial, retry: Retry) -> bool:
        return int(trial.user_attrs.get(retry, 0)) < RETRIES[retry]

    def _enqueue_again(self, trial: optuna.Trial, retry: Retry) -> None:
        """Enqueue a retry with the parameters and user attributes, but not the rungs and constraints, of the trial."""
        trials = self.optuna.get_trials(deepcopy=False)
        if trial.number in retried(trials):
            return
        known = {k: v for k, v in trial.user_attrs.items() if k not in ATTEMPT}
        # A trial that was lost before it was claimed may lack settings: all are sampled again, with the same result.
        params = trial.params if "attempt_id" in trial.user_attrs else {}
        slot = trial_slots(trials)[trial.number]
        again = {"slot": slot, **known, "retry_of": trial.number, retry: int(known.get(retry, 0)) + 1}
        self.optuna.enqueue_trial(params, user_attrs=again)

    def trial(self, frozen: FrozenTrial) -> tuple[optuna.Trial, TrialConfig]:
        """Return a trial of another process; settings that it had not sampled when it died are sampled now."""
        trial = optuna.Trial(self.optuna, frozen._trial_id)
        self.optuna.sampler = optuna.samplers.RandomSampler(self.seed)
        return trial, suggest_configuration(self.space, trial)

    def checkpoint(self, trial: optuna.Trial) -> Path | None:
        """Return the checkpoint with the newest rung of earlier attempts, or None."""
        for number in self._earlier(trial):
            if has_rungs(folder := self.folder.trial(number) / "checkpoint"):
                return folder
        return None

    def remove_checkpoints(self, trial: optuna.Trial) -> None:
        """Remove the checkpoints of a trial that has ended, and of its earlier attempts."""
        for number in (trial.number, *self._earlier(trial)):
            shutil.rmtree(self.folder.trial(number) / "checkpoint", ignore_errors=True)

    def _earlier(self, trial: optuna.Trial) -> Iterator[int]:
        """Yield the trials that this one is a retry of, the last one first."""
        earlier = trial.user_attrs.get("retry_of")
        trials = self.optuna.get_trials(deepcopy=False) if earlier is not None else []
        while earlier is not None:
            yield earlier
            earlier = trials[earlier].user_attrs.get("retry_of")


def _seconds(record: Record) -> float:
    if record.cost is not None:
        return record.cost.train_seconds + record.cost.evaluation_seconds
    return rung_seconds(record.rungs)


def rung_seconds(rungs: Sequence[Rung]) -> float:
    """Return the seconds of training and evaluation up to the last of these rungs."""
    return (rungs[-1].train_seconds if rungs else 0.0) + sum(rung.evaluation_seconds for rung in rungs)


def with_origin(record: Record, trial: FrozenTrial) -> Record:
    """Return the record with what Optuna knows of the trial: how it was proposed, and what it is a retry of."""
    known = {"proposed_by": trial.user_attrs.get(PROPOSED_BY), "retry_of": trial.user_attrs.get("retry_of")}
    return record.model_copy(update=known)


def _stored(trial: optuna.Trial) -> FrozenTrial:
    """Return the trial from the storage; the object knows only its own changes."""
    frozen: FrozenTrial = trial.storage.get_trial(trial._trial_id)
    return frozen


def _holds(stored: FrozenTrial, attempt: str | None) -> bool:
    """Whether an attempt still owns its trial, which was neither ended nor given to another."""
    return stored.state == TrialState.RUNNING and stored.user_attrs.get("attempt_id") == attempt


def _count_finished(trials: list[FrozenTrial]) -> int:
    again = retried(trials)
    return sum(t.state.is_finished() and t.number not in again for t in trials)


def _tried(trials: list[FrozenTrial]) -> set[Key]:
    """Return the keys of the configurations of trials, without retried and waiting ones."""
    again = retried(trials)
    return {settings_key(t.params) for t in trials if t.number not in again and t.state != TrialState.WAITING}


def retried(trials: list[FrozenTrial]) -> set[int]:
    """Return the numbers of the failed trials that were retried; they do not count."""
    return {t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs}
