"""Apply the LoRA adapters of several trials in one forward pass of the shared frozen base.

PEFT does not support different adapters within a training batch. Here each trial has an ordinary PeftModel on its own
view of the base, which it is evaluated and saved with. Another view, `PackedModel`, runs the packed batch: after each
linear layer it adds, to the rows of each trial, the update of that trial's matrices. The updates of all trials are one
batched product, with ranks padded with zeros, as in PLoRA (Yan et al. 2025). Each trial's dropout is drawn from its own
generator, in the same order and shapes as when it trains alone.
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

# Linear layers applied to the encoder's positions, not to the decoder's tokens.
READS_POSITIONS = re.compile(r"model\.encoder\.|.*\.encoder_attn\.[kv]_proj$")
PROJECTION = re.compile(r"model\.(encoder|decoder)\.layers\.\d+\.")


def make_view(base: Base) -> Base:
    """Return a base with new modules over the same weight tensors.

    An adapter attached to one view does not affect the others. A change of the weights themselves, such as merging,
    affects all views until it is undone.
    """
    shared = {id(tensor): tensor for tensor in chain(base.model.parameters(), base.model.buffers())}
    return replace(base, model=copy.deepcopy(base.model, shared))


@dataclass(frozen=True)
class LoraMatrices:
    """One trial's adapter of one linear layer: A (rank, inputs), B (outputs, rank), scale and dropout rate."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: float


class TrialAdapter:
    """One trial's LoRA matrices by layer name, and the generator of its dropout.

    Args:
        model: The trial's PeftModel. Its matrices are used in place, so that they receive the gradients.
        generator: Where the trial's dropout is drawn from.
    """

    def __init__(self, model: nn.Module, generator: torch.Generator) -> None:
        self.model, self.generator, self.matrices = model, generator, dict[str, LoraMatrices]()
        for name, layer in whisper_of(model).named_modules():
            if isinstance(layer, LoraLayer):
                (adapter,) = layer.active_adapters
                dropout = getattr(layer.lora_dropout[adapter], "p", 0.0)
                a, b = (cast(Tensor, half[adapter].weight) for half in (layer.lora_A, layer.lora_B))
                self.matrices[name] = LoraMatrices(a, b, float(layer.scaling[adapter]), dropout)


class PackedModel:
    """A view of the base whose forward pass applies the adapters of several trials.

    Args:
        base: The base model; it is not changed.

    Attributes:
        base: The view.

    Raises:
        UserError: If the model drops whole layers in training (layerdrop), which would drop them for all trials alike.
    """

    def __init__(self, base: Base) -> None:
        if base.model.config.encoder_layerdrop or base.model.config.decoder_layerdrop:
            raise UserError(f"{base.name} drops layers in training (layerdrop); leave out --pack for this model")
        self.base = make_view(base)
        self._adapters: tuple[TrialAdapter, ...] = ()
        self._tokens: Sequence[int] = ()
        self._groups: dict[str, AdapterGroup | None] = {}  # by layer name
        self._active = False
        for name, module in self.base.model.named_modules():
            if isinstance(module, nn.Linear) and PROJECTION.match(name):
                module.register_forward_hook(self._make_hook(name))

    @contextmanager
    def with_adapters(self, adapters: Sequence[TrialAdapter], tokens: Sequence[int]) -> Iterator[nn.Module]:
        """Within the context, the yielded model applies the adapters to a batch of equally many rows of each trial.

        Args:
            adapters: The trials' adapters, in the order of their rows.
            tokens: Label tokens of each trial's rows; the batch may be padded to more.
        """
        if tuple(adapters) != self._adapters:
            self._adapters, self._groups = tuple(adapters), {}
        self._tokens, self._active = tokens, True
        try:
            yield self.base.model
        finally:
            self._active = False

    def clear(self) -> None:
        """Drop the references to all trials' matrices."""
        self._adapters, self._groups = (), {}

    def _make_hook(self, name: str) -> Any:
        reads_positions = READS_POSITIONS.match(name) is not None

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if not self._active:
                return output
            if name not in self._groups:
                self._groups[name] = AdapterGroup.of([adapter.matrices.get(name) for adapter in self._adapters])
            if (group := self._groups[name]) is None:
                return output
            lengths = [inputs[0].shape[1]] * len(self._adapters) if reads_positions else self._tokens
            dropped = group.apply_dropout(inputs[0], lengths, [adapter.generator for adapter in self._adapters])
            return group.add_update(output, dropped)

        return hook


@dataclass(frozen=True)
class AdapterGroup:
    """All trials' matrices of one linear layer, ranks padded with zeros; a trial without an adapter here has rank 0.

    Attributes:
        dropouts: Each trial's dropout rate.
        scales: (trials, 1, 1), LoRA's scale divided by the share of inputs that dropout keeps.
        down: The trials' A matrices and their padding, along the rank.
        up: The trials' B matrices and their padding, along the rank.
    """

    dropouts: Sequence[float]
    scales: Tensor
    down: Sequence[Tensor]
    up: Sequence[Tensor]

    @classmethod
    def of(cls, matrices: Sequence[LoraMatrices | None]) -> Self | None:
        """Group the trials' matrices of one layer; None if no trial has an adapter there."""
        present = [own for own in matrices if own is not None]
        if not present:
            return None
        rank, first = max(len(own.a) for own in present), present[0]
        down, up = list[Tensor](), list[Tensor]()
        for own in matrices:
            missing = rank - len(own.a) if own else rank
            down += [own.a] if own else []
            up += [own.b] if own else []
            down += [first.a.new_zeros(missing, first.a.shape[1])] if missing else []
            up += [first.b.new_zeros(first.b.shape[0], missing)] if missing else []
        scales = [own.scale / (1 - own.dropout) if own else 0.0 for own in matrices]
        dropouts = [own.dropout if own else 0.0 for own in matrices]
        return cls(dropouts, torch.tensor(scales, device=first.a.device)[:, None, None], down, up)

    def apply_dropout(self, inputs: Tensor, lengths: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Apply each trial's dropout to its rows of the inputs (clips, positions, width), without rescaling.

        Masks are drawn as torch's dropout draws them on a CPU. None are drawn for the padding after a trial's own
        length, which is in no loss.
        """
        if not any(self.dropouts):
            return inputs
        mask, rows = torch.zeros_like(inputs), len(inputs) // len(lengths)
        for index, (rate, length, generator) in enumerate(zip(self.dropouts, lengths, generators, strict=True)):
            own = mask[index * rows : (index + 1) * rows, :length]
            if rate:
                own.bernoulli_(1 - rate, generator=generator)
            else:
                own.fill_(1)
        return inputs * mask

    def add_update(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the output (clips, positions, width) plus, for each trial's rows, scale * B A x."""
        trials = len(self.dropouts)
        down = torch.cat([*self.down]).view(trials, -1, inputs.shape[2])
        up = torch.cat([*self.up], dim=1).view(output.shape[2], trials, -1).permute(1, 2, 0)
        low = torch.bmm(inputs.reshape(trials, -1, inputs.shape[2]), down.transpose(1, 2)) * self.scales
        products = torch.baddbmm(output.reshape(trials, -1, output.shape[2]), low, up)
        return products.view(output.shape).to(output.dtype)
