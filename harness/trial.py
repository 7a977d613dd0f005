"""One trial on the resident base: a configuration and a seed in, rungs and a result out."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from torch import nn

from harness import catalog
from harness.data.augment import augmented_features
from harness.data.batches import (
    Batch,
    chunks,
    collate,
    example_order,
    label_ids,
    length_order,
    occurrences,
    prefetched,
)
from harness.data.features import Speech
from harness.data.waveforms import open_waveforms
from harness.evaluate import Decoding, transcribe, validation_loss
from harness.meter import Clock, host_peak_memory, is_out_of_memory, peak_memory, reset_peak_memory
from harness.metrics import score, word_errors
from harness.model.base import Base, load_base
from harness.model.method import attach, count_parameters, detach, save
from harness.model.optimizers import eight_bit_share, make_optimizer, make_scheduler
from harness.model.regularize import shaped, window_frames
from harness.record import write_transcripts
from harness.spec.judging import Judging
from harness.spec.messages import Partial, Report, Train
from harness.spec.result import Cost, Rung, Scores, State, Transcript, TrialResult
from harness.spec.task import Task
from harness.spec.trial import BaseWeights, Precision, TrialConfig
from harness.train import DivergedError, Progress, train

EVALUATION_BATCH = 32
Conversed = Report | Partial
PROMPT_TOKENS = 4  # start of transcript, language, task, no timestamps


@dataclass(frozen=True)
class Bench:
    """What all trials of a trainer share: the base, the prepared speech, its labels, and how it is decoded."""

    base: Base
    speech: Speech
    task: Task
    labels: list[list[int]]
    decoding: Decoding

    @property
    def pad(self) -> int:
        """The token that fills a batch; it is never in the loss."""
        return int(self.base.processor.tokenizer.pad_token_id)

    def on(self, weights: BaseWeights) -> Self:
        """The same bench with the base in these weights, loaded anew where it is in others."""
        if weights == self.base.weights:
            return self
        return replace(self, base=load_base(self.base.name, self.base.device, weights))


def decoding_of(bench: Bench, config: TrialConfig) -> Decoding:
    """The decoding that all systems share, in which a configuration may leave the language to be detected."""
    return replace(bench.decoding, forced_language=config.forced_language)


def make_bench(base: Base, speech: Speech, task: Task) -> Bench:
    """Tokenise the transcripts; decoding may take twice the longest training label, within the model's own limit."""
    labels = [label_ids(base.processor.tokenizer, u.text, u.language, task.task) for u in speech.utterances]
    longest = max(len(labels[row]) for row in speech.rows("train"))
    limit = min(2 * longest, base.model.config.max_target_positions - PROMPT_TOKENS)
    return Bench(base, speech, task, labels, Decoding(EVALUATION_BATCH, limit, task.task))


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """An Accelerator in this precision; the one of the trial before is forgotten, or a second precision would raise."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def run_trial(bench: Bench, order: Train) -> Generator[Conversed, bool | None, TrialResult]:
    """Train and evaluate; yields a Report at each rung, and Partial ones on the way, and is sent whether to go on.

    Afterwards the base is as it was before. The attempt folder holds transcripts.jsonl of the last rung and
    weights/ of what was trained. Memory that runs out is an outcome; with `auto_micro_batch` the trial begins
    again on half the micro-batch and twice the accumulation, so that the effective batch stays; an odd
    micro-batch has no half.
    """
    config = order.config
    while True:
        try:
            return (yield from _attempt(bench, order, config))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = f"{type(error).__name__}: {error}"  # the exception itself would keep the model alive
        reset_peak_memory(bench.base.device)
        if not config.auto_micro_batch or config.per_device_train_batch_size % 2:
            return _out_of_memory(order, message)
        print(f"out of memory at a micro-batch of {config.per_device_train_batch_size}: halved", file=sys.stderr)
        config = config.model_copy(
            update={
                "per_device_train_batch_size": config.per_device_train_batch_size // 2,
                "gradient_accumulation_steps": config.gradient_accumulation_steps * 2,
            }
        )


def _out_of_memory(order: Train, message: str) -> TrialResult:
    print(message, file=sys.stderr)
    write_transcripts(Path(order.attempt) / "transcripts.jsonl", [])
    return TrialResult(state="pruned", reason="out_of_memory", rungs=(), cost=None)


def _attempt(bench: Bench, order: Train, config: TrialConfig) -> Generator[Conversed, bool | None, TrialResult]:
    """One try of a trial, from attaching to detaching."""
    attempt, base = Path(order.attempt), bench.base
    set_seed(order.seed)
    reset_peak_memory(base.device)
    accelerator = make_accelerator(config.precision, base.device)
    model = attach(base, config)
    run = Run(config, order, model, accelerator)
    try:
        trainable, total = count_parameters(model)
        with shaped(base, config):
            state, reason, transcripts = yield from _climb(bench, run)
        weights = save(model, attempt / "weights") if config.method != "none" and state == "complete" else None
    finally:
        detach(base, model)
    write_transcripts(attempt / "transcripts.jsonl", transcripts)
    return TrialResult(
        state=state, reason=reason, rungs=tuple(run.rungs), cost=_cost(bench, run, trainable, total, weights)
    )


@dataclass
class Run:
    """A trial under way."""

    config: TrialConfig
    order: Train
    model: nn.Module
    accelerator: Accelerator
    rungs: list[Rung] = field(default_factory=list)
    progress: Progress | None = None
    optimizer: torch.optim.Optimizer | None = None


def _climb(bench: Bench, run: Run) -> Generator[Conversed, bool | None, tuple[State, str | None, list[Transcript]]]:
    """Go from rung to rung. Returns the state, the reason for an early end, and the last transcripts."""
    transcripts: list[Transcript] = []
    last = 0 if run.config.method == "none" else len(run.order.budget.rungs) - 1
    try:
        for index, progress in enumerate(_training(bench, run)):
            run.progress = progress
            rung, found = yield from _evaluate(bench, run, index, index == last)
            transcripts = found.transcripts or transcripts
            run.rungs.append(rung)
            if found.lost:
                return "pruned", f"lost after {len(transcripts)} utterances of rung {index}", transcripts
            go_on = yield Report(rung=rung, last=index == last, errors=tuple(found.errors))
            if index < last and not go_on:
                return "pruned", f"stopped at rung {index}", transcripts
    except DivergedError as error:
        return "pruned", str(error), transcripts
    return "complete", None, transcripts


def _training(bench: Bench, run: Run) -> Iterator[Progress | None]:
    """Training progress at each rung; a zero-shot system has one rung and no progress."""
    config, budget, accelerator = run.config, run.order.budget, run.accelerator
    if config.method == "none":
        yield None
        return
    steps = budget.steps(config.effective_batch_size)
    model, run.optimizer = accelerator.prepare(run.model, make_optimizer(run.model, config))
    # Not prepared: Accelerate would step it once for each process.
    scheduler = make_scheduler(run.optimizer, config, steps)
    try:
        yield from train(
            model,
            run.optimizer,
            scheduler,
            accelerator,
            _batches(bench, run),
            budget.rung_steps(config.effective_batch_size),
            config.max_grad_norm,
            config.label_smoothing_factor,
        )
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        # An adapter asks its base for what it lacks: this mark would exempt all trials after a full fine-tuning.
        model.__dict__.pop("_is_accelerate_prepared", None)


def _batches(bench: Bench, run: Run) -> Iterator[list[Batch]]:
    """The micro-batches of each optimizer step; the order of examples depends on the seed alone."""
    config = run.config
    examples = example_order(bench.speech.rows("train"), run.order.budget.examples, run.order.seed)
    if config.group_by_length:
        lengths = [len(ids) for ids in bench.labels]
        examples = length_order(examples, lengths, config.effective_batch_size, run.order.seed)
    made = _made(bench, run, examples)
    # The thread that prepares ahead may draw from NumPy's global generator, as Whisper's own masking does.
    masked = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    yield from made if bench.base.device.type == "cpu" or masked else prefetched(made)


def _made(bench: Bench, run: Run, examples: list[int]) -> Iterator[list[Batch]]:
    config, cuda = run.config, bench.base.device.type == "cuda"
    hear, seen = _heard(bench, run), occurrences(examples)
    for step in chunks(range(len(examples)), config.effective_batch_size):
        micro_batches = []
        for places in chunks(step, config.per_device_train_batch_size):
            rows = [examples[place] for place in places]
            mel, labels = hear(rows, [seen[place] for place in places]), [bench.labels[row] for row in rows]
            batch = collate(mel, labels, range(len(rows)), bench.pad, window_frames(bench.base))
            micro_batches.append(batch.pinned() if cuda else batch)
        yield micro_batches


def _heard(bench: Bench, run: Run) -> Callable[[list[int], list[int]], npt.NDArray[np.float16]]:
    """What training hears: (rows, how often each was heard before) -> features, augmented where that is asked for."""
    speech, extractor = bench.speech, bench.base.processor.feature_extractor
    if run.config.augmentation is None:
        return lambda rows, _: np.asarray(speech.features[np.asarray(rows)])
    what = catalog.augmentation(run.config.augmentation)
    waveforms = open_waveforms(speech) if what.on_waveform else None
    return lambda rows, epochs: augmented_features(speech, waveforms, extractor, what, rows, epochs, run.order.seed)


@dataclass
class Evaluated:
    """What was decoded at a rung, and whether the supervisor broke it off because the trial had lost."""

    rows: list[int]
    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    lost: bool = False


def _evaluate(
    bench: Bench, run: Run, index: int, last: bool
) -> Generator[Conversed, bool | None, tuple[Rung, Evaluated]]:
    """Judge a rung; the clock stands still while the supervisor thinks."""
    progress, model, accelerator = run.progress, run.model, run.accelerator
    judging, clock = run.order.judging, Clock(accelerator.device)
    found = Evaluated(rung_rows(bench.speech.rows("validation"), judging, last))
    clock.start()
    if last or judging.judge == "wer":
        yield from _decode(bench, run, index, found, clock)
    # In the split's order: the loss is a sum of floats, and transcripts of a whole split stand in its order.
    rows = sorted(found.rows)
    loss = validation_loss(model, bench.base, bench.speech, bench.labels, rows, bench.decoding, bench.pad, accelerator)
    scores = score_split(bench, found.transcripts) if found.transcripts else None
    clock.stop()
    rung = Rung(
        index=index,
        step=progress.step if progress else 0,
        examples=progress.examples if progress else 0,
        train_loss=progress.loss if progress else None,
        loss=loss,
        scores=scores,
        train_seconds=progress.seconds if progress else 0.0,
        evaluation_seconds=clock.seconds,
    )
    return rung, found


def _decode(
    bench: Bench, run: Run, index: int, found: Evaluated, clock: Clock
) -> Generator[Conversed, bool | None, None]:
    """Decode the rung's utterances, chunk by chunk where the supervisor may break off."""
    decoded: dict[int, Transcript] = {}
    rows = found.rows
    for chunk in chunks(rows, run.order.judging.chunk or len(rows)):
        new = transcribe(run.model, bench.base, bench.speech, chunk, decoding_of(bench, run.config), run.accelerator)
        decoded |= zip(chunk, new, strict=True)
        found.errors += errors_of(bench, new)
        if len(decoded) < len(rows):
            clock.stop()
            found.lost = not (yield Partial(index=index, errors=tuple(found.errors)))
            clock.start()
        if found.lost:
            found.rows = rows[: len(decoded)]
            break
    found.transcripts = [decoded[row] for row in sorted(decoded)]


