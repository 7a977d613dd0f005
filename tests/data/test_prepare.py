"""From a folder of recordings to cached features."""

import csv

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from transformers import WhisperFeatureExtractor

from harness.data.audio import decode
from harness.data.sources import read_sources
from harness.data.splits import assign_splits
from harness.data.store.prepare import prepare
from harness.errors import UserError
from harness.spec.task import Task, Utterance

EXTRACTOR = WhisperFeatureExtractor(feature_size=80, chunk_length=3)


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def folder(path, rows, columns=("file", "text", "language", "split")) -> Task:
    path.mkdir(exist_ok=True)
    with (path / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return task_of(path)


def task_of(path) -> Task:
    return Task.parse({"name": path.name, "folder": path, "max_bad_fraction": 0.5}, "test")


def read_folder(task):
    return read_sources(task, task.sources[0].folder / "unused cache").utterances


def usable(path, *extra):
    """A folder with one good clip a split, and what else is given."""
    rows = [(f"{split}.wav", "hello", "en", split) for split in ("train", "validation", "test")]
    task = folder(path, [*rows, *[row for row, _ in extra]])
    for row, samples in [*[(row, tone(1)) for row in rows], *extra]:
        if samples is not None:
            soundfile.write(path / row[0], samples, 16_000)
    return task


def run(task, cache):
    return prepare(task, EXTRACTOR, lambda text, language: len(text.split()) + 5, 64, cache)


def test_features_equal_the_extractor_s_to_fp16_rounding(tmp_path):
    speech = run(usable(tmp_path / "s"), tmp_path / "cache")
    expected = EXTRACTOR(tone(1).astype(np.float32), sampling_rate=16_000, return_tensors="np").input_features[0]
    stored, _ = soundfile.read(tmp_path / "s" / "train.wav", dtype="float32")
    expected = EXTRACTOR(stored, sampling_rate=16_000, return_tensors="np").input_features[0]
    np.testing.assert_array_equal(speech.features[0], expected.astype(np.float16))
    assert speech.utterances[0].seconds == 1.0


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    task = usable(
        tmp_path / "s",
        (("long.wav", "x", "en", "train"), tone(4)),
        (("short.wav", "x", "en", "train"), tone(0.05)),
        (("empty.wav", "", "en", "train"), tone(1)),
        (("wordy.wav", "x " * 80, "en", "train"), tone(1)),
        (("other.wav", "x", "en", "extra"), tone(1)),
    )
    report = run(task, tmp_path / "cache").report
    assert report["excluded"] == {
        "longer than 3 s": 1,
        "shorter than 0.1 s": 1,
        "empty text": 1,
        "too many label tokens": 1,
        "of split extra": 1,
    }
    assert report["splits"]["train"]["utterances"] == 1


def test_control_tokens_in_transcripts_are_counted_and_named(tmp_path):
    task = usable(
        tmp_path / "s",
        (("a.wav", "<|fr|> bonjour <|fr|>", "fr", "train"), tone(1)),
        (("b.wav", "<|fr|> au revoir<|endoftext|>", "fr", "train"), tone(1)),
        (("c.wav", "a < b | c > d", "en", "train"), tone(1)),
    )
    report = run(task, tmp_path / "cache").report
    assert report["control_tokens"] == {"<|fr|>": 2, "<|endoftext|>": 1}
    assert any("<|fr|> (2), <|endoftext|> (1)" in note for note in report["notes"])
    assert run(usable(tmp_path / "t"), tmp_path / "cache").report["control_tokens"] == {}


def test_a_file_that_is_no_audio_is_left_out_with_its_reason(tmp_path):
    task = usable(tmp_path / "s", (("bad.wav", "x", "en", "train"), None))
    (tmp_path / "s" / "bad.wav").write_text("this is text")
    excluded = run(task, tmp_path / "cache").report["excluded_clips"]
    assert [item["id"] for item in excluded] == ["bad.wav"]
    assert excluded[0]["reason"].startswith("cannot be decoded")


def test_the_cache_is_used_again_and_made_anew_when_a_file_changes(tmp_path):
    task, cache = usable(tmp_path / "s"), tmp_path / "cache"
    run(task, cache)
    stamp = {path: path.stat().st_mtime_ns for path in cache.glob("features/*/features.f16")}
    run(task, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("features/*/features.f16")} == stamp
    soundfile.write(tmp_path / "s" / "train.wav", tone(2), 16_000)
    assert run(task, cache).utterances[0].seconds == 2.0


def test_stereo_at_44_1_khz_is_mixed_down_and_resampled(tmp_path):
    rate, seconds = 44_100, 1.0
    time = np.arange(int(rate * seconds)) / rate
    left = 0.4 * np.sin(2 * np.pi * (200 * time + 1500 * time**2))  # a chirp from 200 to 3200 Hz
    soundfile.write(tmp_path / "chirp.wav", np.stack([left, 0.5 * left], 1), rate, subtype="FLOAT")
    decoded = decode(tmp_path / "chirp.wav")
    expected = resample_poly(0.75 * left, 160, 441)
    assert len(decoded) == 16_000
    inside = slice(400, -400)  # filters differ at the edges
    assert np.abs(decoded[inside] - expected[inside]).max() < 2e-3


@pytest.mark.parametrize(
    "rows, columns, said",
    [
        ([("../../etc/x", "a", "en")], ("file", "text", "language"), "is not in"),
        ([("/etc/passwd", "a", "en")], ("file", "text", "language"), "is not in"),
        ([("a.wav", "a", "en"), ("a.wav", "b", "en")], ("file", "text", "language"), "listed twice"),
        ([("a.wav", "en")], ("file", "language"), "no text column"),
        ([("a.wav", "a")], ("file", "text"), "no language"),
        ([], ("file", "text", "language"), "no recordings"),
    ],
)
def test_a_wrong_table_is_answered_with_its_place(tmp_path, rows, columns, said):
    with pytest.raises(UserError, match=said) as error:
        read_folder(folder(tmp_path / "s", rows, columns))
    assert "metadata.csv" in str(error.value)


def test_a_table_from_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "metadata.csv").write_bytes("\ufefffile,text,language\r\na.wav,hej då,sv\r\n".encode())
    assert read_folder(task_of(tmp_path))[0].text == "hej då"


