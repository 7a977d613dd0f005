"""The two commands as a user types them."""

import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from harness.catalog import ROOT
from harness.errors import UserError
from harness.orchestration.commands import next_commands
from harness.orchestration.startup import alone
from harness.orchestration.time_accounting import PHASES, time_spent
from harness.plan import make_plan
from harness.records.study_folder import StudyFolder
from harness.spec.task import Task

HEAVY = ("torch", "transformers", "peft", "accelerate")


def sweep(command, small_space, cache, *more, code=0):
    return command("run_sweep.py", "--space", small_space, "--study", "s", "--cache-dir", cache, *more, code=code)


def the_time_is_accounted_for(study, seconds):
    spent = time_spent(StudyFolder(study))
    costs = [
        json.loads(path.read_text())["cost"] for path in study.glob("*/**/result.json") if "artifacts" not in path.parts
    ]
    assert sum(spent[phase] for phase in PHASES) == pytest.approx(spent["wall"], abs=0.1)
    assert min(spent.values()) > -0.02 * spent["wall"] and spent["start"] > 0 and spent["prepare"] > 0
    for phase, name in (("train", "train_seconds"), ("evaluate", "evaluation_seconds")):
        assert spent[phase] == pytest.approx(sum(cost[name] for cost in costs), abs=0.1)
    assert 0.5 * seconds < spent["wall"] < seconds, "but for what the command does before its worker begins"
    shares = [(cost["matmul_share"], cost["train_flops"], cost["matmul_rate"]) for cost in costs if cost["steps"]]
    assert len(shares) == 2 and all(share is None or share <= 1 for share, _, _ in shares)
    assert all(flops > 0 and rate > 0 for _, flops, rate in shares)


def test_from_space_to_leaderboard(command, small_space, cache, tmp_path):
    began = time.monotonic()
    first = sweep(command, small_space, cache, "--trials", "2")
    the_time_is_accounted_for(tmp_path / "results/s", time.monotonic() - began)
    assert "best: trial" in first.stdout and "compare.py --study s" in first.stdout
    assert sweep(command, small_space, cache, "--trials", "2").stdout.count("loading") == 1
    trials = sorted(path.name for path in (tmp_path / "results/s/trials").iterdir())
    assert trials == ["0", "1"], "the same command goes on to N, it does not add N"

    leaderboard = command("compare.py", "--study", "s", "--cache-dir", cache)
    assert "vanilla" in leaderboard.stdout
    assert "Where the time went" in (tmp_path / "results/s/comparison/report.html").read_text()
    assert "| evaluate |" in (tmp_path / "results/s/comparison/REPRODUCIBILITY.md").read_text()
    shown = command("run_sweep.py", "--status", "s").stdout
    assert all(f"\n{phase} " in shown for phase in (*PHASES, "outside"))
    rows = json.loads((tmp_path / "results/s/comparison/leaderboard.json").read_text())
    assert {row["kind"] for row in rows} == {"zero_shot", "trial"}
    assert all(0 <= row["wer"] < 3 and row["rtfx"] > 0 for row in rows)
    assert all(row["normalizer"].startswith("english") for row in rows), "the language of the data decides"
    with (tmp_path / "results/s/comparison/leaderboard.csv").open() as file:
        assert [row["system"] for row in csv.DictReader(file)] == [row["system"] for row in rows]
    access = (tmp_path / "results/s/test_access.jsonl").read_text().splitlines()
    command("compare.py", "--study", "s", "--cache-dir", cache)
    assert (tmp_path / "results/s/test_access.jsonl").read_text().splitlines() == access, "test is decoded once"
    assert len(access) == 2
    for path in (tmp_path / "results").rglob("*.json*"):
        assert str(tmp_path) not in path.read_text() or path.name == "study.json", path


def test_the_same_seed_gives_the_same_study_twice(command, small_space, cache, tmp_path):
    seen = []
    for name in ("a", "b"):
        command(
            "run_sweep.py", "--space", small_space, "--trials", "2", "--study", name, "--cache-dir", cache,
            "--baselines", "none",
        )  # fmt: skip
        results = [json.loads((tmp_path / f"results/{name}/trials/{n}/result.json").read_text()) for n in (0, 1)]
        seen.append([(r["config"], [(g["train_loss"], g["loss"], g["scores"]) for g in r["rungs"]]) for r in results])
    assert seen[0] == seen[1]


def test_going_on_under_another_task_model_budget_or_seed_is_refused(command, small_space, cache, tmp_path):
    begun = sweep(command, small_space, cache, "--trials", "0", "--baselines", "none").stdout
    assert "no trials requested" in begun and "completed" not in begun
    refused = sweep(command, small_space, cache, "--trials", "0", "--task", "demo", code=2)
    assert "another task" in refused.stderr and "--study" in refused.stderr
    assert "seed 1" in sweep(command, small_space, cache, "--seed", "2", code=2).stderr
    changed = small_space.with_name("changed.yaml")
    changed.write_text(small_space.read_text().replace("examples: 64", "examples: 65"))
    assert "another budget" in sweep(command, changed, cache, code=2).stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--space", "dmo"], "did you mean 'demo'"),
        (["--space", "none.yaml"], "no file none.yaml"),
        (["--space", "demo", "--task", "dem"], "did you mean 'demo'"),
        (["--space", "demo", "--baselines", "vanila"], "did you mean 'vanilla'"),
        (["--space", "demo", "--model", "openai/wisper-small", "--dry-run"], "did you mean 'openai/whisper-small'"),
        (["--space", "demo", "--study", "../x"], "without a path"),
        (["--space", "demo", "--study", ".."], "without a path"),
        (["--status", ".."], "without a path"),
        (["--space", "demo", "--trials", "many"], "--trials: expected a whole number of 0 or more, got 'many'"),
        (["--space", "demo", "--trials", "-1"], "0 or more, got '-1'"),
        (["--space", "demo", "--json"], "--dry-run"),
        ([], "--space"),
    ],
)
def test_a_wrong_command_is_one_message_and_exit_code_2(command, arguments, said):
    done = command("run_sweep.py", *arguments, code=2)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_two_baselines_of_one_name_are_refused(command, tmp_path):
    other = tmp_path / "tutorial.yaml"
    other.write_text((ROOT / "baselines" / "tutorial.yaml").read_text().replace("1e-5", "2e-5"))
    done = command("run_sweep.py", "--space", "demo", "--baselines", "tutorial", other, "--dry-run", code=2)
    assert "two different baselines are named 'tutorial'" in done.stderr
    twice = command("run_sweep.py", "--space", "demo", "--baselines", "tutorial", "tutorial", "--dry-run")
    assert twice.stdout.count("tutorial ") == 1


