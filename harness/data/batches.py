"""Order the training examples of a trial, and collate batches of tensors."""

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
WINDOW = 50  # batches that length_order sorts together

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A batch of model inputs and labels.

    Attributes:
        input_features: Log-mel features, fp32, of shape (clips, mel bins, frames); with a `depth`, encoder states of
            shape (clips, positions, width).
        decoder_input_ids: Token ids of shape (clips, tokens).
        labels: Token ids of shape (clips, tokens); -100 is ignored in the loss.
        depth: Number of encoder layers that computed `input_features`; None for log-mel features.
    """

    input_features: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    depth: int | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; from pinned memory the copy is asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory; tensors on a GPU stay there."""
        return self._map(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.input_features), change(self.decoder_input_ids), change(self.labels), self.depth)

    @property
    def label_tokens(self) -> int:
        """Number of tokens in the loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Step:
    """The part of an optimizer step that one process computes.

    Attributes:
        micro_batches: The batches of this process.
        examples: Number of examples of the step, over all processes.
        label_tokens: Number of label tokens of the step, over all processes.
    """

    micro_batches: Sequence[Batch]
    examples: int
    label_tokens: int


def make_batch(inputs: Tensor, labels: Sequence[list[int]], pad: int, depth: int | None = None) -> Batch:
    """Collate a batch: the decoder input is all label tokens but the last, the targets are all but the first.

    Args:
        inputs: Input of the encoder, or its states after `depth` layers.
        labels: Label tokens of each clip, the prompt included.
        pad: Token that pads the decoder input.
        depth: See `Batch`.
    """
    ids = torch.full((len(labels), max(map(len, labels))), IGNORED)
    for index, tokens in enumerate(labels):
        ids[index, : len(tokens)] = torch.tensor(tokens)
    decoder_input, targets = ids[:, :-1], ids[:, 1:].contiguous()
    return Batch(inputs, decoder_input.masked_fill(decoder_input == IGNORED, pad), targets, depth)


def example_order(rows: Sequence[int] | Callable[[int], Sequence[int]], seed: int) -> Iterator[int]:
    """Yield training rows without end, in a new permutation each epoch.

    Args:
        rows: The rows of every epoch, or a function that returns those of an epoch.
        seed: Determines the permutations.
    """
    for epoch in itertools.count():
        of_epoch = rows(epoch) if callable(rows) else rows
        yield from (of_epoch[i] for i in np.random.default_rng([seed, epoch]).permutation(len(of_epoch)))


def length_order(order: Iterable[int], lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[int]:
    """Reorder examples so that batches contain labels of similar length, which reduces padding.

    Windows of 50 batches are sorted by `lengths[row]`, cut into batches, and the batches shuffled. Examples stay in
    their window, so that each part of training sees nearly the same examples as before. The incomplete batch stays
    last.
    """
    generator = np.random.default_rng([seed, 1])
    for examples in batched(order, WINDOW * batch_size):
        window = sorted(examples, key=lambda row: (lengths[row], row))
        complete = len(window) // batch_size
        # The rest is drawn at random; else the last batch would always contain the longest.
        rest = set(generator.choice(len(window), len(window) - complete * batch_size, replace=False).tolist())
        full = [row for index, row in enumerate(window) if index not in rest]
        for batch in generator.permutation(complete):
            yield from full[batch * batch_size : (batch + 1) * batch_size]
        yield from (row for index, row in enumerate(window) if index in rest)


def with_epochs(order: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield each example with the number of times it occurred before: 0 in the first epoch, 1 in the second."""
    seen: Counter[int] = Counter()
    for row in order:
        yield row, seen[row]
        seen[row] += 1


def prefetch(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """Compute up to `ahead` items in advance, in one thread, in their order.

    Errors of the thread are raised by the iterator. The thread ends when the iterator is exhausted or closed.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(is_item: bool, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((is_item, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield cast(T, value)
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of at most `size` items of an iterable, which may be infinite."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def concatenate_batches(batches: Sequence[Batch], pad: int) -> Batch:
    """Concatenate batches with inputs of the same shape; decoder inputs and labels are padded to the longest."""
    length = max(batch.labels.shape[1] for batch in batches)

    def padded(tokens: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=value)

    return replace(
        batches[0],
        input_features=torch.cat([batch.input_features for batch in batches]),
        decoder_input_ids=torch.cat([padded(batch.decoder_input_ids, pad) for batch in batches]),
        labels=torch.cat([padded(batch.labels, IGNORED) for batch in batches]),
    )
