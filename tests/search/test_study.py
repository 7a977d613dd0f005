"""Optuna's side: slots, retries, interrupted trials, and draws that do not repeat."""

import math

import optuna
import pytest
from examples import record, rung
from optuna.trial import TrialState

from harness import catalog
from harness.orchestration.stop_conditions import stop_reason
from harness.plan import SearchOptions, make_plan
from harness.records.files import write_json
from harness.records.study_folder import StudyFolder, read_record
from harness.search.best_trials import best_trial, total_seconds, trials_since_improvement
from harness.search.preview import sample_configurations
from harness.search.samplers import make_sampler
from harness.search.study import Study
from harness.spec.result import Cost
from harness.spec.space import SearchSpace


@pytest.fixture
def space():
    return catalog.space("demo")[1]


@pytest.fixture
def study(tmp_path, space):
    return Study(StudyFolder(tmp_path), "s", space, seed=1)


def again(study) -> Study:
    """The same study, as a new process opens it."""
    return Study(study.folder, "s", study.space, study.seed)


def complete(study, wer):
    trial, config = study.ask()
    done = record(trial.number, state="complete", config=config, rungs=(rung(0, wer),))
    study.tell(trial, done)
    return trial.number


def test_slots_count_what_ended_but_not_what_was_tried_again(study):
    complete(study, 0.5)
    trial, config = study.ask()
    study.tell(trial, record(trial.number, config=config, reason="killed"), retry="died")
    assert study.count_finished() == 1
    retry, same = study.ask()
    assert (same, retry.user_attrs["retry_of"], retry.user_attrs["died"]) == (config, trial.number, 1)
    study.tell(retry, record(retry.number, config=same, reason="killed"), retry="died")
    assert study.count_finished() == 2 and len(study.optuna.trials) == 3


def timed(index, train, evaluation):
    return rung(index, 0.5 - index / 10).model_copy(update={"train_seconds": train, "evaluation_seconds": evaluation})


@pytest.mark.parametrize("resumed", [True, False])
def test_a_resumed_trial_spends_its_earlier_rungs_once(study, resumed):
    """Eleven seconds before the kill; sixteen in all where the retry resumes, else the eleven were lost."""
    trial, config = study.ask()
    trial.set_user_attr("attempt_id", (attempt := study.folder.attempt()).name)
    first = timed(0, 10, 1)
    if resumed:
        write_json(attempt / "checkpoint" / "rungs.json", [first.model_dump(mode="json")])
    assert study.finish(trial, attempt, record(trial.number, config=config, rungs=(first,)), "interrupted")
    assert total_seconds(study) == 11
    retry, _ = study.ask()
    retry.set_user_attr("attempt_id", (attempt := study.folder.attempt()).name)
    done = record(retry.number, state="complete", config=config, rungs=(first, timed(1, 14, 1)), cost=cost(14, 2))
    assert study.finish(retry, attempt, done)
    assert total_seconds(study) == (16 if resumed else 11 + 16)
    assert [made.retry_of for _, made in study.folder.records()] == [None, trial.number]


def cost(train, evaluation) -> Cost:
    return Cost(steps=1, examples=1, train_seconds=train, evaluation_seconds=evaluation, peak_memory_bytes=1,
                memory_kind="process_rss", trainable_parameters=1, total_parameters=1, adapter_bytes=1)  # fmt: skip


@pytest.mark.parametrize("processes, hours, ends", [(1, 3, False), (1, 2, True), (2, 4, True), (2, 5, False)])
def test_gpu_hours_are_those_of_all_processes_of_a_trial(study, tmp_path, processes, hours, ends):
    trial, config = study.ask()
    study.tell(
        trial, record(trial.number, state="complete", config=config, rungs=(rung(0, 0.5),), cost=cost(7000, 200))
    )
    options = SearchOptions(gpu_hours=hours)
    plan = make_plan("demo", trials=9, seed=1, results=tmp_path, processes=processes, search_options=options)
    assert (stop_reason(plan, study, 0.0) is not None) == ends


def test_a_trial_that_went_on_after_a_kill_competes_at_each_rung_with_what_it_had_there(study):
    """Asked only at its last rung, successive halving would hold that value against trials at the first."""
    trial, config = study.ask()
    rungs = (rung(0, 0.9), rung(1, 0.4))
    assert all(study.may_continue(trial, reached, None) for reached in rungs)
    study.tell(trial, record(trial.number, config=config, rungs=rungs), retry="interrupted")
    retry, _ = study.ask()
    study.replay(retry, rungs[:1], None)
    assert study.may_continue(retry, rungs[1], None)
    rival, _ = study.ask()
    assert study.may_continue(rival, rung(0, 0.7), None)


