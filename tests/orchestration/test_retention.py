"""Which trials keep their weights: those that can still be published or compared, and no others."""

import pytest
from examples import record, rung

from harness import catalog
from harness.orchestration.retention import remove_other_weights
from harness.records.study_folder import StudyFolder
from harness.search.constraints import apply_limits
from harness.search.study import Study
from harness.spec.limits import Limits
from harness.spec.result import Cost

GB = 10**9


def cost(memory: int) -> Cost:
    return Cost(
        steps=1, examples=1, trainable_parameters=1, total_parameters=1, adapter_bytes=1, peak_memory_bytes=memory, memory_kind="process_rss",
        train_seconds=1.0, evaluation_seconds=0.0,
    )  # fmt: skip


@pytest.fixture
def search(tmp_path):
    """A function that runs trials of given WER and memory, and returns those that have weights at the end."""

    def run(trials: list[tuple[float, int]], keep: int, sampler: str = "tpe", **fields) -> list[int]:
        demo = catalog.space("demo")[1]
        named = demo.sampler.model_copy(update={"name": sampler})
        space = demo.model_copy(update={**fields, "sampler": named, "limits": fields.get("limits", Limits())})
        study, removed = Study(StudyFolder(tmp_path), "s", space, seed=1), set[int]()
        for wer, memory in trials:
            trial, config = study.ask()
            trial.set_user_attr("attempt_id", "a")
            attempt = tmp_path / "attempts" / "a"
            (attempt / "weights").mkdir(parents=True)
            done = record(trial.number, state="complete", config=config, rungs=(rung(2, wer),), cost=cost(memory))
            study.finish(trial, attempt, apply_limits(space.limits, done, None))
            remove_other_weights(study, keep, removed)
        return sorted(int(path.parent.name) for path in tmp_path.glob("trials/*/weights"))

    return run


def test_the_best_keep_theirs(search):
    assert search([(0.5, GB), (0.3, GB), (0.4, GB), (0.6, GB), (0.2, GB)], keep=2) == [1, 4]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_infeasible_trials_do_not(search, sampler):
    """The best by WER are over the limit on memory; nothing publishes or compares them."""
    trials = [(0.1, 9 * GB), (0.3, GB), (0.2, 9 * GB), (0.4, GB)]
    assert search(trials, keep=3, sampler=sampler, limits=Limits(vram=4 * GB)) == [1, 3]


def test_with_several_objectives_the_pareto_front_does(search):
    """Trial 2 has the highest WER and needs least memory; trial 3 is worse than trial 1 in both."""
    trials = [(0.1, 8 * GB), (0.2, 4 * GB), (0.5, GB), (0.3, 5 * GB)]
    assert search(trials, keep=1, objectives=("wer", "vram")) == [0, 1, 2]


def test_a_trial_that_has_left_the_front_does_not(search):
    assert search([(0.1, 8 * GB), (0.5, 2 * GB), (0.4, GB)], keep=1, objectives=("wer", "vram")) == [0, 2]
