"""Starting where others ended, stopping when enough is done, and running the best again: by the commands of a user."""

import json

import pytest

from harness import catalog
from harness.search.warm_start import fit_to_space
from harness.spec.trial import TrialConfig


def space_of(folder, small_space, **changed):
    import yaml

    held = yaml.safe_load(small_space.read_text())
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({**held, **changed}))
    return path


def records(tmp_path, pattern):
    return {str(p.parent.relative_to(tmp_path / "results")): json.loads(p.read_text())
            for p in sorted((tmp_path / "results").glob(f"{pattern}/result.json"))}  # fmt: skip


def test_what_fits_a_space_is_kept_and_the_rest_is_named():
    space = catalog.space("demo")[1]
    recipe = catalog.recipe("lora_tutorial")[1].config
    params, left_out = fit_to_space(space, recipe)
    assert params["r"] == 32 and params["target_modules"] == "q_proj+v_proj" and params["learning_rate"] == 1e-3
    assert left_out == []
    full = TrialConfig(method="full", learning_rate=1e-5, per_device_train_batch_size=16)
    params, left_out = fit_to_space(space, full)
    assert "method full (fixed to lora)" in left_out and "learning_rate 1e-05" in left_out
    assert set(params) == {"gradient_accumulation_steps"}


@pytest.mark.slow
def test_sweep_confirm_compare_and_begin_another_from_it(command, small_space, cache, tmp_path):
    """The best trial and the trained baseline with the same fresh seeds; compare.py uses them; a study begins there."""
    space = space_of(tmp_path, small_space, baselines=["vanilla", "lora_tutorial"])
    arguments = ["--space", space, "--study", "s", "--cache-dir", cache, "--trials", "2"]
    done = command("run_sweep.py", *arguments, "--confirm", "1", "--seeds", "2", "--warm-start", "baselines")
    assert "lora_tutorial does not fit the space" in done.stdout or "begins with lora_tutorial" in done.stdout
    again = records(tmp_path, "s/replicates/*/*")
    best = min(records(tmp_path, "s/trials/*").values(), key=lambda r: r["rungs"][-1]["scores"]["wer"])
    number = str(best["number"])
    assert set(again) == {f"s/replicates/{name}/{seed}" for name in (number, "lora_tutorial") for seed in (2, 3)}
    assert all(record["kind"] == "replicate" and record["state"] == "complete" for record in again.values())
    assert again[f"s/replicates/{number}/2"]["config"] == best["config"]
    losses = [again[f"s/replicates/{number}/{seed}"]["rungs"][-1]["loss"] for seed in (2, 3)]
    assert len({best["rungs"][-1]["loss"], *losses}) == 3, "another seed trains another model"
    assert "with 2 fresh seeds: validation WER" in done.stdout

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("result.json")}
    command("run_sweep.py", *arguments, "--confirm", "1", "--seeds", "2")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("result.json")}

    command("compare.py", "--study", "s", "--cache-dir", cache, "--no-figures")
    rows = {row["system"]: row for row in json.loads((tmp_path / "results/s/comparison/leaderboard.json").read_text())}
    assert rows[best["name"]]["seeds"] == rows["lora_tutorial"]["seeds"] == 2
    assert rows[best["name"]]["seed_sd"] is not None
    pairs = json.loads((tmp_path / "results/s/comparison/significance.json").read_text())
    paired = [p for p in pairs if {p["system"], p["reference"]} == {best["name"], "lora_tutorial"}]
    assert paired and all(p["seed_pairs"] == 2 for p in paired), paired

    other = command("run_sweep.py", "--space", small_space, "--study", "t", "--cache-dir", cache, "--trials", "1",
                    "--baselines", "none", "--warm-start", "s", "--patience", "0")  # fmt: skip
    assert f"begins with s/{best['name']}" in other.stdout
    first = records(tmp_path, "t/trials/0")["t/trials/0"]
    assert first["config"]["learning_rate"] == best["config"]["learning_rate"]


@pytest.mark.slow
def test_limits_and_wilcoxon_through_the_command(command, small_space, cache, tmp_path):
    arguments = ["--space", small_space, "--study", "s", "--cache-dir", cache, "--baselines", "none", "--trials", "4"]
    done = command("run_sweep.py", *arguments, "--max-trainable", "30k", "--pruner", "wilcoxon")
    trials = records(tmp_path, "s/trials/*").values()
    large = [t for t in trials if t["config"]["r"] == 8]
    assert large and all(t["state"] == "pruned" and not t["rungs"] for t in large)
    assert all(t["reason"].startswith("infeasible: trainable") for t in large)
    assert f"{len(large)} of 4 trials exceeded a limit" in done.stdout
    small = next(t for t in trials if t["state"] == "complete")
    errors = json.loads((tmp_path / f"results/s/trials/{small['number']}/errors.json").read_text())
    assert set(errors) == {"0", "1"} and len(errors["1"]) == 12
    refused = command("run_sweep.py", *arguments, "--max-trainable", "40k", code=2)
    assert "another space" in refused.stderr


@pytest.mark.slow
def test_a_study_judged_on_loss_ends_when_it_has_stalled_or_spent_its_hours(command, small_space, cache, tmp_path):
    arguments = ["--space", small_space, "--study", "s", "--cache-dir", cache, "--baselines", "none", "--trials", "30"]
    done = command("run_sweep.py", *arguments, "--judge", "loss", "--objectives", "wer", "--patience", "2")
    assert "2 trials without improvement (--patience)" in done.stdout and "ended early" in done.stdout
    trials = records(tmp_path, "s/trials/*").values()
    assert 3 <= len(trials) < 30 and all(t["rungs"][0]["scores"] is None for t in trials)
    assert "loss and WER ranked" in done.stdout
    done = command("run_sweep.py", *arguments, "--judge", "loss", "--budget-gpu-hours", "0.0001")
    assert "of 0.0001 GPU hours" in done.stdout
