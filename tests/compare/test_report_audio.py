"""Recordings in the report."""

import mimetypes
from types import SimpleNamespace

import pytest

from harness.compare.report.page import _Audio


@pytest.mark.parametrize(
    "suffix, kind", [(".wav", "wav"), (".flac", "flac"), (".OGG", "ogg"), (".opus", "ogg"), (".mp3", "mpeg")]
)
def test_recordings_are_embedded_where_the_system_knows_no_types(suffix, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(mimetypes, "guess_type", lambda *_: (None, None))
    (tmp_path / "metadata.csv").write_text(f"file,text,language\na{suffix},a,en\n")
    for name in (f"a{suffix}", "a.txt"):
        (tmp_path / name).write_bytes(b"content")
    audio = _Audio(SimpleNamespace(task=str(tmp_path)))
    assert audio.embedded(f"a{suffix}") == f"data:audio/{kind};base64,Y29udGVudA=="
    assert audio.embedded("a.txt") is None and audio.embedded("../a.wav") is None
