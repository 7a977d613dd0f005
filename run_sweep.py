"""Tune Whisper on your speech: an Optuna sweep with baselines, every run recorded."""

import argparse
import sys
from pathlib import Path

from harness.errors import reported
from harness.spec.techniques import STANDARD


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="run_sweep.py", description=__doc__)
    options.add_argument("--space", metavar="NAME|FILE", help="what is searched: a file of search_spaces/")
    options.add_argument(
        "--trials", type=count, metavar="N", help="trials the study shall have in all (default 20)", default=20
    )
    options.add_argument(
        "--task",
        metavar="NAME[:OPTION=VALUE,…]|FOLDER|FILE",
        help="speech: a file of tasks/ (fleurs:language=de_de), or a folder with metadata.csv; see docs/data.md",
    )
    options.add_argument("--model", metavar="NAME|FOLDER", help="base model, such as openai/whisper-small, or demo")
    options.add_argument("--study", metavar="NAME", help="name of the study (default: the space's, or SPACE-TASK)")
    options.add_argument(
        "--baselines", nargs="+", metavar="NAME", help="recipes to run beside the trials; all, or none"
    )
    options.add_argument("--seed", type=int, default=1, help="seed of the study and of each training (default 1)")
    options.add_argument(
        "--processes",
        type=positive,
        default=1,
        metavar="N",
        help="data-parallel processes of each trial, one GPU each; they multiply the effective batch (default 1)",
    )
    options.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no new trial after this time")
    options.add_argument(
        "--keep",
        type=positive,
        default=3,
        metavar="K",
        help="trials that keep their weights: the best K on validation (default 3; compare.py --top K decodes as many)",
    )
    options.add_argument(
        "--workers",
        type=workers,
        default="auto",
        metavar="N",
        help="trials at the same time, each on a trainer of its own (default auto: one a GPU, on a CPU one)",
    )
    options.add_argument(
        "--pack",
        type=pack,
        default="auto",
        metavar="N|auto|off",
        help="LoRA trials that one trainer trains in one pass (default auto: on a GPU, where it should pay)",
    )
    options.add_argument(
        "--trials-per-gpu", type=positive, default=1, metavar="N", help="trainers that share a GPU (default 1)"
    )
    options.add_argument(
        "--launcher",
        choices=("local", "slurm", "local-jobs"),
        default="local",
        help="where workers run: trainers of this command (default), jobs of Slurm, or jobs on this machine",
    )
    options.add_argument(
        "--slurm", type=setting, nargs="+", default=[], metavar="KEY=VALUE", help="for sbatch, such as partition=gpu"
    )
    options.add_argument(
        "--storage",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE instead of a file, for several machines; never with the password in it",
    )
    options.add_argument(
        "--mlflow-uri", metavar="URL", help="a tracking server for the mirror (default MLFLOW_TRACKING_URI, or a file)"
    )
    search(options.add_argument_group("search", "replace what the space says; see docs/sweeps.md"))
    options.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    options.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="prepared features (default: the user's cache)"
    )
    options.add_argument(
        "--compile",
        action="store_true",
        help="train on compiled layers: costs a minute or more, and pays on a GPU in long sweeps, if at all",
    )
    options.add_argument(
        "--without",
        nargs="+",
        choices=STANDARD,
        default=(),
        metavar="TECHNIQUE",
        help=f"leave out what makes trials fast, to see what it is worth: {', '.join(STANDARD)} (docs/performance.md)",
    )
    options.add_argument(
        "--prepare-only", action="store_true", help="prepare the data, report it, and stop: needs no GPU and no weights"
    )
    options.add_argument(
        "--dry-run", action="store_true", help="print sampled configurations and parameter counts only"
    )
    options.add_argument(
        "--preflight",
        action="store_true",
        help="run the heaviest configuration and the baselines for four steps, forecast memory and hours, and stop",
    )
    options.add_argument("--price-per-hour", type=float, metavar="PRICE", help="with --preflight: forecast the cost")
    options.add_argument("--deadline", type=float, metavar="HOURS", help="with --preflight: whether the sweep fits")
    options.add_argument("--json", action="store_true", help="with --dry-run: one JSON list")
    options.add_argument("--status", metavar="STUDY", help="how a study stands, while it runs anywhere or not")
    options.add_argument("--list", action="store_true", help="list spaces, tasks, baselines and studies")
    return options


