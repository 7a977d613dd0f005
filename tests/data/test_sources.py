"""Every kind of source, through `prepare`, as a user's task file reads it."""

import itertools
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from recordings import make_folder, write_clip, write_table

from harness import catalog
from harness.data.batches import example_order
from harness.errors import UserError


def counts(speech) -> dict[str, int]:
    return {name: split["utterances"] for name, split in speech.report["splits"].items()}


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_formats_rates_and_channels(tmp_path, prepared, ending):
    rows = []
    for number, split in enumerate(["train", "validation", "test"]):
        write_clip(tmp_path / f"s/{number}{ending}", 1.0, rate=48_000 if ending == ".opus" else 44_100, channels=2)
        rows.append({"file": f"{number}{ending}", "text": "a", "split": split})
    write_table(tmp_path / "s/metadata.csv", rows)
    speech = prepared(folder=tmp_path / "s")
    assert counts(speech) == {"train": 1, "validation": 1, "test": 1}
    assert [u.seconds for u in speech.utterances] == pytest.approx([1.0] * 3, abs=0.06)


def test_audiofolder_with_a_table_in_each_split(tmp_path, prepared):
    for split in ("train", "dev", "test"):
        write_clip(tmp_path / f"s/{split}/a.wav", pitch=len(split) * 50)
        (tmp_path / f"s/{split}/metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "transcription": split}))
    speech = prepared(folder=tmp_path / "s")
    assert {u.file: u.split for u in speech.utterances} == {
        "train/a.wav": "train",
        "dev/a.wav": "validation",
        "test/a.wav": "test",
    }


def test_audiofolder_with_one_table_takes_the_split_from_the_folder(tmp_path, prepared):
    rows = []
    for split in ("train", "validation", "test"):
        write_clip(tmp_path / f"s/{split}/a.wav", pitch=len(split) * 50)
        rows.append({"file_name": f"{split}/a.wav", "text": split})
    write_table(tmp_path / "s/metadata.csv", rows)
    assert counts(prepared(folder=tmp_path / "s")) == {"train": 1, "validation": 1, "test": 1}


def test_tsv_keeps_quotation_marks(tmp_path, prepared):
    rows = ["path\tsentence\tsplit"]
    for split in ("train", "validation", "test"):
        write_clip(tmp_path / f"s/{split}.wav", pitch=len(split) * 50)
        rows.append(f'{split}.wav\t"Go", she said, {split}\t{split}')
    (tmp_path / "s/metadata.tsv").write_text("\n".join(rows))
    speech = prepared(folder=tmp_path / "s")
    assert speech.utterances[0].text == '"Go", she said, train'


def test_manifest_with_absolute_paths_and_segments(tmp_path, prepared):
    place = tmp_path / "s"
    write_clip(place / "long.wav", 3.0)
    lines = [
        {"audio_filepath": str(place / "long.wav"), "text": "one", "offset": 0.0, "duration": 1.0},
        {"audio_filepath": "long.wav", "text": "two", "offset": 1.0, "duration": 1.5},
    ]
    (place / "train.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for split in ("validation", "test"):
        write_clip(place / f"{split}.wav", pitch=len(split) * 50)
        (place / f"{split}.jsonl").write_text(
            json.dumps({"audio_filepath": f"{split}.wav", "text": "a", "duration": 0.5})
        )
    task = catalog.task(f"manifest:folder={place},language=en")
    speech = prepared(**task.model_dump(exclude={"max_bad_fraction"}))
    assert [(u.text, u.seconds) for u in speech.utterances if u.split == "train"] == [("one", 1.0), ("two", 1.5)]
    assert not Path(speech.utterances[0].file).is_absolute()


def three_lines(place: Path, lines: list[dict]) -> None:
    """A table of JSON lines and a clip of its own for each line."""
    for number, line in enumerate(lines):
        write_clip(place / f"{number}.wav", pitch=100 + 30 * number)
        line["file"] = f"{number}.wav"
    (place / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


@pytest.mark.parametrize("first", [{}, {"speaker": None, "accent": None}])
def test_json_lines_have_the_columns_of_the_whole_table(tmp_path, prepared, first):
    """A first line without a speaker once lost all speakers, and the splits then shared them."""
    lines = [{"text": "a", **first}]
    lines += [{"text": "b", "speaker": f"s{n % 6}", "accent": f"accent{n % 2}"} for n in range(30)]
    three_lines(tmp_path / "s", lines)
    speech = prepared(folder=tmp_path / "s", columns={"groups": ["accent"]})
    assert {u.speaker for u in speech.utterances} == {None, *(f"s{n}" for n in range(6))}
    assert {u.group("accent") for u in speech.utterances} == {None, "accent0", "accent1"}


def test_a_manifests_columns_are_those_of_all_its_lines(tmp_path, prepared):
    place = tmp_path / "s"
    lines = [{"audio_filepath": "0.wav", "text": "a"}]
    lines += [{"audio_filepath": f"{n}.wav", "text": "b", "accent": "north", "spk": f"s{n}"} for n in range(1, 12)]
    for number in range(12):
        write_clip(place / f"{number}.wav", pitch=100 + 30 * number)
    (place / "m.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    source = {"kind": "manifest", "folder": place, "manifests": "m.jsonl"}
    speech = prepared(sources=[source], columns={"speaker": "spk", "groups": ["accent"]})
    assert {u.id: u.speaker for u in speech.utterances} == {
        "0.wav": None,
        **{f"{n}.wav": f"s{n}" for n in range(1, 12)},
    }


def test_not_a_number_is_no_text(tmp_path, prepared):
    """pandas writes a missing value as NaN, which `json.loads` reads as a float."""
    three_lines(tmp_path / "s", [{"text": "a", "speaker": f"s{n}"} for n in range(12)] + [{"text": float("nan")}])
    speech = prepared(folder=tmp_path / "s")
    assert {u.text for u in speech.utterances} == {"a"}
    assert speech.report["excluded"] == {"empty text": 1}


def test_kaldi_with_segments(tmp_path, prepared):
    place = tmp_path / "k"
    write_clip(place / "wav/rec1.wav", 4.0)
    for split, start in (("train", 0.0), ("dev", 1.0), ("test", 2.0)):
        data = place / split
        data.mkdir()
        (data / "wav.scp").write_text("rec1 wav/rec1.wav\n")
        (data / "text").write_text(f"utt-{split} hello {split}\n")
        (data / "utt2spk").write_text(f"utt-{split} spk-{split}\n")
        (data / "segments").write_text(f"utt-{split} rec1 {start} {start + 1}\n")
    task = catalog.task(f"kaldi:folder={place},language=en")
    speech = prepared(**task.model_dump(exclude={"max_bad_fraction"}))
    assert [(u.id, u.split, u.speaker, u.seconds) for u in speech.utterances] == [
        ("utt-train", "train", "spk-train", 1.0),
        ("utt-dev", "validation", "spk-dev", 1.0),
        ("utt-test", "test", "spk-test", 1.0),
    ]


def test_kaldi_runs_no_command(tmp_path, prepared):
    (tmp_path / "wav.scp").write_text("utt1 touch /tmp/owned |\n")
    (tmp_path / "text").write_text("utt1 hello\n")
    with pytest.raises(UserError, match="is a command, which is not run"):
        prepared(sources=[{"kind": "kaldi", "folder": tmp_path}])


def common_voice(place: Path) -> None:
    for table, count in (("train", 6), ("dev", 3), ("test", 3)):
        lines = ["client_id\tpath\tsentence\taccents\tlocale"]
        for number in range(count):
            name = f"{table}_{number}.mp3"
            write_clip(place / "clips" / name, 0.6, rate=32_000, pitch=100 + 20 * number + len(table))
            lines.append(f'{table}-speaker{number}\t{name}\tEn "mening" {number}\t\tsv-SE')
        (place / f"{table}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_common_voice_with_official_splits_and_merged(tmp_path, prepared):
    common_voice(tmp_path / "cv")
    given = f"common_voice:folder={tmp_path / 'cv'}"
    fields = catalog.task(given).model_dump(exclude={"max_bad_fraction", "language"})
    speech = prepared(**fields, language=None)
    assert counts(speech) == {"train": 6, "validation": 3, "test": 3}
    assert speech.report["languages"] == ["sv"] and speech.report["leaks"] == []
    fields = catalog.task(f"{given},merge_validation=true").model_dump(exclude={"max_bad_fraction", "language"})
    merged = prepared(**fields, language=None)
    assert counts(merged)["train"] + counts(merged)["validation"] == 9 and counts(merged)["test"] == 3
    assert merged.report["leaks"] == []


def test_librispeech_layout(tmp_path, prepared):
    for subset, speaker in (("train-clean-100", "19"), ("dev-clean", "84"), ("test-clean", "61")):
        chapter = tmp_path / subset / speaker / "198"
        write_clip(chapter / f"{speaker}-198-0000.flac", pitch=float(speaker) * 3)
        (chapter / f"{speaker}-198.trans.txt").write_text(f"{speaker}-198-0000 NORTHANGER ABBEY\n")
    task = catalog.task(f"librispeech:folder={tmp_path}")
    speech = prepared(**task.model_dump(exclude={"max_bad_fraction"}))
    assert counts(speech) == {"train": 1, "validation": 1, "test": 1}
    assert [u.speaker for u in speech.utterances] == ["19", "84", "61"]


def test_reciters_are_disjoint_and_share_one_table(tmp_path, prepared):
    for reciter in range(5):
        for verse in range(4):
            write_clip(tmp_path / f"reciter{reciter}/00100{verse}.mp3", pitch=100 + 40 * reciter + 9 * verse)
    write_clip(tmp_path / "reciter0/001009.wav", 31.0)
    write_table(
        tmp_path / "verses.csv",
        [{"name": f"00100{verse}", "text": "بِسْمِ ٱللَّهِ"} for verse in (0, 1, 2, 3, 9)],
    )
    task = catalog.task(f"quran_reciters:folder={tmp_path},texts=verses.csv")
    speech = prepared(**task.model_dump(exclude={"max_bad_fraction"}))
    speakers = {split: {u.speaker for u in speech.utterances if u.split == split} for split in counts(speech)}
    assert not speakers["train"] & (speakers["validation"] | speakers["test"])
    assert speech.report["excluded"] == {"longer than 30 s": 1}
    assert speech.utterances[0].text == "بِسْمِ ٱللَّهِ"


def test_cadenza_keeps_conditions_and_cuts_by_song(tmp_path, prepared):
    rows = []
    for song in range(10):
        for condition in ("No Loss", "Mild", "Moderate"):
            file = f"{song}-{condition}.wav"
            write_clip(tmp_path / file, rate=44_100, channels=2, pitch=100 + song * 20 + len(condition))
            rows.append({"file": file, "text": "la la", "condition": condition, "song": f"song{song}"})
    write_table(tmp_path / "metadata.csv", rows)
    task = catalog.task(f"cadenza_lyrics:folder={tmp_path}")
    speech = prepared(**task.model_dump(exclude={"max_bad_fraction"}))
    songs = {split: {u.groups["song"] for u in speech.utterances if u.split == split} for split in counts(speech)}
    assert not songs["train"] & songs["test"] and not songs["train"] & songs["validation"]
    assert {u.condition for u in speech.utterances if u.split == "test"} == {"No Loss", "Mild", "Moderate"}


def hub_like(place: Path, config: str, splits: dict[str, int]) -> None:
    """A dataset as the hub lays one out: CONFIG/SPLIT/0000.parquet with embedded audio and its features."""
    from datasets import Audio, Dataset, Features, Value

    for split, count in splits.items():
        clips = []
        for number in range(count):
            file = place / "made" / f"{split}{number}.wav"
            write_clip(file, pitch=100 + 11 * number + len(split))
            clips.append({"bytes": file.read_bytes(), "path": file.name})
        features = Features(
            {"audio": Audio(sampling_rate=16_000), "raw_transcription": Value("string"), "gender": Value("int64")}
        )
        table = {"audio": clips, "raw_transcription": [f"Mening {n}." for n in range(count)], "gender": [0] * count}
        (place / "hub" / config / split).mkdir(parents=True)
        plain = Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}})
        data = Dataset.from_dict(table, features=plain).cast(features)
        data.to_parquet(place / "hub" / config / split / "0000.parquet")


def hub_source(place: Path, **fields) -> dict:
    patterns = {split: f"sv_se/*{split}/*.parquet" for split in ("train", "validation", "test")}
    return {"kind": "hub", "name": "fleurs", "dataset": str(place / "hub"), "data_files": patterns, **fields}


def test_hub_dataset_of_parquet_files(tmp_path, prepared):
    hub_like(tmp_path, "sv_se", {"train": 5, "validation": 2, "partial-test": 2})
    columns = {"text": "raw_transcription", "groups": ["gender"]}
    speech = prepared(language="sv_se", columns=columns, sources=[hub_source(tmp_path)])
    assert counts(speech) == {"train": 5, "validation": 2, "test": 2}
    first, second = [u for u in speech.utterances if u.split == "train"][:2]
    assert second.text == "Mening 1." and second.groups == {"gender": "0"} and second.language == "sv"
    written = speech.path(first)
    assert written.read_bytes() == (tmp_path / "made/train0.wav").read_bytes()


def test_a_null_in_the_first_row_of_a_hub_dataset(tmp_path, prepared):
    for split in ("train", "validation", "test"):
        clips = []
        for number in range(3):
            write_clip(tmp_path / "made.wav", pitch=100 + 11 * number + 3 * len(split))
            clips.append({"bytes": (tmp_path / "made.wav").read_bytes(), "path": None})
        place = tmp_path / "hub" / "sv_se" / split
        place.mkdir(parents=True)
        columns = {"speaker": [None, "a", "b"], "age": [float("nan"), 1.0, None], "dialect": [None] * 3}
        table = pyarrow.table({"audio": clips, "text": ["x"] * 3, **columns})
        pyarrow.parquet.write_table(table, place / "0.parquet")
    speech = prepared(sources=[hub_source(tmp_path)], columns={"groups": ["age", "dialect"]})
    train = [u for u in speech.utterances if u.split == "train"]
    assert [u.speaker for u in train] == [None, "a", "b"]
    assert [u.group("age") for u in train] == [None, "1.0", None]
    assert speech.report["leaks"], "the speakers a and b are in all splits"


def test_an_interrupted_hub_export_goes_on(tmp_path, prepared):
    hub_like(tmp_path, "sv_se", {"train": 5, "validation": 2, "test": 2})
    fields = {"language": "sv", "columns": {"text": "raw_transcription"}, "sources": [hub_source(tmp_path)]}
    first = prepared(**fields)
    folder = first.path(first.utterances[0]).parent
    table = folder / "metadata.jsonl"
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.index(b"\n") + 20])  # one line and a torn second one
    (folder.parent / "done.json").unlink()
    before = (folder / "0000000.wav").stat().st_mtime_ns
    again = prepared(**fields)
    assert table.read_bytes() == whole
    assert (folder / "0000000.wav").stat().st_mtime_ns == before, "the first clip was written again"
    assert counts(again) == counts(first)


