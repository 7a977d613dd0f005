"""Run the trainer process: carry out the supervisor's orders. Only this process holds tensors."""

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig, WhisperConfig, WhisperProcessor
from transformers.utils import logging as transformers_logging

from harness.catalog import model_location
from harness.data.audio import SAMPLE_RATE
from harness.data.labels import label_ids, model_languages, suppressed_first
from harness.data.sampling import spread
from harness.data.store.prepare import Speech, prepare
from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.evaluation.decoding import Decoder, sort_by_length
from harness.evaluation.long_form import recordings, transcribe_long, window_seconds
from harness.hardware.clock import Clock
from harness.hardware.environment import describe_environment
from harness.hardware.processes import rank, redirect_output, world_size
from harness.model.base import Base, load_base, load_processor
from harness.model.methods import detach, load_trained
from harness.model.trial_settings import apply_trial_settings
from harness.records.study_folder import write_transcripts
from harness.spec.messages import (
    Decide,
    Failed,
    Leave,
    Open,
    Preparing,
    Ready,
    Refused,
    Report,
    Train,
    Transcribe,
    Transcribed,
    TranscribeLong,
)
from harness.training.channel import CPU, Channel
from harness.training.context import TrainerContext, decoding_settings, make_accelerator, make_context
from harness.training.packed_trials import run_packed_trials
from harness.training.trial import run_trial
from harness.training.trial_protocol import GradientRequest

LATENCY_CLIPS = 8  # decoded one at a time, spread over the durations
GROUP_TIMEOUT = timedelta(days=7)  # other processes wait for rank 0, which waits for orders
PROGRESS_INTERVAL = 2.0  # seconds between messages


def open_context(
    order: Open, progress: Callable[[str], None] = lambda text: None, device: torch.device | None = None
) -> TrainerContext:
    """Load the model and prepare the data.

    Args:
        order: Model, task and cache folder.
        progress: Called with messages about the progress of the preparation.
        device: By default the GPU of this process, or else the CPU.

    Raises:
        UserError: If the model or the data cannot be read.
    """
    if device is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else CPU
    base = load_base(order.model, device, sdpa="sdpa" in order.techniques)
    if rank() > 0:
        torch.distributed.barrier()  # rank 0 prepares the data, the others then open it
    start = time.monotonic()
    limit, generation = base.model.config.max_target_positions, base.model.generation_config
    speech = prepare_speech(order, base.processor, generation, limit, progress)
    if rank() == 0 and world_size() > 1:
        torch.distributed.barrier()
    context = make_context(base, speech, order.task, Path(order.cache_dir) / "prefixes", order.techniques)
    return replace(context, prepare_seconds=time.monotonic() - start)


def prepare_only(order: Open, progress: Callable[[str], None]) -> Speech:
    """Prepare the data without loading the model's weights.

    Raises:
        UserError: If the model's processor or the data cannot be read.
    """
    location = model_location(order.model)
    try:
        processor = load_processor(location)
        generation = GenerationConfig.from_pretrained(location)
        limit = WhisperConfig.from_pretrained(location).max_target_positions
    except Exception as error:  # the hub and transformers raise different types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot load the processor of {order.model!r}: {lines[0]}") from None
    return prepare_speech(order, processor, generation, limit, progress)


def prepare_speech(
    order: Open,
    processor: WhisperProcessor,
    generation: GenerationConfig,
    max_label_tokens: int,
    progress: Callable[[str], None],
) -> Speech:
    """Prepare the task's features and data report.

    Args:
        order: The task and the cache folder.
        processor: Feature extractor and tokenizer.
        generation: The model's generation configuration, for its languages and suppressed tokens.
        max_label_tokens: Utterances with longer labels are excluded.
        progress: Called with messages about the progress.

    Raises:
        UserError: If the data cannot be read.
    """
    tokenizer = processor.tokenizer

    def label_length(text: str, language: str) -> int:
        try:
            return len(label_ids(tokenizer, generation, text, language, order.task.task))
        except UserError as error:
            raise UserError(f"task {order.task.name}: {error}") from None

    suppressed = sorted(suppressed_first(generation))
    vocabulary = json.dumps([tokenizer.get_vocab(), suppressed], sort_keys=True).encode()
    return prepare(
        order.task,
        processor.feature_extractor,
        label_length,
        max_label_tokens,
        Path(order.cache_dir),
        vocabulary=hashlib.sha256(vocabulary).hexdigest()[:16],
        progress=progress,
        languages=model_languages(generation),
    )


