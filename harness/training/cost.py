"""What a trial took, from its clocks, peaks and counts."""

from collections.abc import Sequence

from harness.hardware.matmul_rate import known_matmul_rate
from harness.hardware.meter import Clock, PeakMemory
from harness.hardware.processes import world_size
from harness.model.flops import training_flops
from harness.model.parameters import dimensions_of
from harness.spec.result import Cost, Rung
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext
from harness.training.loop import Progress


def measured(
    context: TrainerContext,
    config: TrialConfig,
    progress: Progress,
    rungs: Sequence[Rung],
    evaluation: Clock,
    peaks: PeakMemory,
    parameters: tuple[int, int],
    cached_layers: int = 0,
) -> Cost:
    """The cost of a trial as it ended; `config` is as it was run, `parameters` (trainable, all).

    Training took what `cached_layers` of the encoder made from a cache.
    """
    seconds = progress.seconds - progress.first_seconds
    rate = (progress.examples - progress.first_examples) / seconds if seconds > 0 else None
    train = context.speech.report["splits"]["train"]
    sizes = dimensions_of(context.base.model.config)
    flops = training_flops(sizes, config, progress.examples, progress.label_tokens, cached_layers)
    matmuls = known_matmul_rate(
        context.base.device, config.precision, context.speech.entry.parents[1]
    )  # the cache's folder
    ceiling = (matmuls or 0.0) * progress.seconds * world_size()
    return Cost(
        steps=progress.step,
        examples=progress.examples,
        data_seconds=context.speech.train_seconds() if config.method != "none" else None,
        train_seconds=progress.seconds,
        first_steps_seconds=progress.first_seconds,
        evaluation_seconds=sum(rung.evaluation_seconds for rung in rungs),
        samples_per_second=rate,
        audio_seconds_per_second=None if rate is None else rate * train["seconds"] / train["utterances"],
        peak_memory_bytes=max(peaks.reserved.values(), default=0),
        memory_kind=peaks.kind,
        train_peak_bytes=peaks.reserved.get("train"),
        evaluation_peak_bytes=peaks.reserved.get("evaluation"),
        train_peak_allocated_bytes=peaks.allocated.get("train"),
        evaluation_peak_allocated_bytes=peaks.allocated.get("evaluation"),
        memory_before_bytes=peaks.before,
        host_peak_bytes=peaks.host,
        trainable_parameters=parameters[0],
        total_parameters=parameters[1],
        adapter_bytes=None,
        train_joules=progress.joules,
        evaluation_joules=evaluation.joules,
        train_flops=flops,
        matmul_rate=matmuls,
        matmul_share=flops / ceiling if ceiling else None,
        cached_encoder_layers=cached_layers,
        resident_bytes=peaks.apart,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
