"""What a reader of a published form gets: the code of its card, run with its own package on its files alone."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from studies import Studies
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from true_whisper import true_model

from harness.catalog import DEMO_MODEL
from harness.data.audio import decode
from harness.evaluation.decoding import Decoder
from harness.evaluation.long_form import transcribe_segments
from harness.publish import decoders, forms
from harness.publish.__main__ import main
from harness.publish.alignment import OFFICIAL_HEADS, alignment_heads, openai_heads
from harness.publish.best_run import find_best_run, load_best_run
from harness.spec.messages import Open
from harness.spec.task import Task
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator
from harness.training.orders import open_context

LORA = {
    "method": "lora", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ("q_proj", "v_proj"),
    "learning_rate": 5e-3, "per_device_train_batch_size": 8,
}  # fmt: skip


def read(folder: Path, base: Path, clip: Path) -> str:
    """Run the code of a card, and return what it prints last."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for placeholder, path in (("FOLDER", folder), ("BASE", base), ("clip.wav", clip)):
        code = code.replace(placeholder, str(path))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue().strip().splitlines()[-1].strip()


def first_clip(context, folder: Path) -> tuple[int, Path]:
    """A validation clip as a file."""
    row = context.speech.rows("validation")[0]
    soundfile.write(folder / "clip.wav", context.speech.samples(context.speech.utterances[row]), 16_000)
    return row, folder / "clip.wav"


def judged(results: Path, study: str, context, row: int) -> str:
    """What the run's own evaluation hears in a clip."""
    with load_best_run(context.base, find_best_run(results, study)) as model:
        accelerator = make_accelerator("fp32", context.base.device)
        return (
            Decoder(model, context.base, context.speech, context.decoding, accelerator).transcribe([row])[0].hypothesis
        )


def test_the_code_of_each_card_hears_what_was_judged(studies, context, cache, tmp_path):
    arguments = ["--study", "lora", "--output", tmp_path / "out", "--sample", 4]
    where = ["--results", studies.results, "--cache-dir", cache]
    assert main(list(map(str, [*arguments, *where]))) == 0
    row, clip = first_clip(context, tmp_path)
    expected = judged(studies.results, "lora", context, row)
    for form in ("adapter", "merged", "ctranslate2"):
        assert read(tmp_path / "out" / form, DEMO_MODEL, clip) == expected != "", form


@pytest.fixture(scope="module")
def proxy(studies, cache, context):
    """A study in a language that the model lacks, with a proxy."""
    task = Task(name="small", folder=studies.speech, language="smj", proxy_language="no")
    made = Studies(
        studies.results, open_context(Open(model="demo", task=task, cache_dir=str(cache), seed=1)), studies.speech
    )
    path = made.add("proxy", TrialConfig.model_validate(LORA))
    record = json.loads((path / "result.json").read_text())
    record["data"]["languages"] = made.context.speech.report["languages"]
    (path / "result.json").write_text(json.dumps(record))
    (studies.results / "smj.yaml").write_text(
        f"{{name: small, folder: '{studies.speech}', language: smj, proxy_language: 'no'}}"
    )
    return made


def test_a_language_by_proxy_is_published_and_transcribed_with_the_proxy_s_token(proxy, cache, tmp_path, capsys):
    from harness.transcribe import main as transcribe

    row, clip = first_clip(proxy.context, tmp_path)
    expected = judged(proxy.results, "proxy", proxy.context, row)
    assert transcribe([str(clip), "--study", "proxy", "--results", str(proxy.results)]) == 0
    with load_best_run(proxy.context.base, find_best_run(proxy.results, "proxy")) as model:
        (segment,) = transcribe_segments(model, proxy.context.base, decode(clip), "no", "transcribe")
    assert capsys.readouterr().out.strip() == segment.text
    where = ["--results", proxy.results, "--cache-dir", cache, "--task", proxy.results / "smj.yaml"]
    arguments = ["--study", "proxy", "--output", tmp_path / "out", "--sample", 4, *where]
    code = main(list(map(str, arguments)))
    assert code == 0, capsys.readouterr()
    settings = json.loads((tmp_path / "out/merged/generation_config.json").read_text())
    assert settings["language"] == "no"
    assert read(tmp_path / "out/merged", DEMO_MODEL, clip) == expected
    assert "- smj" in (tmp_path / "out/merged/README.md").read_text(), "the card names the spoken language"


def test_a_run_with_its_own_window_is_published_with_it(studies, context, cache, tmp_path, capsys):
    studies.add("window", TrialConfig.model_validate(LORA | {"encoder_window_seconds": 2.8}))
    where = ["--results", studies.results, "--cache-dir", cache]
    main(list(map(str, ["--study", "window", "--output", tmp_path / "out", "--sample", 4, *where])))
    out = capsys.readouterr().out
    assert "adapter (plain LoRA, as trained): " in out and ": equal; 4 of 4" in out.split("adapter (")[1].split("\n")[0]
    row, clip = first_clip(context, tmp_path)
    with_window = judged(studies.results, "window", context, row)
    assert read(tmp_path / "out/adapter", DEMO_MODEL, clip) == with_window
    assert isinstance(read(tmp_path / "out/merged", DEMO_MODEL, clip), str)


