"""`run_sweep.py --prepare-only`, as a user runs it."""

import json
import os
import subprocess
import sys

from recordings import make_folder, write_clip, write_table

from harness.catalog import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "run_sweep.py"), "--space", "demo", "--prepare-only", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_it_reports_and_the_training_machine_finds_it_prepared(tmp_path):
    speech = tmp_path / "speech"
    rows = make_folder(speech, 20)
    write_clip(speech / "long.wav", 4.0)
    write_table(speech / "metadata.csv", [*rows, {"file": "long.wav", "text": "too long", "speaker": "s0"}])
    (speech / "task.yaml").write_text("name: mine\nfolder: .\nlanguage: sv\n")
    places = ["--task", str(speech), "--cache-dir", str(tmp_path / "c"), "--results", str(tmp_path / "r")]
    first = run(*places)
    assert first.returncode == 0, first.stderr
    assert "longer than 3 s" in first.stdout and "long.wav" in first.stdout
    report = json.loads((tmp_path / "r/demo-mine/data_report.json").read_text())
    assert report["excluded"] == {"longer than 3 s": 1} and report["languages"] == ["sv"]
    assert str(tmp_path) not in json.dumps(report), "a path of this machine is in the results"
    (features,) = (tmp_path / "c").rglob("features.f16")
    written = features.stat().st_mtime_ns
    assert run(*places).returncode == 0
    assert features.stat().st_mtime_ns == written


def test_a_users_mistake_is_one_message(tmp_path):
    for task, said in [
        ("common_voice", "needs --task common_voice:folder="),
        (f"common_voice:folder={tmp_path}", "has no clips and no train.tsv"),
        ("fleurs:langauge=de_de", "did you mean 'language'"),
    ]:
        wrong = run("--task", task, "--results", str(tmp_path), "--cache-dir", str(tmp_path / "c"))
        assert wrong.returncode == 2 and said in wrong.stderr, wrong.stderr
        assert "Traceback" not in wrong.stderr