def progress_sender(channel: Channel) -> Callable[[str], None]:
    """Return a function that sends progress to the supervisor: clip counts every few seconds, the rest at once."""
    last = time.monotonic()

    def send(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_INTERVAL or not text.endswith("clips"):
            last = time.monotonic()
            channel.send(Preparing(text=text))

    return send


def run_training(channel: Channel, context: TrainerContext, order: Train) -> None:
    """Run one trial; after each rung the supervisor decides whether it continues."""
    with redirect_output(Path(order.attempt) / "log.txt"):
        trial = run_trial(context, order)
        go_on: bool | None = None
        while True:
            try:
                event = trial.send(go_on)
            except StopIteration as end:
                channel.send(end.value, order.lane)
                return
            assert not isinstance(event, GradientRequest)
            channel.send(event, order.lane)
            if isinstance(event, Report) and event.last:
                go_on = True
                continue
            answer = channel.receive()
            if answer is None:
                raise SystemExit("the supervisor process has ended")
            if isinstance(answer, Leave):
                trial.close()
                return
            go_on = isinstance(answer, Decide) and answer.go_on


@contextmanager
def stored_model(base: Base, order: Transcribe | TranscribeLong) -> Iterator[nn.Module]:
    """Within the context, the base has an order's stored weights and its trial's settings."""
    model: nn.Module = base.model
    try:
        if order.weights is not None:
            model = load_trained(base, order.config, Path(order.weights))
        with apply_trial_settings(base, order.config):
            yield model
    finally:
        detach(base, model)


def run_transcription(context: TrainerContext, order: Transcribe) -> Transcribed:
    """Decode a split with stored weights, in fp32 for all systems, and measure the speed if the order asks for it."""
    base, speech = context.base, context.speech
    accelerator = make_accelerator("fp32", base.device)
    rows, rtfx, latency = speech.rows(order.split), None, None
    settings = decoding_settings(context, order.config)
    encoder_states = context.encoder_cache.open(base, order.config, "fp32")
    with stored_model(base, order) as model:
        if encoder_states is not None:
            encoder_states.fill(rows, base, settings.batch_size, accelerator)
        decoder = Decoder(model, base, speech, settings, accelerator, encoder_states)
        transcripts = decoder.transcribe(rows)
        if order.speed_passes:
            rtfx, latency = _measure_speed(decoder, rows, order)
    write_transcripts(Path(order.output), transcripts)
    return Transcribed(rtfx=rtfx, latency_seconds=latency, decoding=settings.describe())


def _measure_speed(decoder: Decoder, rows: list[int], order: Transcribe) -> tuple[float, float]:
    """Return RTFx, and the mean seconds that one clip alone takes; clips are spread over the durations."""
    speech, passes = decoder.speech, order.speed_passes
    timed = spread(sort_by_length(speech, rows), order.speed_clips)
    clips = [speech.samples(speech.utterances[row]) for row in timed]
    rtfx = decoder.measure_rtfx(timed, clips, passes)
    few = spread(range(len(timed)), LATENCY_CLIPS)
    few_rows, few_clips = [timed[index] for index in few], [clips[index] for index in few]
    single = replace(decoder, settings=replace(decoder.settings, batch_size=1))
    latency = sum(map(len, few_clips)) / SAMPLE_RATE / single.measure_rtfx(few_rows, few_clips, passes) / len(few)
    return rtfx, latency


def run_long_transcription(context: TrainerContext, order: TranscribeLong) -> Transcribed:
    """Decode long recordings with stored weights; RTFx is measured in one pass, without a warm-up."""
    base, clock = context.base, Clock(context.base.device)
    transcripts, clips, languages, data = recordings(context.speech, order.split)
    with stored_model(base, order) as model:
        clock.start()
        forced = languages if order.config.forced_language else [None] * len(languages)
        texts = transcribe_long(model, base, clips, forced, context.task.task, order.algorithm)
        clock.stop()
        window = window_seconds(base)
    decoded = [t.model_copy(update={"hypothesis": text}) for t, text in zip(transcripts, texts, strict=True)]
    write_transcripts(Path(order.output), decoded)
    seconds = sum(t.audio_seconds or 0.0 for t in transcripts)
    decoding = {"strategy": f"greedy, long form {order.algorithm}", "window_seconds": window}
    return Transcribed(rtfx=seconds / clock.seconds, decoding=decoding, data=data)


def main() -> None:
    """Carry out orders until the connection closes; `harness.training.process` calls this in a process of its own."""
    torch.set_flush_denormal(True)  # a diverged model produces denormals, which are forty times slower
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if world_size() > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=GROUP_TIMEOUT)
    channel, context = Channel(), None
    while (order := channel.receive()) is not None:
        try:
            if isinstance(order, Open) and order.prepare_only:
                speech = prepare_only(order, progress_sender(channel))
                channel.send(Ready(device="cpu", environment=describe_environment(CPU), data=speech.report))
            elif isinstance(order, Open):
                context = open_context(order, progress_sender(channel))
                channel.send(
                    Ready(
                        device=context.base.device.type,
                        environment=describe_environment(context.base.device) | {"techniques": list(order.techniques)},
                        data=context.speech.report,
                        prepare_seconds=context.prepare_seconds,
                    )
                )
            elif context is None:
                raise RuntimeError("received an order before Open")
            elif isinstance(order, Train):
                context = context.with_base_weights(order.config.base_weights)
                (run_packed_trials if order.packed else run_training)(channel, context, order)
            elif isinstance(order, Transcribe):
                context = context.with_base_weights(order.config.base_weights)
                channel.send(run_transcription(context, order))
            elif isinstance(order, TranscribeLong):
                context = context.with_base_weights(order.config.base_weights)
                channel.send(run_long_transcription(context, order))
        except UserError as error:
            channel.send(Refused(message=str(error)), order.lane)
        except Exception as error:  # an error of one trial must not end the sweep
            traceback.print_exc()
            if is_disk_full(error):
                channel.send(Refused(message=DISK_FULL), order.lane)
                return
            channel.send(Failed(reason=f"{type(error).__name__}: {error}", poisoned=True), order.lane)
            sys.exit(1)  # other processes of the trial wait for this one; the launcher ends them
