"""Search Whisper fine-tuning configurations with Optuna, run baselines beside them, and record every run."""

import sys
from argparse import ArgumentParser, Namespace

from harness.command_line import (
    Parser,
    add_cache,
    add_mlflow_uri,
    add_results,
    count,
    fractions,
    number,
    number_or,
    positive,
    setting,
    whole,
)
from harness.errors import run_command
from harness.spec.techniques import STANDARD

SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes", "nsga2")
PRUNERS = ("successive_halving", "hyperband", "median", "patient", "wilcoxon", "none")
LAUNCHERS = ("local", "slurm", "local-jobs")
EXAMPLES = (
    "python run_sweep.py --list",
    "python run_sweep.py --space demo --trials 8",
    "python run_sweep.py --space lora_small --task path/to/folder --trials 30",
    "python run_sweep.py --space lora_small --trials 30 --confirm 3 --refit",
    "python run_sweep.py --space lora_small --trials 30 --preflight",
    "python run_sweep.py --space lora_small --trials 60 --workers 4 --pack 2",
    "python run_sweep.py --status demo",
)


def parser() -> Parser:
    """The command line."""
    options = Parser("run_sweep.py", "--space NAME [options]", __doc__, EXAMPLES)
    add_study(options)
    add_data(options)
    add_search(options)
    add_follow_up_runs(options)
    add_compute(options)
    add_cluster(options)
    add_output(options)
    add_other_actions(options)
    return options


def add_study(options: ArgumentParser) -> None:
    """What runs, and under which name."""
    group = options.add_argument_group("study")
    group.add_argument("--space", metavar="NAME|FILE", help="search space, from search_spaces/ (see --list)")
    group.add_argument(
        "--trials", type=count, metavar="N", default=20, help="total number of trials of the study (default: 20)"
    )
    group.add_argument("--study", metavar="NAME", help="study name (default: SPACE or SPACE-TASK)")
    group.add_argument("--baselines", nargs="+", metavar="NAME", help="baselines, all or none (default: the space's)")
    group.add_argument(
        "--seed", type=whole, default=1, metavar="N", help="random seed of search and training (default: 1)"
    )
    group.add_argument("--timeout", type=number, metavar="SECONDS", help="start no new trial after this time")


def add_data(options: ArgumentParser) -> None:
    """The speech and the base model."""
    group = options.add_argument_group("data and model")
    group.add_argument(
        "--task",
        metavar="NAME|FOLDER|FILE",
        help="a name of tasks/, such as fleurs:language=de_de, or a folder with metadata.csv",
    )
    group.add_argument("--model", metavar="NAME|FOLDER", help="base model, such as openai/whisper-small")
    add_cache(group)


def add_search(options: ArgumentParser) -> None:
    """How configurations are proposed, pruned and bounded."""
    group = options.add_argument_group("search", "--sampler to --max-trainable override the search space's file")
    group.add_argument(
        "--sampler", choices=SAMPLERS, metavar="NAME", help="tpe (default), random, grid, gp, cmaes or nsga2"
    )
    group.add_argument(
        "--pruner",
        choices=PRUNERS,
        metavar="NAME",
        help="successive_halving (default), hyperband, median, patient, wilcoxon or none",
    )
    group.add_argument(
        "--judge", choices=("wer", "loss"), metavar="METRIC", help="metric of early rungs: wer (default) or loss"
    )
    group.add_argument("--objectives", metavar="LIST", help="minimize some of wer,vram,train_time,trainable")
    group.add_argument("--max-vram", metavar="SIZE", help="limit on peak memory, such as 16GB")
    group.add_argument("--max-train-time", metavar="TIME", help="limit on training time per trial, such as 2h")
    group.add_argument("--max-trainable", metavar="COUNT", help="limit on trainable parameters, such as 10M")
    group.add_argument(
        "--warm-start", nargs="+", metavar="STUDY", help="first try the best trials of a study, or: baselines"
    )
    group.add_argument(
        "--tune-baselines",
        type=count,
        metavar="N",
        default=0,
        help="also tune each baseline's learning rate and warm-up with N trials (default: 0)",
    )
    group.add_argument("--patience", type=count, metavar="N", help="stop after N trials without improvement")
    group.add_argument(
        "--budget-gpu-hours", type=number, metavar="H", help="start no new trial after H hours of trials"
    )


