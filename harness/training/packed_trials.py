"""Trials that train together: one forward and backward pass for all, everything else each for itself.

Each trial is the generator that it is alone (training.trial), with its own order of examples, optimizer, schedule,
clipping, rungs and end; only where it wants the gradients of a step it waits until all others want theirs too. So
they may be at different steps, and one that has ended makes room for another at the next step.
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

from harness.data.batches import Batch, joined
from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.hardware.meter import (
    Clock,
    SharedPeakMemory,
    is_out_of_memory,
    is_poisoned,
    memory_held,
    reset_peak_memory,
)
from harness.hardware.processes import logged_to
from harness.model.batched_lora import Adapter, Packed
from harness.model.loss import logits_of, summed_loss
from harness.model.trial_settings import apply_trial_settings
from harness.spec.messages import Decide, Failed, Finished, Leave, Order, Partial, Refused, Report, Train
from harness.training.channel import Channel
from harness.training.context import TrainerContext
from harness.training.trial import GradientRequest, Sent, Trial, TrialRun, Yielded, run_trial


class RandomState:
    """One trial's random generators, which stand in for torch's own while it has its turn."""

    def __init__(self, device: torch.device) -> None:
        self.host = torch.Generator()
        self.masks = self.host if device.type == "cpu" else torch.Generator(device)  # for dropout

    @contextlib.contextmanager
    def thrown(self) -> Iterator[None]:
        """Let whatever draws from torch's generators draw from these."""
        with torch.random.fork_rng([self.masks.device] if self.masks is not self.host else []):
            torch.set_rng_state(self.host.get_state())
            if self.masks is not self.host:
                torch.cuda.set_rng_state(self.masks.get_state(), self.masks.device)
            try:
                yield
            finally:
                self.host.set_state(torch.get_rng_state())
                if self.masks is not self.host:
                    self.masks.set_state(torch.cuda.get_rng_state(self.masks.device))


@dataclass
class PackedTrial:
    """One trial under way."""

    lane: int
    attempt: Path
    trial: Trial[Finished]
    dice: RandomState
    wanted: GradientRequest | None = None  # else it waits for a decision
    adapter: Adapter | None = None
    loss: Tensor | None = None
    starved: str | None = None  # memory was too small for a pass of its own

    @classmethod
    def of(cls, context: TrainerContext, order: Train) -> Self:
        """The trial of an order, not begun."""
        return cls(order.lane, Path(order.attempt), run_trial(context, order), RandomState(context.base.device))

    def resume(self, told: Sent) -> Yielded:
        """Let it go on, until it says something."""
        with logged_to(self.attempt / "log.txt"), self.dice.thrown():
            if self.starved is None:
                return self.trial.send(told)
            said, self.starved = self.starved, None
            return self.trial.throw(MemoryError(said))

    def close(self) -> None:
        """Drop it as it stands."""
        with logged_to(self.attempt / "log.txt"), self.dice.thrown():
            self.trial.close()

    @property
    def run(self) -> TrialRun:
        """The try of a trial that wants gradients."""
        assert self.wanted is not None
        return self.wanted.run

    @property
    def batches(self) -> Sequence[Batch]:
        """The micro-batches that it wants the gradients of."""
        assert self.wanted is not None
        return self.wanted.step.micro_batches