def ended(folder, space, kills):
    """Settings and last rung of each slot in a search of 24 trials; the slots in `kills` are killed after a rung."""
    study, seen = Study(StudyFolder(folder), "s", space, seed=1), {}
    while study.count_finished() < 24:
        trial, config = study.ask()
        killed, rungs = len(seen) in kills and "retry_of" not in trial.user_attrs, []
        for index in range(3):
            value = abs(math.log10(config.learning_rate / 1e-3)) + trial.params["r"] / 100 - 0.1 * index
            rungs.append(rung(index, value))
            if (index < 2 and not study.may_continue(trial, rungs[-1], None)) or killed:
                break
        state = "fail" if killed else "complete" if len(rungs) == 3 else "pruned"
        done = record(trial.number, state=state, config=config, rungs=tuple(rungs), reason="killed" if killed else None)
        study.tell(trial, done, retry="interrupted" if killed else None)
        if not killed:
            seen[len(seen)] = (config.settings(), len(rungs))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband", "median"])
def test_kills_change_neither_what_is_proposed_nor_what_is_pruned(tmp_path, space, pruner):
    changed = {"pruner": {"name": pruner, "n_startup_trials": 2}, "budget": {"examples": 64, "rungs": [0.25, 0.5, 1.0]}}
    space = SearchSpace.parse({**space.model_dump(mode="json"), **changed}, "space")
    undisturbed = ended(tmp_path / "a", space, ())
    assert {last for _, last in undisturbed.values()} >= {1, 3}
    assert ended(tmp_path / "b", space, (1, 4, 5, 9)) == undisturbed


@pytest.mark.parametrize(
    "sampler, proposed",
    [
        ("random", ["random"] * 5),
        ("tpe", ["random"] * 3 + ["sampler"] * 2),
        ("nsga2", ["random"] * 3 + ["sampler"] * 2),
        ("grid", ["grid"] * 5),
    ],
)
def test_the_record_says_how_a_configuration_was_chosen(tmp_path, space, sampler, proposed):
    """A killed attempt and its retry were chosen in the same way; an enqueued configuration counts among the first."""
    changed = {"sampler": {"name": sampler, "n_startup_trials": 4}}
    space = SearchSpace.parse({**space.model_dump(mode="json"), **changed}, "space")
    study, killed = Study(StudyFolder(tmp_path), "s", space, seed=1), False
    study.optuna.enqueue_trial({"r": 8, "learning_rate": 2e-3})
    while study.count_finished() < 6:
        trial, config = study.next_trial(6, "w", f"attempt {len(study.optuna.trials)}")
        attempt = tmp_path / "attempts" / trial.user_attrs["attempt_id"]
        attempt.mkdir(parents=True)
        dies, killed = trial.number == 2 and not killed, killed or trial.number == 2
        ended = {"reason": "killed"} if dies else {"state": "complete", "rungs": (rung(0, 0.5),)}
        study.finish(trial, attempt, record(trial.number, config=config, **ended), "died" if dies else None)
    found = [read_record(study.folder.trial(number)).proposed_by for number in range(7)]
    assert found == ["warm_start", *proposed[:2], proposed[1], *proposed[2:]]


def test_telling_twice_changes_nothing(study):
    trial, config = study.ask()
    done = record(trial.number, state="complete", config=config, rungs=(rung(0, 0.4), rung(1, 0.3)))
    study.tell(trial, done)
    study.tell(trial, done)
    stored = study.optuna.trials[0]
    assert (stored.state, stored.value, stored.intermediate_values) == (TrialState.COMPLETE, 0.3, {1: 0.4, 2: 0.3})


def test_the_best_is_the_lowest_and_failures_are_never_best(study):
    trial, config = study.ask()
    study.tell(trial, record(trial.number, config=config))
    assert best_trial(study) is None
    complete(study, 0.5)
    better = complete(study, 0.2)
    assert best_trial(study) == better


def test_a_pruned_trial_keeps_its_value_out_of_the_best(study):
    number = complete(study, 0.5)
    trial, config = study.ask()
    study.tell(trial, record(trial.number, state="pruned", config=config, rungs=(rung(0, 0.1),)))
    assert study.optuna.trials[1].state == TrialState.PRUNED
    assert best_trial(study) == number


