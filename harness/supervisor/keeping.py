"""Room on the disk: of the trials only the best keep their weights."""

import shutil

from harness.supervisor.study import Study


def keep_best(study: Study, keep: int) -> None:
    """Remove the weights of all but the best `keep` complete trials. Baselines and replicates keep theirs.

    A trial that was pruned or failed has stored none.
    """
    for number in study.ranked()[keep:]:
        shutil.rmtree(study.folder.trial(number) / "weights", ignore_errors=True)
