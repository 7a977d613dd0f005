"""MLflow equals the records after any history of faults, run by run and value by value, as its client reads it."""

import random
from datetime import UTC, datetime

import pytest
from examples import record, rung
from mlflow import MlflowClient

from harness.records import mlflow_mirror
from harness.records.mlflow_database import database_path
from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import Run, store
from harness.spec.result import Cost
from harness.spec.trial import TrialConfig

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}


class Unreliable:
    """A client of which some calls fail, before or after they took effect."""

    chance = random.Random()
    rate = 0.0

    def __init__(self, *args, **kwargs):
        self._client = MlflowClient(*args, **kwargs)

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def unreliable(*args, **kwargs):
            early, late = (self.chance.random() < self.rate / 2 for _ in range(2))
            if early:
                raise ConnectionError("before")
            result = call(*args, **kwargs)
            if late:
                raise ConnectionError("after")
            return result

        return unreliable


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def expected(made):
    """What a run of MLflow must hold, from a record."""
    history = {}
    for r in made.rungs:
        values = {"loss": r.loss, "train_loss": r.train_loss}
        if r.scores:
            values |= {"wer": r.scores.wer, "wer_raw": r.scores.wer_raw, "cer": r.scores.cer}
        for name, value in values.items():
            if value is not None:
                history.setdefault(name, []).append((r.step, value))
    if made.cost:
        for name, value in made.cost.model_dump().items():
            if isinstance(value, int | float):
                history[name] = [(made.cost.steps, float(value))]
    settings = {**made.config.settings(), "seed": made.seed}
    return {
        "params": {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in settings.items()},
        "history": history,
        "tags": {"state": made.state, "reason": made.reason or "", "notes": "; ".join(made.notes),
                 "kind": made.kind, "mlflow.runName": made.name, "study": "s"},
        "info": (STATUS[made.state], milliseconds(made.started), milliseconds(made.ended)),
    }  # fmt: skip


