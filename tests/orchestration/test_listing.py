"""run_sweep.py --list: tables of what can be named, with descriptions."""

import io
import re

import examples
from rich.console import Console

import run_sweep
from harness import catalog
from harness.orchestration import listing
from harness.records.files import write_json


def shown(results, width=80):
    console = Console(file=io.StringIO(), width=width)
    assert listing.print_names(results, console) == 0
    return console.file.getvalue()


def test_everything_is_listed_within_80_columns(tmp_path):
    text = shown(tmp_path / "results")
    assert max(map(len, text.splitlines())) <= 80
    for folder in ("search_spaces", "tasks", "baselines"):
        for name in catalog.names(folder):
            assert re.search(rf"^{re.escape(name)} ", text, re.MULTILINE), name
    assert "No studies in" in text


def test_each_table_tells_what_a_name_is(tmp_path):
    text = " ".join(shown(tmp_path, width=200).split())
    assert "LoRA on the embedded demo model; about five minutes on two cores demo, lora: r, lora_alpha" in text
    assert "openai/whisper-small, full or frozen_encoder: learning_rate" in text
    assert "google/fleurs" in text and "--task common_voice:folder=FOLDER" in text
    assert "vanilla zero-shot The base model as it is" in text
    assert "tutorial full Full fine-tuning by the Hugging Face tutorial" in text


def test_a_file_that_cannot_be_read_is_listed_with_its_error(tmp_path, monkeypatch):
    for folder in ("search_spaces", "tasks", "baselines"):
        (tmp_path / folder).mkdir()
    (tmp_path / "search_spaces" / "broken.yaml").write_text("model: [")
    (tmp_path / "search_spaces" / "odd.yaml").write_text("# Tries [odd] things\nsampled: 3\n")
    (tmp_path / "tasks" / "list.yaml").write_text("- 1\n")
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    text = shown(tmp_path / "results", width=200)
    assert re.search(r"^broken +error: .*broken.yaml is not valid YAML", text, re.MULTILINE)
    assert re.search(r"^odd +Tries \[odd\] things", text, re.MULTILINE)
    assert re.search(r"^list +per clip", text, re.MULTILINE)


def test_studies_are_listed_with_their_best_trial(tmp_path):
    results = tmp_path / "results"
    for name in ("good", "empty", "damaged"):
        write_json(results / name / "study.json", {})
    for number, wer in enumerate((0.5, 0.25)):
        record = examples.record(number, state="complete", rungs=(examples.rung(0, wer),))
        write_json(results / "good" / "trials" / str(number) / "result.json", record.model_dump(mode="json"))
    (results / "damaged" / "trials" / "0").mkdir(parents=True)
    (results / "damaged" / "trials" / "0" / "result.json").write_text("{}")
    text = shown(results)
    assert re.search(r"^good +2 +2 +WER 25.0% \(trial 1\)", text, re.MULTILINE)
    assert re.search(r"^empty +0 +0 +no complete trial", text, re.MULTILINE)
    assert re.search(r"^damaged +\? +\? +error: ", text, re.MULTILINE)


def test_the_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_sweep.main(["--list"]) == 0
    assert "Search spaces (--space NAME)" in capsys.readouterr().out