def rung_rows(rows: Sequence[int], judging: Judging, last: bool) -> list[int]:
    """The utterances of a rung in the order of evaluation: shuffled once for the study, all of them at the last."""
    order: list[int] = np.random.default_rng(judging.seed).permutation(np.asarray(rows)).tolist()
    return order if last else order[: judging.rung_utterances]


def _cost(bench: Bench, run: Run, trainable: int, total: int, weights: int | None) -> Cost:
    progress = run.progress or Progress(step=0, examples=0, loss=0.0, seconds=0.0, first_seconds=0.0, first_examples=0)
    seconds = progress.seconds - progress.first_seconds
    rate = (progress.examples - progress.first_examples) / seconds if seconds > 0 else None
    train = bench.speech.report["splits"]["train"]
    memory, kind = peak_memory(bench.base.device)
    return Cost(
        steps=progress.step,
        examples=progress.examples,
        train_seconds=progress.seconds,
        first_steps_seconds=progress.first_seconds,
        evaluation_seconds=sum(rung.evaluation_seconds for rung in run.rungs),
        samples_per_second=rate,
        audio_seconds_per_second=None if rate is None else rate * train["seconds"] / train["utterances"],
        peak_memory_bytes=memory,
        memory_kind=kind,
        host_peak_bytes=host_peak_memory(),
        trainable_parameters=trainable,
        total_parameters=total,
        adapter_bytes=weights,
        optimizer_8bit_share=None if run.optimizer is None else eight_bit_share(run.optimizer),
        per_device_train_batch_size=run.config.per_device_train_batch_size,
        gradient_accumulation_steps=run.config.gradient_accumulation_steps,
    )


def score_split(bench: Bench, transcripts: list[Transcript]) -> Scores:
    """Score transcripts with the task's normaliser; several languages have the rules of none in particular."""
    return score(transcripts, _language(bench), bench.task.normalizer)


def errors_of(bench: Bench, transcripts: list[Transcript]) -> tuple[int, ...]:
    """Word errors of each utterance."""
    return tuple(word_errors(transcripts, _language(bench), bench.task.normalizer))


def _language(bench: Bench) -> str:
    languages: list[str] = bench.speech.report["languages"]
    return languages[0] if len(languages) == 1 else "mul"
