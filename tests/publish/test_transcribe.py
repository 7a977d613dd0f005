"""python -m harness.transcribe: text, subtitles and JSON of recordings of any length."""

import itertools
import json

import numpy as np
import pytest
import soundfile

from harness.data.audio import decode
from harness.evaluation.long_form import Segment, cut_at_pauses, transcribe_segments
from harness.evaluation.metrics import score
from harness.spec.result import Transcript
from harness.transcribe import main, stamp, subtitles

GAP = 0.4  # seconds of silence between joined clips


@pytest.fixture
def transcribe(studies, capsys):
    """The command: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--results", str(studies.results)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_recording_of_three_minutes_is_transcribed_whole(context):
    """Within 2 points of what its clips give one by one."""
    rows = [row for split in ("train", "validation", "test") for row in context.speech.rows(split)]
    spoken = [context.speech.utterances[row] for row in rows]
    clips = [context.speech.samples(utterance) for utterance in spoken]
    pause = np.zeros(round(GAP * 16_000), dtype=np.float32)
    while sum(len(clip) + len(pause) for clip in clips) < 180 * 16_000:
        clips, spoken = clips * 2, spoken * 2
    whole = np.concatenate([part for clip in clips for part in (clip, pause)])
    base = context.base

    def wer(texts: list[str]) -> float:
        reference = " ".join(u.text for u in spoken)
        return score([Transcript(id="a", reference=reference, hypothesis=" ".join(texts))], "en", None).wer

    alone = [
        segment.text for clip in clips for segment in transcribe_segments(base.model, base, clip, "en", "transcribe")
    ]
    segments = transcribe_segments(base.model, base, whole, "en", "transcribe")
    assert len(segments) == len(clips), "cut where the clips were joined"
    assert segments[-1].end > 178 and all(a.end <= b.start for a, b in itertools.pairwise(segments))
    assert abs(wer([segment.text for segment in segments]) - wer(alone)) < 0.02
    assert sum(s.text == text for s, text in zip(segments, alone, strict=True)) > 0.6 * len(clips)


def test_parts_are_never_longer_than_asked_and_nothing_loud_is_lost():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 20).astype(np.float32)
    parts = cut_at_pauses(noise, 3.0)
    assert parts[0][0] == 0 and parts[-1][1] == len(noise)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert all(0 < end - start <= 3 * 16_000 for start, end in parts)
    assert cut_at_pauses(np.zeros(16_000 * 9, dtype=np.float32), 3.0) == []
    assert cut_at_pauses(np.zeros(0, dtype=np.float32), 3.0) == []


def test_formats_are_what_players_and_scripts_expect():
    assert stamp(3723.4567) == "01:02:03,457"
    segments = [Segment(0.0, 1.5, "hej"), Segment(1.5, 2.0, ""), Segment(2.0, 3.25, "då")]
    assert subtitles(segments) == ("1\n00:00:00,000 --> 00:00:01,500\nhej\n\n2\n00:00:02,000 --> 00:00:03,250\ndå\n")


def test_files_are_printed_and_written(transcribe, speech_folder, tmp_path):
    clips = [decode(path) for path in sorted((speech_folder / "test").glob("*.ogg"))[:3]]
    stereo = np.repeat(np.concatenate(clips)[:, None], 2, axis=1)
    soundfile.write(tmp_path / "long.flac", stereo, 16_000)
    soundfile.write(tmp_path / "short.wav", clips[0], 16_000)
    code, out, _ = transcribe(
        tmp_path / "long.flac", tmp_path / "short.wav", "--study", "lora", "--format", "txt", "srt", "json", "--output",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 0 and len(out.splitlines()) == 2 and out.startswith(f"{tmp_path / 'long.flac'}: ")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{s}.{f}" for s in ("long", "short") for f in ("txt", "srt", "json")}  # fmt: skip
    transcript = json.loads((tmp_path / "out" / "long.json").read_text())
    assert len(transcript["segments"]) > 1 and transcript["text"] in out
    assert "00:00:00,000 --> " in (tmp_path / "out" / "long.srt").read_text()
    _, vanilla, _ = transcribe(tmp_path / "long.flac", "--study", "lora", "--vanilla")
    assert vanilla.strip() and vanilla.strip() != transcript["text"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.wav"], "cannot read none.wav"),
        (["a/x.wav", "b/x.flac", "--format", "txt"], "the same name"),
        (["x.wav", "--segment-seconds", "0.1"], "at least 1 s"),
        (["x.wav", "--trial", "9"], "no completed 'trial 9'"),
    ],
)
def test_a_wrong_call_is_one_message(transcribe, arguments, message):
    code, out, err = transcribe(*arguments, "--study", "lora")
    assert code == 2 and message in err and "Traceback" not in err and out == ""


def test_an_unknown_language_is_one_message(transcribe, speech_folder):
    file = next((speech_folder / "test").glob("*.ogg"))
    code, _, err = transcribe(file, "--study", "lora", "--language", "xx")
    assert code == 2 and "xx" in err and "Traceback" not in err
