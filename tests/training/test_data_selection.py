"""Training on a part of train, or on validation too: what is seen, and what is left behind."""

import json
from dataclasses import replace

import pytest
import yaml

from harness.records.study_folder import read_record
from harness.spec.budget import Budget
from harness.spec.data_selection import DataSelection
from harness.spec.messages import Finished, Train
from harness.training.batch_order import rows_used
from harness.training.trial import run_trial


def rows(context, **portion):
    return replace(context.speech, portion=DataSelection(**portion)).rows("train")


def test_parts_are_nested_and_drawn_by_their_seed(context):
    whole, half, fifth = rows(context), rows(context, fraction=0.5), rows(context, fraction=0.2)
    assert (len(whole), len(half), len(fifth)) == (48, 24, 10)
    assert set(fifth) < set(half) < set(whole) and half == sorted(half)
    assert set(rows(context, fraction=0.5, seed=2)) != set(half)
    both = rows(context, with_validation=True)
    assert set(both) == set(whole) | set(context.speech.rows("validation")) and len(both) == 60
    assert replace(context.speech, portion=DataSelection(fraction=0.2)).rows("validation") == context.speech.rows(
        "validation"
    )


def test_a_part_of_a_weighted_source_keeps_the_weight(context):
    (source,) = context.speech.task.sources
    heavy = replace(
        context.speech,
        task=context.speech.task.model_copy(update={"sources": (source.model_copy(update={"weight": 2.0}),)}),
    )
    half = replace(heavy, portion=DataSelection(fraction=0.5)).epoch_rows(0, seed=1)
    assert len(half) == 48 and len(set(half)) == 24


def test_the_half_that_a_weight_leaves_out_is_trained_in_the_next_epoch(context, lora):
    (source,) = context.speech.task.sources
    task = context.speech.task.model_copy(update={"sources": (source.model_copy(update={"weight": 0.5}),)})
    light = replace(context, speech=replace(context.speech, task=task))
    order = Train(config=lora, budget=Budget(examples=36, rungs=(1.0,)), seed=1, attempt="unused")
    assert len(rows_used(light, lora, order, processes=1)) == 36, "an epoch and a half of 24 of 48 clips"


def trained(context, lora, tmp_path, name, **portion):
    """(result, reports, the rows that were trained on) of one trial."""
    attempt = tmp_path / name
    attempt.mkdir()
    order = Train(
        config=lora,
        budget=Budget(examples=64, rungs=(0.5, 1.0)),
        seed=1,
        attempt=str(attempt),
        portion=DataSelection(**portion),
    )
    trial, reports = run_trial(context, order), []
    try:
        reports.append(next(trial))
        while True:
            reports.append(trial.send(True))
    except StopIteration as end:
        assert isinstance(end.value, Finished)
        return end.value.result, reports


def test_a_refit_reports_no_rung_and_keeps_weights(context, lora, tmp_path):
    result, reports = trained(context, lora, tmp_path, "refit", with_validation=True)
    assert result.state == "complete" and reports == [] and result.rungs == ()
    assert (result.cost.examples, result.cost.evaluation_seconds) == (64, 0)
    assert (tmp_path / "refit/weights").is_dir() and not (tmp_path / "refit/checkpoint").exists()
    assert (tmp_path / "refit/transcripts.jsonl").read_text() == ""


def test_a_part_is_trained_under_the_whole_budget_and_validated_as_ever(context, lora, tmp_path):
    whole, _ = trained(context, lora, tmp_path, "whole")
    part, reports = trained(context, lora, tmp_path, "part", fraction=0.25)
    assert part.cost.examples == whole.cost.examples == 64 and len(reports) == 2
    assert part.rungs[-1].loss != whole.rungs[-1].loss
    assert 0.1 < part.cost.data_seconds / whole.cost.data_seconds < 0.4
    assert whole.cost.data_seconds == pytest.approx(context.speech.report["splits"]["train"]["seconds"], abs=0.01)


@pytest.mark.slow
def test_curve_and_refit_through_the_commands(command, small_space, cache, tmp_path):
    held = yaml.safe_load(small_space.read_text())
    small_space.write_text(yaml.safe_dump({**held, "baselines": [], "budget": {"examples": 48}}))
    arguments = ["--space", small_space, "--study", "s", "--cache-dir", cache, "--trials", "2"]
    done = command("run_sweep.py", *arguments, "--data-fractions", "0.25,1", "--refit")
    folder = tmp_path / "results/s"
    trials = [read_record(path.parent) for path in folder.glob("trials/*/result.json")]
    best = min(trials, key=lambda r: r.scores.wer)
    part, refit = (
        read_record(folder / f"fractions/{best.number}-0.25/1"),
        read_record(folder / f"refit/{best.number}/1"),
    )
    assert part.config == refit.config == best.config and part.state == refit.state == "complete"
    assert part.budget == refit.budget == best.budget and refit.scores is None
    assert f"25 % of train, trial {best.number} (seed 1): validation WER" in done.stdout
    assert "harness.publish --study s --refit" in done.stdout
    stored = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    command("run_sweep.py", *arguments, "--data-fractions", "0.25,1", "--refit")
    assert stored == {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}

    command("compare.py", "--study", "s", "--cache-dir", cache)
    points = json.loads((folder / "comparison/data_curve.json").read_text())
    assert [point["fraction"] for point in points] == [0.25, 1.0]
    rows = {row["system"] for row in json.loads((folder / "comparison/leaderboard.json").read_text())}
    assert rows == {f"trial {best.number}", f"refit of trial {best.number}"}


def test_what_is_no_fraction_is_refused(command, small_space):
    for wrong in ("0", "2", "a", "0.5,-1"):
        assert (
            "--data-fractions"
            in command("run_sweep.py", "--space", small_space, "--data-fractions", wrong, code=2).stderr
        )
