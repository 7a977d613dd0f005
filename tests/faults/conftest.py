"""Studies that are disturbed: the sweep as a process, stopped where a test wants it, and what must hold afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from processes import end, living

TRIALS = 5
PAUSED = Path(__file__).parent / "paused.py"
SPACE = """
description: for tests
model: demo
task: demo
budget: {examples: 64, rungs: [0.25, 0.5, 1.0]}
pruner: {name: successive_halving}
sampler: {name: tpe, n_startup_trials: 2}
baselines: [vanilla, tutorial]
fixed: {method: lora, lora_alpha: 16, lora_dropout: 0.1, target_modules: [q_proj, v_proj], warmup_ratio: 0.1}
sampled:
  r: {choices: [4, 8]}
  learning_rate: {low: 1e-3, high: 5e-3, log: true}
"""


@dataclass
class Disturbed:
    """A study in a folder of its own, and the processes that worked on it."""

    path: Path
    trials: int = TRIALS
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def study(self) -> Path:
        return self.path / "results" / "s"

    def start(self, point: str = "-") -> subprocess.Popen:
        """Run the command; with a point, the process that reaches it stops itself there."""
        arguments = ["--space", self.path / "space.yaml", "--study", "s", "--trials", str(self.trials), *self.options]
        process = subprocess.Popen(
            [sys.executable, PAUSED, point, self.path / "reached", "--", *arguments],
            cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **self.environment, "PYTHONDONTWRITEBYTECODE": ""},
        )  # fmt: skip
        self.started.append(process)
        return process

    def reached(self, process: subprocess.Popen, seconds: float = 60) -> int:
        """Wait until a process stopped at the point; its id."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (self.path / "reached").exists() and (text := (self.path / "reached").read_text()):
                return int(text)
            assert process.poll() is None, f"ended before the point was reached:\n{process.stdout.read()}"
            time.sleep(0.02)
        raise AssertionError("the point was never reached")

    def killed_at(self, point: str) -> None:
        """SIGKILL to the supervisor while a process, it or its trainer, stands at a point."""
        process = self.start(point)
        self.reached(process)
        kill(process)
        (self.path / "reached").unlink()

    def finish(self) -> str:
        """The same command once more, undisturbed."""
        process = self.start()
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        return output

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="s", storage=f"sqlite:///{self.study / 'optuna.db'}").trials

    def results(self) -> dict[str, dict]:
        return {
            path.parent.relative_to(self.study).as_posix(): json.loads(path.read_text())
            for path in sorted(self.study.glob("**/result.json"))
            if "artifacts" not in path.parts
        }

    def found(self) -> dict[str, list]:
        """What was tried, and the errors at each rung: equal for studies that found the same."""
        kept = [r for r in self.results().values() if r["state"] != "fail" and r["kind"] == "trial"]
        return {json.dumps(r["config"], sort_keys=True): [g["scores"]["wer"] for g in r["rungs"]] for r in kept}

    def check_whole(self) -> None:
        """Exactly N slots used, records and Optuna agree, nothing doubled, left running, or left lying about."""
        trials, results = self.optuna_trials(), self.results()
        retried = {t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs}
        kept = [t for t in trials if t.number not in retried]
        assert len(kept) == self.trials and all(t.state.is_finished() for t in trials)
        for trial in trials:
            record = results[f"trials/{trial.number}"]
            assert record["state"] == trial.state.name.lower()
            wers = [rung["scores"]["wer"] for rung in record["rungs"]]
            reported = list(trial.intermediate_values.values())
            assert reported[: len(wers)] == wers, "rungs in order, each once"
            if record["state"] != "fail":
                assert reported == wers and trial.value == wers[-1]
        assert all(trials[number].state.name == "FAIL" for number in retried)
        assert len({json.dumps(t.params, sort_keys=True) for t in kept}) == len(kept), "a trial was carried out twice"
        for name in ("baselines/vanilla/1", "baselines/tutorial/1"):
            assert results[name]["state"] == "complete"
        assert not list(self.study.glob("attempts/*")) and not list(self.study.glob("*/*/checkpoint"))
        self.check_mirror(trials)
        self.check_processes()

    def check_mirror(self, trials, uri: str | None = None) -> None:
        client = MlflowClient(tracking_uri=uri or f"sqlite:///{self.study / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
        assert not [r.data.tags["record"] for r in runs if r.info.status == "RUNNING"]
        keys = [r.data.tags["record"] for r in runs]
        assert len(keys) == len(set(keys)) and {*keys, "study"} == {*self.results(), "study"}
        assert all(r.data.params for r in runs if r.data.tags["record"] != "study")

    def check_processes(self) -> None:
        assert not self.processes(), "a process outlived the study"

    def processes(self) -> list[psutil.Process]:
        """Trainers and supervisors of this study that live."""
        return living(str(self.path))

    def close(self) -> None:
        for process in self.processes():
            end(process)
        for process in self.started:
            process.wait()
            process.stdout.close()


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory) -> Path:
    """A study's folder with both databases and nothing in them: MLflow takes seconds to make its own."""
    path = tmp_path_factory.mktemp("empty")
    (path / "space.yaml").write_text(SPACE.replace("[vanilla, tutorial]", "[]"))
    made = Disturbed(path, trials=0)
    made.finish()
    shutil.rmtree(made.study / "artifacts", ignore_errors=True)
    return path


@pytest.fixture
def disturbed(tmp_path, empty_study):
    shutil.copytree(empty_study, tmp_path, dirs_exist_ok=True)
    (tmp_path / "space.yaml").write_text(SPACE)
    made = Disturbed(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def calm(tmp_path_factory, empty_study):
    """A study to which nothing happens, finished under some options."""

    def finished(*options: str) -> Disturbed:
        path = tmp_path_factory.mktemp("undisturbed")
        shutil.copytree(empty_study, path, dirs_exist_ok=True)
        (path / "space.yaml").write_text(SPACE)
        made = Disturbed(path, options=list(options))
        made.finish()
        made.check_whole()
        made.close()
        return made

    return finished


@pytest.fixture(scope="session")
def undisturbed(calm) -> dict[str, list]:
    """What the study finds where nothing happens."""
    return calm().found()
