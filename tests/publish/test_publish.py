"""Publishing: each form loads in its own program and decodes as its source does."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from harness.data.audio import decode
from harness.model.base import load_base
from harness.model.methods import detach, load_trained
from harness.model.plain_lora import write_adapter
from harness.publish import decoders, hub
from harness.publish.__main__ import main
from harness.publish.openai import write_openai
from harness.records.files import write_json
from harness.spec.trial import TrialConfig

TINY = WhisperConfig(
    vocab_size=51865, d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
    decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, num_mel_bins=80, max_source_positions=1500,
    max_target_positions=448, pad_token_id=50257, bos_token_id=50257, eos_token_id=50257, decoder_start_token_id=50258,
)  # fmt: skip


@pytest.fixture
def publish(studies, cache, capsys):
    """The command: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--results", str(studies.results), "--cache-dir", str(cache)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_openai_checkpoint_gives_the_same_logits_at_the_true_size(tmp_path):
    whisper = pytest.importorskip("whisper")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(TINY).eval()
    for parameter in model.parameters():  # initial biases are 0 and norms 1, so a swap would go unnoticed
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    write_openai(model, tmp_path / "model.pt")
    checkpoint = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(checkpoint) == {"dims", "model_state_dict"}
    loaded = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    mel, tokens = torch.randn(2, 80, 3000), torch.randint(0, 51865, (2, 12))
    with torch.inference_mode():
        ours = model(input_features=mel, decoder_input_ids=tokens).logits
        theirs = loaded(mel, tokens)
    assert ours.std() > 0.1
    assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("program", ["ctranslate2", "openai"])
def test_at_whispers_true_vocabulary_the_same_text_is_decoded(program, tmp_path, speech_folder):
    from true_size import write_true_size

    from harness.publish.forms import write_ctranslate2

    write_true_size(tmp_path / "hf")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    processor = WhisperProcessor.from_pretrained(tmp_path / "hf")
    files = sorted((speech_folder / "test").glob("*.ogg"))
    clips = [decode(file) for file in files]
    mel = processor.feature_extractor(clips, sampling_rate=16_000, return_tensors="np").input_features
    ids = model.generate(
        torch.from_numpy(mel), language="en", task="transcribe", max_new_tokens=50, num_beams=1, do_sample=False
    )
    expected = processor.batch_decode(ids, skip_special_tokens=True)
    assert len(set(expected)) > 6 and not any("filler" in text for text in expected)
    if program == "openai":
        whisper = pytest.importorskip("whisper")
        write_openai(model, tmp_path / "model.pt")
        loaded = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
        assert loaded.is_multilingual
        options = whisper.DecodingOptions(
            language="en", without_timestamps=True, fp16=False, suppress_tokens="", suppress_blank=False, sample_len=50
        )
        texts = [processor.decode(one.tokens) for one in whisper.decode(loaded, torch.from_numpy(mel), options)]
    else:
        package = pytest.importorskip("ctranslate2")
        processor.feature_extractor.save_pretrained(tmp_path / "hf")
        write_ctranslate2(tmp_path / "hf", tmp_path / "ct2")
        loaded = package.models.Whisper(str(tmp_path / "ct2"), device="cpu", compute_type="float32")
        assert loaded.is_multilingual, "faster-whisper asks before it builds a prompt"
        prompt = [50258, 50259, 50359, 50363]
        features = package.StorageView.from_array(np.ascontiguousarray(mel, dtype=np.float32))
        results = loaded.generate(features, [prompt] * len(files), beam_size=1, max_length=100)  # CTranslate2 halves it
        texts = [processor.decode(one.sequences_ids[0]) for one in results]
    assert [text.strip() for text in texts] == [text.strip() for text in expected]


