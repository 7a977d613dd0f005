"""A trainer without tensors: it speaks the protocol, takes a moment for each rung, and keeps checkpoints.

The error of a trial follows from its settings alone, so that two studies can be compared. The files that a real
trial writes are written in the same order.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from harness.errors import DISK_FULL, is_disk_full
from harness.records.files import write_json
from harness.spec.messages import Decide, Failed, Finished, Open, Ready, Refused, Report, Train, order_adapter
from harness.spec.result import Cost, Rung, Scores, TrialResult

JOB_RUNGS = int(os.environ.get("FAKE_JOB_RUNGS", "0"))  # new rungs after which the job is killed; 0: never
STEP = float(os.environ.get("FAKE_SECONDS", "0.02"))
SPLIT = {"utterances": 1, "seconds": 1.0, "speakers": 1, "hash": "h"}
REPORT = {"splits": dict.fromkeys(("train", "validation", "test"), SPLIT), "sources": {}, "excluded": {},
          "excluded_clips": [], "notes": [], "languages": ["en"]}  # fmt: skip


def send(answer) -> None:
    print(answer.model_dump_json(), flush=True)


def receive():
    line = sys.stdin.readline()
    return order_adapter.validate_json(line) if line else sys.exit(0)


def mid_rung() -> None:
    """Where a test may stop this process."""
    time.sleep(STEP)


def on_part() -> None:
    """The same, of a run on a part of the data."""


def refit(order: Train) -> TrialResult:
    """What trains on validation too reports no rung."""
    mid_rung()
    (Path(order.attempt) / "weights").mkdir()
    (Path(order.attempt) / "transcripts.jsonl").write_text("")
    return TrialResult(state="complete", rungs=(), cost=cost_of(order.budget.examples))


def checkpoint(attempt: Path, rungs: list[Rung], found: str) -> None:
    folder = attempt / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / f"state-{len(rungs)}").write_text(found)
    write_json(folder / "rungs.json", [rung.model_dump(mode="json") for rung in rungs])


def rung_of(order: Train, index: int, found: str) -> Rung:
    """What is found depends on all rungs before, through the state."""
    error = (order.config.learning_rate or 0) * 100 + (order.config.r or 0) / 100 + 1 / (index + 2) + len(found) / 1e3
    scores = Scores(wer=error, wer_raw=error, cer=error, insertions=0, deletions=0, substitutions=error, utterances=1,
                    reference_words=1, normalizer="none")  # fmt: skip
    examples = round(order.budget.examples * order.budget.rungs[index])
    return Rung(index=index, step=examples // 8, examples=examples, train_loss=error, loss=error, scores=scores,
                train_seconds=(index + 1) * STEP, evaluation_seconds=0)  # fmt: skip


def train(order: Train) -> TrialResult:
    if order.portion.with_validation:
        return refit(order)
    attempt, rungs, found = Path(order.attempt), [], ""
    (attempt / "log.txt").write_text("")
    if order.resume:
        kept = Path(order.resume)
        rungs = [Rung.model_validate(rung) for rung in json.loads((kept / "rungs.json").read_text())]
        found = (kept / f"state-{len(rungs)}").read_text()
        checkpoint(attempt, rungs, found)
    new = 0
    last, state = (0 if order.config.method == "none" else len(order.budget.rungs) - 1), "complete"
    while True:
        if rungs:
            send(Report(rung=rungs[-1], last=rungs[-1].index == last))
            if rungs[-1].index == last:
                break
            answer = receive()
            if not (isinstance(answer, Decide) and answer.go_on):
                state = "pruned"
                break
        mid_rung()
        if not order.portion.whole:
            on_part()
        found += "x"
        rungs.append(rung_of(order, len(rungs), found))
        checkpoint(attempt, rungs, found)
        if JOB_RUNGS and (new := new + 1) == JOB_RUNGS:
            os.kill(os.getppid(), signal.SIGKILL)
    (attempt / "transcripts.jsonl").write_text("")
    if state == "complete" and order.config.method != "none":
        (attempt / "weights").mkdir()
        (attempt / "weights" / "adapter").write_text(found)
    return TrialResult(state=state, rungs=tuple(rungs), cost=cost_of(rungs[-1].examples))


def cost_of(examples: int) -> Cost:
    return Cost(steps=examples // 8, examples=examples, train_seconds=STEP, evaluation_seconds=0, peak_memory_bytes=1,
                memory_kind="process_rss", trainable_parameters=1, total_parameters=2, adapter_bytes=1)  # fmt: skip


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        order = receive()
        if isinstance(order, Open):
            send(Ready(device="cpu", environment={"device_name": "none", "threads": 1}, data=REPORT))
        elif isinstance(order, Train):
            try:
                send(Finished(result=train(order)))
            except OSError as error:
                send(Refused(message=DISK_FULL) if is_disk_full(error) else Failed(reason=str(error), poisoned=True))


if __name__ == "__main__":
    main()
