"""Remove the weights of trials that can no longer be chosen, to save disk space."""

import shutil

from optuna.trial import TrialState

from harness.records.study_folder import StudyFolder, is_searched
from harness.records.tuned_baselines import tuned_baselines
from harness.search.best_trials import pareto_front, ranked_trials
from harness.search.study import Study

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def remove_other_weights(study: Study, keep: int, removed: set[int]) -> None:
    """Remove the weights of ended trials but the best `keep` and, with several objectives, those on the Pareto front.

    Infeasible trials are in neither. Baselines and replicates keep theirs. `removed` remembers whose are gone, because
    a trial that left the best does not come back.
    """
    ended = study.optuna.get_trials(deepcopy=False, states=ENDED)  # first: a trial may end meanwhile, among the best
    chosen = set(ranked_trials(study)[:keep])
    if len(study.space.objectives) > 1:
        chosen.update(number for number, _ in pareto_front(study))
    for number in {trial.number for trial in ended} - chosen - removed:
        shutil.rmtree(study.folder.trial(number) / "weights", ignore_errors=True)
        removed.add(number)


def remove_other_tuned_weights(folder: StudyFolder) -> None:
    """Of each baseline's own search only the best keeps its weights, and the recipe's own run."""
    for held in tuned_baselines(folder.records()):
        for place, record in held.runs[1:]:
            if is_searched(record):
                shutil.rmtree(place / "weights", ignore_errors=True)
