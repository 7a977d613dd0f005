"""Splits that are cut, kept, and checked for what they share."""

import pytest
from recordings import make_folder, write_clip, write_table

from harness.data.splits import repeat_by_weight
from harness.errors import UserError


def split_of(speech) -> dict[str, str]:
    return {u.id: u.split for u in speech.utterances}


def speakers(speech, split):
    return {u.speaker for u in speech.utterances if u.split == split}


def test_cut_by_speaker_and_stored(tmp_path, prepared):
    make_folder(tmp_path / "s", 60, speakers=12)
    speech = prepared(folder=tmp_path / "s")
    train, validation, test = (speakers(speech, split) for split in ("train", "validation", "test"))
    assert train and validation and test
    assert not train & validation and not train & test and not validation & test
    assert speech.report["leaks"] == []
    cuts = {cut["split"]: cut for cut in speech.report["cuts"]}
    assert cuts["test"]["by"] == "speaker" and set(cuts["test"]["groups"]) == test and cuts["test"]["seed"] == 0
    assert split_of(prepared(folder=tmp_path / "s", split_seed=1)) != split_of(speech)


def test_a_recording_that_is_added_moves_no_other(tmp_path, prepared):
    rows = make_folder(tmp_path / "s", 60, speakers=12)
    before = split_of(prepared(folder=tmp_path / "s"))
    write_clip(tmp_path / "s/new.wav", pitch=77)
    write_table(tmp_path / "s/metadata.csv", [{"file": "new.wav", "text": "new", "speaker": "s3"}, *rows])
    after = split_of(prepared(folder=tmp_path / "s"))
    assert {name: split for name, split in after.items() if name != "new.wav"} == before


def test_official_splits_stay_and_a_shared_speaker_is_named(tmp_path, prepared):
    rows = make_folder(tmp_path / "s", 30, speakers=3)
    rows = [{**row, "split": "test" if number % 5 == 0 else "train"} for number, row in enumerate(rows)]
    write_table(tmp_path / "s/metadata.csv", rows)
    speech = prepared(folder=tmp_path / "s")
    assert {name for name, split in split_of(speech).items() if split == "test"} == {r["file"] for r in rows[::5]}
    leak = speech.report["leaks"][0]
    assert leak["what"] == "same speaker" and leak["splits"] == ["train", "test"] and leak["count"] == 3
    assert any("test/s0" in note for note in speech.report["notes"])
    with pytest.raises(UserError, match="train and test share s/s0, s/s1, s/s2"):
        prepared(folder=tmp_path / "s", name="s", held_out="speaker")


def test_the_same_audio_in_train_and_test_is_named(tmp_path, prepared):
    rows = make_folder(tmp_path / "s", 12, speakers=12)
    rows = [{**row, "split": ("train", "validation", "test")[number % 3]} for number, row in enumerate(rows)]
    (tmp_path / "s/audio/002.wav").write_bytes((tmp_path / "s/audio/000.wav").read_bytes())
    write_table(tmp_path / "s/metadata.csv", rows)
    (leak,) = prepared(folder=tmp_path / "s").report["leaks"]
    assert leak["what"] == "same audio" and leak["splits"] == ["train", "test"]
    assert leak["found"] == [["audio/000.wav", "audio/002.wav"]]


def test_held_out_by_a_group_that_is_missing(tmp_path, prepared):
    make_folder(tmp_path / "s")
    with pytest.raises(UserError, match=r"held_out is 'speakr'.*did you mean 'speaker'"):
        prepared(folder=tmp_path / "s", held_out="speakr")


def test_a_source_pinned_to_a_split_is_not_cut(tmp_path, prepared):
    make_folder(tmp_path / "a", 20)
    make_folder(tmp_path / "b", 7)
    sources = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "b", "split": "test"}]
    speech = prepared(sources=sources)
    assert {u.split for u in speech.utterances if u.dataset == "b"} == {"test"}


def test_a_split_can_be_left_out_by_name(tmp_path, prepared):
    rows = [{**row, "split": "other"} for row in make_folder(tmp_path / "s", 20)]
    rows = [{**row, "split": "train"} for row in rows[:16]] + rows[16:]
    write_table(tmp_path / "s/metadata.csv", rows)
    source = {"folder": tmp_path / "s", "splits": {"other": None}}
    assert prepared(sources=[source]).report["excluded"] == {"of split other (left out by the task)": 4}
    with pytest.raises(UserError, match="has no split 'othr'; did you mean 'other'"):
        prepared(sources=[{**source, "splits": {"othr": None}}])


def test_too_little_to_cut(tmp_path, prepared):
    make_folder(tmp_path / "s", 1)
    with pytest.raises(UserError, match=r"no utterances for validation|no utterances for test"):
        prepared(folder=tmp_path / "s")


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0, 1.75, 2.4])
def test_a_weight_draws_its_share_each_epoch_and_every_row_before_any_again(weight):
    rows, whole = list(range(100, 120)), int(weight)
    share = weight - whole
    epochs = [repeat_by_weight(rows, weight, epoch, seed=1) for epoch in range(8)]
    for epoch, drawn in enumerate(epochs):
        assert len(drawn) == whole * 20 + round((epoch + 1) * share * 20) - round(epoch * share * 20)
        assert set(drawn) <= set(rows) and min(map(drawn.count, rows)) >= whole
    extra = [row for drawn in epochs for row in rows for _ in range(drawn.count(row) - whole)]
    counts = [extra.count(row) for row in rows]
    assert max(counts) - min(counts) <= 1
    assert repeat_by_weight(rows, weight, 0, seed=1) == epochs[0]
    if share:
        assert epochs[0] != repeat_by_weight(rows, weight, 0, seed=2)
