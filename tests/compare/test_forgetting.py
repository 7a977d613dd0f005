"""What tuning cost elsewhere, as columns; and single clips as a table."""

import csv
import json

import pytest

from harness import catalog
from harness.compare.scoring.decoding import decode_run
from harness.orchestration.trainer_launch import Trainer
from harness.records.study_folder import StudyFolder, read_record, read_transcripts
from harness.spec.messages import Open


def second(place, wrong: int) -> None:
    """Transcripts of ten sentences of five words on a second task, `wrong` of the words left out."""
    lines = []
    for number in range(10):
        words = f"one two three four {number}".split()
        heard = words[: 5 - min(5, max(0, wrong - 5 * number))]
        lines.append(json.dumps({"id": str(number), "reference": " ".join(words), "hypothesis": " ".join(heard)}))
    (place / "second-demo.jsonl").write_text("\n".join(lines) + "\n")
    (place / "second-demo.json").write_text(json.dumps({"decoding": {}, "languages": ["en"], "data": "x"}))


def test_the_second_task_before_and_after_are_columns(study, compared, run):
    second(study.folder / "baselines/vanilla/1", 5)
    second(study.folder / "trials/1", 15)
    rows = compared("--no-figures", "--forgetting", "demo").systems
    assert rows["vanilla"]["wer_second"] == pytest.approx(0.1) and rows["vanilla"]["forgotten"] is None
    assert rows["trial 1"]["wer_second"] == pytest.approx(0.3)
    assert rows["trial 1"]["forgotten"] == pytest.approx(0.2)
    assert rows["tutorial"]["wer_second"] is None, "of recipes only the best is decoded"
    _, out, _ = run("--study", "made", "--no-figures", "--forgetting", "demo")
    assert "forgotten" in out and "+20.0" in out and "2nd" in out
    _, out, _ = run("--study", "made", "--no-figures")
    assert "forgotten" not in out


def test_a_run_decodes_another_tasks_test_with_its_weights(studies, speech_folder, cache, tmp_path):
    folder = StudyFolder(studies.results / "lora").trial(0)
    order = Open(model="demo", task=catalog.task(str(speech_folder)), cache_dir=str(cache), seed=1)
    with Trainer(order, tmp_path / "log.txt").come_up() as trainer:
        decode_run(trainer, folder, read_record(folder), "test", tmp_path / "second.jsonl")
    assert len(read_transcripts(tmp_path / "second.jsonl")) == 12


def test_without_the_untouched_model_nothing_can_be_said_to_be_forgotten(study, run):
    second(study.folder / "trials/1", 15)
    (study.folder / "baselines/vanilla/1/result.json").unlink()
    code, _, err = run("--study", "made", "--no-figures", "--forgetting", "demo")
    assert code == 2 and "needs the untouched model" in err


def test_single_clips_are_a_table(compared):
    folder = compared("--no-figures", "--examples", "4").folder
    with (folder / "examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 and {row["condition"] for row in rows} <= {"quiet", "noisy"}
    for row in rows:
        missing = len(row["truth"].split()) - len(row["prediction"].split())
        assert float(row["wer"]) == pytest.approx(missing / len(row["truth"].split()))
