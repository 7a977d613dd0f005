"""One trial on the resident base: a configuration and a seed in, rungs and a result out."""

import shutil
import sys
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from accelerate.utils import set_seed
from torch import Tensor

from harness.data.batches import Step
from harness.hardware.meter import Clock, PeakMemory, SharedPeakMemory, is_out_of_memory, is_poisoned, reset_peak_memory
from harness.model.batched_lora import view
from harness.model.compiled_layers import compiled, compiles, uncompiled
from harness.model.encoder_cache import EncoderStates, trains_on_cached_states
from harness.model.methods import attach, count_parameters, detach, merged, save
from harness.model.optimizers import eight_bit_share, make_optimizer, make_scheduler
from harness.model.trial_settings import apply_trial_settings
from harness.records.study_folder import write_transcripts
from harness.spec.messages import Finished, Partial, Report, Train
from harness.spec.result import OUT_OF_MEMORY, Cost, Rung, State, Transcript, TrialResult
from harness.spec.trial import TrialConfig
from harness.training import checkpoint
from harness.training.batch_order import rows_used, training_steps
from harness.training.checkpoint import Checkpoint, TrainingObjects, TrialState
from harness.training.context import TrainerContext, make_accelerator, score_split
from harness.training.cost import measured
from harness.training.loop import DivergedError, Progress, TrainingEvents, next_event, train, training_loop
from harness.training.rung_evaluation import RungResult, evaluate_rung, rung_rows


@dataclass(frozen=True)
class GradientRequest:
    """What a packed trial says when it wants the gradients of a step; it is sent the step's loss."""

    run: "TrialRun"
    step: Step


T = TypeVar("T")
Yielded = Report | Partial | GradientRequest
Sent = bool | Tensor | None
Trial = Generator[Yielded, Sent, T]


def run_trial(context: TrainerContext, order: Train) -> Trial[Finished]:
    """Train and evaluate; yields a Report at each rung, and Partial ones on the way, and is sent whether to go on.

    A packed trial works on a view of the base, and yields Wanted for each step: gradients come from outside.

    Afterwards the base is as it was before. The attempt folder holds transcripts.jsonl of the last rung and
    weights/ of what was trained; checkpoint/ is there while the trial is under way. Memory that runs out is an
    outcome; with `auto_micro_batch` the trial goes on from its last checkpoint, or begins again, on half the
    micro-batch and twice the accumulation, so that the effective batch stays; an odd micro-batch has no half.
    """
    attempt, config, told = Path(order.attempt), order.config, 0
    context = replace(context, speech=replace(context.speech, portion=order.portion))
    while True:
        run = TrialRun(replace(context, base=view(context.base)) if order.packed else context, order, config, told)
        try:
            result = yield from run.execute()
            shutil.rmtree(attempt / "checkpoint", ignore_errors=True)
            return Finished(result=result)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if run.processes > 1:  # the others wait for this one: all must go, and leave word why
                (attempt / OUT_OF_MEMORY).write_text(str(error), encoding="utf-8")
                raise
            poisoned = is_poisoned(error)
            message = f"{type(error).__name__}: {error}"  # the exception itself would keep the model alive
        told, smaller = run.told, run.config.halved() if config.auto_micro_batch else None
        del run
        if not poisoned and context.encoder_cache.release():
            print("out of memory; now without encoder states in the GPU's memory", file=sys.stderr)
            reset_peak_memory(context.base.device)
            continue
        if poisoned or smaller is None:
            print(message, file=sys.stderr)
            write_transcripts(attempt / "transcripts.jsonl", [])
            return Finished(result=TrialResult.out_of_memory(), poisoned=poisoned)
        reset_peak_memory(context.base.device)
        print(f"out of memory; now in micro-batches of {smaller.per_device_train_batch_size}", file=sys.stderr)
        config = smaller