@dataclass
class PackedTraining:
    """The trials under way in this process, by their lanes."""

    channel: Channel
    context: TrainerContext
    packed: Packed
    held: int  # bytes before any of them
    most: int = sys.maxsize  # trials in one pass, as far as memory allows
    members: dict[int, PackedTrial] = field(default_factory=dict)
    later: deque[Order] = field(default_factory=deque)  # came while a trial had to be answered first

    @property
    def ready(self) -> bool:
        """Whether all want gradients; decisions come in milliseconds, so they are waited for."""
        return all(member.wanted for member in self.members.values())

    def hear(self, order: object) -> None:
        """Begin a trial, go on with one, or drop one."""
        if isinstance(order, Train) and order.packed:
            self.members[order.lane] = PackedTrial.of(self.context, order)
            self.advance(self.members[order.lane], None)
        elif isinstance(order, Decide):
            self.advance(self.members[order.lane], order.go_on)
        elif isinstance(order, Leave):
            if order.lane in self.members:
                self.members.pop(order.lane).close()
        else:
            raise RuntimeError(f"not while trials train together: {order!r}")

    def advance(self, member: PackedTrial, told: Sent) -> None:
        """Let one trial go on until it wants gradients, waits for a decision, or has ended."""
        if member.wanted is not None:
            member.run.clock.start()
        member.wanted = None
        try:
            said = member.resume(told)
            while isinstance(said, Partial) or (isinstance(said, Report) and said.last):
                self.channel.send(said, member.lane)
                # While it is evaluated a trial's adapter is merged into the weights that all share: no one else's turn.
                said = member.resume(isinstance(said, Report) or self._decision(member))
        except StopIteration as end:
            self._ended(member, end.value, end.value.poisoned)
        except UserError as error:
            self._ended(member, Refused(message=str(error)))
        except Exception as error:  # whatever a trial raises costs that trial, not those beside it
            traceback.print_exc()
            poisoned = is_poisoned(error)
            full = is_disk_full(error)
            failed = Failed(reason=f"{type(error).__name__}: {error}", poisoned=poisoned)
            self._ended(member, Refused(message=DISK_FULL) if full else failed, poisoned or full)
        else:
            if isinstance(said, GradientRequest):
                said.run.clock.stop()
                if member.adapter is None or member.adapter.model is not said.run.model:
                    member.adapter = Adapter(said.run.model, member.dice.masks)
                member.wanted = said
            else:
                self.channel.send(said, member.lane)

    def _decision(self, member: PackedTrial) -> bool:
        """Whether a trial may go on, before anything else is done; one that is to be dropped may not."""
        while True:
            order = self.receive()
            if order.lane == member.lane and isinstance(order, Decide):
                return order.go_on
            self.later.append(order)
            if order.lane == member.lane:
                return False

    def receive(self) -> Order:
        """The next order from the supervisor."""
        if (order := self.channel.receive()) is None:
            raise SystemExit("the supervisor is gone")
        return order

    def _ended(self, member: PackedTrial, answer: Finished | Failed | Refused, lost: bool = False) -> None:
        del self.members[member.lane]
        self.packed.forget()
        self.channel.send(answer, member.lane)
        if lost:  # this process: the others go on from their last rungs in a new one
            raise SystemExit(1)

    def step(self) -> None:
        """One optimizer step of each trial."""
        members = list(self.members.values())
        try:
            self._compute_in_parts(members)
        except Exception:  # nobody's in particular: each goes on from its last rung, in a new process
            traceback.print_exc()
            raise SystemExit(1) from None
        for member in members:
            self.advance(member, member.loss)

    def _compute_in_parts(self, members: Sequence[PackedTrial]) -> None:
        for place in range(0, len(members), self.most):
            self._compute(members[place : place + self.most])

    def _compute(self, members: Sequence[PackedTrial]) -> None:
        """Gradients and losses of one step of some trials; where memory is too small, of fewer at a time."""
        states = [member.dice.masks.get_state() for member in members]
        try:
            self._passes(members)
            return
        except Exception as error:
            if not is_out_of_memory(error) or is_poisoned(error):
                raise
            said = f"{type(error).__name__}: {error}"  # the exception itself would keep the activations alive
        for member, state in zip(members, states, strict=True):
            member.dice.masks.set_state(state)
            member.run.model.zero_grad()
        reset_peak_memory(self.context.base.device)
        if len(members) == 1:
            members[0].starved = said
            return
        self.most = (len(members) + 1) // 2
        print(f"out of memory with {len(members)} trials in one pass; now {self.most}", file=sys.stderr)
        self._compute_in_parts(members)

    def _passes(self, members: Sequence[PackedTrial]) -> None:
        """Micro-batch for micro-batch, those of equal inputs in one pass."""
        device = self.context.base.device
        for member in members:
            member.loss = torch.zeros((), device=device)
        for place in range(max(len(member.batches) for member in members)):
            alike = defaultdict[object, list[PackedTrial]](list)
            for member in members:
                if place < len(member.batches):
                    alike[_kind(member.batches[place], member.run)].append(member)
            for group in alike.values():
                self._pass(group, place)

    def _pass(self, members: Sequence[PackedTrial], place: int) -> None:
        """Forward and backward of one micro-batch of each trial; seconds, joules and memory are dealt out equally."""
        device, clock = self.context.base.device, Clock(self.context.base.device)
        clock.start()
        batches = [member.batches[place].to(device) for member in members]
        adapters = [member.adapter for member in members if member.adapter is not None]
        lengths = [batch.labels.shape[1] for batch in batches]
        with self.packed.carrying(adapters, lengths) as model, members[0].run.accelerator.autocast():
            logits = logits_of(model, joined(batches, self.context.pad))
        parts = []
        for member, batch, own in zip(members, batches, logits.chunk(len(members)), strict=True):
            assert member.wanted is not None and member.loss is not None
            smoothing = member.run.config.label_smoothing_factor
            loss = summed_loss(own[:, : batch.labels.shape[1]], batch.labels, smoothing)
            parts.append(loss / member.wanted.step.label_tokens)
            member.loss += parts[-1].detach()
        torch.autograd.backward(parts)
        clock.stop()
        for member in members:
            run, count = member.run, len(members)
            run.together = max(run.together, count)
            run.clock.seconds += clock.seconds / count
            if run.clock.joules is not None:
                run.clock.joules += (clock.joules or 0.0) / count
            assert isinstance(run.peaks, SharedPeakMemory)
            run.peaks.share(self.held, count)


def _kind(batch: Batch, run: TrialRun) -> object:
    """What must be equal in one pass: the inputs, and whether gradients go through the encoder at all."""
    return batch.depth, batch.input_features.shape, batch.input_features.dtype, run.config.scope == "decoder"


def run_packed_trials(channel: Channel, context: TrainerContext, first: Train) -> None:
    """Carry out a packed trial, and those that come while any is under way."""
    pack = PackedTraining(channel, context, Packed(context.base), memory_held(context.base.device))
    with apply_trial_settings(pack.packed.base, first.config):
        pack.hear(first)
        while pack.members or pack.later:
            while pack.later or (pack.members and (channel.waiting() or not pack.ready)):
                pack.hear(pack.later.popleft() if pack.later else pack.receive())
            pack.step()
