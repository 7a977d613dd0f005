"""The trainer process: orders come in on standard input as JSON lines, answers go out; tensors live only here."""

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
from transformers import WhisperConfig, WhisperProcessor
from transformers.utils import logging as transformers_logging

from harness.catalog import model_location
from harness.data.audio import SAMPLE_RATE
from harness.data.batches import label_ids
from harness.data.store.prepare import Speech, prepare
from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.evaluation.decoding import real_time_factor, sort_by_length, transcribe
from harness.evaluation.long_form import recordings, transcribe_long, window_seconds
from harness.hardware.meter import Clock, environment
from harness.hardware.processes import logged_to, rank, world_size
from harness.model.base import Base, load_base
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
from harness.training.context import TrainerContext, decoding_of, make_accelerator, make_context
from harness.training.packed_trials import run_packed_trials
from harness.training.trial import GradientRequest, run_trial

LATENCY_CLIPS = 8  # decoded one at a time, spread over the durations
PATIENCE = timedelta(days=7)  # of processes that wait for the first one, while it waits for orders
SECONDS_BETWEEN_NEWS = 2.0


def open_context(
    order: Open, say: Callable[[str], None] = lambda text: None, device: torch.device | None = None
) -> TrainerContext:
    """Load the model and prepare the data; `say` is told how far that is. The default device is this process's GPU."""
    if device is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else CPU
    base = load_base(order.model, device, sdpa="sdpa" in order.techniques)
    if rank() > 0:
        torch.distributed.barrier()  # the first process prepares, the others open what it made
    began = time.monotonic()
    speech = prepare_speech(order, base.processor, base.model.config.max_target_positions, say)
    if rank() == 0 and world_size() > 1:
        torch.distributed.barrier()
    made = make_context(base, speech, order.task, Path(order.cache_dir) / "prefixes", order.techniques)
    return replace(made, prepare_seconds=time.monotonic() - began)


def prepare_only(order: Open, say: Callable[[str], None]) -> Speech:
    """Prepare the data for a model of which only the processor and the configuration are read."""
    location = model_location(order.model)
    try:
        processor = WhisperProcessor.from_pretrained(location)
        limit = WhisperConfig.from_pretrained(location).max_target_positions
    except Exception as error:  # the hub and transformers each raise their own kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot load the processor of {order.model!r}: {said[0]}") from None
    return prepare_speech(order, processor, limit, say)


def prepare_speech(
    order: Open, processor: WhisperProcessor, max_label_tokens: int, say: Callable[[str], None]
) -> Speech:
    """Features and report of the task."""
    tokenizer = processor.tokenizer

    def label_length(text: str, language: str) -> int:
        try:
            return len(label_ids(tokenizer, text, language, order.task.task))
        except ValueError as error:
            raise UserError(f"task {order.task.name}: {error}") from None

    words = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    return prepare(
        order.task,
        processor.feature_extractor,
        label_length,
        max_label_tokens,
        Path(order.cache_dir),
        vocabulary=hashlib.sha256(words).hexdigest()[:16],
        say=say,
    )


def news(channel: Channel) -> Callable[[str], None]:
    """Tell the supervisor how far the preparation is: counts of clips every few seconds, the rest at once."""
    told = time.monotonic()

    def say(text: str) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_NEWS or not text.endswith("clips"):
            told = time.monotonic()
            channel.send(Preparing(text=text))

    return say


def do_train(channel: Channel, context: TrainerContext, order: Train) -> None:
    """Run a trial, reporting each rung and asking whether to go on."""
    with logged_to(Path(order.attempt) / "log.txt"):
        trial = run_trial(context, order)
        go_on: bool | None = None
        while True:
            try:
                said = trial.send(go_on)
            except StopIteration as end:
                channel.send(end.value, order.lane)
                return
            assert not isinstance(said, GradientRequest)
            channel.send(said, order.lane)
            if isinstance(said, Report) and said.last:
                go_on = True
                continue
            answer = channel.receive()
            if answer is None:
                raise SystemExit("the supervisor is gone")
            if isinstance(answer, Leave):
                trial.close()
                return
            go_on = isinstance(answer, Decide) and answer.go_on


@contextmanager
def decodable(base: Base, order: Transcribe | TranscribeLong) -> Iterator[nn.Module]:
    """The model with an order's stored weights, an adapter merged, in its trial's window; the base comes back after."""
    model: nn.Module = base.model
    try:
        if order.weights is not None:
            model = load_trained(base, order.config, Path(order.weights))
        with apply_trial_settings(base, order.config):
            yield model
    finally:
        detach(base, model)