def test_hub_column_that_is_missing_is_named(tmp_path, prepared):
    hub_like(tmp_path, "sv_se", {"train": 1, "validation": 1, "test": 1})
    with pytest.raises(UserError, match=r"no audio column 'sound'.*audio"):
        prepared(sources=[hub_source(tmp_path, audio_column="sound")])


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Dataset 'x/y' is a gated dataset on the Hub.", "hf auth login"),
        ("Dataset scripts are no longer supported, but found y.py", "refs/convert/parquet"),
        ("Couldn't reach 'x/y' on the Hub (ConnectionError)", "--prepare-only"),
    ],
)
def test_what_the_hub_says_becomes_advice(tmp_path, prepared, monkeypatch, said, advice):
    import datasets

    def refuse(*args, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=advice):
        prepared(sources=[{"kind": "hub", "dataset": "x/y"}])


def test_parquet_without_the_hubs_features(tmp_path, prepared):
    write_clip(tmp_path / "a.wav")
    clip = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}
    for split in ("train", "validation", "test"):
        (tmp_path / "hub" / "sv_se" / split).mkdir(parents=True)
        table = pyarrow.table({"audio": [clip], "text": [split]})
        pyarrow.parquet.write_table(table, tmp_path / "hub" / "sv_se" / split / "0.parquet")
    speech = prepared(sources=[hub_source(tmp_path)])
    assert counts(speech) == {"train": 1, "validation": 1, "test": 1}
    assert speech.report["leaks"], "the same audio in all splits was not noticed"


