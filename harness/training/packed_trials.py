"""Train several LoRA trials in one batched forward and backward pass.

Each trial is the same generator as when it trains alone (`harness.training.trial`), with its own order of examples,
optimizer, schedule, gradient clipping, rungs and end. Only when it needs the gradients of a step does it wait until all
others need theirs too. Trials may therefore be at different steps, and when one ends, another can take its place at the
next step.
"""

import contextlib
import sys
import traceback
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from harness.data.batches import Batch, concatenate_batches
from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.hardware.clock import Clock
from harness.hardware.memory import is_cuda_error, is_out_of_memory, process_memory, reset_peak_memory
from harness.hardware.processes import redirect_output
from harness.model.batched_lora import PackedModel, TrialAdapter
from harness.model.loss import logits_of, summed_loss
from harness.model.trial_settings import apply_trial_settings
from harness.spec.messages import Decide, Failed, Finished, Leave, Order, Partial, Refused, Report, Train
from harness.spec.trial import TrialConfig
from harness.training.channel import Channel
from harness.training.context import TrainerContext
from harness.training.trial import run_trial
from harness.training.trial_protocol import GradientRequest, Sent, Trial, Yielded


class RandomState:
    """One trial's random generators, which replace torch's global ones while the trial runs.

    Attributes:
        cpu: Replaces the CPU generator.
        dropout: Replaces the generator of the device, for dropout masks; on a CPU it is `cpu`.
    """

    def __init__(self, device: torch.device) -> None:
        self.cpu = torch.Generator()
        self.dropout = self.cpu if device.type == "cpu" else torch.Generator(device)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the context, torch's global generators continue from this state."""
        with torch.random.fork_rng([self.dropout.device] if self.dropout is not self.cpu else []):
            torch.set_rng_state(self.cpu.get_state())
            if self.dropout is not self.cpu:
                torch.cuda.set_rng_state(self.dropout.get_state(), self.dropout.device)
            try:
                yield
            finally:
                self.cpu.set_state(torch.get_rng_state())
                if self.dropout is not self.cpu:
                    self.dropout.set_state(torch.cuda.get_rng_state(self.dropout.device))


@dataclass
class PackedTrial:
    """One running trial.

    Attributes:
        lane: Its place in the trainer.
        attempt: Its folder.
        trial: Its generator.
        random_state: Its random generators.
        request: The gradients that it waits for; None while it waits for a decision of the supervisor.
        adapter: Its LoRA matrices.
        loss: The loss of the step in progress.
        memory_error: Why memory was too small even for a pass of this trial alone; it is raised in the trial.
    """

    lane: int
    attempt: Path
    trial: Trial[Finished]
    random_state: RandomState
    request: GradientRequest | None = None
    adapter: TrialAdapter | None = None
    loss: Tensor | None = None
    memory_error: str | None = None

    @classmethod
    def create(cls, context: TrainerContext, order: Train) -> Self:
        """Create the trial of an order, without starting it."""
        return cls(order.lane, Path(order.attempt), run_trial(context, order), RandomState(context.base.device))

    def resume(self, answer: Sent) -> Yielded:
        """Run the trial until it yields; see `harness.training.trial_protocol` for what it is sent."""
        with redirect_output(self.attempt / "log.txt"), self.random_state.active():
            if self.memory_error is None:
                return self.trial.send(answer)
            message, self.memory_error = self.memory_error, None
            return self.trial.throw(MemoryError(message))

    def close(self) -> None:
        """End the trial without a result."""
        with redirect_output(self.attempt / "log.txt"), self.random_state.active():
            self.trial.close()

    @property
    def requested(self) -> GradientRequest:
        """The request of a trial that waits for gradients."""
        assert self.request is not None
        return self.request

    @property
    def batches(self) -> Sequence[Batch]:
        """The micro-batches of the requested step."""
        return self.requested.step.micro_batches


