"""A record answers for a run only if configuration, budget, seed and data are the same."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from examples import record

from harness.errors import UserError
from harness.orchestration import trainer_client as module
from harness.orchestration.already_done import (
    augmentation_hash,
    changes,
    identity,
    refuse_other_data,
    set_changed_aside,
    stored_result,
)
from harness.orchestration.recovery import clean_up_attempts
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.worker import Worker
from harness.plan import make_plan
from harness.records.files import write_json
from harness.records.study_folder import Run, read_record, store
from harness.spec.budget import Budget
from harness.spec.data_selection import DataSelection
from harness.spec.messages import Ready
from harness.spec.trial import TrialConfig

CONFIG = TrialConfig(method="full", learning_rate=1e-5)
HASHES = {"train": "t", "validation": "v", "test": "x"}
REPORT = {"splits": {name: {"utterances": 8, "hash": h} for name, h in HASHES.items()}, "languages": ["en"]}
FIELDS = {"kind": "recipe", "name": "mine", "number": None, "state": "complete", "config": CONFIG, "budget": Budget(examples=8), "data": HASHES}  # fmt: skip


@pytest.fixture
def plan(tmp_path):
    plan = make_plan("demo", trials=0, seed=1, results=tmp_path / "results")
    write_json(plan.folder.path / "data_report.json", REPORT)
    return plan


@pytest.fixture
def stored(plan):
    """Store a record; returns the run that it answers for."""

    def call(place: str = "baselines/mine/1", **fields) -> Run:
        made = record().model_copy(update=FIELDS | fields)
        store(plan.folder.attempt(), plan.folder.path / place, made)
        return Run.of(plan.folder.path / place, made)

    return call


def altered(run: Run, **fields) -> Run:
    return Run(**{**{name: getattr(run, name) for name in run.__dataclass_fields__}, **fields})


def test_a_record_answers_for_its_own_run(plan, stored):
    assert stored_result(plan, run := stored()) == read_record(run.folder)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"config": CONFIG.model_copy(update={"learning_rate": 5e-4})}, "learning_rate 1e-05 -> 0.0005"),
        ({"config": CONFIG.model_copy(update={"warmup_steps": 3})}, "warmup_steps unset -> 3"),
        ({"budget": Budget(examples=16)}, "budget: examples 8 -> 16"),
        ({"budget": Budget(examples=8, rungs=(0.5, 1.0))}, "budget: rungs"),
        ({"seed": 2}, "seed 1 -> 2"),
        ({"portion": DataSelection(fraction=0.5)}, "portion: fraction 1.0 -> 0.5"),
        ({"portion": DataSelection(with_validation=True)}, "portion: with_validation"),
    ],
)
def test_a_record_does_not_answer_for_another_run(plan, stored, asked, said):
    run = altered(stored(), **asked)
    assert stored_result(plan, run) is None
    assert [text for text in changes(plan, run, read_record(run.folder)) if said in text]


@pytest.mark.parametrize("split", HASHES)
def test_a_record_does_not_answer_for_other_data(plan, stored, split):
    run = stored(data={**HASHES, split: "old"})
    assert stored_result(plan, run) is None
    assert changes(plan, run, read_record(run.folder)) == [f"{split} has other content"]


def test_a_budget_in_epochs_is_compared_in_examples(plan, stored):
    run = stored(budget=Budget(examples=16))
    assert stored_result(plan, altered(run, budget=Budget(epochs=2)))
    assert not stored_result(plan, altered(run, budget=Budget(epochs=3)))


def test_an_edited_augmentation_is_another_configuration(plan, stored, tmp_path):
    file = tmp_path / "loud.yaml"
    file.write_text("name: loud\ngain_db: [-3, 3]\n")
    config = CONFIG.model_copy(update={"augmentation": str(file)})
    run = stored(config=config, data={**HASHES, **augmentation_hash(config)})
    assert stored_result(plan, run)
    file.write_text("name: loud\ngain_db: [-9, 9]\n")
    assert changes(plan, run, read_record(run.folder)) == ["augmentation has other content"]


@pytest.mark.parametrize("state, reason, again", [
    ("pruned", "diverged at step 3", False), ("pruned", "out_of_memory", False), ("fail", "interrupted: stopped", True),
    ("fail", "RuntimeError: x", True), ("complete", None, False),
])  # fmt: skip
def test_what_would_end_the_same_way_is_not_trained_again(plan, stored, monkeypatch, state, reason, again):
    run, trained = stored(state=state, reason=reason), []

    class Reached(Exception):
        pass

    def trainer(*args, **kwargs):
        trained.append(1)
        raise Reached

    monkeypatch.setattr(module, "Trainer", trainer)
    worker = Worker(plan, Silent(), [], StopSignals())
    with suppress(Reached):
        assert worker.execute(run).reason == reason
    assert bool(trained) == again


class Silent:
    def __getattr__(self, name):
        return lambda *args: None


def test_records_of_an_edited_recipe_are_set_aside_with_what_was_derived_from_them(plan, stored):
    places = ["baselines/mine/1", "tuning/mine/1", "replicates/mine/2", "replicates/mine-tuned-1/2"]
    others = ["baselines/other/1", "tuning/other/1", "replicates/other/2"]
    runs = [stored(place) for place in places + others]
    said = []
    set_changed_aside(plan, runs[:1], said.append)
    assert not said and all(run.folder.is_dir() for run in runs)
    asked = altered(runs[0], config=CONFIG.model_copy(update={"learning_rate": 5e-4}))
    set_changed_aside(plan, [asked], said.append)
    assert {plan.folder.key(folder) for folder, _ in plan.folder.records()} == set(others)
    aside = plan.folder.path / "superseded"
    assert all((aside / place / "result.json").is_file() for place in places)
    assert len(said) == 1 and "learning_rate 1e-05 -> 0.0005" in said[0] and str(aside / places[0]) in said[0]
    stored("baselines/mine/1")
    set_changed_aside(plan, [asked], said.append)
    assert (aside / "baselines/mine/1-2" / "result.json").is_file(), "a second one replaces no earlier one"


def test_trials_on_other_data_are_not_continued(plan, stored):
    stored("trials/0", kind="trial", name="trial 0", number=0, state="fail", data={})
    refuse_other_data(plan, REPORT)
    stored("trials/1", kind="trial", name="trial 1", number=1)
    refuse_other_data(plan, REPORT)
    edited = json.loads(json.dumps(REPORT))
    edited["splits"]["train"]["hash"] = "edited"
    with pytest.raises(UserError, match=r"train changed since.*--study"):
        refuse_other_data(plan, edited)


def test_a_trainer_on_other_data_is_refused_before_it_trains(plan, stored, monkeypatch):
    stored("trials/1", kind="trial", name="trial 1", number=1, data={**HASHES, "validation": "old"})

    class Trainer:
        began, ready = 0.0, Ready(device="cpu", environment={}, data=REPORT)

        def __init__(self, *args, **kwargs):
            pass

        def come_up(self, say):
            return self

        def close(self):
            pass

    monkeypatch.setattr(module, "Trainer", Trainer)
    with pytest.raises(UserError, match="validation changed since"):
        _ = Worker(plan, Silent(), [], StopSignals()).trainer.ready


def interrupted(plan, run: Run, **changed) -> Path:
    """An attempt at a run that ended with its process."""
    attempt = plan.folder.attempt()
    write_json(attempt / "run.json", {"record": plan.folder.key(run.folder), **identity(plan, run), **changed})
    rung = {"index": 0, "step": 1, "examples": 8, "train_loss": 1.0, "loss": 1.0, "scores": None, "train_seconds": 1,
            "evaluation_seconds": 1}  # fmt: skip
    write_json(attempt / "checkpoint" / "rungs.json", [rung])
    return attempt


@pytest.mark.parametrize(
    "changed, kept", [({}, True), ({"seed": 5}, False), ({"data": {"train": "old"}}, False), ({"budget": {"steps": 3}}, False)]
)  # fmt: skip
def test_an_interrupted_attempt_is_resumed_only_by_the_same_run(plan, stored, changed, kept):
    run = altered(stored("baselines/other/1"), folder=plan.folder.baseline("mine", 1))
    interrupted(plan, run, **changed)
    clean_up_attempts(plan.folder, plan, [run])
    assert (run.folder / "checkpoint").is_dir() == kept
    if kept:
        assert not changes(plan, run, read_record(run.folder)), "data and budget of the attempt are in its record"
        assert read_record(run.folder).data["train"] == "t"
