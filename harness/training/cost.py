"""Compute the cost of a trial from its clocks, memory peaks and counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.hardware.clock import Clock
from harness.hardware.matmul_rate import best_matmul_rate, matmul_share
from harness.hardware.memory import PeakMemory
from harness.hardware.processes import world_size
from harness.model_size.flops import training_flops
from harness.model_size.parameters import dimensions_of
from harness.spec.result import Cost, Rung
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext
from harness.training.loop import Progress


@dataclass(frozen=True)
class Measurements:
    """What was measured while a trial ran.

    Attributes:
        progress: Training when the trial ended.
        rungs: The evaluated rungs.
        evaluation: The clock of all evaluations.
        peaks: Peak memory by phase.
        parameters: (trainable, total) parameters.
        cached_layers: Encoder layers whose output training read from the encoder-state cache.
        cache_seconds: Seconds spent filling the encoder-state cache.
        adapter_bytes: Size of the stored weights; None if none were stored.
        eight_bit_share: Share of the optimizer state in 8 bit; None before the first step.
        processes: Processes that trained the trial.
    """

    progress: Progress
    rungs: Sequence[Rung]
    evaluation: Clock
    peaks: PeakMemory
    parameters: tuple[int, int]
    cached_layers: int
    cache_seconds: float
    adapter_bytes: int | None
    eight_bit_share: float | None
    processes: int


def compute_cost(context: TrainerContext, config: TrialConfig, measured: Measurements) -> Cost:
    """Return the cost of a trial for its record; `config` is the configuration as run."""
    progress, peaks = measured.progress, measured.peaks
    seconds = progress.seconds - progress.first_seconds
    rate = (progress.examples - progress.first_examples) / seconds if seconds > 0 else None
    epoch = context.speech.report["epoch"]
    dims = dimensions_of(context.base.model.config)
    flops = training_flops(dims, config, progress.examples, progress.label_tokens, measured.cached_layers)
    achieved = flops / progress.seconds / world_size() if progress.seconds else 0.0
    matmuls = best_matmul_rate(context.base.device, config.precision, context.cache, achieved)
    return Cost(
        steps=progress.step,
        skipped_steps=progress.skipped_steps if config.precision == "fp16" else None,
        examples=progress.examples,
        data_seconds=context.speech.train_seconds() if config.method != "none" else None,
        train_seconds=progress.seconds,
        first_steps_seconds=progress.first_seconds,
        evaluation_seconds=sum(rung.evaluation_seconds for rung in measured.rungs),
        samples_per_second=rate,
        audio_seconds_per_second=None if rate is None else rate * epoch["seconds"] / epoch["utterances"],
        peak_memory_bytes=max(peaks.reserved.values(), default=0),
        memory_kind=peaks.kind,
        train_peak_bytes=peaks.reserved.get("train"),
        evaluation_peak_bytes=peaks.reserved.get("evaluation"),
        train_peak_allocated_bytes=peaks.allocated.get("train"),
        evaluation_peak_allocated_bytes=peaks.allocated.get("evaluation"),
        memory_before_bytes=peaks.before,
        host_peak_bytes=peaks.host,
        trainable_parameters=measured.parameters[0],
        total_parameters=measured.parameters[1],
        adapter_bytes=measured.adapter_bytes,
        train_joules=progress.joules,
        evaluation_joules=measured.evaluation.joules,
        train_flops=flops,
        matmul_rate=matmuls,
        matmul_share=matmul_share(achieved, matmuls),
        optimizer_8bit_share=measured.eight_bit_share,
        processes=measured.processes,
        prefix_seconds=measured.cache_seconds,
        cached_encoder_layers=measured.cached_layers,
        resident_bytes=peaks.excluded,
        packed=progress.together if progress.together > 1 else None,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
