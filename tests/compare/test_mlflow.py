"""What a comparison logs in MLflow: the last one counts, and every system has a metric of its own."""

import shutil

import pytest
from mlflow import MlflowClient

from harness.records.mlflow_mirror import MLflowMirror
from harness.records.study_folder import StudyFolder


def parent(address: str):
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("made")
    (found,) = client.search_runs([experiment.experiment_id], filter_string="tags.record = 'study'")
    return client, found


@pytest.fixture
def database(study, empty_database) -> str:
    """The address of the database in the study's folder."""
    shutil.copy(empty_database, study.folder / "mlflow.db")
    MLflowMirror(StudyFolder(study.folder), "made")
    return f"sqlite:///{study.folder / 'mlflow.db'}"


def test_mlflow_shows_the_last_comparison_not_the_highest_value(study, compared, database):
    for wrong in (60, 21):
        study.run("trials/1", "trial", "trial 1", wrong, number=1, wer=0.1)
        rows = compared("--no-figures").systems
    client, found = parent(database)
    assert {name: value for name, value in found.data.metrics.items()} == {
        f"test_wer/{name}": row["wer"] for name, row in rows.items()
    }
    assert len(client.get_metric_history(found.info.run_id, "test_wer/trial 1")) == 2
    stored = study.folder / found.info.artifact_uri / "comparison" / "leaderboard.csv"
    assert stored.read_bytes() == (study.folder / "comparison" / "leaderboard.csv").read_bytes()


def test_files_of_an_earlier_comparison_go_and_those_of_other_splits_stay(study, compared, database):
    compared("--split", "validation", "--no-figures")
    compared("--no-figures")
    place = study.folder / parent(database)[1].info.artifact_uri / "comparison"
    (place / "old.svg").write_text("")
    compared("--no-figures")
    assert not (place / "old.svg").exists() and (place / "leaderboard.csv").is_file()
    assert (place / "validation" / "leaderboard.csv").is_file()


def test_names_that_mlflow_cannot_hold_are_told_apart(compared, write, database):
    texts = [f"sentence number {n} was spoken by somebody here" for n in range(80)]
    one, two = write("one.jsonl", "hypothesis", texts), write("two.jsonl", "hypothesis", ["x"] * 80)
    compared("--no-figures", "--add", f"api?={one}", "--add", f"api!={two}", "--add", f"система={one}")
    metrics = parent(database)[1].data.metrics
    assert metrics["test_wer/api_"] == 0 and metrics["test_wer/api__2"] == 1 and metrics["test_wer/система"] == 0


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_comparison_is_logged_on_the_server_that_holds_the_study(
    study, compared, empty_database, tmp_path, monkeypatch, by
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "server.db")
    address = f"sqlite:///{tmp_path / 'server.db'}"
    MLflowMirror(StudyFolder(tmp_path / "results" / "other"), "other", address)  # another study on that server
    MLflowMirror(StudyFolder(study.folder), "made", address)
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    rows = compared("--no-figures", *(["--mlflow-uri", address] if by == "option" else [])).systems
    client, found = parent(address)
    assert found.data.metrics["test_wer/trial 1"] == rows["trial 1"]["wer"]
    assert "comparison/leaderboard.csv" in [f.path for f in client.list_artifacts(found.info.run_id, "comparison")]


def test_a_server_without_the_study_is_named(compared, run, empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "server.db")
    code, _, err = run("--study", "made", "--no-figures", "--mlflow-uri", f"sqlite:///{tmp_path / 'server.db'}")
    assert code == 0 and "made" in err and "server.db" in err
