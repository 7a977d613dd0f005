"""A study's board: which runs are on it, seeds, references, ties, and what is claimed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made import Study
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]


def test_the_best_on_validation_stands_against_every_baseline(compared):
    leaderboard = compared("--no-figures")
    assert set(leaderboard.systems) == {"vanilla", "tutorial", "trial 1"}
    assert leaderboard.systems["trial 1"]["gap"] == pytest.approx(leaderboard.systems["trial 1"]["wer"] - 0.1)
    families = {reference for _, reference in leaderboard.comparisons}
    assert families == {"vanilla", "tutorial", "trial 1"}
    assert leaderboard.comparisons["trial 1", "vanilla"]["verdict"] == "better on this test set only"
    assert leaderboard.systems["trial 1"]["tied_with_best"] is True
    assert leaderboard.systems["vanilla"]["tied_with_best"] is False


def test_werr_is_relative_to_zero_shot(compared):
    leaderboard = compared("--no-figures")
    base, best = leaderboard.systems["vanilla"]["wer"], leaderboard.systems["trial 1"]["wer"]
    assert leaderboard.systems["trial 1"]["werr"] == pytest.approx((base - best) / base)
    assert leaderboard.systems["trial 1"]["difference"] == pytest.approx(best - base)


def test_against_names_the_only_family(compared):
    leaderboard = compared("--no-figures", "--against", "tutorial")
    assert {reference for _, reference in leaderboard.comparisons} == {"tutorial"}
    assert {c["family"] for c in leaderboard.comparisons.values()} == {2}


def test_top_takes_more_trials(compared):
    leaderboard = compared("--no-figures", "--top", 3)
    assert {name for name in leaderboard.systems if name.startswith("trial")} == {"trial 0", "trial 1", "trial 2"}


def replicated(study: Study) -> None:
    for seed in (11, 12, 13):
        study.run(f"replicates/1/{seed}", "replicate", "trial 1", 22, seed=seed, number=1)
        study.run(f"replicates/tutorial/{seed}", "replicate", "tutorial", 38 + seed % 3, seed=seed)


def test_replicates_take_the_place_of_the_tuned_run(study, compared):
    before = compared("--no-figures").systems["trial 1"]
    replicated(study)
    leaderboard = compared("--no-figures")
    row = leaderboard.systems["trial 1"]
    assert (before["seeds"], row["seeds"]) == (1, 3)
    assert row["seed_sd"] is not None and before["seed_sd"] is None
    assert row["wer_validation"] == 0.1, "validation is the tuned run's, by which it was chosen"
    pair = leaderboard.comparisons["trial 1", "tutorial"]
    assert pair["seed_pairs"] == 3
    assert pair["verdict"] == "better"
    assert leaderboard.comparisons["trial 1", "vanilla"]["verdict"] == "better", (
        "zero-shot is the same under every seed"
    )


def test_nothing_is_claimed_better_on_surviving_seeds(study, compared):
    replicated(study)
    study.run("replicates/1/14", "replicate", "trial 1", 0, seed=14, number=1, state="fail")
    leaderboard = compared("--no-figures")
    row = leaderboard.systems["trial 1"]
    assert (row["seeds"], row["failed_seeds"]) == (3, 1)
    assert "1 of 4 replicates failed" in row["notes"]
    assert leaderboard.comparisons["trial 1", "tutorial"]["verdict"] == "no claim: seeds failed"
    assert leaderboard.comparisons["tutorial", "trial 1"]["verdict"] == "no claim: seeds failed"
    study.run("replicates/tutorial/14", "replicate", "tutorial", 0, seed=14, state="fail")
    (study.folder / "replicates/1/14/result.json").unlink()
    verdict = compared("--no-figures").comparisons["trial 1", "tutorial"]["verdict"]
    assert verdict == "better", "the reference is no better for having lost a seed"


def test_a_configuration_of_which_all_replicates_failed(study, compared):
    for seed in (11, 12, 13):
        study.run(f"replicates/1/{seed}", "replicate", "trial 1", 0, seed=seed, number=1, state="fail")
    leaderboard = compared("--no-figures")
    assert "3 of 3 replicates failed" in leaderboard.systems["trial 1"]["notes"]
    assert leaderboard.comparisons["trial 1", "vanilla"]["verdict"] == "no claim: seeds failed"


def test_the_paired_t_is_over_equal_seeds(study, compared):
    replicated(study)
    pair = compared("--no-figures").comparisons["trial 1", "tutorial"]
    rates = {name: [] for name in ("1", "tutorial")}
    for name, found in rates.items():
        for seed in (11, 12, 13):
            lines = (study.folder / "replicates" / name / str(seed) / "test.jsonl").read_text().splitlines()
            texts = [json.loads(line) for line in lines]
            missing = sum(len(t["reference"].split()) - len(t["hypothesis"].split()) for t in texts)
            found.append(missing / sum(len(t["reference"].split()) for t in texts))
    expected = stats.ttest_rel(rates["1"], rates["tutorial"])
    assert pair["seed_p"] == pytest.approx(expected.pvalue)
    assert pair["seed_difference"] == pytest.approx(sum(rates["1"]) / 3 - sum(rates["tutorial"]) / 3)


def test_a_trial_that_was_run_again_is_on_the_board(study, compared):
    for seed in (11, 12, 13):
        study.run(f"replicates/3/{seed}", "replicate", "trial 3", 23, seed=seed, number=3)
    assert "trial 3" in compared("--no-figures").systems


def test_external_rows_are_judged_on_this_test_set_only(study, compared, tmp_path):
    replicated(study)
    path = tmp_path / "api.jsonl"
    path.write_text("".join(json.dumps({"id": u["id"], "hypothesis": u["reference"]}) + "\n" for u in study.utterances))
    leaderboard = compared("--no-figures", "--add", f"API={path}")
    assert leaderboard.systems["API"]["kind"] == "external"
    assert leaderboard.systems["API"]["wer"] == 0
    assert leaderboard.comparisons["API", "tutorial"]["verdict"] == "better on this test set only"


def test_two_studies_in_one_table(study, tmp_path, run):
    other = Study(tmp_path / "results", "other")
    other.run("baselines/vanilla/1", "zero_shot", "vanilla", 70)
    code, out, err = run("--study", "made", "other", "--format", "json", "--no-figures")
    assert code == 0, err
    names = {row["system"] for row in json.loads(out)["systems"]}
    assert {"made/vanilla", "other/vanilla"} <= names
    different = Study(tmp_path / "results", "different", test_hash="t2")
    different.run("baselines/vanilla/1", "zero_shot", "vanilla", 70)
    code, _, err = run("--study", "made", "different")
    assert code == 2
    assert "t1" in err and "t2" in err


def test_validation_leaves_test_untouched(study, compared):
    for path in study.folder.rglob("test.jsonl"):
        path.unlink()
    leaderboard = compared("--no-figures", "--split", "validation")
    assert set(leaderboard.systems) == {"vanilla", "tutorial", "trial 1"}
    assert not (study.folder / "test_access.jsonl").exists()
    assert not (study.folder / "test_readings.jsonl").exists()
    assert "test was not read" in (leaderboard.folder / "validation" / "leaderboard.md").read_text(encoding="utf-8")


def test_leaderboards_of_splits_and_metrics_do_not_overwrite_each_other(study, compared, run):
    compared("--no-figures")
    folder = study.folder / "comparison"
    of_test = (folder / "leaderboard.json").read_bytes()
    for options, name in [(["--split", "validation"], "validation"), (["--metric", "cer"], "cer"), (["--split", "validation", "--metric", "wer_raw"], "validation_wer_raw")]:  # fmt: skip
        assert run("--study", "made", "--no-figures", *options)[0] == 0
        assert (folder / name / "leaderboard.json").is_file()
    assert (folder / "leaderboard.json").read_bytes() == of_test


@pytest.mark.slow
def test_without_figures_no_older_report_stays_beside_new_tables(study, run):
    folder = study.folder / "comparison"
    assert run("--study", "made")[0] == 0
    assert (folder / "report.html").is_file() and list(folder.glob("figures/*.svg"))
    assert run("--study", "made", "--no-figures")[0] == 0
    assert not (folder / "report.html").exists() and not list(folder.glob("figures/*.svg"))


def test_every_reading_of_test_is_logged(study, compared):
    compared("--no-figures")
    lines = [json.loads(line) for line in (study.folder / "test_readings.jsonl").read_text().splitlines()]
    assert [(line["system"], line["data"]) for line in lines] == [
        ("tutorial", "t1"),
        ("vanilla", "t1"),
        ("trial 1", "t1"),
    ]


@pytest.mark.parametrize("metric", ["wer", "wer_raw", "cer"])
def test_metrics(compared, metric):
    leaderboard = compared("--no-figures", "--metric", metric)
    row = leaderboard.systems["trial 1"]
    assert row["ci_low"] < row[metric] < row["ci_high"]
    mapsswe = leaderboard.comparisons["trial 1", "vanilla"]["mapsswe_z"]
    assert (mapsswe is None) == (metric == "cer")


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "counts" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(compared):
    first = digests(compared().folder)
    again = digests(compared().folder)
    assert first == again
    names = set(first)
    for name in ("leaderboard", "groups", "significance", "curves"):
        assert {f"{name}.csv", f"{name}.json", f"{name}.md"} <= names
    assert {"leaderboard.tex", "leaderboard.html", "report.html", "REPRODUCIBILITY.md"} <= names
    for figure in ("ranking", "pareto", "learning_curves", "parallel_coordinates", "groups", "budget"):
        assert {f"figures/{figure}.{ending}" for ending in ("pdf", "svg", "png")} <= names


@pytest.mark.slow
def test_no_absolute_path_in_the_outputs(compared, tmp_path):
    folder = compared().folder
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_the_checklist_tells_what_was_searched(compared):
    text = (compared("--no-figures").folder / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
    assert "log-uniform from 0.0001 to 0.01" in text
    assert "| trial | complete | 4 |" in text
    assert "c" * 40 in text


def test_a_study_without_a_run(tmp_path, run):
    Study(tmp_path / "results", "empty")
    code, _, err = run("--study", "empty")
    assert code == 2
    assert "no completed run yet" in err


def test_an_unknown_study(run, study):
    code, _, err = run("--study", "mades")
    assert code == 2
    assert "did you mean 'made'" in err


def test_neither_study_nor_reference(run):
    code, _, err = run()
    assert code == 2
    assert "--study NAME" in err


@pytest.mark.slow
def test_json_is_all_there_is_on_standard_output_and_torch_stays_out(study):
    program = "import sys, compare; code = compare.main(sys.argv[1:]); sys.exit(3 if 'torch' in sys.modules else code)"
    command = [
        sys.executable,
        "-c",
        program,
        "--study",
        "made",
        "--results",
        str(study.folder.parent),
        "--format",
        "json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"systems", "comparisons"}


def test_published_figures_stand_apart(study, run):
    code, out, _ = run("--study", "made", "--no-figures")
    assert code == 0
    assert "not run here" in out and "whisper-small-finetuned" in out
    leaderboard = json.loads((study.folder / "comparison" / "leaderboard.json").read_text())
    assert not any(row["kind"] == "published" for row in leaderboard)
    from harness import catalog

    assert "published" not in catalog.names("baselines")


@pytest.mark.parametrize(
    ("speakers", "tied", "verdict"), [(8, False, "better on this test set only"), (5, None, "no inference")]
)
def test_a_perfect_system_against_one_that_is_always_wrong(leaderboard, write, speakers, tied, verdict):
    """Every speaker shows the same difference, so the t test does not apply."""
    references = [f"utterance {n} has six words here" for n in range(40)]
    speaker = [f"s{n % speakers}" for n in range(40)]
    board = leaderboard(
        "--reference", write("reference.jsonl", "reference", references, speaker=speaker),
        "--add", f"perfect={write('perfect.jsonl', 'hypothesis', references)}",
        "--add", f"wrong={write('wrong.jsonl', 'hypothesis', ['x y z u v w'] * 40)}",
    )  # fmt: skip
    found = board.comparisons["perfect", "wrong"]
    assert (found["difference"], found["p_holm"], found["verdict"]) == (-1.0, 2 / 2**speakers, verdict)
    assert (found["ci_low"], found["ci_high"]) == ((-1.0, -1.0) if speakers == 8 else (None, None))
    assert board.systems["wrong"]["tied_with_best"] is tied


def test_interrupted_attempts_are_in_neither_trials_nor_seconds(study, compared):
    """Four trials of 5 s each; what an interrupted attempt spent is in the cost of its retry."""
    row = compared("--no-figures").systems["trial 1"]
    assert (row["tuning_trials"], row["tuning_seconds"]) == (4, 20)
    for number in (4, 5):
        study.run(f"trials/{number}", "trial", f"trial {number}", 20, number=number, state="fail")
    made = study.folder / "trials/5/result.json"
    made.write_text(made.read_text().replace('"kind"', '"retry_of": 4, "kind"', 1))
    row = compared("--no-figures").systems["trial 1"]
    assert (row["tuning_trials"], row["tuning_seconds"]) == (5, 25)
    assert "4 complete, 1 fail" in (study.folder / "comparison" / "leaderboard.md").read_text()