def test_every_form_decodes_as_its_source_and_is_described(publish, studies, decode_test):
    decode_test("trials/0", 1)
    decode_test("baselines/vanilla/1", 3, kind="zero_shot", name="vanilla", config={"method": "none"})
    write_json(
        studies.results / "lora/comparison/leaderboard.json", [{"system": "trial 0", "kind": "trial", "wer": 0.99}]
    )
    code, out, _ = publish("--study", "lora", "--sample", 6)
    assert code == 0
    assert "openai: left out, openai-whisper always reads windows of 30 s" in out
    for form in ("adapter (plain LoRA, as trained)", "merged (fp32)", "ctranslate2 (fp32)"):
        (line,) = [line for line in out.splitlines() if line.strip().startswith(form)]
        assert "6 validation clips" in line and ": equal; 6 of 6 transcripts the same" in line
    folder = studies.results / "lora" / "published" / "trial_0"
    assert {path.name for path in folder.iterdir()} == {"adapter", "merged", "ctranslate2"}
    assert not list(folder.rglob("*.bin.index.json")) and list(folder.rglob("*.safetensors"))
    for card in folder.glob("*/README.md"):
        text = card.read_text()
        # 7 of 48 words against 19 of 48; leaving the first speaker out, 5 of 40 are wrong, another one 6 of 40.
        assert "| trial 0, these weights | 14.58 [9.23, 19.94] |" in text
        assert "| untouched model | 39.58 [34.23, 44.94] |" in text
        assert "| -25.00 [-25.00, -25.00] |" in text and "greedy, at most 60 tokens" in text
        assert "99.00" not in text, "a leaderboard may be of another split, metric or reference"
        assert "| r | 8 |" in text and "budget: examples | 48" in text and "Limits" in text
        assert "<small>" not in text and "<b>" not in text, "texts from outside are escaped"
        assert str(studies.results) not in text and str(studies.speech) not in text
    generation = json.loads((folder / "merged" / "generation_config.json").read_text())
    assert generation["language"] == "en" and generation["task"] == "transcribe"
    assert (folder / "ctranslate2" / "preprocessor_config.json").is_file(), "faster-whisper reads it"


def test_a_refit_is_published_without_a_claim_on_the_speech_it_was_trained_on(publish, studies, request):
    code, _, err = publish("--study", "lora", "--refit")
    assert code == 2 and "has no refit of its best trial; run_sweep.py --refit trains it" in err
    shutil.copytree(studies.results / "lora", studies.results / "refitted")
    request.addfinalizer(lambda: shutil.rmtree(studies.results / "refitted"))
    trial, again = (studies.results / "refitted" / place for place in ("trials/0", "refit/0/1"))
    shutil.copytree(trial, again)
    record = json.loads((again / "result.json").read_text())
    record |= {"kind": "replicate", "name": "refit of trial 0", "rungs": [], "portion": {"with_validation": True}}
    (again / "result.json").write_text(json.dumps(record))
    shutil.rmtree(trial / "weights")
    code, out, err = publish("--study", "refitted", "--refit", "--to", "adapter", "--sample", 2)
    assert code == 0, err
    assert "refit of trial 0 of study refitted, trained on validation too, which no longer tells its WER" in out
    assert "on 2 validation clips that it was trained on" in out
    text = (studies.results / "refitted/published/refit_of_trial_0/adapter/README.md").read_text()
    assert "by which it was chosen" not in text


def test_a_card_says_when_only_replicates_were_decoded(publish, studies, decode_test):
    for seed in (11, 12):
        decode_test(f"replicates/0/{seed}", 1, kind="replicate", name="trial 0", seed=seed)
    assert publish("--study", "lora", "--to", "adapter", "--sample", 2)[0] == 0
    text = (studies.results / "lora/published/trial_0/adapter/README.md").read_text()
    assert "| mean of 2 runs of this configuration with other seeds | 14.58 [9.23, 19.94] |" in text
    assert "these weights" not in text


