"""Execute one try of a trial: attach the method, train, evaluate at rungs, store, and detach."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate.utils import set_seed
from torch import Tensor

from harness.data.batches import Step
from harness.evaluation.decoding import Decoder
from harness.hardware.clock import Clock
from harness.hardware.memory import PeakMemory, SharedPeakMemory
from harness.model.compiled_layers import can_compile, compiled, uncompiled
from harness.model.encoder_cache import EncoderStates, trains_on_cached_states
from harness.model.methods import attach, count_parameters, detach, merged_adapter, save
from harness.model.optimizers import eight_bit_share, make_optimizer, make_scheduler
from harness.model.trial_settings import apply_trial_settings
from harness.records.study_folder import write_transcripts
from harness.spec.messages import Report, Train
from harness.spec.result import Cost, Rung, State, Transcript, TrialResult
from harness.spec.trial import TrialConfig
from harness.training import checkpoint
from harness.training.batch_order import rows_used, training_steps
from harness.training.checkpoint import Checkpoint, TrialState
from harness.training.context import TrainerContext, decoding_settings, make_accelerator, score_split
from harness.training.cost import Measurements, compute_cost
from harness.training.loop import (
    DivergedError,
    Progress,
    TrainingEvents,
    TrainingObjects,
    next_event,
    train,
    training_loop,
)
from harness.training.rung_evaluation import RungResult, evaluate_rung, rung_rows
from harness.training.trial_protocol import GradientRequest, PackedUsage, Trial


@dataclass
class TrialRun:
    """One try of a trial. A trial that runs out of memory has several.

    Args:
        context: The trainer's context, for a packed trial with its own view of the base.
        order: The configuration as ordered, budget, seed and folders.
        config: The configuration to run; its micro-batch may be smaller than ordered.
        reported: Rungs that an earlier try has reported; they are not reported again.

    Attributes:
        processes: Data-parallel processes.
        rungs: The evaluated rungs.
        transcripts: Transcripts of the last decoded rung.
        errors: Word errors of each utterance at the last rung, in the order of evaluation.
        progress: Training at the last rung.
        evaluation: The clock of all evaluations.
        peaks: Peak memory.
        usage: Time and memory of a packed trial, once it trains.
        objects: Model, optimizer and schedule, once it trains.
        resumed: The checkpoint that it resumed from.
        encoder_states: Cached states that it decodes from.
        cache_seconds: Seconds spent computing them.
    """

    context: TrainerContext
    order: Train
    config: TrialConfig
    reported: int = 0
    processes: int = field(init=False, default=1)
    rungs: list[Rung] = field(init=False, default_factory=list)
    transcripts: list[Transcript] = field(init=False, default_factory=list)
    errors: list[int] = field(init=False, default_factory=list)
    progress: Progress = field(init=False, default_factory=Progress)
    evaluation: Clock = field(init=False)
    peaks: PeakMemory = field(init=False)
    usage: PackedUsage | None = field(init=False, default=None)
    objects: TrainingObjects | None = field(init=False, default=None)
    resumed: Checkpoint | None = field(init=False, default=None)
    encoder_states: EncoderStates | None = field(init=False, default=None)
    cache_seconds: float = field(init=False, default=0.0)

    def execute(self) -> Trial[TrialResult]:
        """Attach the method, train and evaluate, store the results, and restore the base."""
        attempt, base = Path(self.order.attempt), self.context.base
        set_seed(self.order.seed)
        self.accelerator = make_accelerator(self.config.precision, base.device)
        self.processes = self.accelerator.num_processes
        self.peaks = SharedPeakMemory(base.device) if self.order.packed else PeakMemory(base.device)
        self.evaluation = Clock(base.device)
        if self.order.resume is not None and self.accelerator.is_main_process:
            checkpoint.copy_checkpoint(Path(self.order.resume), attempt / "checkpoint")
        self.accelerator.wait_for_everyone()
        self._resume_from(checkpoint.load(attempt / "checkpoint", self.accelerator))
        self.encoder_states = self.context.encoder_cache.open(base, self.config, self.config.precision)
        self.model = attach(base, self.config)
        try:
            self.parameters = count_parameters(self.model)
            with apply_trial_settings(base, self.config):
                self._fill_encoder_states()
                state, reason = yield from self._train_and_evaluate()
            self.peaks.enter(None)
            stored = self.config.method != "none" and state == "complete" and self.accelerator.is_main_process
            adapter_bytes = save(self.model, attempt / "weights") if stored else None
        finally:
            detach(base, self.model)
        if self.accelerator.is_main_process:
            write_transcripts(attempt / "transcripts.jsonl", self.transcripts)
        return TrialResult(state=state, reason=reason, rungs=tuple(self.rungs), cost=self._cost(adapter_bytes))

    @property
    def _trials_in_pass(self) -> int:
        """The largest number of trials that trained in one pass with this one, itself included."""
        return self.usage.most_trials if self.usage is not None else self.progress.together

    @property
    def _training_states(self) -> EncoderStates | None:
        """Cached states that training reads instead of features."""
        trains = self.config.method != "none" and trains_on_cached_states(self.encoder_states, self.config)
        return self.encoder_states if trains else None

    def _resume_from(self, resumed: Checkpoint | None) -> None:
        """Take over the state of a checkpoint; weights and optimizer are restored once they exist."""
        if resumed is None:
            return
        self.resumed, trial = resumed, resumed.trial
        self.rungs, self.progress = trial.rungs, trial.progress
        self.transcripts, self.errors = trial.transcripts, trial.errors
        self.peaks.merge(trial.peaks)
        if trial.config.per_device_train_batch_size < self.config.per_device_train_batch_size:
            self.config = trial.config  # an earlier try halved the micro-batch

    def _fill_encoder_states(self) -> None:
        """Compute the cached states of all rows that the trial uses; random generators are not touched."""
        if self.encoder_states is None:
            return
        rows, clock = self.context.speech.rows("validation"), Clock(self.accelerator.device)
        if self._training_states:
            rows = rows + rows_used(self.context, self.config, self.order, self.processes)
        clock.start()
        self.encoder_states.fill(rows, self.context.base, self.context.decoding.batch_size, self.accelerator)
        self.peaks.excluded = self.context.encoder_cache.copy_to_gpu(self.encoder_states, self.accelerator.device)
        clock.stop()
        self.cache_seconds = clock.seconds

    def _train_and_evaluate(self) -> Trial[tuple[State, str | None]]:
        """Train from rung to rung. Returns the state, and the reason if the trial ended early."""
        last = 0 if self.config.method == "none" else len(self.order.budget.rungs) - 1
        if self.rungs and len(self.rungs) > self.reported and not (yield from self._report(last)):
            return "pruned", f"stopped at rung {self.rungs[-1].index}"
        try:
            events = self._training_events()
            loss: Tensor | None = None
            while (event := next_event(events, loss)) is not None:
                if isinstance(event, Step):
                    loss = yield from self._request_gradients(event)
                    continue
                loss, self.progress = None, replace(event, together=self._trials_in_pass)
                if self.order.portion.with_validation:
                    continue  # no utterances are left for an evaluation
                stopped = yield from self._evaluate(len(self.rungs), last)
                if stopped:
                    rung = self.rungs[-1].index
                    return "pruned", f"stopped after {len(self.transcripts)} utterances of rung {rung}"
                if len(self.rungs) <= last and self.objects is not None:
                    self._save_checkpoint(self.objects)
                if not (yield from self._report(last)):
                    return "pruned", f"stopped at rung {self.rungs[-1].index}"
                self.peaks.enter("train")
        except DivergedError as error:
            return "pruned", str(error)
        return "complete", None

    def _request_gradients(self, step: Step) -> Trial[Tensor]:
        """Have a packed trial's gradients computed; returns the loss of the step."""
        assert self.usage is not None
        loss = yield GradientRequest(step, self.model, self.config, self.accelerator, self.usage)
        assert isinstance(loss, Tensor)
        return loss

    def _report(self, last: int) -> Trial[bool]:
        """Report the newest rung; returns whether to continue, which is not asked after the last rung."""
        self.reported = len(self.rungs)
        ended = self.rungs[-1].index == last
        go_on = yield Report(rung=self.rungs[-1], last=ended, errors=tuple(self.errors))
        return bool(go_on) or ended

    def _save_checkpoint(self, objects: TrainingObjects) -> None:
        peaks = {"reserved": self.peaks.reserved, "allocated": self.peaks.allocated}
        trial = TrialState(self.config, self.progress, peaks, self.rungs, self.transcripts, self.errors)
        checkpoint.save(Path(self.order.attempt) / "checkpoint", objects, trial)

    def _training_events(self) -> TrainingEvents:
        """Train, and yield at each rung (if packed, at each step too). Zero-shot yields one empty Progress."""
        if self.config.method == "none":
            yield Progress()
            return
        config, budget, accelerator = self.config, self.order.budget, self.accelerator
        batch_size = config.effective_batch_size * self.processes
        rung_steps = budget.rung_steps(batch_size)[len(self.rungs) :]
        if accelerator.process_index:  # parameters come from the first process, but dropout must differ
            set_seed(self.order.seed + accelerator.process_index)
        model, optimizer = accelerator.prepare(
            self.model, make_optimizer(self.model, config, "fused" in self.context.techniques)
        )
        # Not prepared: Accelerate would step it once for each process.
        scheduler = make_scheduler(optimizer, config, budget.schedule_steps(batch_size))
        self.objects = TrainingObjects(self.model, optimizer, scheduler, accelerator)
        if self.resumed is not None:
            checkpoint.restore(self.resumed, self.objects)
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
            encoder_states=self._training_states,
        )
        self.peaks.enter("train")
        prepared = replace(self.objects, model=model)
        inputs = (prepared, steps, budget, rung_steps, config.max_grad_norm)
        try:
            if self.order.packed:
                assert isinstance(self.peaks, SharedPeakMemory)
                clock = Clock(accelerator.device, self.progress.seconds, self.progress.joules)
                self.usage = PackedUsage(clock, self.peaks, self.progress.together)
                yield from training_loop(*inputs, clock, self.progress)
            else:
                compiles = "compile" in self.context.techniques and can_compile(self.context.base, config)
                with compiled(self.model) if compiles else nullcontext():
                    yield from train(*inputs, config.label_smoothing_factor, self.progress)
        finally:
            accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            # PEFT models look up missing attributes on the base: after full fine-tuning, Accelerate would find this
            # mark on the model of every later trial and take it for prepared.
            self.model.__dict__.pop("_is_accelerate_prepared", None)

    def _evaluate(self, index: int, last: int) -> Trial[bool]:
        """Decode and score the utterances of a rung; returns whether the supervisor stopped it before its end."""
        context, progress, judging = self.context, self.progress, self.order.judging
        result = RungResult(rung_rows(context.speech.rows("validation"), judging, index == last))
        self.peaks.enter("evaluation")
        clock = Clock(self.accelerator.device)
        clock.start()
        texts = index == last or judging.judge == "wer"
        with self._evaluation_model() as decoder:
            yield from evaluate_rung(decoder, context, judging, index, result, clock, texts)
        scores = score_split(context, result.transcripts) if result.transcripts else None
        clock.stop()
        self.evaluation.add(clock)
        self.peaks.enter(None)
        if not math.isfinite(result.loss):  # the last step before the rung has made the weights infinite
            raise DivergedError(progress.step)
        self.transcripts, self.errors = result.transcripts or self.transcripts, result.errors
        self.rungs.append(
            Rung(
                index=index,
                step=progress.step,
                examples=progress.examples,
                train_loss=progress.loss if progress.step else None,
                loss=result.loss,
                scores=scores,
                train_seconds=progress.seconds,
                evaluation_seconds=clock.seconds,
                max_new_tokens=context.decoding.max_new_tokens,
                cut=sum(transcript.cut for transcript in result.transcripts),
                peak_memory_bytes=max(self.peaks.reserved.values(), default=None),
            )
        )
        return result.stopped

    @contextmanager
    def _evaluation_model(self) -> Iterator[Decoder]:
        """Within the context, decode with the adapter merged and with uncompiled layers."""
        context = self.context
        merging = merged_adapter(context.base, self.model) if "merging" in context.techniques else nullcontext()
        settings = decoding_settings(context, self.config)
        with merging, uncompiled(self.model):
            yield Decoder(self.model, context.base, context.speech, settings, self.accelerator, self.encoder_states)

    def _cost(self, adapter_bytes: int | None) -> Cost:
        measured = Measurements(
            progress=replace(self.progress, together=self._trials_in_pass),
            rungs=self.rungs,
            evaluation=self.evaluation,
            peaks=self.peaks,
            parameters=self.parameters,
            cached_layers=self._training_states.depth if self._training_states else 0,
            cache_seconds=self.cache_seconds,
            adapter_bytes=adapter_bytes,
            eight_bit_share=None if self.objects is None else eight_bit_share(self.objects.optimizer),
            processes=self.processes,
        )
        return compute_cost(self.context, self.config, measured)
