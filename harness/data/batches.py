"""Which examples a trial sees in which order, and batches of them as tensors."""

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
from transformers import WhisperTokenizer

IGNORED = -100
WINDOW = 50  # batches within which length_order arranges

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """input_features (clips, mel bins, frames) fp32; decoder_input_ids and labels (clips, tokens), -100 is no label.

    With a `depth` the features are what so many layers of the encoder made of them: (clips, positions, width).
    """

    input_features: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    depth: int | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; from pinned memory the copy runs beside the computation."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies by itself; what is there already stays."""
        return self._with(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.input_features), change(self.decoder_input_ids), change(self.labels), self.depth)

    @property
    def label_tokens(self) -> int:
        """Tokens that count in the loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Step:
    """What one process computes of an optimizer step, and the size of the whole step over all processes."""

    micro_batches: Sequence[Batch]
    examples: int
    label_tokens: int


def label_ids(tokenizer: WhisperTokenizer, text: str, language: str, task: str) -> list[int]:
    """<|startoftranscript|><|language|><|task|><|notimestamps|> text <|endoftext|>.

    The text begins with a space, as in Whisper's own training.
    """
    tokenizer.set_prefix_tokens(language=language, task=task, predict_timestamps=False)
    ids: list[int] = tokenizer(f" {text.strip()}").input_ids
    return ids


def labelled(inputs: Tensor, labels: Sequence[list[int]], pad: int, depth: int | None = None) -> Batch:
    """A batch of what the encoder takes and its labels, padded; the decoder sees each token and predicts the next."""
    ids = torch.full((len(labels), max(map(len, labels))), IGNORED)
    for place, own in enumerate(labels):
        ids[place, : len(own)] = torch.tensor(own)
    seen, targets = ids[:, :-1], ids[:, 1:].contiguous()
    return Batch(inputs, seen.masked_fill(seen == IGNORED, pad), targets, depth)


def example_order(rows: Sequence[int], seed: int) -> Iterator[int]:
    """The rows a trial trains on, in order and without end: a fresh permutation each epoch."""
    for epoch in itertools.count():
        yield from (rows[i] for i in np.random.default_rng([seed, epoch]).permutation(len(rows)))


def length_order(order: Iterable[int], lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[int]:
    """The same examples in another order: batches of labels of about one length, so that little is padding.

    Windows of 50 batches are sorted by `lengths[row]`, cut into batches, and the batches shuffled; a window's
    examples stay in it, so every stretch of training sees nearly what it saw before. The last batch stays last.
    """
    generator = np.random.default_rng([seed, 1])
    for drawn in batched(order, WINDOW * batch_size):
        window = sorted(drawn, key=lambda row: (lengths[row], row))
        whole = len(window) // batch_size
        # The rest is drawn from everywhere, or the last batch would always be of the longest.
        spare = set(generator.choice(len(window), len(window) - whole * batch_size, replace=False).tolist())
        full = [row for place, row in enumerate(window) if place not in spare]
        for batch in generator.permutation(whole):
            yield from full[batch * batch_size : (batch + 1) * batch_size]
        yield from (row for place, row in enumerate(window) if place in spare)


def occurrences(order: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Each example with how often it was there before: 0 in the first epoch, 1 in the second."""
    seen: Counter[int] = Counter()
    for row in order:
        yield row, seen[row]
        seen[row] += 1


def prefetched(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """The same items, made in a thread up to `ahead` before they are asked for; its errors are raised here.

    One thread, so that the items are made in their order. It ends when the iterator is exhausted or closed.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(more: bool, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((more, value), timeout=0.1)
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
            more, value = ready.get()
            if more:
                yield cast(T, value)
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive pieces of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The same of an iterator, which may have no end."""
    iterator = iter(items)
    while piece := list(itertools.islice(iterator, size)):
        yield piece


def joined(batches: Sequence[Batch], pad: int) -> Batch:
    """Batches of equal inputs one behind the other, their labels padded to the longest."""
    length = max(batch.labels.shape[1] for batch in batches)

    def filled(tokens: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=value)

    return replace(
        batches[0],
        input_features=torch.cat([batch.input_features for batch in batches]),
        decoder_input_ids=torch.cat([filled(batch.decoder_input_ids, pad) for batch in batches]),
        labels=torch.cat([filled(batch.labels, IGNORED) for batch in batches]),
    )
