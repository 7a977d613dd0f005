"""Where a sweep's time went: phases that add up, resumed and overlapping work counted once."""

import json

import pytest
from examples import rung

from harness.orchestration import time_accounting as time_account
from harness.orchestration.time_accounting import PHASES, TimeAccount, time_spent, time_table
from harness.records.study_folder import StudyFolder
from harness.spec.result import Cost


@pytest.fixture
def now(monkeypatch):
    """A clock that a test sets."""
    clock = [100.0]
    monkeypatch.setattr(time_account.time, "monotonic", lambda: clock[0])
    return clock


def timed(index, train, evaluation):
    return rung(index, 0.5).model_copy(update={"train_seconds": train, "evaluation_seconds": evaluation})


def cost(**fields) -> Cost:
    return Cost(
        steps=1, examples=1, evaluation_seconds=0, peak_memory_bytes=1, memory_kind="process_rss", trainable_parameters=1,
        total_parameters=1, adapter_bytes=None, **fields,
    )  # fmt: skip


def test_phases_are_told_apart_and_add_up(now, tmp_path):
    held = TimeAccount(tmp_path / "time" / "a.json")
    now[0] += 10
    held.started(10, preparing=4)
    with held.at_work():
        now[0] += 20
    held.ended(cost(train_seconds=12, prefix_seconds=1), [timed(0, 6, 2), timed(1, 12, 3)], [])
    now[0] += 5
    held.write()
    spent = time_spent(StudyFolder(tmp_path))
    assert spent == {"train": 12, "evaluate": 5, "prepare": 5, "start": 6, "wait": 5, "other": 2, "wall": 35}
    assert sum(spent[name] for name in PHASES) == spent["wall"]
    assert time_table(spent)[-1][:2] == ("outside", f"{18 / 35:.1%}")


def test_a_retry_counts_what_it_took_itself_and_a_death_what_was_reported(now, tmp_path):
    held, first = TimeAccount(tmp_path / "a.json"), timed(0, 6, 2)
    held.ended(None, [first], [])
    held.ended(cost(train_seconds=11), [first, timed(1, 11, 3)], [first])
    held.ended(None, [], [first])
    account = held.account()
    assert (account["train"], account["evaluate"]) == (11, 5)


def test_work_that_overlaps_counts_once_and_workers_add_up(now, tmp_path):
    held = TimeAccount(tmp_path / "time" / "a.json")
    with held.at_work():
        now[0] += 1
        with held.at_work():
            now[0] += 2
        assert held.account()["other"] == 3
    now[0] += 1
    assert (held.account()["other"], held.account()["wait"]) == (3, 1)
    held.write()
    other = TimeAccount(tmp_path / "time" / "b.json")
    now[0] += 6
    other.write()
    assert time_spent(StudyFolder(tmp_path))["wall"] == 4 + 6
    assert json.loads((tmp_path / "time" / "b.json").read_text())["wait"] == 6


def test_nothing_spent_makes_no_table(tmp_path):
    assert time_spent(StudyFolder(tmp_path)) == {} and time_table({}) == []