def do_transcribe(context: TrainerContext, order: Transcribe) -> Transcribed:
    """Decode a split with stored weights, an adapter merged, and time it. All systems are decoded in fp32."""
    base, speech = context.base, context.speech
    accelerator = make_accelerator("fp32", base.device)
    rows, rtfx, latency = speech.rows(order.split), None, None
    decoding = decoding_of(context, order.config)
    encoder_states = context.encoder_cache.of(base, order.config, "fp32")
    with decodable(base, order) as model:
        if encoder_states is not None:
            encoder_states.fill(rows, base, decoding.batch_size, accelerator)
        transcripts = transcribe(model, base, speech, rows, decoding, accelerator, encoder_states)
        if order.speed_passes:
            timed = sort_by_length(speech, rows)[:: max(1, len(rows) // order.speed_clips)][: order.speed_clips]
            clips = [speech.samples(speech.utterances[row]) for row in timed]
            passes = order.speed_passes
            rtfx = real_time_factor(model, base, speech, timed, clips, decoding, accelerator, passes)
            apart = slice(None, None, max(1, len(timed) // LATENCY_CLIPS))
            alone, heard = timed[apart], clips[apart]
            single = replace(decoding, batch_size=1)
            one = real_time_factor(model, base, speech, alone, heard, single, accelerator, passes)
            latency = sum(map(len, heard)) / SAMPLE_RATE / one / len(heard)
    write_transcripts(Path(order.output), transcripts)
    return Transcribed(rtfx=rtfx, latency_seconds=latency, decoding=decoding.described())


def do_transcribe_long(context: TrainerContext, order: TranscribeLong) -> Transcribed:
    """Decode long recordings with merged weights; RTFx is that of one pass, without a warm-up."""
    base, clock = context.base, Clock(context.base.device)
    transcripts, clips, languages, data = recordings(context.speech, order.split)
    with decodable(base, order) as model:
        clock.start()
        named = languages if order.config.forced_language else [None] * len(languages)
        texts = transcribe_long(model, base, clips, named, context.task.task, order.algorithm)
        clock.stop()
    found = [t.model_copy(update={"hypothesis": text}) for t, text in zip(transcripts, texts, strict=True)]
    write_transcripts(Path(order.output), found)
    seconds = sum(t.audio_seconds or 0.0 for t in transcripts)
    decoding = {"strategy": f"greedy, long form {order.algorithm}", "window_seconds": window_seconds(base)}
    return Transcribed(rtfx=seconds / clock.seconds, decoding=decoding, data=data)


def main() -> None:
    """Carry out orders until the line closes; `harness.training.process` is the process in which this is called."""
    torch.set_flush_denormal(True)  # a diverged model computes in them, forty times slower
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if world_size() > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    channel, context = Channel(), None
    while (order := channel.receive()) is not None:
        try:
            if isinstance(order, Open) and order.prepare_only:
                speech = prepare_only(order, news(channel))
                channel.send(Ready(device="cpu", environment=environment(CPU), data=speech.report))
            elif isinstance(order, Open):
                context = open_context(order, news(channel))
                channel.send(
                    Ready(
                        device=context.base.device.type,
                        environment=environment(context.base.device) | {"techniques": list(order.techniques)},
                        data=context.speech.report,
                        prepare_seconds=context.prepare_seconds,
                    )
                )
            elif context is None:
                raise RuntimeError("an order came before the trainer was opened")
            elif isinstance(order, Train):
                context = context.on(order.config.base_weights)
                (run_packed_trials if order.packed else do_train)(channel, context, order)
            elif isinstance(order, Transcribe):
                context = context.on(order.config.base_weights)
                channel.send(do_transcribe(context, order))
            elif isinstance(order, TranscribeLong):
                context = context.on(order.config.base_weights)
                channel.send(do_transcribe_long(context, order))
        except UserError as error:
            channel.send(Refused(message=str(error)), order.lane)
        except Exception as error:  # whatever a trial raises costs that trial, not the sweep
            traceback.print_exc()
            if is_disk_full(error):
                channel.send(Refused(message=DISK_FULL), order.lane)
                return
            channel.send(Failed(reason=f"{type(error).__name__}: {error}", poisoned=True), order.lane)
            sys.exit(1)  # of several processes, the others wait for this one: the launcher then ends them