def test_a_folder_without_a_table_says_what_a_folder_of_speech_holds(tmp_path):
    with pytest.raises(UserError, match=r"contains a metadata\.csv with columns file and text"):
        read_folder(task_of(tmp_path))


def clips(count, speakers, split=""):
    return [
        Utterance(
            id=f"{split}{i}", file="f", text="t", language="en", split=split, speaker=f"s{i % speakers}", dataset="d"
        )
        for i in range(count)
    ]


TASK = Task.parse({"name": "d", "folder": "."}, "test")


def speakers_of(utterances, split):
    return {u.speaker for u in utterances if u.split == split}


def test_splits_are_cut_by_speaker_where_none_are_given():
    placed, notes, _ = assign_splits(TASK, clips(100, 10))
    sets = [speakers_of(placed, split) for split in ("train", "validation", "test")]
    assert all(sets)
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert len(notes) == 2 and all("by speaker" in note for note in notes)
    assert assign_splits(TASK, clips(100, 10))[0] == placed


def test_validation_is_cut_like_the_official_test():
    placed, notes, _ = assign_splits(TASK, [*clips(100, 5, "train"), *clips(20, 5, "test")])
    assert sum(u.split == "validation" for u in placed) == 10
    assert "by utterance" in notes[0]
    assert sum(u.split == "test" for u in placed) == 20


def test_too_little_to_split_is_an_error():
    with pytest.raises(UserError, match="could not be cut"):
        assign_splits(TASK, clips(1, 1))
