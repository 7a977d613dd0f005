"""Baselines with a search of their own: what is drawn, what it becomes on disk, on the board and in use."""

import json
import math
from pathlib import Path

import pytest
import yaml

from harness import catalog
from harness.plan import SearchOptions, make_plan
from harness.records.study_folder import Run, configuration_name
from harness.search.baseline_tuning import LEARNING_RATE_FACTOR, MAX_WARMUP_RATIO, tuning_runs


def drawn(tmp_path, trials, seed=1, name="tutorial"):
    plan = make_plan("demo", trials=1, seed=seed, results=tmp_path, search_options=SearchOptions(tune_baselines=trials))
    config, notes = catalog.recipe(name)[1].adapt(plan.space.budget, "cpu")
    folder = plan.folder.baseline(name, seed)
    vanilla = Run("zero_shot", "vanilla", config, seed, plan.folder.baseline("vanilla", seed))
    return config, tuning_runs(plan, [vanilla, Run("recipe", name, config, seed, folder, notes=tuple(notes))])


def test_the_recipe_itself_is_the_first_of_n_and_a_larger_n_changes_nothing(tmp_path):
    own, runs = drawn(tmp_path, 9)
    assert [run.number for run in runs] == list(range(1, 9))
    assert len({run.folder for run in runs}) == 8 and runs[0].folder == tmp_path / "demo/tuning/tutorial/1"
    assert drawn(tmp_path, 5)[1] == runs[:4] and not drawn(tmp_path, 1)[1] and not drawn(tmp_path, 0)[1]
    assert drawn(tmp_path, 9, seed=2)[1][0].config != runs[0].config
    assert drawn(tmp_path, 9, name="full_ft")[1][0].config.warmup_ratio != runs[0].config.warmup_ratio
    for run in runs:
        other = run.config.model_copy(
            update={k: getattr(own, k) for k in ("learning_rate", "warmup_steps", "warmup_ratio")}
        )
        assert other == own, "nothing else is changed"
        assert 0 <= run.config.warmup_ratio <= MAX_WARMUP_RATIO and run.config.warmup_steps is None
        assert not [note for note in run.notes if note.startswith("warm-up")]
    places = sorted(math.log(run.config.learning_rate / own.learning_rate, LEARNING_RATE_FACTOR) for run in runs)
    assert -1 <= places[0] < -0.5 and 0.5 < places[-1] <= 1, "spread over the whole range"


def test_names_of_replicates_tell_settings_apart():
    places = ("s/trials/3", "s/baselines/tutorial/1", "s/tuning/tutorial/3")
    assert [configuration_name(Path(place)) for place in places] == ["3", "tutorial", "tutorial-tuned-3"]


@pytest.mark.slow
def test_a_tuned_baseline_through_the_commands(command, small_space, cache, tmp_path):
    held = yaml.safe_load(small_space.read_text())
    small_space.write_text(
        yaml.safe_dump({**held, "baselines": ["vanilla", "lora_tutorial"], "budget": {"examples": 48}})
    )
    arguments = ["--space", small_space, "--study", "s", "--cache-dir", cache, "--trials", "1", "--tune-baselines", "3"]
    done = command("run_sweep.py", *arguments, "--confirm", "1", "--seeds", "1")
    folder = tmp_path / "results/s"
    runs = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("tuning/lora_tutorial/*/result.json")}
    assert set(runs) == {"1", "2"} and all(r["state"] == "complete" and r["kind"] == "recipe" for r in runs.values())
    runs["0"] = json.loads((folder / "baselines/lora_tutorial/1/result.json").read_text())
    best = min(sorted(runs), key=lambda n: runs[n]["rungs"][-1]["scores"]["wer"])
    said = "best on validation of 3 trials of learning rate and warm-up"
    assert f"lora_tutorial, tuned: {runs[best]['rungs'][-1]['scores']['wer']:.1%} ({said}" in done.stdout
    assert (folder / "baselines/lora_tutorial/1/weights").is_dir()
    assert [n for n in ("1", "2") if (folder / f"tuning/lora_tutorial/{n}/weights").is_dir()] == [best] * (best != "0")
    again = folder / "replicates" / ("lora_tutorial" if best == "0" else f"lora_tutorial-tuned-{best}") / "2"
    assert json.loads((again / "result.json").read_text())["config"] == runs[best]["config"]

    command("compare.py", "--study", "s", "--cache-dir", cache, "--no-figures")
    rows = {row["system"]: row for row in json.loads((folder / "comparison/leaderboard.json").read_text())}
    assert set(rows) == {"vanilla", "lora_tutorial", "lora_tutorial, tuned", "trial 0"}
    row = rows["lora_tutorial, tuned"]
    assert row["wer_validation"] == runs[best]["rungs"][-1]["scores"]["wer"], "chosen on validation"
    assert row["tuning_trials"] == 3 and said in row["notes"] and rows["lora_tutorial"]["tuning_trials"] is None
    text = (folder / "comparison/REPRODUCIBILITY.md").read_text()
    assert "Baselines with a search of their own, learning rate log-uniform" in text
    stored = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    command("run_sweep.py", *arguments, "--confirm", "1", "--seeds", "1")
    assert stored == {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
