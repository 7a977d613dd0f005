"""How fast a sweep is: the same trials by the plain recipe, by one process that reloads its base, and by the harness.

    python -m benchmarks.sweep                                  # the demo, two scopes, three rounds
    python -m benchmarks.sweep --task FOLDER --examples 2400    # other speech
    python -m benchmarks.sweep --ablate                         # each technique left out too
    python -m benchmarks.sweep --model random-small             # on a GPU: whisper-small's sizes, random weights
    python -m benchmarks.sweep --model random-toy --rounds 1    # on a CPU, to see that it runs

Arms: `plain` is benchmarks/plain.py, one process a trial, as the tutorials write it; `reload` is the harness's own loop
in one process that loads its base anew for each trial and keeps nothing of the encoder; `harness` is run_sweep.py,
all of it; `no encoder_cache` and the others of its kind leave that one technique out, `compile` takes it on (--ablate).
Every arm trains the same configurations, a grid of rank and learning rate, on the same examples in the same order for
the same steps, and decodes validation once at the end; each begins with empty caches. Rounds are interleaved and their
order rotated; medians are printed.

The gate: `reload`, `harness` and `no encoder_cache` must agree in every loss, to the last bit on a CPU in fp32, and in
every transcript; the other techniques round elsewhere. `plain` divides its loss and draws its dropout elsewhere, and
`compile` draws it elsewhere, so that they agree only about.
"""

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.arms import ARMS, GRIDS, RANDOM, Arm, Job, made
from harness.hardware.matmul_rate import matmul_rate, matmul_share
from harness.spec.trial import Precision

SECONDS_BETWEEN_LOOKS = 0.5
ROUNDING = 1e-5  # of a loss
USUAL = ["plain", "reload", "harness", "no encoder_cache"]


@contextmanager
def memory_watched() -> Iterator[list[int]]:
    """Bytes of all processes below this one, at each look; what several of them map counts once (PSS)."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            seen.append(sum(map(_resident, psutil.Process().children(recursive=True))))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def measure(arm: Arm, job: Job) -> dict[str, Any]:
    """One arm once, with empty caches: wall and CPU seconds and peak memory of all its processes, and its trials."""
    job.context(job.folder / "listing")  # what the driver itself needs is there before the clock starts
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        cpu, began = _child_seconds(), time.perf_counter()
        with memory_watched() as seen:
            trials = arm(job, Path(folder))
        wall, cpu = time.perf_counter() - began, _child_seconds() - cpu
        return {"wall": wall, "cpu": cpu, "memory": max(seen), "trials": trials}


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Whether each arm's losses and transcripts are those of `reload`; how far the plain recipe's are."""
    said = dict[str, str]()
    truth = rounds["reload"][0]["trials"]
    for name, runs in rounds.items():
        pairs = [(run["trials"][point], trial) for run in runs for point, trial in truth.items()]
        losses = max(abs(a.loss / b.loss - 1) for a, b in pairs)
        if all((a.loss, a.texts) == (b.loss, b.texts) for a, b in pairs):
            said[name] = "equal"
        elif losses < ROUNDING and all(a.texts == b.texts for a, b in pairs):
            said[name] = "to rounding"
        else:
            rates = max(abs(a.wer - b.wer) for a, b in pairs)
            said[name] = f"loss {losses:.1%}, WER {100 * rates:.1f} points"
    return said


def summary(name: str, runs: Sequence[dict[str, Any]], base: dict[str, float], rate: float) -> dict[str, Any]:
    """Medians of an arm, and the ratios to the plain recipe."""
    wall, cpu = (statistics.median(run[kind] for run in runs) for kind in ("wall", "cpu"))
    row: dict[str, Any] = {"arm": name, "wall": wall, "cpu": cpu, "trials": len(runs[0]["trials"])}
    row["memory"] = max(run["memory"] for run in runs)
    row |= {"wall_ratio": base["wall"] / wall, "cpu_ratio": base["cpu"] / cpu}
    if name != "plain":
        seen = [trial for run in runs for trial in run["trials"].values()]
        trained = statistics.median(sum(trial.train_seconds for trial in run["trials"].values()) for run in runs)
        judged = statistics.median(sum(trial.evaluation_seconds for trial in run["trials"].values()) for run in runs)
        share = matmul_share(statistics.median(trial.flops / trial.train_seconds for trial in seen), rate)
        row |= {"train": trained, "evaluation": judged, "rest": wall - trained - judged, "matmul_share": share}
    return row


def show(scope: str, rows: list[dict[str, Any]], gate: dict[str, str], console: Console) -> None:
    """The table of one scope."""
    table = Table(title=f"LoRA in {'encoder and decoder' if scope == 'both' else 'the decoder'}, seconds", box=None)
    for column in ("arm", "wall", "CPU", "train", "evaluate", "rest", "of matmul rate", "GB", "faster", "results"):
        table.add_column(column, justify="left" if column in ("arm", "results") else "right", no_wrap=True)
    for row in rows:
        known = "train" in row
        parts = [f"{row[key]:.1f}" if known else "" for key in ("train", "evaluation", "rest")]
        share = f"{row['matmul_share']:.0%}" if row.get("matmul_share") else ""
        memory = f"{row['memory'] / 1e9:.2f}"
        times = f"{row['wall_ratio']:.2f}x wall, {row['cpu_ratio']:.2f}x CPU"
        seconds = [f"{row[key]:.1f}" for key in ("wall", "cpu")]
        table.add_row(row["arm"], *seconds, *parts, share, memory, times, gate[row["arm"]])
    console.print(table)


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a name, a folder, or " + ", ".join(RANDOM))
    parser.add_argument("--task", default="demo")
    parser.add_argument("--examples", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scopes", nargs="+", choices=("both", "decoder"), default=["both", "decoder"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=USUAL)
    parser.add_argument("--ablate", action="store_true", help="all arms")
    parser.add_argument("--grid", choices=GRIDS, default="four")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    arms = list(ARMS) if options.ablate else options.arms
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision: Precision = "bf16" if device.type == "cuda" else "fp32"
    rate = matmul_rate(device, precision)
    console, results = Console(width=140), list[dict[str, Any]]()
    console.print(f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s of large products on {device.type}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made(options.model, folder / "model") if options.model in RANDOM else options.model
        for scope in options.scopes:
            job = Job(model, options.task, scope, options.examples, options.grid, folder)
            rounds: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
            for number in range(options.rounds):
                turn = number % len(arms)
                for arm in arms[turn:] + arms[:turn]:
                    rounds[arm].append(measure(ARMS[arm], job))
                    console.print(f"  {scope}, round {number + 1}, {arm}: {rounds[arm][-1]['wall']:.1f} s")
            rate = max(rate, matmul_rate(device, precision))  # other work can only slow the products down
            base = {kind: statistics.median(run[kind] for run in rounds[arms[0]]) for kind in ("wall", "cpu")}
            rows = [summary(arm, runs, base, rate) for arm, runs in rounds.items()]
            gate = check(rounds) if "reload" in rounds else dict.fromkeys(rounds, "")
            show(scope, rows, gate, console)
            results += [row | {"scope": scope, "results": gate[row["arm"]]} for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps({"matmul_flops": rate, "rows": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
