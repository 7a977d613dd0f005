"""Remove the weights of trials that are not among the best of their search, to save disk space."""

import shutil

from harness.records.study_folder import StudyFolder, is_searched
from harness.records.tuned_baselines import tuned_baselines
from harness.search.best_trials import ranked_trials
from harness.search.study import Study


def remove_other_weights(study: Study, keep: int, removed: set[int]) -> None:
    """Remove the weights of all but the best `keep` complete trials. Baselines and replicates keep theirs.

    A trial that was pruned or failed has stored none. `removed` remembers whose are gone, for they do not come back:
    looking again at each trial each time would take longer with every trial.
    """
    for number in ranked_trials(study)[keep:]:
        if number not in removed:
            shutil.rmtree(study.folder.trial(number) / "weights", ignore_errors=True)
            removed.add(number)


def remove_other_tuned_weights(folder: StudyFolder) -> None:
    """Of each baseline's own search only the best keeps its weights, and the recipe's own run."""
    for held in tuned_baselines(folder.records()):
        for place, record in held.runs[1:]:
            if is_searched(record):
                shutil.rmtree(place / "weights", ignore_errors=True)
