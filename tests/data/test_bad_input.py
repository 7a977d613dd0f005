"""What people really have: each kind of bad input is named, counted, or refused with what to do."""

import errno
import json
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from recordings import make_folder, tone, write_clip, write_table

from harness.data.audio import UndecodableError, decode
from harness.data.store import build as building
from harness.data.store.prepare import list_clips
from harness.errors import UserError
from harness.spec.task import Task


def add(folder, rows, file, text="hello", content: bytes | None = None, **more):
    """One more line in the table, and its file if its content is given."""
    if content is not None:
        (folder / file).write_bytes(content)
    rows.append({**dict.fromkeys(rows[0], ""), "file": file, "text": text, "speaker": "s0", **more})
    write_table(folder / "metadata.csv", rows)


def encoded(name: str, tmp_path) -> bytes:
    write_clip(tmp_path / name, 2.0)
    return (tmp_path / name).read_bytes()


def excluded(speech, file):
    (found,) = [item for item in speech.report["excluded_clips"] if item["id"] == file]
    return found


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_truncated_file(tmp_path, folder, prepared, ending):
    content = encoded(f"whole{ending}", tmp_path)
    add(folder, make_folder(folder), f"cut{ending}", content=content[: int(0.6 * len(content))])
    speech = prepared(folder=folder)
    assert excluded(speech, f"cut{ending}")["reason"] == "cannot be decoded"
    assert speech.report["excluded"] == {"cannot be decoded": 1}


def id3(text: str, picture: int = 0) -> bytes:
    """An ID3v2 tag with a comment and a picture of so many bytes."""
    comment, image = b"\0eng\0" + text.encode("latin-1"), b"\0image/png\0\3\0" + b"\x89" * picture
    frames = b"".join(
        name + struct.pack(">I", len(body)) + b"\0\0" + body for name, body in ((b"COMM", comment), (b"APIC", image))
    )
    size = bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + frames


# "Info" and "Xing" begin the header of the first frame; in each text, bytes that would be its flags and size follow
TAGS = [id3("Infos or news"), id3("By Xing for radio: Infos or"), id3("x", 30_000), b""]


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_is_whole_whatever_its_tags_say(tmp_path, rate, channels):
    write_clip(tmp_path / "clip.mp3", 2.0, rate, channels)
    content = (tmp_path / "clip.mp3").read_bytes()
    for tag in [*TAGS, TAGS[0] + TAGS[2]]:
        (tmp_path / "clip.mp3").write_bytes(tag + content)
        assert 1.9 < len(decode(tmp_path / "clip.mp3")) / 16_000 < 2.1
        (tmp_path / "clip.mp3").write_bytes(tag + content[: int(0.6 * len(content))])
        with pytest.raises(UndecodableError, match="truncated"):
            decode(tmp_path / "clip.mp3")


@pytest.mark.parametrize("size", [0, 0x7FFFF024, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_whole(tmp_path, folder, prepared, size):
    """The last is FFmpeg's, the second that of sox."""
    content = bytearray(encoded("whole.wav", tmp_path))
    content[4:8] = struct.pack("<I", size)
    add(folder, make_folder(folder), "piped.wav", content=bytes(content))
    assert prepared(folder=folder).report["excluded"] == {}


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "the file is empty"), (b"these are words, no sound", "not read as audio")]
)
def test_files_that_are_no_audio(folder, prepared, content, said):
    add(folder, make_folder(folder), "bad.wav", content=content)
    item = excluded(prepared(folder=folder), "bad.wav")
    assert item["reason"] == "cannot be decoded" and said in item["detail"]
    assert str(folder) not in json.dumps(item), "a path of this machine is in the report"


def test_a_file_that_is_missing(folder, prepared):
    add(folder, make_folder(folder), "gone.wav")
    assert excluded(prepared(folder=folder), "gone.wav")["detail"] == "the file is missing"


def test_m4a_says_what_to_do(folder, prepared):
    add(folder, make_folder(folder), "a.m4a", content=b"\0\0\0\x20ftypM4A " + bytes(200))
    assert "ffmpeg -i IN.m4a OUT.flac" in excluded(prepared(folder=folder), "a.m4a")["detail"]


def test_nan_samples(folder, prepared):
    rows, wave = make_folder(folder), tone(1)
    wave[100] = np.nan
    soundfile.write(folder / "nan.wav", wave, 16_000, subtype="FLOAT")
    add(folder, rows, "nan.wav")
    speech = prepared(folder=folder)
    assert excluded(speech, "nan.wav")["detail"] == "contains samples that are not finite"
    assert np.isfinite(speech.features).all()


def test_too_short_too_long_and_without_text(folder, prepared):
    rows = make_folder(folder)
    write_clip(folder / "short.wav", 0.01)
    write_clip(folder / "long.wav", 31.0)
    write_clip(folder / "silent.wav", 1.0)
    add(folder, rows, "short.wav")
    add(folder, rows, "long.wav")
    add(folder, rows, "silent.wav", text="  ")
    write_clip(folder / "wordy.wav", 1.0)
    add(folder, rows, "wordy.wav", text=" ".join(["word"] * 460))
    speech = prepared(folder=folder)
    assert speech.report["excluded"] == {
        "shorter than 0.1 s": 1,
        "longer than 30 s": 1,
        "empty text": 1,
        "too many label tokens": 1,
    }
    assert sum(split["utterances"] for split in speech.report["splits"].values()) == 12
    assert excluded(speech, "long.wav")["detail"] == "31.00 s"


def test_missing_column_names_those_there_are(folder, prepared):
    write_table(folder / "metadata.csv", [{"file": "audio/000.wav", "words": "a"}])
    with pytest.raises(UserError, match=r"no text column .*it has file, words"):
        prepared(folder=folder)
    with pytest.raises(UserError, match=r"no column 'wrods' for text; did you mean 'words'"):
        prepared(folder=folder, columns={"text": "wrods"})