@pytest.mark.parametrize("form", ["openai", "ctranslate2"])
def test_another_form_leaves_the_merged_model_alone(form, studies, cache, tmp_path, monkeypatch):
    if form == "openai":  # the demo's windows are too short for the program, not for the file
        monkeypatch.setattr(forms, "openai_refusal", lambda base, best_run: None)
        monkeypatch.setattr(decoders, "decode_with_openai", lambda path, sample, device: ["x"] * len(sample.clips))
    else:
        pytest.importorskip("ctranslate2")
    where = ["--results", studies.results, "--cache-dir", cache, "--output", tmp_path / "out", "--sample", 1]
    assert main(list(map(str, ["--study", "lora", "--to", "merged", *where]))) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out/merged").iterdir()}
    assert any(path.name == "README.md" for path in before)
    main(list(map(str, ["--study", "lora", "--to", form, *where])))
    assert {path: path.read_bytes() for path in (tmp_path / "out/merged").iterdir()} == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"merged", form}


def test_the_code_of_an_adapter_reads_a_base_that_is_stored_in_fp16(studies, context, cache, tmp_path):
    half = WhisperForConditionalGeneration.from_pretrained(DEMO_MODEL, dtype=torch.float16)
    half.save_pretrained(tmp_path / "base")
    WhisperProcessor.from_pretrained(DEMO_MODEL).save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base/config.json").read_text())["dtype"] == "float16"
    arguments = ["--study", "lora", "--to", "adapter", "--output", tmp_path / "out", "--sample", 1]
    assert main(list(map(str, [*arguments, "--results", studies.results, "--cache-dir", cache]))) == 0
    row, clip = first_clip(context, tmp_path)
    assert read(tmp_path / "out/adapter", tmp_path / "base", clip) == judged(studies.results, "lora", context, row)


@pytest.mark.parametrize("named", [True, False])
def test_the_card_gives_openai_whisper_the_models_own_alignment_heads(named):
    whisper = pytest.importorskip("whisper.model")
    own = [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]]  # of whisper-base
    config = WhisperConfig(
        d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        encoder_attention_heads=8, decoder_attention_heads=8,
    )  # fmt: skip
    generation = GenerationConfig(alignment_heads=[[5, 6], *own[:7]]) if named else GenerationConfig()
    heads = alignment_heads(generation, config)
    dims = whisper.ModelDimensions(80, 1500, 8, 8, 1, 51865, 448, 8, 8, 6)
    model = whisper.Whisper(dims)
    assert len(model.alignment_heads.indices().T) == 24
    model.set_alignment_heads(openai_heads(heads, config))
    assert model.alignment_heads.indices().T.tolist() == own == sorted(heads)
    config.decoder_layers = 2
    assert alignment_heads(GenerationConfig(), config) is None


def test_alignment_heads_of_official_models_are_those_of_openai_whisper():
    theirs = pytest.importorskip("whisper")._ALIGNMENT_HEADS
    assert {name: theirs[name] for name in OFFICIAL_HEADS} == OFFICIAL_HEADS


@pytest.mark.slow
def test_true_whisper_is_read_by_each_program(tmp_path, speech_folder, capsys):
    """Every form of whisper-base by its card's code; faster-whisper where it is installed."""
    folder = true_model("whisper-base")
    small = tmp_path / "speech"
    small.mkdir()
    lines = (speech_folder / "metadata.csv").read_text().splitlines()
    kept = [lines[0]] + [line for split in ("train/", "validation/", "test/") for line in
                         [row for row in lines if row.startswith(split)][:4]]  # fmt: skip
    (small / "metadata.csv").write_text("\n".join(kept) + "\n")
    for line in kept[1:]:
        file = line.split(",")[0]
        (small / file).parent.mkdir(exist_ok=True)
        shutil.copy(speech_folder / file, small / file)
    task = Task(name="small", folder=small, language="en")
    context = open_context(
        Open(model=str(folder), task=task, cache_dir=str(tmp_path / "cache"), seed=1), device=torch.device("cpu")
    )
    made = Studies(tmp_path / "results", context, small)
    made.model = str(folder)
    made.add(
        "base", TrialConfig.model_validate(LORA | {"learning_rate": 1e-4, "per_device_train_batch_size": 2}), examples=2
    )
    where = ["--results", made.results, "--cache-dir", tmp_path / "cache", "--output", tmp_path / "out", "--sample", 2]
    assert main(list(map(str, ["--study", "base", *where]))) == 0, capsys.readouterr().out
    config = json.loads((tmp_path / "out/ctranslate2/config.json").read_text())
    assert len(config["alignment_heads"]) == 8, "whisper-base's own, not 24 of the upper layers"
    assert "set_alignment_heads(b'" in (tmp_path / "out/openai/README.md").read_text()
    row, clip = first_clip(context, tmp_path)
    expected = judged(made.results, "base", context, row)
    for form in ("adapter", "merged", "openai", "ctranslate2"):
        if form == "ctranslate2" and importlib.util.find_spec("faster_whisper") is None:
            continue
        assert read(tmp_path / "out" / form, folder, clip) == expected, form
