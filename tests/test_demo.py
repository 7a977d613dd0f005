"""What the project ships: small, true to Whisper, and without a leak between its splits."""

import csv
import itertools
import re
from collections import defaultdict

import pytest
import soundfile

from harness import catalog
from tools.sentences import bucket, sentences

DEMO = catalog.ROOT / "harness" / "demo"


@pytest.fixture(scope="module")
def rows():
    with (DEMO / "speech" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_at_most_12_mb():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 12_000_000


def test_voices_are_disjoint_between_splits(rows):
    voices = defaultdict(set)
    for row in rows:
        voices[row["split"]].add(row["voice"])
    assert len(voices["validation"]) >= 5 and len(voices["test"]) >= 5
    assert not voices["train"] & voices["validation"] and not (voices["train"] | voices["validation"]) & voices["test"]
    assert voices["test_long"] <= voices["test"]


def test_there_are_clips_enough_in_every_condition(rows):
    counts = defaultdict(int)
    for row in rows:
        counts[row["split"]] += 1
        counts[row["split"], row["condition"]] += 1
    assert counts["train"] >= 300 and counts["validation"] >= 120 and counts["test"] >= 200 and counts["test_long"] >= 3
    assert all(
        counts[split, c] >= 30 for split in ("train", "validation", "test") for c in ("none", "mild", "moderate")
    )


def test_no_test_sentence_is_in_any_training_text(rows):
    training = set(itertools.islice(sentences("train", 1), 12_000))  # the base model's, by tools/train_demo_model.py
    training |= {row["text"] for row in rows if row["split"] in ("train", "validation")}
    tested = {row["text"] for row in rows if row["split"] == "test"}
    assert not training & tested
    assert {bucket(text) for text in tested} == {"test"}
    joined = " ".join(row["text"] for row in rows if row["split"] == "test_long")
    assert not [text for text in training if len(text.split()) > 4 and f" {text} " in f" {joined} "]


def test_part_of_the_audio_needs_mixing_down_and_resampling(rows):
    kinds = defaultdict(int)
    for row in rows:
        info = soundfile.info(DEMO / "speech" / row["file"])
        kinds[info.samplerate, info.channels] += 1
    assert kinds[44_100, 2] >= 100 and len(kinds) == 2


def test_the_tokenizer_has_whisper_s_special_tokens_in_whisper_s_order(context):
    tokenizer = context.base.processor.tokenizer
    order = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|su|>", "<|translate|>", "<|transcribe|>"]
    order += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>"]
    ids = tokenizer.convert_tokens_to_ids(order)
    assert ids == sorted(ids) and ids[-1] == len(tokenizer) - 1
    assert ids[2] + 98 == ids[4], "99 languages"
    assert ids[11] == ids[10] + 1 and ids[12] - ids[11] == 1500


def test_the_model_has_whisper_s_proportions(context):
    config = context.base.model.config
    assert config.d_model // config.encoder_attention_heads == 64 == config.d_model // config.decoder_attention_heads
    assert config.encoder_layers == config.decoder_layers and config.encoder_ffn_dim == 4 * config.d_model
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0, 0, 0)


@pytest.mark.slow
def test_vanilla_s_word_error_rate_is_the_model_card_s(cache):
    from harness.evaluation.decoding import Decoder
    from harness.spec.messages import Open
    from harness.training.context import make_accelerator, score_split
    from harness.training.orders import open_context

    card = (catalog.DEMO_MODEL / "README.md").read_text(encoding="utf-8")
    context = open_context(Open(model="demo", task=catalog.task("demo"), cache_dir=str(cache), seed=1))
    accelerator = make_accelerator("fp32", context.base.device)
    for split in ("validation", "test"):
        rows = context.speech.rows(split)
        decoder = Decoder(context.base.model, context.base, context.speech, context.decoding, accelerator)
        scores = score_split(context, decoder.transcribe(rows))
        raw, normalised = re.search(rf"{split} split.*\| ([\d.]+)% \| ([\d.]+)% \|", card).groups()
        assert 100 * scores.wer_raw == pytest.approx(float(raw), abs=0.1)
        assert 100 * scores.wer == pytest.approx(float(normalised), abs=0.1)
