"""What tuning cost elsewhere, as columns; and single clips as a table."""

import csv
import json
import shutil
from types import SimpleNamespace

import pytest

from harness import catalog
from harness.compare import forgetting
from harness.compare.scoring.decoding import decode_run
from harness.orchestration.trainer_launch import Trainer
from harness.records.study_folder import StudyFolder, read_record, read_transcripts
from harness.spec.messages import Open


class SecondTask:
    """A second task whose data report and decoding cost nothing: ten sentences of five words, some words left out."""

    def __init__(self, monkeypatch):
        self.decoded, self.wrong, self.hash, self.trainers = [], {}, "x", 0
        monkeypatch.setattr(forgetting, "data_report", self.report)
        monkeypatch.setattr(forgetting, "decode_run", self.decode)
        monkeypatch.setattr(forgetting, "Trainer", self)

    def __call__(self, *args):
        self.trainers += 1
        return self

    def come_up(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def report(self, order):
        return {"languages": ["en"], "splits": {"test": {"hash": self.hash}}}

    def decode(self, trainer, path, record, split, transcripts):
        self.decoded.append(record.name)
        lines = []
        for number in range(10):
            words = f"one two three four {number}".split()
            heard = words[: 5 - min(5, max(0, self.wrong[record.name] - 5 * number))]
            lines.append(json.dumps({"id": str(number), "reference": " ".join(words), "hypothesis": " ".join(heard)}))
        transcripts.write_text("\n".join(lines) + "\n")
        return SimpleNamespace(decoding={})


@pytest.fixture
def second(monkeypatch):
    made = SecondTask(monkeypatch)
    made.wrong = dict.fromkeys(["trial 0", "trial 2", "trial 3"], 0) | {"vanilla": 5, "trial 1": 15}
    return made


def test_the_second_task_before_and_after_are_columns(second, study, compared, run):
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


@pytest.mark.parametrize("what", ["the same", "another folder of that name", "edited data"])
def test_kept_transcripts_are_used_for_the_same_data_only(second, compared, speech_folder, tmp_path, what):
    tasks = [tmp_path / place / "second" for place in ("a", "b")]
    for task in tasks:
        shutil.copytree(speech_folder, task)
    assert compared("--no-figures", "--forgetting", tasks[0]).systems["trial 1"]["wer_second"] == pytest.approx(0.3)
    assert sorted(second.decoded) == ["trial 1", "vanilla"]
    second.wrong["trial 1"] = 20
    if what != "the same":
        second.hash = "y"
    again = tasks[what == "another folder of that name"]
    wer = compared("--no-figures", "--forgetting", again).systems["trial 1"]["wer_second"]
    assert (wer, second.trainers) == ((pytest.approx(0.3), 1) if what == "the same" else (pytest.approx(0.4), 2))


def test_the_data_of_a_second_task_are_known_without_the_model(speech_folder, cache):
    order = Open(model="demo", task=catalog.task(str(speech_folder)), cache_dir=str(cache), seed=1)
    report = forgetting.data_report(order)
    assert report["languages"] == ["en"] and report["splits"]["test"]["hash"]


def test_without_the_untouched_model_nothing_can_be_said_to_be_forgotten(second, study, run):
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
