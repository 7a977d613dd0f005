"""Which run of a baseline's tuning stands for it, after how many trials and how long."""

from pathlib import Path

from examples import record, rung

from harness.records.tuned_baselines import tuned_baselines
from harness.spec.result import Cost


def run(baseline: str, number: int | None, wer: float | None, seconds: float = 10.0, **fields):
    cost = Cost(
        steps=1, examples=1, train_seconds=seconds, evaluation_seconds=1.0, peak_memory_bytes=1, memory_kind="process_rss",
        trainable_parameters=1, total_parameters=1, adapter_bytes=1,
    )  # fmt: skip
    known = {"state": "complete", "rungs": (rung(0, wer),), "cost": cost} if wer is not None else {}
    folder = f"baselines/{baseline}/1" if number is None else f"tuning/{baseline}/{number}"
    return Path(folder), record(**{"kind": "recipe", "name": baseline, "number": number, **known, **fields})


def test_the_best_of_each_baseline_stands_for_it():
    found = tuned_baselines([
        run("a", None, 0.5), run("a", 1, 0.4), run("a", 2, 0.3, seconds=20.0), run("a", 3, None, reason="oom"),
        run("b", None, 0.2), run("b", 1, 0.6), run("c", None, 0.1),
        (Path("trials/1"), record(1)),
    ])  # fmt: skip
    assert [held.name for held in found] == ["a, tuned", "b, tuned"], "c was not tuned"
    a, b = found
    assert (str(a.best[0]), a.trials, a.seconds) == ("tuning/a/2", 4, 43.0)
    assert (str(b.best[0]), b.trials, b.seconds) == ("baselines/b/1", 2, 22.0)
    assert "own settings" in b.note and "own settings" not in a.note and "of 4 trials" in a.note


def test_of_equal_runs_the_recipe_s_own_and_then_the_first_stands():
    tuned, own = [run("a", 2, 0.3), run("a", 1, 0.3)], run("a", None, 0.3)
    assert str(tuned_baselines([*tuned, own])[0].best[0]) == "baselines/a/1"
    worse = run("a", None, 0.4)
    assert str(tuned_baselines([*tuned, worse])[0].best[0]) == "tuning/a/1"


def test_a_baseline_without_a_complete_run_is_left_out():
    assert tuned_baselines([run("a", None, None, reason="x"), run("a", 1, None, reason="x")]) == []