def test_several_sources_with_weights_and_caps(tmp_path, prepared):
    make_folder(tmp_path / "a", 20)
    make_folder(tmp_path / "b", 20)
    sources = [
        {"folder": tmp_path / "a", "weight": 2.5},
        {"folder": tmp_path / "b", "caps": {"train": 3, "test": 1}},
    ]
    speech = prepared(sources=sources)
    by_source = speech.report["sources"]
    assert by_source["b"]["train"]["utterances"] == 3 and by_source["b"]["test"]["utterances"] == 1
    rows = speech.epoch_rows(0, seed=1)
    of_a = [row for row in rows if speech.utterances[row].dataset == "a"]
    held = by_source["a"]["train"]["utterances"]
    assert len(of_a) == 2 * held + round(held / 2) and len(set(of_a)) == held
    assert sum(speech.utterances[row].dataset == "b" for row in rows) == 3
    assert rows == prepared(sources=sources).epoch_rows(0, seed=1), "the drawn part changes from call to call"
    assert {u.id.split("/")[0] for u in speech.utterances} == {"a", "b"}


def test_a_weight_below_one_leaves_no_clip_out_for_ever(tmp_path, prepared):
    """The same half was once left out in every epoch."""
    make_folder(tmp_path / "a", 32)
    speech = prepared(sources=[{"folder": tmp_path / "a", "weight": 0.25}])
    train = speech.rows("train")
    assert train == sorted(set(train)) and len(train) == speech.report["splits"]["train"]["utterances"] == 16
    epochs = [speech.epoch_rows(epoch, seed=1) for epoch in range(8)]
    assert [len(rows) for rows in epochs] == [4] * 8
    first, second = (sorted(itertools.chain(*part)) for part in (epochs[:4], epochs[4:]))
    assert epochs[0] != epochs[1] and first == train == second
    assert epochs[0] != epochs[4] and epochs[0] != speech.epoch_rows(0, seed=2)
    order = example_order(lambda epoch: speech.epoch_rows(epoch, seed=1), seed=1)
    assert sorted(itertools.islice(order, 16)) == train
    assert speech.report["epoch"] == {"utterances": 4, "seconds": 2.0}
    assert "a: weight 0.25, so that an epoch has 4 of 16 training clips, others each time" in speech.report["notes"]


