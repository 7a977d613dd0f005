"""The MLflow mirror: complete, movable, and harmless when it fails."""

import shutil

import pytest
from examples import record, rung
from mlflow import MlflowClient

from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import Run, StudyFolder, store


def runs(folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 's'")
    return client, {run.data.tags["record"]: run for run in client.search_runs([experiment.experiment_id])}


def stored(folder, number, **fields):
    made = record(number, **fields)
    attempt = folder.attempt()
    (attempt / "transcripts.jsonl").write_text("{}\n")
    store(attempt, folder.trial(number), made)
    return Run.of(folder.trial(number), made), made


def test_a_trial_is_mirrored_with_settings_curve_state_and_files(folder):
    mirror = MLflowMirror(folder, "s")
    run, made = stored(folder, 0, state="complete", rungs=(rung(0, 0.5), rung(1, 0.4)))
    mirror.begin(run, "2026-01-01T00:00:00+00:00")
    mirror.rung(run, made.rungs[0])
    mirror.end(run, made)
    mirror.close(made)
    assert not mirror.behind
    client, found = runs(folder)
    run = found["trials/0"]
    assert run.info.status == "FINISHED" and run.data.params["method"] == "full"
    assert run.data.tags["mlflow.parentRunId"] == found["study"].info.run_id
    history = client.get_metric_history(run.info.run_id, "wer")
    assert sorted((m.step, m.value) for m in history) == [(1, 0.5), (2, 0.4)] and run.data.metrics["wer"] == 0.4
    assert found["study"].info.status == "FINISHED" and found["study"].data.metrics["best_wer"] == 0.4
    assert (folder.path / run.info.artifact_uri / "transcripts.jsonl").is_file()


@pytest.mark.parametrize("state, status", [("complete", "FINISHED"), ("pruned", "KILLED"), ("fail", "FAILED")])
def test_states_become_mlflow_s_own(folder, state, status):
    mirror = MLflowMirror(folder, "s")
    mirror.end(*stored(folder, 0, state=state, reason="why", rungs=(rung(0, 0.5),)))
    run = runs(folder)[1]["trials/0"]
    assert (run.info.status, run.data.tags["state"], run.data.tags["reason"]) == (status, state, "why")


def test_no_location_is_absolute_so_that_results_can_be_moved(folder, tmp_path):
    mirror = MLflowMirror(folder, "s")
    mirror.end(*stored(folder, 0, state="complete", rungs=(rung(0, 0.5),)))
    moved = StudyFolder(tmp_path / "elsewhere")
    shutil.move(folder.path, moved.path)
    run = runs(moved)[1]["trials/0"]
    assert not run.info.artifact_uri.startswith(("/", "file:"))
    assert (moved.path / run.info.artifact_uri / "transcripts.jsonl").is_file()


def test_a_killed_supervisor_s_runs_are_put_right(folder):
    kept, _ = stored(folder, 1, state="complete", rungs=(rung(0, 0.5),))
    before = MLflowMirror(folder, "s")
    before.begin(Run.of(folder.trial(0), record(0)), "2026-01-01T00:00:00+00:00")
    before.begin(kept, "2026-01-01T00:00:00+00:00")
    after = MLflowMirror(folder, "s")
    after.catch_up(folder.records())
    after.close(None)
    found = runs(folder)[1]
    assert {key: run.info.status for key, run in found.items()} == {
        "study": "FINISHED",
        "trials/0": "KILLED",
        "trials/1": "FINISHED",
    }


def test_catching_up_twice_doubles_nothing(folder):
    run, made = stored(folder, 0, state="complete", rungs=(rung(0, 0.5), rung(1, 0.4)))
    for _ in range(2):
        mirror = MLflowMirror(folder, "s")
        mirror.catch_up(folder.records())
        mirror.end(run, made)
    client, found = runs(folder)
    assert len(found) == 2
    assert len(client.get_metric_history(found["trials/0"].info.run_id, "wer")) == 2


def test_a_mirror_that_fails_says_so_once_and_raises_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # it would try for 100 s
    (folder.path / "mlflow.db").unlink()
    (folder.path / "mlflow.db").mkdir()  # no database can be opened there
    mirror = MLflowMirror(folder, "s")
    mirror.end(*stored(folder, 0, state="complete", rungs=(rung(0, 0.5),)))
    mirror.close(None)
    assert mirror.behind
    assert capsys.readouterr().err.count("MLflow is behind") == 1
