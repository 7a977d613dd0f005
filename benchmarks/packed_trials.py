"""What training several LoRA trials in one pass gains on this device, against the same trials one at a time.

    python -m benchmarks.packed_trials                        # whisper-small's sizes in bf16, on a GPU
    python -m benchmarks.packed_trials --model demo           # on a CPU, where nothing is to be gained

Weights and data are random, of true size, as in benchmarks.gpu_trial; the trials differ in rank and dropout. Rounds are
interleaved (alone, packed, alone, …), and their medians are reported: training examples a second of all trials
together, the first two steps left out. `gain` is that rate against one trial's alone.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_trial import LORA, TOY, random_model
from harness.data.batches import Batch, Step
from harness.hardware.clock import Clock
from harness.hardware.memory import SharedPeakMemory, process_memory, reset_peak_memory
from harness.model.base import Base, load_base
from harness.model.batched_lora import PackedModel, make_view
from harness.model.methods import attach
from harness.model.optimizers import make_optimizer, make_scheduler
from harness.model_size.parameters import OFFICIAL, Dimensions, dimensions
from harness.spec.budget import Budget
from harness.spec.messages import Finished
from harness.spec.result import TrialResult
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator
from harness.training.loop import Progress, TrainingObjects, next_event, train, training_loop
from harness.training.packed_trials import PackedTraining, PackedTrial, RandomState
from harness.training.trial_protocol import GradientRequest, PackedUsage, Trial

KINDS: dict[str, dict[str, Any]] = {
    "encoder and decoder": {"scope": "both"},
    "decoder, encoder cached": {"scope": "decoder"},
}


def steps_of(dims: Dimensions, config: TrialConfig, tokens: int, precision: str) -> Iterator[Step]:
    """Steps of random windows; where only the decoder is trained, of what the encoder would have made of them."""
    generator = torch.Generator().manual_seed(0)
    size, cached = config.per_device_train_batch_size, config.scope == "decoder"
    shape = (dims.max_source_positions, dims.d_model) if cached else (dims.num_mel_bins, 2 * dims.max_source_positions)
    inputs = torch.randn(size, *shape, generator=generator)
    if cached and precision == "bf16":
        inputs = inputs.to(torch.bfloat16)
    labels = torch.randint(2, dims.vocab_size, (size, tokens), generator=generator)
    batch = Batch(inputs, labels.roll(1, dims=1), labels, dims.encoder_layers if cached else None)
    while True:
        yield Step([batch], size, batch.label_tokens)


def prepared(base: Base, config: TrialConfig, steps: int) -> TrainingObjects:
    """All that a trial trains with, on a view of the base."""
    accelerator = make_accelerator(config.precision, base.device)
    attached = attach(make_view(base), config)
    model, optimizer = accelerator.prepare(attached, make_optimizer(attached, config))
    return TrainingObjects(model, optimizer, make_scheduler(optimizer, config, steps), accelerator)


def rate(progress: list[Progress]) -> float:
    """Examples a second of some trials together, whose seconds are shares of one clock, or follow one another."""
    examples = sum(p.examples - p.first_examples for p in progress)
    return examples / sum(p.seconds - p.first_seconds for p in progress)


def alone(base: Base, dims: Dimensions, config: TrialConfig, steps: int, tokens: int) -> float:
    """Examples a second of one trial, and nothing beside it."""
    objects, stream = prepared(base, config, steps), steps_of(dims, config, tokens, config.precision)
    return rate([next(train(objects, stream, Budget(steps=steps), [steps], 1.0))])


def packed(base: Base, dims: Dimensions, configs: list[TrialConfig], steps: int, tokens: int) -> tuple[float, int]:
    """Examples a second of all of some trials in one pass, and the peak of memory in bytes."""
    done: list[Progress] = []

    def trial(config: TrialConfig) -> Trial[Finished]:
        objects, stream = prepared(base, config, steps), steps_of(dims, config, tokens, config.precision)
        usage = PackedUsage(Clock(base.device), SharedPeakMemory(base.device))
        events = training_loop(objects, stream, Budget(steps=steps), [steps], 1.0, usage.clock, Progress())
        loss = None
        while isinstance(event := next_event(events, loss), Step):
            loss = yield GradientRequest(event, objects.model, config, objects.accelerator, usage)
        assert isinstance(event, Progress)
        done.append(event)
        return Finished(result=TrialResult(state="complete", rungs=(), cost=None))

    before = process_memory(base.device)
    channel, context = SimpleNamespace(send=lambda answer, lane: None), SimpleNamespace(base=base, pad_token=0)
    pack = PackedTraining(channel, context, PackedModel(base), before)  # type: ignore[arg-type]
    reset_peak_memory(base.device)
    with tempfile.TemporaryDirectory() as folder:
        for lane, config in enumerate(configs, start=1):
            pack.trials[lane] = PackedTrial(lane, Path(folder), trial(config), RandomState(base.device))
            pack.advance(pack.trials[lane], None)
        while pack.trials:
            pack.step()
            peak = torch.cuda.max_memory_reserved(base.device) if base.device.type == "cuda" else 0
    return rate(done), peak


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="openai/whisper-small", choices=["toy", "demo", *OFFICIAL])
    options.add_argument("--trials", type=int, nargs="+", default=[2, 4, 8], help="numbers of trials in one pass")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=64, help="label tokens of each transcript")
    options.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="default: bf16 on a GPU, else fp32")
    options.add_argument("--output", type=Path, help="a JSON file for the figures")
    given = options.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = given.precision or ("bf16" if device.type == "cuda" else "fp32")
    dims = TOY if given.model == "toy" else dimensions(given.model)
    tokens = min(given.tokens, dims.max_target_positions - 4)
    shared = LORA | {"precision": precision, "per_device_train_batch_size": given.batch}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(random_model(dims, Path(folder)), device)
        for kind, fields in KINDS.items():
            configs = [
                TrialConfig.model_validate(shared | fields | {"r": 8 << place % 3, "lora_dropout": 0.1 * (place % 2)})
                for place in range(max(given.trials))
            ]
            rates: dict[int, list[float]] = {1: [], **{number: [] for number in given.trials}}
            peaks = dict.fromkeys(rates, 0)
            for _ in range(given.rounds):
                for number in rates:
                    if number == 1:
                        rates[1].append(alone(base, dims, configs[1 % len(configs)], given.steps, tokens))
                    else:
                        found, peaks[number] = packed(base, dims, configs[:number], given.steps, tokens)
                        rates[number].append(found)
            figures[kind] = {n: {"samples_per_second": statistics.median(r), "rounds": r} for n, r in rates.items()}
            for number, row in figures[kind].items():
                row |= {"gain": row["samples_per_second"] / figures[kind][1]["samples_per_second"]}
                row |= {"peak_bytes": peaks[number] or None}
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    about = {"model": given.model, "device": where, "precision": precision, "batch": given.batch, "tokens": tokens}
    if given.output:
        given.output.write_text(json.dumps(about | {"kinds": figures}, indent=1) + "\n", encoding="utf-8")
    show(about, figures)
    return 0


def show(about: dict[str, Any], figures: dict[str, Any]) -> None:
    """The figures as a table."""
    console = Console(soft_wrap=True)
    console.print("{model} on {device}, {precision}, batch {batch}, {tokens} tokens".format(**about), highlight=False)
    table = Table("LoRA in", "trials in one pass", "samples/s of all", "gain", "peak GB", box=None)
    for kind, rows in figures.items():
        for number, row in rows.items():
            peak = f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else ""
            table.add_row(kind, str(number), f"{row['samples_per_second']:.1f}", f"{row['gain']:.2f}", peak)
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
