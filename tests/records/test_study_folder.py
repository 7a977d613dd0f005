"""Records on disk: whole or absent, and free of paths."""

import json
import os
from pathlib import Path

import pytest
from examples import record
from mlflow import MlflowClient

from harness.errors import UserError
from harness.records.files import sqlite_url
from harness.records.study_folder import (
    StudyFolder,
    is_stored,
    open_study,
    read_record,
    read_transcripts,
    store,
    without_attempts,
    write_json,
    write_text,
    write_transcripts,
)
from harness.search.storage import Database
from harness.spec.result import Transcript


def test_a_record_comes_back_as_it_was(tmp_path):
    folder = StudyFolder(tmp_path)
    attempt = folder.attempt()
    (attempt / "log.txt").write_text("hello")
    store(attempt, folder.trial(0), record())
    assert read_record(folder.trial(0)) == record()
    assert (folder.trial(0) / "log.txt").read_text() == "hello"
    assert not attempt.exists()


def test_a_folder_that_is_no_record_s_is_not_read(tmp_path):
    folder = StudyFolder(tmp_path)
    for name in ("0", "0-old", "copy of 0"):
        store(folder.attempt(), tmp_path / "trials" / name, record())
    assert [path.name for path, _ in folder.records()] == ["0"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp", "a\\b"])
def test_a_study_s_name_is_that_of_one_folder(tmp_path, name):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserError, match="without a path"):
        open_study(tmp_path / "results", name)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "å&c=d", "a;b@c:d"])
def test_an_address_of_a_database_leads_to_its_file(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    Database(folder)
    MlflowClient(tracking_uri=sqlite_url(folder / "mlflow.db")).search_experiments()
    assert {path.name for path in folder.iterdir()} == {"optuna.db", "mlflow.db", "databases.lock"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_without_result_json_does_not_count_and_is_replaced(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.trial(0).mkdir(parents=True)
    (folder.trial(0) / "half").write_text("")
    assert not is_stored(folder.trial(0)) and list(folder.records()) == []
    store(folder.attempt(), folder.trial(0), record())
    assert not (folder.trial(0) / "half").exists()


def test_records_come_in_order_of_number(tmp_path):
    folder = StudyFolder(tmp_path)
    for number in (10, 2, 1):
        store(folder.attempt(), folder.trial(number), record(number))
    store(folder.attempt(), folder.baseline("vanilla", 1), record(kind="zero_shot", name="vanilla", number=None))
    assert [r.name for _, r in folder.records()] == ["vanilla", "trial 1", "trial 2", "trial 10"]


def made(number, **fields):
    return Path(f"trials/{number}"), record(number, **fields)


def test_interrupted_attempts_are_no_trials():
    records = [
        made(0, reason="interrupted: the supervisor died"),  # as version 0.2 recorded it
        made(1, reason="the trainer died (killed by signal 9)"),
        made(2, retry_of=1, reason="the trainer died (killed by signal 9)"),  # its retries are used up
        made(3, state="complete", retry_of=0),
        made(4, state="pruned", reason="diverged at step 1"),
        (Path("baselines/a/1"), record(kind="recipe", number=None, reason="interrupted: stopped")),
        (Path("tuning/a/2"), record(2, kind="recipe", reason="interrupted: stopped")),
        (Path("tuning/a/1"), record(1, kind="recipe", state="complete")),
    ]
    assert [str(path) for path, _ in without_attempts(records)] == [
        "trials/2", "trials/3", "trials/4", "baselines/a/1", "tuning/a/1",
    ]  # fmt: skip


def test_a_crash_while_writing_leaves_the_old_content(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_missing_value_is_null_and_a_nan_an_error(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a", {"wer": float("nan")})
    assert json.loads(record().model_dump_json())["cost"] is None


def test_transcripts_keep_odd_text(tmp_path):
    odd = 'a "quote"\nline\u2028break\ttab <b>&'
    lines = [Transcript(id="1", reference=odd, hypothesis="")]
    write_transcripts(tmp_path / "t.jsonl", lines)
    assert read_transcripts(tmp_path / "t.jsonl") == lines


def test_an_unknown_study_is_answered_with_those_there_are(tmp_path):
    write_json(tmp_path / "demo" / "study.json", {})
    with pytest.raises(UserError, match="did you mean 'demo'"):
        open_study(tmp_path, "dem")
