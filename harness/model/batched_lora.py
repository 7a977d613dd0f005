"""Several trials in one forward pass: the frozen base that they share once, and each one's LoRA on its own rows.

PEFT refuses different adapters within a batch while it trains. Here each trial has an ordinary PeftModel over a view
of the base, which it is evaluated and stored with; a further view carries them all, and where a projection is computed
adds to each trial's rows what that trial's matrices make of them. These products are grouped (one batched product for
all trials, ranks filled up with zeros), as in PLoRA (Yan et al. 2025). A trial draws its dropout from its own
generator, in the order and the shapes in which it would alone.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from harness.errors import UserError
from harness.model.base import Base
from harness.model.methods import whisper_of

# Projections of the encoder's positions, as opposed to the decoder's tokens.
OF_SPEECH = re.compile(r"model\.encoder\.|.*\.encoder_attn\.[kv]_proj$")
PROJECTION = re.compile(r"model\.(encoder|decoder)\.layers\.\d+\.")


def view(base: Base) -> Base:
    """The base as another tree of modules over the very same weights: what is attached to one the others do not see.

    What changes the weights themselves, as merging does, changes them for all views until it has put them back.
    """
    shared = {id(tensor): tensor for tensor in chain(base.model.parameters(), base.model.buffers())}
    return replace(base, model=copy.deepcopy(base.model, shared))


@dataclass(frozen=True)
class Matrices:
    """One trial's adapter of one projection: A (rank, inputs), B (outputs, rank), its scale and its dropout."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: float


class Adapter:
    """One trial's matrices by the projection's name, and the generator from which its dropout is drawn."""

    def __init__(self, model: nn.Module, generator: torch.Generator) -> None:
        """`model` is a PeftModel; its matrices are used where they are, so that their gradients land on them."""
        self.model, self.generator, self.matrices = model, generator, dict[str, Matrices]()
        for name, layer in whisper_of(model).named_modules():
            if isinstance(layer, LoraLayer):
                (adapter,) = layer.active_adapters
                dropout = getattr(layer.lora_dropout[adapter], "p", 0.0)
                a, b = (cast(Tensor, half[adapter].weight) for half in (layer.lora_A, layer.lora_B))
                self.matrices[name] = Matrices(a, b, float(layer.scaling[adapter]), dropout)


class Packed:
    """A view of the base whose forward pass carries several trials; `base` is that view."""

    def __init__(self, base: Base) -> None:
        """The base stays as it is.

        Raises:
            UserError: for a model that drops whole layers while it trains, all trials' alike.
        """
        if base.model.config.encoder_layerdrop or base.model.config.decoder_layerdrop:
            raise UserError(f"{base.name} drops layers while it trains (layerdrop), which takes --pack off")
        self.base = view(base)
        self._adapters: tuple[Adapter, ...] = ()
        self._tokens: Sequence[int] = ()
        self._groups: dict[str, Group | None] = {}  # by projection
        self._carrying = False
        for name, module in self.base.model.named_modules():
            if isinstance(module, nn.Linear) and PROJECTION.match(name):
                module.register_forward_hook(self._adapting(name))

    @contextmanager
    def carrying(self, adapters: Sequence[Adapter], tokens: Sequence[int]) -> Iterator[nn.Module]:
        """The model for one batch of equally many rows of each trial, one trial's behind the other's.

        `tokens` is how long the labels of each trial's rows are; the batch may be padded to more.
        """
        if tuple(adapters) != self._adapters:
            self._adapters, self._groups = tuple(adapters), {}
        self._tokens, self._carrying = tokens, True
        try:
            yield self.base.model
        finally:
            self._carrying = False

    def forget(self) -> None:
        """Hold on to nobody's matrices."""
        self._adapters, self._groups = (), {}

    def _adapting(self, name: str) -> Any:
        speech = OF_SPEECH.match(name) is not None

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if not self._carrying:
                return output
            if name not in self._groups:
                self._groups[name] = Group.of([adapter.matrices.get(name) for adapter in self._adapters])
            if (group := self._groups[name]) is None:
                return output
            lengths = [inputs[0].shape[1]] * len(self._adapters) if speech else self._tokens
            dropped = group.dropped(inputs[0], lengths, [adapter.generator for adapter in self._adapters])
            return group.added(output, dropped)

        return hook


@dataclass(frozen=True)
class Group:
    """The trials' matrices of one projection, ranks filled up with zeros; a trial without an adapter here has rank 0.

    `scales` (trials, 1, 1) make up for what dropout leaves out, too.
    """

    dropouts: Sequence[float]
    scales: Tensor
    down: Sequence[Tensor]
    up: Sequence[Tensor]

    @classmethod
    def of(cls, found: Sequence[Matrices | None]) -> Self | None:
        """The group of what each trial has here; None where none has anything."""
        present = [own for own in found if own is not None]
        if not present:
            return None
        rank, some = max(len(own.a) for own in present), present[0]
        down, up = list[Tensor](), list[Tensor]()
        for own in found:
            missing = rank - len(own.a) if own else rank
            down += [own.a] if own else []
            up += [own.b] if own else []
            down += [some.a.new_zeros(missing, some.a.shape[1])] if missing else []
            up += [some.b.new_zeros(some.b.shape[0], missing)] if missing else []
        scales = [own.scale / (1 - own.dropout) if own else 0.0 for own in found]
        dropouts = [own.dropout if own else 0.0 for own in found]
        return cls(dropouts, torch.tensor(scales, device=some.a.device)[:, None, None], down, up)

    def dropped(self, given: Tensor, lengths: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """The inputs (clips, positions, width) without what each trial's dropout leaves out.

        Drawn as torch's dropout does on a CPU. Padding behind a trial's own length is in no loss: nothing is drawn.
        """
        if not any(self.dropouts):
            return given
        mask, rows = torch.zeros_like(given), len(given) // len(lengths)
        for place, (rate, length, generator) in enumerate(zip(self.dropouts, lengths, generators, strict=True)):
            own = mask[place * rows : (place + 1) * rows, :length]
            if rate:
                own.bernoulli_(1 - rate, generator=generator)
            else:
                own.fill_(1)
        return given * mask

    def added(self, output: Tensor, given: Tensor) -> Tensor:
        """The output (clips, positions, width) and, for each trial's rows, scale B A x."""
        trials = len(self.dropouts)
        down = torch.cat([*self.down]).view(trials, -1, given.shape[2])
        up = torch.cat([*self.up], dim=1).view(output.shape[2], trials, -1).permute(1, 2, 0)
        low = torch.bmm(given.reshape(trials, -1, given.shape[2]), down.transpose(1, 2)) * self.scales
        products = torch.baddbmm(output.reshape(trials, -1, output.shape[2]), low, up)
        return products.view(output.shape).to(output.dtype)