def test_a_form_that_decodes_differently_is_reported(publish, studies, tmp_path, monkeypatch):
    monkeypatch.setattr(
        decoders, "decode_with_merged", lambda folder, sample, device: ["something else"] * len(sample.clips)
    )
    uploads = []
    monkeypatch.setattr(hub, "push", lambda *a, **k: uploads.append(a))
    code, out, _ = publish(
        "--study", "lora", "--to", "merged", "--output", tmp_path / "out", "--sample", 2, "--push-to-hub", "me/x"
    )
    assert code == 1 and "NOT EQUAL; 0 of 2" in out and uploads == []


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_moves_the_base_becomes_plain_lora_of_twice_the_rank(start, studies, context, tmp_path):
    config = TrialConfig(
        method="lora", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=("q_proj", "fc1"), init_lora_weights=start,
        learning_rate=3e-3, per_device_train_batch_size=8,
    )  # fmt: skip
    weights = studies.add(start, config) / "weights"
    conversion = write_adapter(context.base, config, weights, tmp_path / "adapter")
    assert conversion == f"{start} of rank 4, converted to plain LoRA of rank 8"
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 16, True)
    mel = torch.from_numpy(np.asarray(context.speech.features[:2], dtype=np.float32))
    tokens = torch.tensor([[513, 514, 614, 618, 5, 6]] * 2)

    def logits(model) -> torch.Tensor:
        with torch.inference_mode():
            return model.eval()(input_features=mel, decoder_input_ids=tokens).logits.clone()

    untouched = logits(context.base.model)
    trained = logits(load_trained(context.base, config, weights))
    detach(context.base, context.base.model)
    fresh = load_base("demo", torch.device("cpu"))
    plain = logits(PeftModel.from_pretrained(fresh.model, tmp_path / "adapter"))
    assert float((trained - untouched).abs().max()) > 0.05
    assert float((plain - trained).abs().max()) < 1e-3


def test_what_cannot_be_published_is_one_message(publish, studies):
    if not (studies.results / "full").is_dir():
        studies.add("full", TrialConfig(method="full", learning_rate=1e-4), "full_ft", kind="recipe")
    for arguments, message in [
        (["--study", "lra"], "did you mean 'lora'"),
        (["--study", "lora", "--trial", "7"], "no completed 'trial 7'"),
        (["--study", "full", "--to", "adapter"], "there is no adapter"),
        (["--study", "lora", "--push-to-hub", "me/x"], "name it with --to"),
        (["--study", "lora", "--to", "openai"], "no form openai for this model"),
    ]:
        code, _, err = publish(*arguments)
        assert code == 2 and message in err and "Traceback" not in err


class FakeHub:
    """The part of the hub's client that is used."""

    calls: list[tuple[str, dict]] = []  # noqa: RUF012

    def create_repo(self, name, **fields):
        self.calls.append(("create", {"name": name, **fields}))

    def upload_folder(self, **fields):
        self.calls.append(("upload", fields))
        files = {path.name: path for path in fields["folder_path"].iterdir()}
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} == set(files)
        assert load_file(files["adapter_model.safetensors"])
        return f"https://huggingface.co/{fields['repo_id']}"


def test_pushing_uploads_the_checked_form_to_a_private_repository(publish, monkeypatch, tmp_path):
    FakeHub.calls = []
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    push = ["--study", "lora", "--to", "adapter", "--output", tmp_path / "out", "--sample", 2]
    assert publish(*push)[0] == 0 and FakeHub.calls == [], "nothing is uploaded without the flag"
    code, out, _ = publish(*push, "--push-to-hub", "me/lyrics")
    assert code == 0 and "uploaded: https://huggingface.co/me/lyrics" in out
    (made, create), (sent, upload) = FakeHub.calls
    assert (made, create["name"], create["private"]) == ("create", "me/lyrics", True)
    assert (sent, upload["repo_id"], upload["repo_type"]) == ("upload", "me/lyrics", "model")


def test_a_hub_that_refuses_is_one_message_without_the_token(publish, monkeypatch, tmp_path):
    from huggingface_hub.errors import HFValidationError

    class Refusing(FakeHub):
        def create_repo(self, name, **fields):
            raise HFValidationError("Repo id must be in the form 'name/repo'")

    monkeypatch.setattr(hub, "HfApi", Refusing)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, err = publish(
        "--study", "lora", "--to", "adapter", "--output", tmp_path / "o", "--sample", 2, "--push-to-hub", "x y"
    )
    assert code == 2 and "the upload to 'x y' failed" in err and "hf_secret" not in out + err