def shown(client, run, tags):
    """The same, as MLflow's client has it."""
    history = {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    assert run.data.metrics == {name: points[-1][1] for name, points in history.items()}, "the last value is shown"
    return {
        "params": run.data.params,
        "history": history,
        "tags": {name: run.data.tags.get(name) for name in tags},
        "info": (run.info.status, run.info.start_time, run.info.end_time),
    }


def assert_equal_to_records(folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{database_path(folder)}")
    (experiment,) = client.search_experiments(filter_string="name = 's'")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    keys = [run.data.tags["record"] for run in runs if "state" in run.data.tags]
    records = {folder.key(path): made for path, made in folder.records()}
    assert sorted(keys) == sorted(records) and len(runs) == len({run.data.tags["record"] for run in runs})
    (parent,) = (run for run in runs if run.data.tags["record"] == "study")
    for run in runs:
        if run is parent:
            continue
        key = run.data.tags["record"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status != "RUNNING", key
        if key in records:
            wanted = expected(records[key])
            assert shown(client, run, wanted["tags"]) == wanted, key
            place = folder.path / run.info.artifact_uri
            assert (place / "transcripts.jsonl").read_text() == (folder.path / key / "transcripts.jsonl").read_text(), (
                key
            )


def cost(chance) -> Cost:
    return Cost(
        steps=chance.randrange(3, 9), examples=chance.randrange(99), train_seconds=chance.random(),
        evaluation_seconds=chance.random(), peak_memory_bytes=chance.randrange(1 << 40), memory_kind="process_rss",
        trainable_parameters=chance.randrange(1 << 30), total_parameters=1 << 31, adapter_bytes=chance.randrange(99),
        samples_per_second=chance.choice([None, 1.5]), train_joules=chance.choice([None, 7.25]), processes=2,
    )  # fmt: skip


def attempt(folder, chance, key):
    """A run under settings and with results that differ from attempt to attempt."""
    place, minute = folder.path / key, chance.randrange(50)
    trial = key.startswith("trials")
    identity = {"kind": "trial", "name": f"trial {place.name}", "number": int(place.name)}
    if not trial:
        identity = {"kind": "recipe", "name": place.parent.name, "number": None}
    made = record(0).model_copy(update={**identity, **dict(
        state=chance.choice(["complete", "pruned", "fail"]),
        reason=chance.choice([None, "why"]),
        notes=chance.choice([(), ("a", "b")]),
        config=TrialConfig(method="full", learning_rate=chance.choice([1e-5, 5e-4]), warmup_steps=chance.choice([None, 3])),
        rungs=tuple(
            rung(index, chance.random()).model_copy(update={"train_loss": chance.random(), "loss": chance.random()})
            for index in range(chance.randrange(3))
        ),
        cost=chance.choice([None, cost(chance)]),
        started=datetime(2026, 1, 2, 3, minute, tzinfo=UTC).isoformat(),
        ended=datetime(2026, 1, 2, 3, minute + 1, 30, tzinfo=UTC).isoformat(),
    )})  # fmt: skip
    return Run.of(place, made), made


def keep(folder, chance, run, made):
    written = folder.attempt()
    (written / "transcripts.jsonl").write_text(f"{chance.random()}\n")
    store(written, run.folder, made)


KEYS = ["trials/0", "trials/1", "baselines/tutorial/1", "baselines/peft/1"]


@pytest.mark.parametrize("seed", range(5))
def test_after_any_history_of_faults_mlflow_equals_the_records(folder, monkeypatch, seed):
    chance = Unreliable.chance = random.Random(seed)
    monkeypatch.setattr(mlflow_mirror, "MlflowClient", Unreliable)
    Unreliable.rate = 0.0 if seed < 2 else 0.1
    mirror = MLflowMirror(folder, "s")
    for _ in range(14):
        run, made = attempt(folder, chance, chance.choice(KEYS))
        mirror.begin(run, made.started)
        for reached in made.rungs:
            if chance.random() < 0.7:
                mirror.rung(run, reached)
        what = chance.random()
        if what < 0.8:
            keep(folder, chance, run, made)
        if 0.1 < what < 0.7:
            mirror.end(run, made)
        elif what > 0.6:  # the process dies
            mirror = MLflowMirror(folder, "s")
        if chance.random() < 0.3:
            mirror.catch_up(folder.records(mirror.ended))
    Unreliable.rate = 0.0
    mirror = MLflowMirror(folder, "s")
    mirror.catch_up(folder.records())
    mirror.catch_up(folder.records(mirror.ended))
    assert not mirror.behind
    assert_equal_to_records(folder)


def test_a_setting_that_changed_between_attempts_stops_no_later_run(folder):
    chance, mirror = random.Random(1), MLflowMirror(folder, "s")
    for rate in (1e-5, 5e-4):
        run, made = attempt(folder, chance, "baselines/tutorial/1")
        made = made.model_copy(update={"config": made.config.model_copy(update={"learning_rate": rate})})
        run = Run.of(run.folder, made)
        mirror.begin(run, made.started)
        keep(folder, chance, run, made)
        mirror.end(run, made)
    run, made = attempt(folder, chance, "trials/0")
    mirror.begin(run, made.started)
    keep(folder, chance, run, made)
    mirror.end(run, made)
    assert not mirror.behind
    assert_equal_to_records(folder)


def test_a_rung_that_was_evaluated_again_leaves_no_older_value(folder):
    chance, mirror = random.Random(2), MLflowMirror(folder, "s")
    run, made = attempt(folder, chance, "trials/0")
    mirror.begin(run, made.started)
    mirror.rung(run, rung(0, 0.9))
    made = made.model_copy(update={"rungs": (rung(0, 0.4),)})
    keep(folder, chance, run, made)
    mirror.end(run, made)
    assert_equal_to_records(folder)


def test_more_rungs_than_mlflow_takes_at_once_are_mirrored(folder):
    chance, mirror = random.Random(3), MLflowMirror(folder, "s")
    run, made = attempt(folder, chance, "trials/0")
    made = made.model_copy(update={"rungs": tuple(rung(index, 1 / (index + 1)) for index in range(250)), "cost": None})
    keep(folder, chance, run, made)
    mirror.catch_up(folder.records())
    assert not mirror.behind
    assert_equal_to_records(folder)


def test_runs_under_way_stay_running_while_the_rest_is_caught_up(folder):
    chance, mirror = random.Random(4), MLflowMirror(folder, "s")
    run, made = attempt(folder, chance, "trials/0")
    mirror.begin(run, made.started)
    mirror.catch_up(folder.records())
    client = MlflowClient(tracking_uri=f"sqlite:///{database_path(folder)}")
    found = client.search_runs(["1"], filter_string="tags.record = 'trials/0'")
    assert [each.info.status for each in found] == ["RUNNING"]
    keep(folder, chance, run, made)
    mirror.end(run, made)
    assert_equal_to_records(folder)


def test_the_weights_of_a_best_trial_that_was_overtaken_go(folder):
    chance, mirror = random.Random(5), MLflowMirror(folder, "s")
    for number in (0, 1):
        made = record(number, state="complete", rungs=(rung(0, 0.5 - number / 10),))
        run = Run.of(folder.trial(number), made)
        keep(folder, chance, run, made)
        (run.folder / "weights").mkdir()
        (run.folder / "weights" / "adapter").write_text(str(number))
        mirror.begin(run, made.started)
        mirror.end(run, made)
        mirror.close(made)
    assert [path.read_text() for path in folder.path.glob("artifacts/*/artifacts/weights/*")] == ["1"]
    client = MlflowClient(tracking_uri=f"sqlite:///{database_path(folder)}")
    (parent,) = client.search_runs(["1"], filter_string="tags.record = 'study'")
    assert parent.data.metrics["best_wer"] == 0.4 and parent.data.tags["best"] == "trial 1"