def search(options: argparse._ArgumentGroup) -> None:
    """How configurations are proposed, stopped and bounded."""
    options.add_argument("--sampler", choices=("tpe", "random", "grid", "gp", "cmaes", "nsga2"), help="default: tpe")
    options.add_argument(
        "--pruner",
        choices=("successive_halving", "hyperband", "median", "patient", "wilcoxon", "none"),
        help="default: successive_halving (ASHA)",
    )
    options.add_argument("--judge", choices=("wer", "loss"), help="what rungs before the last are judged on")
    options.add_argument("--max-vram", metavar="SIZE", help="a trial that needs more memory is infeasible: 16GB")
    options.add_argument("--max-train-time", metavar="TIME", help="a trial that trains longer is infeasible: 2h")
    options.add_argument("--max-trainable", metavar="COUNT", help="more trainable parameters are infeasible: 10M")
    options.add_argument("--objectives", metavar="LIST", help="what is minimised: wer,vram,train_time,trainable")
    options.add_argument(
        "--warm-start", nargs="+", metavar="STUDY|baselines", help="begin with these configurations, as far as they fit"
    )
    options.add_argument(
        "--tune-baselines",
        type=count,
        metavar="N",
        default=0,
        help="search learning rate and warm-up of each trained baseline too, with N trials: the same tuning budget",
    )
    options.add_argument(
        "--confirm", type=count, metavar="K", default=0, help="run the best K and every trained baseline again"
    )
    options.add_argument(
        "--seeds", type=count, metavar="S", default=3, help="with --confirm: with so many fresh seeds (default 3)"
    )
    options.add_argument(
        "--refit", action="store_true", help="train the winner once more on train and validation, for use"
    )
    options.add_argument(
        "--data-fractions",
        type=fractions,
        metavar="LIST",
        default=(),
        help="train the winner's settings on parts of the data too, for WER against hours: 0.1,0.3,1",
    )
    options.add_argument("--patience", type=count, metavar="N", help="stop after N trials without a better one")
    options.add_argument(
        "--budget-gpu-hours", type=float, metavar="H", help="begin no new trial after H hours of trials"
    )


def count(text: str) -> int:
    """A whole number, not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def fractions(text: str) -> tuple[float, ...]:
    """Parts of the data, each above 0 and at most 1, in ascending order."""
    values = sorted({float(part) for part in text.split(",")})
    if not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of fractions such as 0.1,0.3,1")
    return tuple(values)


def workers(text: str) -> str:
    """A number of workers, or auto."""
    return text if text == "auto" else str(positive(text))


def pack(text: str) -> str:
    """A number of trials, auto or off."""
    return text if text in ("auto", "off") else str(positive(text))


def setting(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the harness."""
    command = parser()
    options = command.parse_args(arguments)
    if options.list:
        from harness.orchestration.commands import print_names

        return reported(lambda: print_names(options.results))
    if options.status is not None:
        from harness.orchestration.commands import status

        return reported(lambda: status(options))
    if options.space is None:
        command.error("--space is needed, for example --space demo (see --list)")
    if options.json and not options.dry_run:
        command.error("--json goes with --dry-run")
    modes = [name for name in ("dry_run", "prepare_only", "preflight") if getattr(options, name)]
    if len(modes) > 1:
        command.error(f"--{modes[0]} and --{modes[1]} exclude each other".replace("_", "-"))
    if "preflight" not in modes and (options.price_per_hour is not None or options.deadline is not None):
        command.error("--price-per-hour and --deadline go with --preflight")
    from harness.orchestration import commands

    chosen = getattr(commands, modes[0] if modes else "sweep")
    return reported(lambda: chosen(options))


if __name__ == "__main__":
    sys.exit(main())