def test_a_small_source_of_low_weight_is_seen_in_some_epochs(tmp_path, prepared):
    make_folder(tmp_path / "a", 20)
    make_folder(tmp_path / "b", 2)
    sources = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "b", "weight": 0.1, "split": "train"}]
    speech = prepared(sources=sources)
    of_b = {row for row in speech.rows("train") if speech.utterances[row].dataset == "b"}
    assert of_b == {row for epoch in range(10) for row in speech.epoch_rows(epoch, seed=1)} & of_b
    assert sum(len(of_b & set(speech.epoch_rows(epoch, seed=1))) for epoch in range(10)) == 2


def test_weights_can_change_without_a_new_preparation(tmp_path, prepared):
    make_folder(tmp_path / "a", 32)
    once = prepared(sources=[{"folder": tmp_path / "a"}])
    twice = prepared(sources=[{"folder": tmp_path / "a", "weight": 2}])
    assert once.entry == twice.entry
    assert once.report["epoch"]["utterances"] == 16 and not any("weight" in note for note in once.report["notes"])
    assert twice.report["epoch"]["utterances"] == 32
    assert "a: weight 2, so that each training clip occurs 2 times in an epoch" in twice.report["notes"]


def test_the_same_folder_name_twice_needs_names(tmp_path, prepared):
    make_folder(tmp_path / "x/clips")
    make_folder(tmp_path / "y/clips")
    with pytest.raises(UserError, match="two sources are called 'clips'"):
        prepared(sources=[{"folder": tmp_path / "x/clips"}, {"folder": tmp_path / "y/clips"}])


