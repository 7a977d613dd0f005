"""`--warm-start`: what a study begins with, and what does not fit its space."""

import pytest
from examples import record, rung

from harness import catalog
from harness.plan import SearchOptions, make_plan
from harness.records.files import write_json
from harness.records.study_folder import Run, StudyFolder
from harness.search.study import Study
from harness.search.warm_start import fit_to_space, warm_start
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig


@pytest.fixture
def started(tmp_path):
    """What `--warm-start` enqueues: (name, settings) of each, and what was said of the rest."""

    def enqueued(*sources: str, baselines: tuple[Run, ...] = ()) -> tuple[list[tuple[str, dict]], list[str]]:
        plan = make_plan("demo", trials=4, seed=1, results=tmp_path, search_options=SearchOptions(warm_start=sources))
        study, said = Study(plan.folder, "demo", plan.space, seed=1), list[str]()
        warm_start(plan, study, baselines, said.append)
        waiting = study.optuna.get_trials(deepcopy=False)
        return [(t.user_attrs["warm_start"], t.system_attrs["fixed_params"]) for t in waiting], said

    return enqueued


LORA = TrialConfig(method="lora", r=16, lora_alpha=32, lora_dropout=0.05, learning_rate=2e-3,
                   target_modules=("q_proj", "v_proj"), per_device_train_batch_size=4)  # fmt: skip


def test_a_study_begins_with_the_three_best_of_another_the_best_first(started, tmp_path):
    """Neither with baselines nor with trials that were pruned or failed, however low their WER is."""
    other = StudyFolder(tmp_path / "other")
    held = [(0.5, "complete"), (0.2, "complete"), (0.4, "complete"), (0.1, "pruned"), (0.3, "complete"), (0.6, "fail"),
            (0.2, "complete")]  # fmt: skip
    for number, (wer, state) in enumerate(held):
        config = LORA.model_copy(update={"learning_rate": (number + 1) * 1e-3})
        done = record(number, state=state, config=config, rungs=(rung(0, wer),))
        write_json(other.trial(number) / "result.json", done.model_dump(mode="json"))
    recipe = record(kind="recipe", name="tutorial", state="complete", config=LORA, rungs=(rung(0, 0.1),))
    write_json(other.baseline("tutorial", 1) / "result.json", recipe.model_dump(mode="json"))
    write_json(other.manifest, {"study": "other"})
    found, _ = started("other")
    assert [name for name, _ in found] == ["other/trial 1", "other/trial 6", "other/trial 4"], "equals by their number"
    assert [settings["learning_rate"] for _, settings in found] == [2e-3, 7e-3, 5e-3]


def test_a_study_begins_with_its_baselines_but_not_with_what_tunes_them(started, tmp_path):
    def run(name, kind="recipe", config=LORA, number=None):
        return Run(kind, name, config, 1, tmp_path / name, number=number)

    full = TrialConfig(method="full", learning_rate=1e-5)
    runs = (
        run("vanilla", "zero_shot", TrialConfig(method="none")),
        run("a"),
        run("b", config=full),
        run("a, 1", number=1),
    )
    found, said = started("baselines", baselines=runs)
    assert [name for name, _ in found] == ["a"] and found[0][1]["r"] == 16
    assert len(said) == 2 and said[1].startswith("b does not fit the space: method full (fixed to lora)")


def test_the_scale_of_an_adapter_fits_a_space_that_samples_alpha_over_r():
    space = catalog.space("lora_small")[1]
    assert "alpha_over_r" in space.sampled
    for alpha, expected in ((16, 1), (32, 2), (8, 0.5)):
        assert fit_to_space(space, LORA.model_copy(update={"lora_alpha": alpha}))[0]["alpha_over_r"] == expected
    params, left_out = fit_to_space(space, LORA.model_copy(update={"lora_alpha": 24}))
    assert "alpha_over_r" not in params and "alpha_over_r 1.5" in left_out


def test_values_between_the_steps_and_outside_a_range_do_not_fit():
    held = catalog.space("demo")[1].model_dump(mode="json", exclude_none=True)
    held["sampled"]["lora_dropout"] = {"low": 0.0, "high": 0.1, "step": 0.05}
    space = SearchSpace.parse(held, "space")
    for dropout, fits in ((0.05, True), (0.1, True), (0.07, False), (0.15, False)):
        params, left_out = fit_to_space(space, LORA.model_copy(update={"lora_dropout": dropout}))
        assert ("lora_dropout" in params) == fits == (f"lora_dropout {dropout}" not in left_out)