def test_running_out_of_memory_is_a_broken_constraint_that_the_sampler_sees(study):
    complete(study, 0.5)
    trial, config = study.ask()
    study.tell(trial, record(trial.number, state="pruned", reason="out_of_memory", config=config))
    fine, broken = study.optuna.trials
    assert (fine.state, broken.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert fine.constraints == {"out_of_memory": -1.0} and broken.constraints == {"out_of_memory": 1.0}


def test_a_restart_draws_on_and_does_not_draw_the_same_again(study, space, tmp_path):
    before = [study.ask()[1] for _ in range(2)]
    after = [again(study).ask()[1] for _ in range(2)]
    assert before + after == sample_configurations(space, 4, seed=1)
    assert len({config.learning_rate for config in before + after}) == 4


def test_seeds_differ_by_study_and_number(space):
    space = space.model_copy(update={"sampler": space.sampler.model_copy(update={"name": "random"})})
    draws = {make_sampler(space, seed, number)._rng.rng.random() for seed in (1, 2) for number in range(3)}
    assert len(draws) == 6


def test_optuna_s_own_tell_agrees(study):
    """The storage can be read by Optuna itself, as optuna-dashboard does."""
    complete(study, 0.25)
    loaded = optuna.load_study(study_name="s", storage=f"sqlite:///{study.folder.path / 'optuna.db'}")
    assert loaded.best_value == 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    "budget, steps",
    [("{epochs: 0.5, rungs: [0.5, 1.0]}", 3), ("{steps: 4, rungs: [0.5, 1.0]}", 4), ("{train_seconds: 1.5}", None)],
)
def test_a_sweep_under_a_budget_of_another_unit(command, small_space, tmp_path, budget, steps):
    text = small_space.read_text().replace("{examples: 64, rungs: [0.5, 1.0]}", budget)
    small_space.write_text(text.replace("fixed: {", "fixed: {per_device_train_batch_size: 8, "))
    results = tmp_path / "results"
    command("run_sweep.py", "--space", small_space, "--trials", "1", "--results", results, "--warm-start", "baselines")
    record = read_record(tmp_path / "results" / "tiny" / "trials" / "0")
    assert record.state == "complete" and record.cost.train_flops > 0
    if steps is None:
        assert 1.5 <= record.cost.train_seconds < 6
    else:
        assert (record.cost.steps, record.rungs[0].step) == (steps, -(-steps // 2))
    assert record.budget.epochs is None, "epochs are stored as the examples they were"


def test_a_trial_that_equals_the_best_betters_nothing(study):
    counts = []
    for wer in (0.5, 0.4, 0.4, 0.6, 0.4, 0.3):
        complete(study, wer)
        counts.append(trials_since_improvement(study))
    assert counts == [0, 0, 1, 2, 3, 0]


SMALL = {"sampled": {"method": {"choices": ["lora", "frozen_encoder"]}, "r": {"choices": [4, 8]},
                     "label_smoothing_factor": {"low": 0.0, "high": 0.2, "step": 0.1}},
         "fixed": {"learning_rate": 1e-3, "alpha_over_r": 2, "lora_dropout": 0.0, "target_modules": ["q_proj"]}}  # fmt: skip


def finite(space, name):
    held = {**space.model_dump(mode="json", exclude={"fixed", "sampled", "sampler"}), **SMALL}
    return SearchSpace.parse({**held, "sampler": {"name": name, "n_startup_trials": 2}}, "finite")


def test_a_grid_ends_with_its_last_point(tmp_path, space):
    held = {**space.model_dump(mode="json"), "sampler": {"name": "grid", "grid_points": 3}}
    held["sampled"] = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "r": {"choices": [4, 8]}}
    held["fixed"] |= {"alpha_over_r": 2, "lora_dropout": 0.0, "target_modules": ["q_proj"]}
    assert len(sample_configurations(SearchSpace.parse(held, "grid"), 20, seed=1)) == 6


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_small_space_is_tried_once_through_and_then_is_at_its_end(tmp_path, space, name):
    """Nine configurations, for a frozen encoder has no rank; retries and a restart have their part in it."""
    study, seen = Study(StudyFolder(tmp_path), "s", finite(space, name), seed=1), []
    assert sample_configurations(study.space, 20, seed=1) and len(sample_configurations(study.space, 20, seed=1)) == 9
    while not study.exhausted():
        trial, config = again(study).next_trial(20, "w", f"a{len(seen)}")
        if len(seen) == 3 and "retry_of" not in trial.user_attrs:
            study.tell(trial, record(trial.number, config=config, reason="killed"), retry="died")
            continue
        seen.append(config.settings())
        wer = config.learning_rate + (config.r or 6) / 10  # what TPE likes best it would draw again and again
        study.tell(trial, record(trial.number, state="complete", config=config, rungs=(rung(0, wer),)))
    assert len(seen) == 9 == len({str(settings) for settings in seen}), seen
    assert study.next_trial(20, "w", "b") is None and study.count_finished() == 9


def test_a_space_with_a_range_has_no_end(study):
    complete(study, 0.5)
    assert not study.exhausted()


@pytest.mark.slow
def test_the_command_ends_where_all_was_tried(command, small_space, tmp_path):
    text = small_space.read_text().replace(
        "learning_rate: {low: 1e-3, high: 5e-3, log: true}", "learning_rate: {choices: [0.003]}"
    )
    small_space.write_text(text.replace("examples: 64", "examples: 32").replace("[vanilla]", "[]"))
    done = command("run_sweep.py", "--space", small_space, "--trials", "5", "--results", tmp_path / "results")
    assert "ended early: every configuration of the space was tried" in done.stdout
    assert len(list((tmp_path / "results" / "tiny" / "trials").glob("*/result.json"))) == 2