def test_group_columns_are_kept(tmp_path, prepared):
    make_folder(tmp_path / "s", accent="skånska")
    speech = prepared(folder=tmp_path / "s", columns={"groups": ["accent"]})
    assert speech.utterances[0].group("accent") == "skånska"


def test_a_language_that_whisper_does_not_know_needs_a_proxy(tmp_path, prepared):
    make_folder(tmp_path / "s")
    with pytest.raises(UserError, match=r"(?s)'gsw' is not among Whisper's languages.*proxy_language"):
        prepared(folder=tmp_path / "s", language="gsw")
    speech = prepared(folder=tmp_path / "s", language="gsw", proxy_language="de")
    assert {u.language for u in speech.utterances} == {"de"}
    assert speech.report["languages"] == ["gsw"] and speech.report["proxy_languages"] == {"gsw": "de"}
    assert any("gsw" in note and "token of de" in note for note in speech.report["notes"])


def test_long_recordings_are_listed_with_their_paths(tmp_path, prepared):
    rows = make_folder(tmp_path / "s")
    write_clip(tmp_path / "s/long.wav", 40.0)
    rows = [{**row, "split": "train"} for row in rows] + [
        {"file": "long.wav", "text": "all of it", "speaker": "s9", "split": "test_long"}
    ]
    write_table(tmp_path / "s/metadata.csv", rows)
    speech = prepared(folder=tmp_path / "s")
    (long,) = speech.long_recordings()
    assert long.seconds == 40.0 and speech.path(long) == tmp_path / "s/long.wav"
    assert len(speech.samples(long)) == 40 * 16_000
    assert speech.report["long"] == {"utterances": 1, "seconds": 40.0}
    assert speech.report["excluded"] == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sources": [{"kind": "hub", "datset": "y"}]}, r"sources.0.hub.datset'; did you mean 'dataset'"),
        ({"sources": [{"kind": "hubb"}]}, r"'hubb' .* 'common_voice'"),
        ({"sources": [{"folder": ".", "caps": {"trian": 3}}]}, r"'trian' was given"),
        ({}, r"give folder: PATH, or a list of sources"),
        ({"folder": ".", "min_second": 1}, r"did you mean 'min_seconds'"),
    ],
)
def test_a_wrong_task_file_is_answered_with_its_place(prepared, fields, said):
    with pytest.raises(UserError, match=said):
        prepared(**fields)