def add_follow_up_runs(options: ArgumentParser) -> None:
    """What runs after the search."""
    group = options.add_argument_group("follow-up runs")
    group.add_argument(
        "--confirm",
        type=count,
        metavar="K",
        default=0,
        help="repeat the best K trials and the trained baselines with fresh seeds (default: 0)",
    )
    group.add_argument(
        "--seeds", type=count, metavar="S", default=3, help="number of fresh seeds for --confirm (default: 3)"
    )
    group.add_argument(
        "--data-fractions",
        type=fractions,
        metavar="LIST",
        default=(),
        help="train the best configuration on parts of the data, such as 0.1,0.3,1",
    )
    group.add_argument("--refit", action="store_true", help="train the best configuration on train + validation")


def add_compute(options: ArgumentParser) -> None:
    """How trials use the machine."""
    group = options.add_argument_group("compute")
    group.add_argument(
        "--workers",
        type=number_or("auto"),
        default="auto",
        metavar="N",
        help="trainer processes (default: auto, one per GPU)",
    )
    group.add_argument(
        "--trials-per-gpu", type=positive, default=1, metavar="N", help="trainer processes per GPU (default: 1)"
    )
    group.add_argument(
        "--processes",
        type=positive,
        default=1,
        metavar="N",
        help="data-parallel processes per trial, one GPU each; they multiply the effective batch size (default: 1)",
    )
    group.add_argument(
        "--pack",
        type=number_or("auto", "off"),
        default="auto",
        metavar="N",
        help="LoRA trials per forward and backward pass, auto or off (default: auto)",
    )
    group.add_argument("--compile", action="store_true", help="compile the model: slower start, faster GPU steps")
    group.add_argument(
        "--without",
        nargs="+",
        choices=STANDARD,
        default=(),
        metavar="NAME",
        help=f"turn off optimizations, to measure them: {', '.join(STANDARD)}",
    )


def add_cluster(options: ArgumentParser) -> None:
    """Several machines."""
    group = options.add_argument_group("cluster")
    group.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        metavar="NAME",
        help="local (default), slurm or local-jobs",
    )
    group.add_argument(
        "--slurm",
        type=setting,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="sbatch options, such as partition=gpu",
    )
    group.add_argument(
        "--storage",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE for several machines, without a password (default: a file)",
    )


def add_output(options: ArgumentParser) -> None:
    """What is kept, and where."""
    group = options.add_argument_group("output")
    add_results(group)
    group.add_argument(
        "--keep", type=positive, default=3, metavar="K", help="keep the weights of the best K trials (default: 3)"
    )
    add_mlflow_uri(group)
    group.add_argument("--json", action="store_true", help="with --dry-run: print JSON")


def add_other_actions(options: ArgumentParser) -> None:
    """What the command can do instead of a sweep."""
    group = options.add_argument_group("other actions", "instead of running the sweep")
    group.add_argument("--list", action="store_true", help="list search spaces, tasks, baselines and studies")
    group.add_argument("--status", metavar="STUDY", help="show the progress of a study, running or not")
    group.add_argument("--dry-run", action="store_true", help="print sample configurations and parameter counts")
    group.add_argument("--prepare-only", action="store_true", help="prepare the data without a GPU or weights")
    group.add_argument("--preflight", action="store_true", help="forecast memory and hours from a few training steps")
    group.add_argument("--price-per-hour", type=number, metavar="PRICE", help="with --preflight: forecast the cost")
    group.add_argument("--deadline", type=number, metavar="HOURS", help="with --preflight: check that the sweep fits")


def check(options: Namespace, modes: list[str]) -> str | None:
    """What is wrong with a combination of options, or None."""
    if options.space is None:
        return "--space is required, for example --space demo (see --list)"
    if options.json and not options.dry_run:
        return "--json requires --dry-run"
    if len(modes) > 1:
        return f"--{modes[0]} and --{modes[1]} cannot be combined".replace("_", "-")
    if "preflight" not in modes and (options.price_per_hour is not None or options.deadline is not None):
        return "--price-per-hour and --deadline require --preflight"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the harness."""
    command = parser()
    options = command.parse_args(arguments)
    if options.list:
        from harness.orchestration.listing import print_names

        return run_command(lambda: print_names(options.results))
    if options.status is not None:
        from harness.orchestration.commands import status

        return run_command(lambda: status(options))
    modes = [name for name in ("dry_run", "prepare_only", "preflight") if getattr(options, name)]
    if wrong := check(options, modes):
        command.error(wrong)
    from harness.orchestration import commands

    chosen = getattr(commands, modes[0] if modes else "sweep")
    return run_command(lambda: chosen(options))


if __name__ == "__main__":
    sys.exit(main())
