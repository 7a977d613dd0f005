"""Compute the teacher-forced loss of a batch: cross-entropy summed over label tokens."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.data.batches import IGNORED, Batch
from harness.model.split_encoder import start_at_layer


def token_loss(model: nn.Module, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy summed over the label tokens of a batch."""
    return summed_loss(logits_of(model, batch), batch.labels, label_smoothing)


def utterance_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy summed over the label tokens of each utterance: (clips,)."""
    return _cross_entropy(logits_of(model, batch), batch.labels, "none").view(batch.labels.shape).sum(dim=1)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the decoder's logits at each token: (clips, tokens, vocabulary)."""
    with start_at_layer(model, batch.depth):
        logits: Tensor = model(
            input_features=batch.input_features, decoder_input_ids=batch.decoder_input_ids, use_cache=False
        ).logits
    return logits


def summed_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of logits (clips, tokens, vocabulary) and labels (clips, tokens), summed over tokens."""
    return _cross_entropy(logits, labels, "sum", label_smoothing)


def _cross_entropy(logits: Tensor, labels: Tensor, reduction: str, label_smoothing: float = 0.0) -> Tensor:
    return cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