@dataclass
class PackedTraining:
    """The running trials of this process, by lane.

    | order from the supervisor | effect | answers |
    |---|---|---|
    | `Train` (packed) | a trial starts in a free lane | see below |
    | `Decide` | the trial in that lane continues, or ends | see below |
    | `Leave` | the trial in that lane is dropped | none |

    A trial answers with `Report` and `Partial` at its rungs, and at its end with `Finished`, `Failed` or `Refused`.

    Attributes:
        channel: The connection to the supervisor.
        context: The trainer's context.
        model: The model that applies all adapters.
        memory_before: Bytes that the process held before any of the trials.
        max_per_pass: Trials in one pass; it is lowered when memory runs out.
        trials: The running trials.
        deferred: Orders that arrived while a trial had to be answered first.
    """

    channel: Channel
    context: TrainerContext
    model: PackedModel
    memory_before: int
    max_per_pass: int = sys.maxsize
    trials: dict[int, PackedTrial] = field(default_factory=dict)
    deferred: deque[Order] = field(default_factory=deque)

    @property
    def ready(self) -> bool:
        """Whether all trials wait for gradients; a step waits for decisions, which take milliseconds."""
        return all(trial.request for trial in self.trials.values())

    def handle(self, order: object) -> None:
        """Carry out one order."""
        if isinstance(order, Train) and order.packed:
            self.trials[order.lane] = PackedTrial.create(self.context, order)
            self.advance(self.trials[order.lane], None)
        elif isinstance(order, Decide):
            self.advance(self.trials[order.lane], order.go_on)
        elif isinstance(order, Leave):
            if order.lane in self.trials:
                self.trials.pop(order.lane).close()
        else:
            raise RuntimeError(f"unexpected order while packed trials run: {order!r}")

    def advance(self, trial: PackedTrial, answer: Sent) -> None:
        """Run one trial until it waits for gradients or for a decision, or has ended."""
        if trial.request is not None:
            trial.request.usage.clock.start()
        trial.request = None
        try:
            event = trial.resume(answer)
            while isinstance(event, Partial) or (isinstance(event, Report) and event.last):
                self.channel.send(event, trial.lane)
                # During an evaluation the adapter is merged into the shared weights: no other trial may run.
                event = trial.resume(isinstance(event, Report) or self._decision(trial))
        except StopIteration as end:
            self._end(trial, end.value, end.value.poisoned)
        except UserError as error:
            self._end(trial, Refused(message=str(error)))
        except Exception as error:  # an error of one trial must not end the others
            traceback.print_exc()
            poisoned = is_cuda_error(error)
            full = is_disk_full(error)
            failed = Failed(reason=f"{type(error).__name__}: {error}", poisoned=poisoned)
            self._end(trial, Refused(message=DISK_FULL) if full else failed, poisoned or full)
        else:
            if isinstance(event, GradientRequest):
                event.usage.clock.stop()
                if trial.adapter is None or trial.adapter.model is not event.model:
                    trial.adapter = TrialAdapter(event.model, trial.random_state.dropout)
                trial.request = event
            else:
                self.channel.send(event, trial.lane)

    def _decision(self, trial: PackedTrial) -> bool:
        """Wait for the decision about a trial; other orders are deferred. A trial to be dropped may not continue."""
        while True:
            order = self.receive()
            if order.lane == trial.lane and isinstance(order, Decide):
                return order.go_on
            self.deferred.append(order)
            if order.lane == trial.lane:
                return False

    def receive(self) -> Order:
        """Wait for the next order of the supervisor."""
        if (order := self.channel.receive()) is None:
            raise SystemExit("the supervisor process has ended")
        return order

    def _end(self, trial: PackedTrial, answer: Finished | Failed | Refused, replace_process: bool = False) -> None:
        del self.trials[trial.lane]
        self.model.clear()
        self.channel.send(answer, trial.lane)
        if replace_process:  # the others resume from their last rungs in a new process
            raise SystemExit(1)

    def step(self) -> None:
        """Compute one optimizer step of each trial."""
        trials = list(self.trials.values())
        try:
            self._compute_in_parts(trials)
        except Exception:  # not the error of one trial: all resume from their last rungs in a new process
            traceback.print_exc()
            raise SystemExit(1) from None
        for trial in trials:
            self.advance(trial, trial.loss)

    def _compute_in_parts(self, trials: Sequence[PackedTrial]) -> None:
        for first in range(0, len(trials), self.max_per_pass):
            self._compute(trials[first : first + self.max_per_pass])

    def _compute(self, trials: Sequence[PackedTrial]) -> None:
        """Compute gradients and losses of one step of some trials; if memory runs out, of fewer at a time."""
        states = [trial.random_state.dropout.get_state() for trial in trials]
        try:
            self._run_passes(trials)
            return
        except Exception as error:
            if not is_out_of_memory(error) or is_cuda_error(error):
                raise
            message = f"{type(error).__name__}: {error}"  # the exception itself would keep the activations alive
        for trial, state in zip(trials, states, strict=True):
            trial.random_state.dropout.set_state(state)
            trial.requested.model.zero_grad()
        reset_peak_memory(self.context.base.device)
        if len(trials) == 1:
            trials[0].memory_error = message
            return
        self.max_per_pass = (len(trials) + 1) // 2
        print(f"out of memory with {len(trials)} trials in one pass; now {self.max_per_pass}", file=sys.stderr)
        self._compute_in_parts(trials)

    def _run_passes(self, trials: Sequence[PackedTrial]) -> None:
        """Run the micro-batches one after the other, those with equal inputs in one pass."""
        device = self.context.base.device
        for trial in trials:
            trial.loss = torch.zeros((), device=device)
        for number in range(max(len(trial.batches) for trial in trials)):
            groups = defaultdict[object, list[PackedTrial]](list)
            for trial in trials:
                if number < len(trial.batches):
                    groups[_pass_key(trial.batches[number], trial.requested.config)].append(trial)
            for group in groups.values():
                self._run_pass(group, number)

    def _run_pass(self, trials: Sequence[PackedTrial], number: int) -> None:
        """Run forward and backward of each trial's micro-batch `number`; the trials share time, energy and memory."""
        device, clock = self.context.base.device, Clock(self.context.base.device)
        clock.start()
        batches = [trial.batches[number].to(device) for trial in trials]
        adapters = [trial.adapter for trial in trials if trial.adapter is not None]
        lengths = [batch.labels.shape[1] for batch in batches]
        autocast = trials[0].requested.accelerator.autocast
        with self.model.with_adapters(adapters, lengths) as model, autocast():
            logits = logits_of(model, concatenate_batches(batches, self.context.pad_token))
        losses = []
        for trial, batch, own in zip(trials, batches, logits.chunk(len(trials)), strict=True):
            assert trial.loss is not None
            smoothing = trial.requested.config.label_smoothing_factor
            loss = summed_loss(own[:, : batch.labels.shape[1]], batch.labels, smoothing)
            losses.append(loss / trial.requested.step.label_tokens)
            trial.loss += losses[-1].detach()
        torch.autograd.backward(losses)
        clock.stop()
        for trial in trials:
            trial.requested.usage.add_pass(clock, len(trials), self.memory_before)


def _pass_key(batch: Batch, config: TrialConfig) -> object:
    """What must be equal in one pass: the shape of the inputs, and whether gradients go through the encoder."""
    return batch.depth, batch.input_features.shape, batch.input_features.dtype, config.scope == "decoder"


def run_packed_trials(channel: Channel, context: TrainerContext, first: Train) -> None:
    """Run a packed trial and all that are ordered while any runs; returns when none is left.

    Args:
        channel: The connection to the supervisor.
        context: The trainer's context.
        first: The first order.
    """
    model = PackedModel(context.base)
    training = PackedTraining(channel, context, model, process_memory(context.base.device))
    with apply_trial_settings(model.base, first.config):
        training.handle(first)
        while training.trials or training.deferred:
            while training.deferred or (training.trials and (channel.waiting() or not training.ready)):
                training.handle(training.deferred.popleft() if training.deferred else training.receive())
            training.step()