def test_the_next_commands_can_be_pasted_into_a_shell(tmp_path):
    plan = make_plan("demo", trials=1, seed=1, results=Path("my results?"), study="a'b $x")
    for line in next_commands(plan, []):
        words = shlex.split(line.split(":", 1)[1])
        assert words[:2] in (["python", "compare.py"], ["make", "ui"])
        assert {"a'b $x", "my results?"} <= {word.split("=")[-1] for word in words}


def test_a_study_is_locked_before_anything_of_it_is_written(tmp_path):
    plan = make_plan("demo", trials=1, seed=1, results=tmp_path)
    plan.folder.path.mkdir()
    with FileLock(plan.folder.path / "supervisor.lock"), pytest.raises(UserError, match="already"), alone(plan):
        pass
    assert not plan.folder.manifest.exists()


def test_a_model_that_cannot_be_loaded_is_one_message(command, tmp_path, cache):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for model in ("broken", "openai/whisper-small"):
        done = command(
            "run_sweep.py", "--space", "demo", "--study", model.replace("/", "-"), "--model", model, "--cache-dir", cache,
            code=2,
        )  # fmt: skip
        assert f"cannot load the {'folder' if model == 'broken' else 'model'} '{model}'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_space_that_needs_a_gpu_is_refused_before_anything_is_trained(command, small_space, cache, tmp_path):
    small_space.write_text(small_space.read_text().replace("{method: lora,", "{method: lora, precision: fp16,"))
    refused = sweep(command, small_space, cache, "--trials", "1", code=2)
    assert "the space cannot run here: precision fp16 needs a CUDA GPU" in refused.stderr
    assert not list((tmp_path / "results/s").glob("*/*/result.json"))


def test_conditional_settings_are_sampled_only_where_they_apply(command, tmp_path):
    (tmp_path / "both.yaml").write_text(
        """
description: full fine-tuning against LoRA
model: demo
task: demo
budget: {examples: 64}
fixed: {lora_dropout: 0.0, target_modules: all-linear, alpha_over_r: 2}
sampled:
  r: {choices: [4, 8]}
  method: {choices: [lora, full]}
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""
    )
    done = command("run_sweep.py", "--space", "both.yaml", "--trials", "12", "--dry-run", "--json")
    configs = [row["config"] for row in json.loads(done.stdout)]
    assert {config["method"] for config in configs} == {"lora", "full"}
    assert all(("r" in config) == (config["method"] == "lora") for config in configs)


def test_comparing_a_study_that_is_not_there(command):
    assert "there is no study 'x'" in command("compare.py", "--study", "x", code=2).stderr


def test_a_dry_run_counts_parameters_without_data_weights_or_trainer(command, tmp_path):
    done = command(
        "run_sweep.py", "--space", "demo", "--model", "openai/whisper-small", "--trials", "3", "--dry-run", "--json"
    )
    rows = json.loads(done.stdout)
    assert len(rows) == 4 + 3
    assert set(rows[0]) == {"name", "config", "trainable_parameters", "total_parameters"}
    assert rows[0]["name"] == "vanilla" and rows[0]["total_parameters"] == 241_734_912
    assert not (tmp_path / "results").exists()


def test_help_and_list_answer_without_loading_anything_heavy(command):
    for arguments in (["--help"], ["--list"]):
        script = (
            "import sys, runpy; sys.argv[1:] = " + repr(arguments) + "\n"
            "try: runpy.run_path('" + str(ROOT / "run_sweep.py") + "', run_name='__main__')\n"
            "except SystemExit: pass\n"
            "print([m for m in ('torch', 'transformers', 'optuna', 'mlflow', 'pandas') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "module, forbidden",
    [
        ("harness.orchestration.sweep", (*HEAVY, "scipy.stats")),
        ("harness.orchestration.commands", (*HEAVY, "optuna", "mlflow")),
        ("harness.compare.command", HEAVY),
        ("harness.training.orders", ("optuna", "mlflow", "torch._inductor.compile_fx")),
        ("harness.training.process", HEAVY),
    ],
)
def test_each_process_keeps_to_its_world(module, forbidden):
    script = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_torch_s_compiler_is_kept_out_until_somebody_wants_it():
    script = (
        "import harness.model, torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item(), "
    )
    script += "torch._dynamo.utils.counters['frames']['ok'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "2.0 1\n"


def test_a_folder_is_a_task_and_names_the_study(command, speech_folder):
    done = command("run_sweep.py", "--space", "demo", "--task", speech_folder, "--trials", "1", "--dry-run")
    assert "trial 0" in done.stdout
    assert Task(name=speech_folder.name, folder=speech_folder)
