"""What each way to train costs on this device: speed, peak memory, and the share of the device's arithmetic.

    python -m benchmarks.gpu_trial                       # whisper-small's sizes, on a GPU
    python -m benchmarks.gpu_trial --model openai/whisper-large-v2 --only int8
    python -m benchmarks.gpu_trial --model toy           # on a CPU, to see that it runs

Weights and data are random, of true size: neither changes speed or memory. Transcripts are forced to one length. Each
setting trains a few steps in this process by the harness's own loop; the rate is that of the steps after the first
two. The ceiling is what this device reaches multiplying large matrices in the same precision.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from harness import catalog
from harness.data.batches import Batch, Step
from harness.hardware.clock import Clock
from harness.hardware.matmul_rate import matmul_rate, matmul_share
from harness.hardware.memory import PeakMemory, is_out_of_memory
from harness.model.base import Base, load_base
from harness.model.methods import attach, detach
from harness.model.optimizers import eight_bit_share, make_optimizer, make_scheduler
from harness.model.trial_settings import apply_trial_settings
from harness.model_size.flops import training_flops
from harness.model_size.parameters import OFFICIAL, POSITIONS_PER_SECOND, Dimensions
from harness.spec.budget import Budget
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator
from harness.training.loop import DivergedError, Progress, TrainingObjects, train

TOY = Dimensions(64, 2, 2, 128, 128, 1000, max_source_positions=100, max_target_positions=64)
LORA = {"method": "lora", "r": 32, "alpha_over_r": 2, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
FULL = {"method": "full", "learning_rate": 1e-5}
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"lora {precision}": LORA | {"precision": precision} for precision in ("fp32", "tf32", "bf16", "fp16")},
    "lora bf16 decoder only": LORA | {"precision": "bf16", "scope": "decoder"},
    "lora bf16 checkpointing": LORA | {"precision": "bf16", "gradient_checkpointing": True},
    "lora bf16 all-linear": LORA | {"precision": "bf16", "target_modules": "all-linear"},
    "lora bf16 dora": LORA | {"precision": "bf16", "use_dora": True},
    **{f"full {precision}": FULL | {"precision": precision} for precision in ("fp32", "tf32", "bf16", "fp16")},
    "full fp16 8-bit adam": FULL | {"precision": "fp16", "optim": "adamw_8bit"},
    "full fp16 paged 8-bit adam": FULL | {"precision": "fp16", "optim": "paged_adamw_8bit"},
    "full fp16 adafactor": FULL | {"precision": "fp16", "optim": "adafactor"},
    "full fp16 8-bit adam checkpointing": FULL
    | {"precision": "fp16", "optim": "adamw_8bit", "gradient_checkpointing": True},
    "full bf16 checkpointing": FULL | {"precision": "bf16", "gradient_checkpointing": True},
    "frozen encoder bf16": FULL | {"method": "frozen_encoder", "precision": "bf16"},
    "lora fp16 on int8": LORA | {"precision": "fp16", "base_weights": "int8"},
    "lora bf16 on nf4": LORA | {"precision": "bf16", "base_weights": "nf4"},
    "lora bf16 on nf4 double": LORA | {"precision": "bf16", "base_weights": "nf4_double"},
}


def random_model(dims: Dimensions, folder: Path) -> str:
    """A Whisper of these sizes with random weights, as a folder that loads like any other."""
    heads = max(1, dims.d_model // 64)
    config = WhisperConfig(
        d_model=dims.d_model,
        encoder_layers=dims.encoder_layers,
        decoder_layers=dims.decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=dims.encoder_ffn_dim,
        decoder_ffn_dim=dims.decoder_ffn_dim,
        vocab_size=dims.vocab_size,
        num_mel_bins=dims.num_mel_bins,
        max_source_positions=dims.max_source_positions,
        max_target_positions=dims.max_target_positions,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperProcessor.from_pretrained(catalog.model_location("demo")).save_pretrained(folder)
    return str(folder)


def random_steps(dims: Dimensions, config: TrialConfig, tokens: int) -> Iterator[Step]:
    """Steps of random windows with `tokens` label tokens each, the same ones for all settings."""
    generator = torch.Generator().manual_seed(0)
    size, frames = config.per_device_train_batch_size, 2 * dims.max_source_positions
    mel = torch.randn(size, dims.num_mel_bins, frames, generator=generator)
    labels = torch.randint(2, dims.vocab_size, (size, tokens), generator=generator)
    batch = Batch(mel, labels.roll(1, dims=1), labels)
    while True:
        yield Step([batch] * config.gradient_accumulation_steps, config.effective_batch_size, batch.label_tokens)


def measure(base: Base, dims: Dimensions, config: TrialConfig, steps: int, tokens: int) -> dict[str, Any]:
    """Train for some steps; what it took, or why it did not work."""
    budget, peaks = Budget(steps=steps), PeakMemory(base.device)
    accelerator = make_accelerator(config.precision, base.device)
    found: dict[str, Any] = {}
    model = attach(base, config)
    try:
        with apply_trial_settings(base, config):
            prepared, optimizer = accelerator.prepare(model, make_optimizer(model, config))
            scheduler = make_scheduler(optimizer, config, steps)
            peaks.enter("train")
            stream = random_steps(dims, config, tokens)
            objects = TrainingObjects(prepared, optimizer, scheduler, accelerator)
            progress = next(train(objects, stream, budget, [steps], config.max_grad_norm))
            peaks.enter(None)
            found = _rates(dims, config, progress) | {"optimizer_8bit_share": eight_bit_share(optimizer)}
            accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    except Exception as error:
        if not (is_out_of_memory(error) or isinstance(error, DivergedError)):
            raise
        found = {"failed": "out of memory" if is_out_of_memory(error) else str(error)}
    finally:
        model.__dict__.pop("_is_accelerate_prepared", None)
        detach(base, model)
    return found | {
        "peak_bytes": peaks.reserved.get("train"),
        "peak_allocated_bytes": peaks.allocated.get("train"),
        "memory_kind": peaks.kind,
    }


def _rates(dims: Dimensions, config: TrialConfig, progress: Progress) -> dict[str, Any]:
    seconds, examples = progress.seconds - progress.first_seconds, progress.examples - progress.first_examples
    flops = training_flops(dims, config, progress.examples, progress.label_tokens) / progress.examples
    return {
        "samples_per_second": examples / seconds,
        "flops_per_second": examples / seconds * flops,
        "joules_per_sample": None if progress.joules is None else progress.joules / progress.examples,
        "loss": progress.loss,
    }


def decoding_rate(base: Base, dims: Dimensions, batch: int, tokens: int, precision: str) -> float:
    """RTFx of greedy generation of `tokens` tokens for each of `batch` windows, after a warm-up."""
    accelerator, clock = make_accelerator(precision, base.device), Clock(base.device)
    mel = torch.randn(batch, dims.num_mel_bins, 2 * dims.max_source_positions, device=base.device)
    start = torch.full((batch, 1), 1, device=base.device)
    base.model.generation_config.eos_token_id = None  # random weights end where they like, or never
    for timed in (False, True):
        with torch.inference_mode(), accelerator.autocast():
            if timed:
                clock.start()
            states = base.model.model.encoder(mel)
            base.model.generate(
                encoder_outputs=states, decoder_input_ids=start, max_new_tokens=tokens, min_new_tokens=tokens
            )
    clock.stop()
    return batch * dims.max_source_positions / POSITIONS_PER_SECOND / clock.seconds


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="openai/whisper-small", choices=["toy", *OFFICIAL])
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--tokens", type=int, default=64, help="label tokens of each transcript")
    options.add_argument("--only", default="", help="settings whose name contains this")
    options.add_argument("--output", type=Path, help="a JSON file for the figures")
    given = options.parse_args(arguments)
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    dims = TOY if given.model == "toy" else OFFICIAL[given.model]
    tokens = min(given.tokens, dims.max_target_positions - 4)
    rows: dict[str, dict[str, Any]] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        name = random_model(dims, Path(folder))
        base: Base | None = None
        for setting, fields in SETTINGS.items():
            config = TrialConfig.model_validate(fields | {"per_device_train_batch_size": given.batch})
            if given.only not in setting or config.refused_on(device.type):
                continue
            if base is None or base.weights != config.base_weights:
                del base
                base = load_base(name, device, config.base_weights)
            rows[setting] = measure(base, dims, config, given.steps, tokens) | {"precision": config.precision}
            # The highest counts: other work on the machine can only slow the products down.
            rates[config.precision] = max(rates.get(config.precision, 0.0), matmul_rate(device, config.precision))
        decoding = "fp32" if device.type == "cpu" else "bf16"
        rtfx = decoding_rate(load_base(name, device), dims, given.batch, tokens, decoding)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    figures = {"model": given.model, "device": where, "batch": given.batch, "tokens": tokens, "matmul_flops": rates}
    for row in rows.values():
        row["share_of_ceiling"] = matmul_share(row.get("flops_per_second", 0.0), rates[row["precision"]])
    figures |= {"settings": rows, "decoding": {"precision": decoding, "rtfx": rtfx}}
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    show(figures)
    return 0


def show(figures: dict[str, Any]) -> None:
    """The figures as a table."""
    console = Console(soft_wrap=True)
    console.print(
        f"{figures['model']} on {figures['device']}, batch {figures['batch']}, {figures['tokens']} tokens; "
        + ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in figures["matmul_flops"].items()),
        highlight=False,
    )
    table = Table("setting", "samples/s", "peak GB", "of the ceiling", "8-bit state", "J a sample", box=None)
    for name, row in figures["settings"].items():
        peak = f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else ""
        if "failed" in row:
            table.add_row(name, row["failed"], peak, "", "", "")
            continue
        share, energy = row["optimizer_8bit_share"], row["joules_per_sample"]
        table.add_row(
            name,
            f"{row['samples_per_second']:.1f}",
            peak,
            "" if row["share_of_ceiling"] is None else f"{row['share_of_ceiling']:.0%}",
            "" if share is None else f"{share:.0%}",
            "" if energy is None else f"{energy:.2f}",
        )
    console.print(table)
    console.print(
        f"decoding in {figures['decoding']['precision']}: RTFx {figures['decoding']['rtfx']:.0f}", highlight=False
    )


if __name__ == "__main__":
    raise SystemExit(main())
