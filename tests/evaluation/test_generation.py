"""One way to decode: whatever a model predicts, it ends; and every caller reads the trial's window."""

from contextlib import contextmanager

import numpy as np
import pytest

from harness.errors import UserError
from harness.evaluation.decoding import Decoder
from harness.evaluation.generation import generation_options
from harness.evaluation.long_form import cut_at_pauses, transcribe_long, transcribe_segments, window_seconds
from harness.model.trial_settings import apply_trial_settings
from harness.training.context import check_window, make_accelerator

MOST_STEPS = 3000  # of the decoder in these tests; more means that it would never end


@contextmanager
def predicting(base, favourite):
    """The model with some tokens made certain: `favourite` returns them for a step's logits."""
    steps = 0

    def prefer(module, inputs, logits):
        nonlocal steps
        steps += 1
        assert steps < MOST_STEPS, "the decoder is asked for ever"
        logits[..., favourite(steps)] += 1e4
        return logits

    hook = base.model.proj_out.register_forward_hook(prefer)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("algorithm", ["pauses", "chunked"])
def test_a_model_that_predicts_timestamps_only_comes_to_an_end(algorithm, context):
    base = context.base
    first = base.model.generation_config.no_timestamps_token_id + 1
    clip = np.random.default_rng(0).normal(size=48_000).astype(np.float32)
    with predicting(base, lambda step: [first]):
        (text,) = transcribe_long(base.model, base, [clip], ["en"], "transcribe", algorithm)
    assert "<|" not in text


def test_timestamps_that_hardly_advance_end_with_a_message(context):
    base = context.base
    first = base.model.generation_config.no_timestamps_token_id + 1
    clip = np.random.default_rng(0).normal(size=8 * 16_000).astype(np.float32)

    def tiny_steps(step):  # 0.00, a word, 0.02, 0.02, end of text, and again
        return [[first], [300], [first + 1], [first + 1], [512]][(step - 1) % 5]

    with predicting(base, tiny_steps), pytest.raises(UserError, match="--long-form pauses"):
        transcribe_long(base.model, base, [clip], ["en"], "transcribe", "sequential")


def test_every_reader_of_the_window_uses_the_trial_s(context, lora):
    base, config = context.base, lora.model_copy(update={"encoder_window_seconds": 2.4})
    rows = context.speech.rows("validation")
    clips = {row: context.speech.samples(context.speech.utterances[row]) for row in rows}
    whole = [row for row in rows if cut_at_pauses(clips[row], 2.4) == [(0, len(clips[row]))]]
    assert len(whole) > 3
    with apply_trial_settings(base, config):
        assert window_seconds(base) == 2.4
        decoder = Decoder(base.model, base, context.speech, context.decoding, make_accelerator("fp32", base.device))
        judged = [transcript.hypothesis for transcript in decoder.transcribe(whole)]
        heard = [transcribe_segments(base.model, base, clips[row], "en", "transcribe") for row in whole]
        assert [segment.text for (segment,) in heard] == judged, "what is used is what was judged"
        long = np.concatenate([clips[row] for row in whole])
        assert all(s.end - s.start <= 2.4 for s in transcribe_segments(base.model, base, long, "en", "transcribe"))
        for algorithm in ("chunked", "sequential"):
            (text,) = transcribe_long(base.model, base, [long], ["en"], "transcribe", algorithm)
            assert len(text.split()) > len(judged)
    assert window_seconds(base) == 3.0


def test_a_window_that_cuts_speech_is_refused(context, lora):
    longest = max(u.seconds for u in context.speech.utterances)
    check_window(context.speech, lora)
    check_window(context.speech, lora.model_copy(update={"encoder_window_seconds": longest}))
    with pytest.raises(
        UserError, match=r"encoder_window_seconds 1.5 is shorter than \d+ of the 72 clips; set it to \d"
    ):
        check_window(context.speech, lora.model_copy(update={"encoder_window_seconds": 1.5}))


@pytest.mark.slow
def test_a_sweep_refuses_a_window_that_cuts_speech(command, small_space):
    text = small_space.read_text().replace("warmup_ratio: 0.1}", "warmup_ratio: 0.1, encoder_window_seconds: 1.0}")
    small_space.write_text(text.replace("baselines: [vanilla]", "baselines: []"))
    done = command("run_sweep.py", "--space", small_space, "--trials", 1, code=2)
    assert "encoder_window_seconds 1 is shorter than" in done.stderr and "Traceback" not in done.stderr


def test_decoding_is_greedy(context):
    options = generation_options(context.base, "en", "transcribe")
    assert (options["num_beams"], options["do_sample"]) == (1, False)
    assert (options["language"], options["task"]) == ("en", "transcribe")