def test_duplicate_ids_name_both_lines(folder, prepared):
    rows = make_folder(folder)
    write_table(folder / "metadata.csv", [*rows, rows[3]])
    with pytest.raises(UserError, match=r"line 14: 'audio/003.wav' is listed twice, first at metadata.csv line 5"):
        prepared(folder=folder)
    write_table(folder / "metadata.csv", [{**row, "id": "same"} for row in rows])
    with pytest.raises(UserError, match="'same' is listed twice"):
        prepared(folder=folder, columns={"id": "id"})


@pytest.mark.parametrize("path", ["../../etc/x", "/etc/passwd", "audio/../../x.wav", "", "audio/..", "a\0b.wav"])
def test_a_path_that_leaves_the_folder(tmp_path, prepared, path):
    place = tmp_path / "m"
    write_clip(place / "a.wav")
    (place / "m.jsonl").write_text(json.dumps({"audio_filepath": path, "text": "x"}))
    source = {"kind": "manifest", "folder": place, "manifests": "m.jsonl"}
    with pytest.raises(UserError, match=r"m.jsonl line 1: .* is not in"):
        prepared(sources=[source])


def test_a_link_that_leads_out_of_the_folder(tmp_path, folder, prepared):
    write_clip(tmp_path / "outside.wav")
    rows = make_folder(folder)
    (folder / "inside.wav").symlink_to(tmp_path / "outside.wav")
    add(folder, rows, "inside.wav")
    with pytest.raises(UserError, match=r"is not in .*speech"):
        prepared(folder=folder)


def test_a_manifest_of_many_lines_takes_little_memory(tmp_path):
    """Listing, splitting and checking; docs/reference/data.md has the figures for 100,000 lines."""
    with (tmp_path / "m.jsonl").open("w") as file:
        for number in range(2_000):
            line = {"audio_filepath": f"audio/{number}.wav", "text": "some words of a sentence", "duration": 3.2}
            file.write(json.dumps({**line, "speaker": f"s{number % 500}"}) + "\n")
    source = {"kind": "manifest", "folder": tmp_path, "manifests": "m.jsonl"}
    task = Task.parse({"name": "big", "language": "en", "sources": [source]}, "test")
    tracemalloc.start()
    listing, _, _ = list_clips(task, tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert len(listing.utterances) == 2_000
    assert peak < 12, "MB"


def test_text_that_is_not_utf_8(folder, prepared):
    rows = [{**row, "text": "blåbär"} for row in make_folder(folder)]
    write_table(folder / "metadata.csv", rows, encoding="latin-1")
    with pytest.raises(UserError, match=r"not UTF-8 \(line 2, byte 0xe5\).*encoding: latin-1"):
        prepared(folder=folder)
    speech = prepared(sources=[{"folder": folder, "encoding": "latin-1"}])
    assert speech.utterances[0].text == "blåbär"


def test_a_spreadsheets_bom_and_crlf(folder, prepared):
    make_folder(folder)
    table = folder / "metadata.csv"
    plain = prepared(folder=folder).utterances
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert prepared(folder=folder).utterances == plain


def test_an_unquoted_comma_is_no_silent_loss(folder, prepared):
    make_folder(folder)
    (folder / "metadata.csv").write_text("file,text\naudio/000.wav,yes, of course\n")
    with pytest.raises(UserError, match="line 2: more values than the table has columns"):
        prepared(folder=folder)


def test_torn_json_names_its_line(tmp_path, prepared):
    write_clip(tmp_path / "a.wav")
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav", "text": "x"}\n{"audio_file')
    with pytest.raises(UserError, match=r"m.jsonl line 2 is not JSON"):
        prepared(sources=[{"kind": "manifest", "folder": tmp_path, "manifests": "m.jsonl"}])


def test_too_many_broken_files_stop_with_their_list(folder, prepared):
    rows = make_folder(folder)
    add(folder, rows, "bad.wav", content=b"")
    with pytest.raises(UserError, match=r"(?s)1 of 13 files cannot be decoded.*bad.wav: the file is empty"):
        prepared(folder=folder, max_bad_fraction=0.01)
    assert prepared(folder=folder, max_bad_fraction=0.1).report["excluded"] == {"cannot be decoded": 1}
    with pytest.raises(UserError, match="max_bad_fraction"):
        prepared(folder=folder, max_bad_fraction=0.01)  # the cache is there, and still too much is broken


def test_a_full_disk_keeps_what_is_done(folder, prepared, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "CHUNK", 4)
    append, calls = building._append, []

    def full(file, content):
        calls.append(len(content))
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(file, content)

    monkeypatch.setattr(building, "_append", full)
    with pytest.raises(UserError, match=r"(?s)the disk is full.*--cache-dir.*run the same command again"):
        prepared(folder=folder)
    monkeypatch.setattr(building, "_append", append)
    loaded, load = [], building.decode_with_digest
    monkeypatch.setattr(building, "decode_with_digest", lambda *given: loaded.append(given) or load(*given))
    resumed = prepared(folder=folder)
    assert len(loaded) == 8, "the first chunk was decoded again"
    monkeypatch.setattr(building, "decode_with_digest", load)
    fresh = prepared(folder=folder, cache=tmp_path / "other")
    np.testing.assert_array_equal(resumed.features, fresh.features)
    assert resumed.report == fresh.report


def test_too_little_room_is_said_before_the_work(folder, prepared, monkeypatch):
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(building.shutil, "disk_usage", lambda place: Usage)
    with pytest.raises(UserError, match=r"12 clips take up to 0.0 GB, and .* has 0.0 GB left; free some space"):
        prepared(folder=folder)
