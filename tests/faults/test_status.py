"""--status beside a running sweep, --keep, and the options in the help."""

import os
import re
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from harness.catalog import ROOT


def status(disturbed, columns: int) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "run_sweep.py", "--status", "s"],
        cwd=disturbed.path, env={**os.environ, "COLUMNS": str(columns)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    return done.stdout


def test_status_tells_of_a_run_that_follows_the_search(disturbed):
    disturbed.finish()
    disturbed.options = ["--confirm", "1", "--seeds", "1"]
    process = disturbed.start("fake_trainer:mid_rung@1")
    disturbed.reached(process)
    shown = status(disturbed, 60)
    assert re.search(r"^baselines +2 *$", shown, re.MULTILINE), shown
    assert re.search(r"^replicates +1 *$", shown, re.MULTILINE), shown
    process.kill()
    process.wait()


def mirrored(disturbed, wanted: dict[str, str], seconds: float = 60) -> None:
    """MLflow shows these runs in these states, soon, and while the sweep is at work."""
    end, found = time.monotonic() + seconds, {}
    client = MlflowClient(tracking_uri=f"sqlite:///{disturbed.study / 'mlflow.db'}")
    while not wanted.items() <= found.items():
        assert time.monotonic() < end, found
        time.sleep(0.1)
        runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
        found = {run.data.tags["record"]: run.info.status for run in runs}


def test_status_tells_of_a_sweep_at_work_and_weights_go_as_it_goes(disturbed):
    disturbed.environment["FAKE_SECONDS"] = "0.2"
    disturbed.options = ["--keep", "1"]
    process = disturbed.start("fake_trainer:mid_rung@9")
    disturbed.reached(process)
    shown = status(disturbed, 60)
    assert "study s: 1 of 5 trials" in shown and "best: trial 0" in shown
    assert "trial 1" in shown and "supervisor" in shown and "time left" in shown
    assert re.search(r"^baselines +2 *$", shown, re.MULTILINE), shown
    mirrored(disturbed, {"baselines/vanilla/1": "FINISHED", "trials/0": "FINISHED", "trials/1": "RUNNING"})
    process.kill()
    process.wait()
    time.sleep(0.1)
    disturbed.finish()
    shown = status(disturbed, 80)
    assert "study s: 5 of 5 trials" in shown and "interrupted: the supervisor died; retried" in " ".join(shown.split())
    disturbed.check_whole()
    complete = {
        name: r["rungs"][-1]["scores"]["wer"] for name, r in disturbed.results().items() if r["state"] == "complete"
    }
    best = min((name for name in complete if name.startswith("trials")), key=complete.get)
    kept = {p.parent.relative_to(disturbed.study).as_posix() for p in disturbed.study.glob("*/*/weights")}
    kept |= {p.parent.relative_to(disturbed.study).as_posix() for p in disturbed.study.glob("baselines/*/*/weights")}
    assert kept == {best, "baselines/tutorial/1"}
    linked = list(disturbed.study.glob("artifacts/*/artifacts/weights"))
    assert len(linked) == 2


@pytest.mark.parametrize(
    "option",
    ["--keep", "--workers", "--trials-per-gpu", "--launcher", "--slurm", "--storage", "--mlflow-uri", "--status"],
)
def test_each_option_is_in_the_help_and_in_the_documentation(option):
    import run_sweep

    assert option in run_sweep.parser().format_help()
    assert option in (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def test_workers_divide_gpus_and_threads(monkeypatch):
    from harness.errors import UserError
    from harness.orchestration.gpu_assignment import gpu_assignments
    from harness.plan import ComputeOptions

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [assignment.gpu for assignment in gpu_assignments(ComputeOptions())] == ["2", "5"]
    assert [assignment.gpu for assignment in gpu_assignments(ComputeOptions(trials_per_gpu=2))] == ["2", "5", "2", "5"]
    with pytest.raises(UserError, match="--trials-per-gpu 2"):
        gpu_assignments(ComputeOptions(workers=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [(assignment.gpu, assignment.threads) for assignment in gpu_assignments(ComputeOptions(workers=3))] == [
        (None, 2)
    ] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [assignment.threads for assignment in gpu_assignments(ComputeOptions(workers=2))] == [2, 2]
    assert len(gpu_assignments(ComputeOptions())) == 1