@dataclass
class TrialRun:
    """One try of a trial, from attaching to detaching; `told` rungs were reported by the try before."""

    context: TrainerContext
    order: Train
    config: TrialConfig
    told: int = 0
    processes: int = 1
    rungs: list[Rung] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    together: int = 1  # the most trials that trained in one pass with this one, itself among them
    clock: Clock = field(init=False)  # of a packed trial's training
    evaluation: Clock = field(init=False)
    peaks: PeakMemory = field(init=False)
    trained: TrainingObjects | None = None
    resumed: Checkpoint | None = None
    encoder_states: EncoderStates | None = None
    prefix_seconds: float = 0.0

    def execute(self) -> Trial[TrialResult]:
        """Prepare, train, evaluate, store, and put the base back."""
        attempt, base = Path(self.order.attempt), self.context.base
        set_seed(self.order.seed)
        self.accelerator = make_accelerator(self.config.precision, base.device)
        self.processes = self.accelerator.num_processes
        self.peaks = SharedPeakMemory(base.device) if self.order.packed else PeakMemory(base.device)
        self.evaluation = Clock(base.device)
        if self.order.resume is not None and self.accelerator.is_main_process:
            checkpoint.adopt(Path(self.order.resume), attempt / "checkpoint")
        self.accelerator.wait_for_everyone()
        self._recall(checkpoint.load(attempt / "checkpoint", self.accelerator))
        self.encoder_states = self.context.encoder_cache.of(base, self.config, self.config.precision)
        self.model = attach(base, self.config)
        try:
            self.parameters = count_parameters(self.model)
            with apply_trial_settings(base, self.config):
                self._fill()
                state, reason = yield from self._climb()
            self.peaks.enter(None)
            stored = self.config.method != "none" and state == "complete" and self.accelerator.is_main_process
            weights = save(self.model, attempt / "weights") if stored else None
        finally:
            detach(base, self.model)
        if self.accelerator.is_main_process:
            write_transcripts(attempt / "transcripts.jsonl", self.transcripts)
        return TrialResult(state=state, reason=reason, rungs=tuple(self.rungs), cost=self._cost(weights))

    def _cost(self, weights: int | None) -> Cost:
        """What it took, with the bytes of the weights stored."""
        cached = self._trained_on.depth if self._trained_on else 0
        share = None if self.trained is None else eight_bit_share(self.trained.optimizer)
        return measured(
            self.context, self.config, self.progress, self.rungs, self.evaluation, self.peaks, self.parameters, cached
        ).model_copy(
            update={
                "adapter_bytes": weights,
                "optimizer_8bit_share": share,
                "processes": self.processes,
                "prefix_seconds": self.prefix_seconds,
                "packed": self.together if self.together > 1 else None,
            }
        )

    @property
    def _trained_on(self) -> EncoderStates | None:
        """What training takes instead of features."""
        trains = self.config.method != "none" and trains_on_cached_states(self.encoder_states, self.config)
        return self.encoder_states if trains else None

    @property
    def _compiles(self) -> bool:
        return "compile" in self.context.techniques and compiles(self.context.base, self.config)

    def _fill(self) -> None:
        """Have what the frozen layers make of all rows that this trial will meet; the dice stay as they were."""
        if self.encoder_states is None:
            return
        rows, clock = self.context.speech.rows("validation"), Clock(self.accelerator.device)
        if self._trained_on:
            rows = rows + rows_used(self.context, self.config, self.order, self.processes)
        clock.start()
        self.encoder_states.fill(rows, self.context.base, self.context.decoding.batch_size, self.accelerator)
        self.peaks.apart = self.context.encoder_cache.settle(self.encoder_states, self.accelerator.device)
        clock.stop()
        self.prefix_seconds = clock.seconds

    def _recall(self, found: Checkpoint | None) -> None:
        """Take up where an earlier try, or an earlier attempt, stood; the weights follow once they are attached."""
        if found is None:
            return
        self.resumed, standing = found, found.standing
        self.rungs, self.progress, self.together = standing.rungs, standing.progress, standing.progress.together
        self.transcripts, self.errors = standing.transcripts, standing.errors
        self.peaks.recall(standing.peaks)
        if standing.config.per_device_train_batch_size < self.config.per_device_train_batch_size:
            self.config = standing.config  # halved already

    def _climb(self) -> Trial[tuple[State, str | None]]:
        """Go from rung to rung. Returns the state and the reason for an early end."""
        last = 0 if self.config.method == "none" else len(self.order.budget.rungs) - 1
        if self.rungs and len(self.rungs) > self.told and not (yield from self._report(last)):
            return "pruned", f"stopped at rung {self.rungs[-1].index}"
        try:
            training = self._training()
            loss: Tensor | None = None
            while (said := next_event(training, loss)) is not None:
                if isinstance(said, Step):
                    answer = yield GradientRequest(self, said)
                    assert isinstance(answer, Tensor)
                    loss = answer
                    continue
                loss, self.progress = None, replace(said, together=self.together)
                if self.order.portion.with_validation:
                    continue  # nothing is left to evaluate on
                lost = yield from self._evaluate(len(self.rungs), last)
                if lost:
                    return "pruned", f"lost after {len(self.transcripts)} utterances of rung {self.rungs[-1].index}"
                if len(self.rungs) <= last and self.trained is not None:
                    self._store()
                if not (yield from self._report(last)):
                    return "pruned", f"stopped at rung {self.rungs[-1].index}"
                self.peaks.enter("train")
        except DivergedError as error:
            return "pruned", str(error)
        return "complete", None

    def _report(self, last: int) -> Trial[bool]:
        """Tell of the newest rung; the last one asks nothing."""
        self.told = len(self.rungs)
        ended = self.rungs[-1].index == last
        go_on = yield Report(rung=self.rungs[-1], last=ended, errors=tuple(self.errors))
        return bool(go_on) or ended

    def _store(self) -> None:
        assert self.trained is not None
        peaks = {"reserved": self.peaks.reserved, "allocated": self.peaks.allocated}
        standing = TrialState(self.config, self.progress, peaks, self.rungs, self.transcripts, self.errors)
        checkpoint.save(Path(self.order.attempt) / "checkpoint", self.trained, standing)

    def _training(self) -> TrainingEvents:
        """Training progress at each rung; a zero-shot system has one rung and no progress."""
        if self.config.method == "none":
            yield Progress()
            return
        config, budget, accelerator = self.config, self.order.budget, self.accelerator
        batch_size = config.effective_batch_size * self.processes
        rung_steps = budget.rung_steps(batch_size)[len(self.rungs) :]
        if accelerator.process_index:  # parameters come from the first process; dropout must not be the same
            set_seed(self.order.seed + accelerator.process_index)
        model, optimizer = accelerator.prepare(
            self.model, make_optimizer(self.model, config, "fused" in self.context.techniques)
        )
        # Not prepared: Accelerate would step it once for each process.
        scheduler = make_scheduler(optimizer, config, budget.schedule_steps(batch_size))
        self.trained = TrainingObjects(self.model, optimizer, scheduler, accelerator)
        if self.resumed is not None:
            checkpoint.restore(self.resumed, self.trained)
            checkpoint.restore_random(self.resumed)
        steps = training_steps(
            self.context,
            config,
            budget,
            self.order.seed,
            rank=accelerator.process_index,
            processes=self.processes,
            skip=self.progress.step,
            longest_first=self.order.longest_first,
            encoder_states=self._trained_on,
        )
        self.peaks.enter("train")
        try:
            loop = (model, optimizer, scheduler, accelerator, steps, budget, rung_steps, config.max_grad_norm)
            if self.order.packed:
                self.clock = Clock(accelerator.device, self.progress.seconds, self.progress.joules)
                yield from training_loop(*loop, self.clock, self.progress)
            else:
                with compiled(self.model) if self._compiles else nullcontext():
                    yield from train(*loop, config.label_smoothing_factor, self.progress)
        finally:
            accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            # An adapter asks its base for what it lacks: this mark would exempt all trials after a full fine-tuning.
            self.model.__dict__.pop("_is_accelerate_prepared", None)

    def _evaluate(self, index: int, last: int) -> Trial[bool]:
        """Decode and score validation, or what of it a rung needs; returns whether the trial had lost half-way."""
        context, progress, judging = self.context, self.progress, self.order.judging
        found = RungResult(rung_rows(context.speech.rows("validation"), judging, index == last))
        self.peaks.enter("evaluation")
        clock = Clock(self.accelerator.device)
        clock.start()
        texts = index == last or judging.judge == "wer"
        with (
            merged(context.base, self.model) if "merging" in context.techniques else nullcontext(),
            uncompiled(self.model),
        ):
            yield from evaluate_rung(
                self.model,
                context,
                self.config,
                self.accelerator,
                judging,
                index,
                found,
                clock,
                self.encoder_states,
                texts,
            )
        scores = score_split(context, found.transcripts) if found.transcripts else None
        clock.stop()
        self.evaluation.add(clock)
        self.peaks.enter(None)
        self.transcripts, self.errors = found.transcripts or self.transcripts, found.errors
        self.rungs.append(
            Rung(
                index=index,
                step=progress.step,
                examples=progress.examples,
                train_loss=progress.loss if progress.step else None,
                loss=found.loss,
                scores=scores,
                train_seconds=progress.seconds,
                evaluation_seconds=clock.seconds,
                max_new_tokens=context.decoding.max_new_tokens,
                cut=sum(transcript.cut for transcript in found.transcripts),
                peak_memory_bytes=max(self.peaks.reserved.values(), default=None),
            )
        )
        return found.lost
