"""Long recordings: decoded by both algorithms, judged in a table of their own."""

import json

import pytest

from harness import catalog
from harness.errors import UserError
from harness.evaluation.long_form import recordings, transcribe_long, window_seconds
from harness.spec.messages import Open
from harness.training.orders import open_context


@pytest.mark.parametrize("algorithm", ["sequential", "chunked"])
def test_a_recording_of_many_windows_is_transcribed_to_its_end(algorithm, cache):
    order = Open(model="demo", task=catalog.task("demo"), cache_dir=str(cache), seed=1)
    context = open_context(order)
    base, task = context.base, context.task
    transcripts, clips, languages, _ = recordings(context.speech, "test_long")
    assert transcripts[0].audio_seconds > 5 * window_seconds(base)
    (text,) = transcribe_long(base.model, base, clips[:1], languages[:1], task.task, algorithm)
    one_window = transcribe_long(
        base.model, base, [clips[0][: base.processor.feature_extractor.n_samples]], ["en"], task.task, algorithm
    )
    assert len(text.split()) > 3 * len(one_window[0].split())


def test_a_task_without_long_recordings_says_so(cache):
    speech = open_context(Open(model="demo", task=catalog.task("demo"), cache_dir=str(cache), seed=1)).speech
    with pytest.raises(UserError, match="no recordings of split"):
        recordings(speech, "test_longer")


def test_recordings_are_the_blocks_of_a_table_of_their_own(study, run):
    for path in list(study.folder.rglob("test.jsonl")):
        path.with_name("test_long-chunked.jsonl").write_text(path.read_text())
        path.with_name("test_long-chunked.json").write_text(path.with_suffix(".json").read_text())
    code, out, err = run(
        "--study", "made", "--split", "test_long", "--long-form", "chunked", "--format", "json", "--no-figures"
    )
    assert code == 0, err
    assert len(json.loads(out)["systems"]) == 3
    text = (study.folder / "comparison" / "long_chunked" / "leaderboard.md").read_text(encoding="utf-8")
    assert "K = 80 recordings" in text