def test_speakers_that_the_task_names_are_its_splits(tmp_path, prepared):
    for speaker in ("anna", "bo", "cleo", "dag"):
        for number in range(3):
            write_clip(tmp_path / "r" / speaker / f"{number}.wav", seconds=0.5 + number / 2, pitch=100 + 9 * number)
            (tmp_path / "r" / speaker / f"{number}.txt").write_text("word")
    places = {"anna": "train", "bo": "validation", "cleo": "test", "dag": None}
    unlimited = {"anna": None, "bo": "test_long", "cleo": "test_long", "dag": None}
    folder = {"kind": "speaker_folders", "folder": tmp_path / "r"}
    sources = [{**folder, "name": "short", "splits": places}, {**folder, "name": "any", "splits": unlimited}]
    speech = prepared(sources=sources, held_out="speaker", max_seconds=1.2)
    assert {(u.speaker, u.split) for u in speech.utterances} == {(s, p) for s, p in places.items() if p}
    assert len(speech.utterances) == 6, "the third clip of each is too long"
    assert sorted(u.speaker for u in speech.long_recordings()) == ["bo"] * 3 + ["cleo"] * 3, "there it is not"
    with pytest.raises(UserError, match="no split 'ana'"):
        prepared(sources=[{**folder, "splits": {"ana": "train"}}])
