"""Runs on other speech than train: points of a curve, or a row on test; never rivals in the ranking by accident."""

import csv
import json

import pytest
from scipy import stats


@pytest.fixture
def followed(study):
    """The best trial's settings on two parts of train, and refitted; the same of a trial that was best once."""
    for seed in (2, 3):
        for part, wrong in ((0.1, 60), (0.3, 45)):
            study.run(f"fractions/1-{part}/{seed}", "replicate", f"{part} of trial 1", wrong, seed=seed, number=1,
                      portion={"fraction": part})  # fmt: skip
    study.run("fractions/0-0.5/2", "replicate", "0.5 of trial 0", 50, seed=2, number=0, portion={"fraction": 0.5})
    for number in (0, 1):
        study.run(f"refit/{number}/1", "replicate", f"refit of trial {number}", 15, number=number,
                  portion={"with_validation": True})  # fmt: skip
    return study


def curve(leaderboard) -> list[dict]:
    return json.loads((leaderboard.folder / "data_curve.json").read_text())


@pytest.mark.slow
def test_parts_are_points_of_a_curve_that_ends_with_the_trial_itself(followed, compared):
    before = compared("--no-figures", "--split", "validation")
    leaderboard = compared()
    points = curve(leaderboard)
    assert [point["fraction"] for point in points] == [0.1, 0.3, 1.0]
    assert [point["hours"] for point in points] == [0.2, pytest.approx(0.6), 2.0]
    assert [point["seeds"] for point in points] == [2, 2, 1]
    assert points[2]["rate"] == leaderboard.systems["trial 1"]["wer"] < points[1]["rate"] < points[0]["rate"]
    for point in points:
        assert point["ci_low"] < point["rate"] < point["ci_high"]
    assert points[0]["wer_validation"] == 0.3
    assert [row["fraction"] for row in csv.DictReader((leaderboard.folder / "data_curve.csv").open())] == [
        "0.1",
        "0.3",
        "1.0",
    ]
    assert {f"data_curve.{ending}" for ending in ("pdf", "svg", "png")} <= {
        p.name for p in (leaderboard.folder / "figures").iterdir()
    }
    page = (leaderboard.folder / "report.html").read_text()
    assert "Hours of data" in page and f"{100 * points[0]['ci_low']:.1f} to {100 * points[0]['ci_high']:.1f}" in page
    assert "By hours of training speech" in (leaderboard.folder / "leaderboard.md").read_text()
    assert [point["fraction"] for point in curve(before)] == [0.1, 0.3, 1.0], "validation transcripts do as well"


def test_the_interval_of_a_point_is_the_jackknife_over_speakers(followed, compared):
    point = curve(compared("--no-figures"))[0]
    held = [
        [json.loads(line) for line in (followed.folder / f"fractions/1-0.1/{seed}/test.jsonl").open()]
        for seed in (2, 3)
    ]
    missing = lambda t: len(t["reference"].split()) - len(t["hypothesis"].split())  # noqa: E731
    speakers = sorted({t["speaker"] for t in held[0]})
    errors = [sum(missing(t) for run in held for t in run if t["speaker"] == s) / 2 for s in speakers]
    words = [sum(len(t["reference"].split()) for t in held[0] if t["speaker"] == s) for s in speakers]
    rate = sum(errors) / sum(words)
    left = [(sum(errors) - e) / (sum(words) - w) for e, w in zip(errors, words, strict=True)]
    se = ((len(left) - 1) / len(left) * sum((r - rate) ** 2 for r in left)) ** 0.5
    half = stats.t.ppf(0.975, len(left) - 1) * se
    assert (point["rate"], point["ci_low"], point["ci_high"]) == pytest.approx((rate, rate - half, rate + half))


def test_the_refit_of_the_best_stands_on_test_alone_and_claims_no_validation(followed, compared):
    leaderboard = compared("--no-figures")
    assert {name for name in leaderboard.systems if "trial" in name} == {"trial 1", "refit of trial 1"}
    row = leaderboard.systems["refit of trial 1"]
    assert (row["kind"], row["wer_validation"], row["gap"]) == ("trial", None, None)
    assert {reference for _, reference in leaderboard.comparisons} == {"vanilla", "tutorial", "trial 1"}, "no reference"
    assert leaderboard.systems["trial 1"]["tied_with_best"] is True and leaderboard.systems["trial 1"]["seeds"] == 1
    assert "refit of trial 1" not in compared("--no-figures", "--split", "validation").systems


def test_a_study_judged_on_loss_says_how_far_loss_and_wer_agree(study, compared):
    assert "judged on the loss" not in (compared("--no-figures").folder / "leaderboard.md").read_text()
    manifest = json.loads((study.folder / "study.json").read_text())
    manifest["identity"]["space"]["judge"] = "loss"
    (study.folder / "study.json").write_text(json.dumps(manifest))
    for number, loss in enumerate([1.3, 1.2, 1.1, 1.4]):  # WER has 0.3, 0.1, 0.2, 0.4: one pair of six is turned
        path = study.folder / f"trials/{number}/result.json"
        stored = json.loads(path.read_text())
        stored["rungs"][-1]["loss"] = loss
        path.write_text(json.dumps(stored))
    assert "ranks 1 of 6 pairs" in (compared("--no-figures").folder / "leaderboard.md").read_text()


@pytest.mark.slow
def test_a_study_without_parts_draws_no_curve(compared):
    leaderboard = compared()
    assert curve(leaderboard) == [] and "Hours of data" not in (leaderboard.folder / "report.html").read_text()
