"""Run one trial on the base model: train and evaluate a configuration, and retry when memory runs out."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from harness.hardware.memory import is_cuda_error, is_out_of_memory, reset_peak_memory
from harness.model.batched_lora import make_view
from harness.records.study_folder import write_transcripts
from harness.spec.messages import Finished, Train
from harness.spec.result import OUT_OF_MEMORY, TrialResult
from harness.training.context import TrainerContext, check_window, make_labels
from harness.training.trial_protocol import Trial
from harness.training.trial_run import TrialRun


def run_trial(context: TrainerContext, order: Train) -> Trial[Finished]:
    """Train and evaluate one configuration; `harness.training.trial_protocol` lists what it yields and is sent.

    Afterwards the base model is unchanged. The attempt folder holds transcripts.jsonl of the last rung and weights/,
    and while the trial runs checkpoint/. A packed trial uses its own view of the base.

    Out of memory is a result, not an error. Before that, the trial resumes from its last checkpoint, or starts again:
    first without encoder states in GPU memory, then, with `auto_micro_batch`, with half the micro-batch and twice the
    gradient accumulation, which keeps the effective batch. An odd micro-batch cannot be halved.

    Args:
        context: The trainer's context.
        order: The configuration, budget, seed and folders.
    """
    attempt, config, reported = Path(order.attempt), order.config, 0
    check_window(context.speech, config)
    context = replace(context, speech=replace(context.speech, portion=order.portion))
    if not config.leading_space:
        context = replace(context, labels=make_labels(context.base, context.speech, context.task, leading_space=False))
    while True:
        own_context = replace(context, base=make_view(context.base)) if order.packed else context
        run = TrialRun(own_context, order, config, reported)
        try:
            result = yield from run.execute()
            shutil.rmtree(attempt / "checkpoint", ignore_errors=True)
            return Finished(result=result)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if run.processes > 1:  # the other processes wait for this one: all must end, and the file says why
                (attempt / OUT_OF_MEMORY).write_text(str(error), encoding="utf-8")
                raise
            poisoned = is_cuda_error(error)
            message = f"{type(error).__name__}: {error}"  # the exception itself would keep the model alive
        reported, smaller = run.reported, run.config.with_half_batch() if config.auto_micro_batch else None
        del run, own_context
        if not poisoned and context.encoder_cache.release_gpu_memory():
            print("out of memory; retrying without encoder states in GPU memory", file=sys.stderr)
            reset_peak_memory(context.base.device)
            continue
        if poisoned or smaller is None:
            print(message, file=sys.stderr)
            write_transcripts(attempt / "transcripts.jsonl", [])
            return Finished(result=TrialResult.out_of_memory(), poisoned=poisoned)
        reset_peak_memory(context.base.device)
        size = smaller.per_device_train_batch_size
        print(f"out of memory; retrying with a micro-batch of {size}", file=sys.stderr)
        config = smaller
